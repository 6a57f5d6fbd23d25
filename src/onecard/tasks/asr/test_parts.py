"""What is special to speech and needs no model: guards, captions, speakers, the editor's two locks,
reading pairs."""

import json
import random
import re

import numpy as np
import pytest

pytest.importorskip("faster_whisper", reason="installed by make test")
import itertools

from onecard.errors import DataError, NotFound
from onecard.reporting import Reporter
from onecard.tasks.asr import (
    dataset,
    diarize,
    hallucination_filter,
    punctuation_restorer,
    transcribe,
    words,
)
from onecard.tasks.asr.configs import Settings
from onecard.tasks.asr.words import Segment, Transcript, Turn, Word


def segment(text, start=0.0, end=2.0, **more):
    parts = text.split()
    step = (end - start) / max(len(parts), 1)
    return Segment(
        start,
        end,
        text,
        tuple(
            Word(start + i * step, start + (i + 1) * step, f" {part}", 0.9)
            for i, part in enumerate(parts)
        ),
        **more,
    )


@pytest.mark.parametrize(
    ("said", "spoken", "sure", "more"),
    [
        ("Thanks for watching!", 0.2, 0.8, {}),
        ("Thank you.", 2.0, 0.3, {}),
        ("Untertitel der Amara.org-Community", 0.1, 0.9, {}),
        ("♪♪♪", 2.0, 0.9, {}),
        ("you", 0.0, 0.9, {}),
        ("so so so so so so so so so so", 2.0, 0.9, {}),
        ("Words that nobody said", 2.0, 0.3, {"no_speech_prob": 0.9, "avg_logprob": -1.4}),
        (
            "one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
            "fifteen",
            0.3,
            0.9,
            {},
        ),
        ("...", 1.0, 0.9, {}),
    ],
)
def test_what_nobody_said_is_taken_out(said, spoken, sure, more):
    assert hallucination_filter.judge(segment(said, **more), spoken, sure)


@pytest.mark.parametrize(
    ("said", "spoken", "sure"),
    [
        ("Thank you.", 1.8, 0.95),
        ("Ask not what your country can do for you.", 2.0, 0.8),
        ("No, no, no, I said no.", 1.9, 0.9),
        ("Bye.", 1.5, 0.9),
        ("yes", 0.6, 0.7),
    ],
)
def test_what_was_said_stays(said, spoken, sure):
    assert not hallucination_filter.judge(segment(said), spoken, sure)


def test_captions_fit_and_lose_no_word():
    long = segment(" ".join(f"word{i}" for i in range(90)), 0, 40)
    made = words.captions([long])
    assert all(
        len(s.text) <= words.LINE_CHARS and s.end - s.start <= words.LINE_S + 0.5 for s in made
    )
    assert " ".join(s.text for s in made).split() == long.text.split() and all(
        a.end <= b.start + 1e-6 for a, b in itertools.pairwise(made)
    )


def test_every_format_holds_its_rules():
    made = Transcript(
        "en",
        0.9,
        9.0,
        [
            segment("Is <i>1 < 2</i> & true?", 0, 3, speaker="Anna"),
            segment("Yes.", 3.5, 4.5, speaker="Bo b"),
        ],
        [Turn(0, 3, "Anna"), Turn(3.5, 4.5, "Bo b")],
    )
    srt, vtt, tsv, rttm = (
        words.write(made, form, "my talk") for form in ("srt", "vtt", "tsv", "rttm")
    )
    assert re.match(r"1\n00:00:00,000 --> 00:00:03,000\nAnna: Is", srt) and vtt.startswith(
        "WEBVTT\n\n00:00:00.000 --> 00:00:03.000\n<v Anna>Is &lt;i&gt;1 &lt; 2"
    )
    assert (
        tsv.splitlines()[2] == "3500\t4500\tBo b\tYes."
        and rttm.splitlines()[1] == "SPEAKER my_talk 1 3.500 1.000 <NA> <NA> Bo_b <NA> <NA>"
    )
    assert [
        words.segment_of(row) for row in json.loads(words.write(made, "json"))["segments"]
    ] == made.segments and "[00:00:03] Bo b: Yes." in words.write(made, "txt")


