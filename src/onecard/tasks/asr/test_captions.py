"""The rules of captions over generated words, and what was removed in every format."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("faster_whisper", reason="installed by make test")

from onecard.tasks.asr import captions, formats, segments
from onecard.tasks.asr.captions import PAUSE_S, width
from onecard.tasks.asr.configs import FORMATS
from onecard.tasks.asr.transcript import Segment, Transcript, Word

LATIN = st.text("abcdefgh'-", min_size=1, max_size=12)
MARKED = st.builds(lambda word, mark: word + mark, LATIN, st.sampled_from(["", "", ",", ".", "?"]))
ENDLESS = st.text("xyz/.-", min_size=50, max_size=200)
CHINESE = st.text("我們的今天天氣很好去學校中文字", min_size=1, max_size=2)
JAPANESE = st.text("きょうはがっこうへ行きますカタカナ", min_size=1, max_size=2)
THAI = st.text("กขคงจฉาิีุู", min_size=1, max_size=4)
SPACED = st.builds(lambda word: f" {word}", st.one_of(MARKED, MARKED, MARKED, ENDLESS))
TEXTS = st.one_of(
    st.lists(SPACED, min_size=1, max_size=80),
    st.lists(CHINESE, min_size=1, max_size=120),
    st.lists(JAPANESE, min_size=1, max_size=120),
    st.lists(THAI, min_size=1, max_size=60),
)
LENGTH = st.floats(0, 1.5)
GAP = st.one_of(st.just(0.0), st.floats(0, 0.4), st.floats(0, 4))


@st.composite
def spoken(draw):
    """Segments of words with times in order, as a recording has them."""
    rows, at = [], draw(st.floats(0, 5))
    for speaker in draw(st.lists(st.sampled_from(["", "Anna", "Bo " * 20]), max_size=3)):
        words = []
        for text in draw(TEXTS):
            at += draw(GAP)
            end = at + draw(LENGTH)
            words.append(Word(at, end, text, 0.9, speaker))
            at = end
        text = "".join(word.text for word in words)
        rows.append(Segment(words[0].start, words[-1].end, text, tuple(words), speaker=speaker))
    return rows


def letters(text):
    return re.sub(r"\s", "", text)


def check_rules(found):
    for caption in found:
        assert 1 <= len(caption.lines) <= 2
        assert all(width(line) <= 42 for line in caption.lines), caption
        assert 0 < caption.end - caption.start <= 7 + 1e-6
    for a, b in itertools.pairwise(found):
        assert b.start - a.end >= 2 / 24 - 1e-6
    for caption, after in itertools.zip_longest(found, found[1:]):
        columns = sum(map(width, caption.lines))
        readable = columns / (caption.end - caption.start) <= 20 + 1e-6
        no_time = after is not None and after.start - captions.GAP_S - caption.end < 1e-6
        assert readable or no_time or caption.end - caption.start >= 7 - 1e-6


@settings(max_examples=150, deadline=None)
@given(spoken(), st.booleans())
def test_captions_keep_the_rules_and_lose_no_letter(rows, named):
    found = captions.captions(rows, named=named)
    check_rules(found)
    if not named:
        shown = letters("".join("".join(caption.lines) for caption in found))
        assert shown == letters("".join(row.text for row in rows))


@settings(max_examples=50, deadline=None)
@given(spoken())
def test_no_caption_spans_a_pause(rows):
    pauses = [
        (a.end, b.start)
        for row in rows
        for a, b in itertools.pairwise(row.words)
        if b.start - a.end >= PAUSE_S
    ]
    starts = [caption.start for caption in captions.captions(rows)]
    late = captions.LEAST_S * len(starts)  # words without length push the ones behind them
    for _, resumed in pauses:
        assert any(resumed - 1e-6 <= start <= resumed + late for start in starts)


@settings(max_examples=50, deadline=None)
@given(spoken())
def test_segments_keep_all_words_and_end_at_pauses(rows):
    for row in rows:
        parts = segments.split(row)
        assert [word for part in parts for word in part.words] == list(row.words)
        for part in parts:
            for a, b in itertools.pairwise(part.words):
                joins = b.text[0].isascii() and not b.text[0].isspace()
                assert b.start - a.end < segments.PAUSE_S or joins


def test_segments_without_words_are_captioned_too():
    text = " ".join(f"word{i}" for i in range(90))
    found = captions.captions([Segment(0, 40, text)])
    check_rules(found)
    assert " ".join(caption.text for caption in found).split() == text.split()


def test_people_who_speak_at_once_are_read_one_after_the_other():
    rows = [
        Segment(start, start + 4, text, (), speaker=speaker)
        for start, speaker, text in (
            (0.0, "a", "I wanted to tell you about the meeting"),
            (0.4, "b", "And I have to go to the station now"),
        )
    ]
    found = captions.captions(rows)
    check_rules(found)
    assert all(c.end - c.start > 1.4 for c in found)


def test_chinese_lines_break_between_words():
    text = "今天天氣很好我們一起去學校學習中文然後回家吃飯看電視節目"
    words = tuple(Word(i * 0.2, (i + 1) * 0.2, mark) for i, mark in enumerate(text))
    found = captions.captions([Segment(0, len(text) * 0.2, text, words)])
    check_rules(found)
    lines = [line for caption in found for line in caption.lines]
    assert "".join(lines) == text
    assert len(lines) > 1
    for word in ("今天", "天氣", "我們", "學校", "學習", "中文", "電視"):
        assert any(word in line for line in lines), (word, lines)


@pytest.fixture
def with_removed():
    words = (Word(0, 1, " Hello"), Word(1, 2, " there."))
    why, text = "a phrase repeated over and over", "so so so so so so so"
    dropped = [{"start": 12.0, "end": 15.0, "text": text, "why": why}]
    return Transcript("en", 1.0, 20.0, [Segment(0, 2, " Hello there.", words)], [], dropped)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_tells_what_was_removed_and_when(with_removed, form):
    text = formats.render(with_removed, form)
    assert "a phrase repeated over and over" in text.replace("\n", " ")
    assert any(time in text for time in ("00:00:12", "12000", "12.0"))


def test_notices_keep_the_rules(with_removed):
    rows = [
        {"start": at, "end": at + 2, "text": "x", "why": "the closing phrase of a video, " * 5}
        for at in (0.5, 0.6, 14.0)
    ]
    found = captions.captions(with_removed.segments, dropped=rows)
    check_rules(found)
    assert sum("[removed" in caption.text for caption in found) == 3