def test_words_go_to_who_speaks():
    talk = segment("a b c d e f g h", 0, 8)
    cut = words.by_speaker([talk], [Turn(0, 4, "x"), Turn(4, 8, "y")])
    assert [(s.speaker, s.text) for s in cut] == [("x", "a b c d"), ("y", "e f g h")]
    assert [
        s.speaker
        for s in words.by_speaker([segment("a b", 20, 21)], [Turn(0, 4, "x"), Turn(30, 31, "y")])
    ] == ["y"]


def test_voices_become_people_in_the_order_of_their_first_word():
    random_ = np.random.default_rng(0)
    base = np.eye(8)[:3] + 0.05
    who = [1, 0, 1, 2, 0, 0, 1, 2]
    vectors = np.stack([base[i] + random_.normal(0, 0.02, 8) for i in who])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths = np.full(8, 3.0)
    assert diarize.cluster(vectors, lengths, 0, 0.27).tolist() == [0, 1, 0, 2, 1, 1, 0, 2]
    assert diarize.cluster(vectors, np.array([3, 3, 3, 3, 3, 0.2, 3, 3]), 0, 0.27).tolist() == [
        0,
        1,
        0,
        2,
        1,
        1,
        0,
        2,
    ], "a short stretch follows the nearest"
    assert len(set(diarize.cluster(vectors, lengths, 2, 0.27).tolist())) == 2 and diarize.cluster(
        vectors[:1], lengths[:1], 0, 0.27
    ).tolist() == [0]
    names = diarize.named(
        np.stack([base[1] / np.linalg.norm(base[1]), base[0] / np.linalg.norm(base[0])]),
        {"Anna": base[0] / np.linalg.norm(base[0])},
    )
    assert names == ["speaker 1", "Anna"]


WORDS = [
    "well",
    "doctor",
    "schmid",
    "said",
    "that",
    "the",
    "new",
    "clinic",
    "in",
    "zurich",
    "opens",
    "on",
    "monday",
    "and",
    "that",
    "nobody",
    "should",
    "worry",
    "about",
    "it",
    "i",
    "think",
]
NAMES = ("Schmidt", "Zürich")


def test_the_editor_dresses_words_and_mends_names_of_the_list():
    done = punctuation_restorer.merge(
        WORDS,
        "Well, Doctor Schmidt said that the new clinic in Zürich opens on Monday, and that nobody "
        "should worry about it. I think.",
        NAMES,
    )
    assert (
        done.text
        == "Well, Doctor Schmidt said that the new clinic in Zürich opens on Monday, and that "
        "nobody should worry about it. I think."
        and done.refused == 0
    )
    assert set(done.changed) == {("schmid", "Schmidt"), ("zurich", "Zürich")}


def sentences(n=200):
    draw = random.Random(0)
    some = [
        "the",
        "a",
        "we",
        "they",
        "river",
        "house",
        "never",
        "always",
        "opened",
        "closed",
        "seventeen",
        "doctor",
        "minister",
        "said",
        "found",
        "lost",
        "green",
        "quickly",
        "under",
        "above",
        "because",
        "although",
        "music",
        "paper",
        "city",
        "road",
        "winter",
        "question",
        "answer",
        "red",
        "small",
        "nobody",
        "schmid",
        "zurich",
        "i",
        "it's",
        "don't",
    ]
    return [[draw.choice(some) for _ in range(draw.randint(3, 30))] for _ in range(n)]


def misbehaving(kind):
    draw = random.Random(kind)

    def ask(prompt, grammar):
        said = prompt.rpartition("Transcript: ")[2].rpartition("\nCorrected:")[0].split()
        match kind:
            case "obeys other orders":
                return (
                    "Sure! Here is the corrected transcript: "
                    + " ".join(said)
                    + " I hope this helps."
                )
            case "drops":
                return " ".join(word for word in said if draw.random() > 0.3)
            case "adds":
                return " ".join(
                    part
                    for word in said
                    for part in ([word, "not"] if draw.random() < 0.3 else [word])
                )
            case "alters":
                return " ".join(
                    "banana" if draw.random() < 0.3 else word.capitalize() for word in said
                )
            case "shuffles":
                return " ".join(draw.sample(said, len(said)))
            case "negates":
                return " ".join(
                    {
                        "never": "always",
                        "opened": "closed",
                        "above": "under",
                        "seventeen": "seventy",
                    }.get(word, word)
                    for word in said
                )
            case "names everywhere":
                return " ".join("Schmidt" for _ in said)
            case "silent":
                return ""
            case _:
                return "".join(chr(draw.randrange(33, 0x2FF)) for _ in range(200))

    return ask


@pytest.mark.parametrize(
    "kind",
    [
        "obeys other orders",
        "drops",
        "adds",
        "alters",
        "shuffles",
        "negates",
        "names everywhere",
        "silent",
        "noise",
    ],
)
def test_a_model_that_misbehaves_changes_no_word(kind):
    """200 sentences for each way to misbehave; counted by an alignment that is not the editor's."""
    ask = misbehaving(kind)
    for said in sentences():
        done = punctuation_restorer.edit(said, NAMES, ask)
        assert punctuation_restorer.unlisted(said, done.text.split(), NAMES) == 0, (said, done)
        assert len(done.text.split()) == len(said) and all(
            len(old.split()) == 1
            and (punctuation_restorer.bare(old)[0] == punctuation_restorer.bare(new)[0])
            for old, new in done.changed
        )


def test_what_counts_as_an_unlisted_change():
    said = ["we", "met", "schmid", "in", "the", "city"]
    assert (
        punctuation_restorer.unlisted(said, ["We", "met", "Schmidt,", "in", "the", "city."], NAMES)
        == 0
    )
    assert (
        punctuation_restorer.unlisted(
            said, ["We", "never", "met", "Schmidt", "in", "the", "city."], NAMES
        )
        == 1
    )
    assert (
        punctuation_restorer.unlisted(said, ["We", "met", "Schmidt", "in", "city."], NAMES) == 1
        and punctuation_restorer.unlisted(
            said, ["We", "met", "Schmidt", "in", "the", "town."], NAMES
        )
        == 1
    )


def test_the_grammar_lets_nothing_else_be_written():
    """Read by llama.cpp in the e2e test; here its words are those that were said."""
    rules = punctuation_restorer.grammar(["i", "saw", "schmid", "today"], NAMES)
    assert (
        '"Schmidt" m w3' in rules
        and '("today" | "Today") m w4' in rules
        and rules.count("::=") == 7
        and '"I"' in rules
    )


def test_pairs_are_read_from_every_form(tmp_path):
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "pairs.csv").write_text(
        "audio,text,speaker\na.wav,hello there,anna\nb.wav,good bye,bob\n"
    )
    (tmp_path / "pairs.jsonl").write_text(
        '{"file_name": "a.wav", "transcription": "hello there"}\n{"file_name": "b.wav", '
        '"transcription": "good bye"}\n'
    )
    hf = tmp_path / "hf"
    kaldi = tmp_path / "kaldi"
    beside = tmp_path / "beside"
    for folder in (hf, kaldi, beside):
        folder.mkdir()
    (hf / "metadata.csv").write_text(
        "file_name,transcription\nx/a.wav,hello there\nx/b.wav,good bye\n"
    )
    (kaldi / "wav.scp").write_text("u1 a.wav\nu2 /abs/b.wav\n")
    (kaldi / "text").write_text("u1 hello there\nu2 good bye\n")
    (kaldi / "utt2spk").write_text("u1 anna\nu2 bob\n")
    for name, text in (("a", "hello there"), ("b", "good bye")):
        (beside / f"{name}.wav").write_bytes(b"x")
        (beside / f"{name}.txt").write_text(text)
    for form in (tmp_path / "pairs.csv", tmp_path / "pairs.jsonl", hf, kaldi, beside):
        assert [pair.text for pair in dataset.read(str(form))] == ["hello there", "good bye"], form
    assert (
        dataset.read(str(kaldi))[0].speaker == "anna"
        and dataset.read(str(hf))[0].path == hf / "x" / "a.wav"
    )


def test_bad_tables_are_told(tmp_path):
    bad = tmp_path / "bad.csv"
    bad.write_text("sound,words\na.wav,hello\n")
    with pytest.raises(DataError, match="no columns for sound and text"):
        dataset.read(str(bad))
    bad.write_text("audio,text\na.wav,\n,hello\n")
    with pytest.raises(DataError, match=r"bad.csv:3"):
        dataset.read(str(bad))
    with pytest.raises(NotFound):
        dataset.read(str(tmp_path / "none.csv"))
    kaldi = tmp_path / "kaldi"
    kaldi.mkdir()
    (kaldi / "wav.scp").write_text("u1 rm -rf / |\n")
    (kaldi / "text").write_text("u1 hello\n")
    with pytest.raises(DataError, match="is a command"):
        dataset.read(str(kaldi))


def test_speakers_stay_on_one_side(tmp_path):
    pairs = [
        dataset.Pair(tmp_path / f"{who}{i}.wav", f"text {i}", who, f"{who}{i}")
        for who in "abcdef"
        for i in range(10)
    ]
    train, held = dataset.split(pairs, 0.2, 100, 0)
    assert not {p.speaker for p in train} & {p.speaker for p in held} and 6 <= len(held) <= 12
    digits = [
        dataset.Pair(tmp_path / f"{d}{i}.wav", d, "", f"{d}{i}")
        for d in ("one", "two", "three")
        for i in range(20)
    ]
    train, held = dataset.split(digits, 0.2, 100, 0)
    assert {p.text for p in train} == {"one", "two", "three"} and len(held) == 12, (
        "a vocabulary of three words is learned whole"
    )
    with pytest.raises(DataError, match="stand in train and eval"):
        dataset.leaks(train, train[:2])


def test_two_files_of_one_name_keep_two_transcripts(tmp_path):
    files = [
        tmp_path / "a" / "talk.wav",
        tmp_path / "b" / "talk.wav",
        tmp_path / "b" / "talk.mp3",
        tmp_path / "ü" / "日本.wav",
    ]
    made = transcribe.names_of(files)
    assert len(set(made.values())) == 4 and made[files[3]] == "日本"


def test_a_stretch_is_cut_before_the_speech_that_goes_on():
    rate = transcribe.RATE_HZ
    assert (
        transcribe.pause_before(
            [{"start": 0, "end": 5 * rate}, {"start": 470 * rate, "end": 480 * rate}], 480 * rate
        )
        == 470 * rate
    )
    assert (
        transcribe.pause_before([{"start": 0, "end": 5 * rate}], 480 * rate) == 480 * rate
        and transcribe.pause_before([], 480 * rate) == 480 * rate
    )
    assert (
        transcribe.pause_before([{"start": 100 * rate, "end": 480 * rate}], 480 * rate)
        == 480 * rate
    )


def test_edited_words_keep_their_times():
    said = (
        Word(0, 1, " well", 0.9),
        Word(1, 2, "-known", 0.5),
        Word(2, 3, " doctor", 0.9),
        Word(3, 4, " schmid", 0.9),
    )
    made = punctuation_restorer.timed(
        said,
        punctuation_restorer.merge(
            ["well-known", "doctor", "schmid"], "Well-known doctor Schmidt.", NAMES
        ).pieces,
    )
    assert [(word.text, word.start, word.end) for word in made] == [
        (" Well-known", 0, 2),
        (" doctor", 2, 3),
        (" Schmidt.", 3, 4),
    ] and made[0].probability == 0.5


def test_kaldis_segments_cut_a_longer_recording(tmp_path):
    (tmp_path / "wav.scp").write_text("rec1 long.wav\n")
    (tmp_path / "segments").write_text("u1 rec1 1.5 3.0\nu2 rec1 3.0 4.25\n")
    (tmp_path / "text").write_text("u1 hello there\nu2 good bye\n")
    assert [(pair.text, pair.start_s, pair.end_s) for pair in dataset.read(str(tmp_path))] == [
        ("hello there", 1.5, 3.0),
        ("good bye", 3.0, 4.25),
    ]
    (tmp_path / "segments").write_text("u1 other 1.5 3.0\n")
    with pytest.raises(DataError, match="u1 does not hold"):
        dataset.read(str(tmp_path))


def test_settings_of_names(tmp_path):
    (tmp_path / "names.txt").write_text("Anna\nZürich\n\n")
    assert transcribe.with_names(
        Settings(names=("Anna", "Bo"), names_file=str(tmp_path / "names.txt"))
    ).names == ("Anna", "Bo", "Zürich")
    assert Reporter().interactive is False
