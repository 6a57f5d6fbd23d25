"""Words to captions that can be read, by the rules of the subtitle guides of Netflix and BBC: two
lines of 42 columns, at most seven seconds, a reading speed, a gap between two. Pure text.

Columns and not characters: a Chinese or Japanese character is two wide, a combining mark none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from wcwidth import wcswidth, wcwidth

from onecard.tasks.asr.transcript import UNSPACED, Segment, Word

MAX_LINES = 2
LINE_COLUMNS = 42
MAX_S = 7.0
MIN_S = 5 / 6
"""Shortest time that a caption is shown where the next one leaves it."""
LEAST_S = 0.5
"""Between the beginnings of two captions, however fast somebody speaks."""
COLUMNS_PER_S = 20.0
"""Reading speed of adults: 20 letters or 10 Chinese characters. A caption stays longer than its
words where it must and the next one leaves time."""
GAP_S = 0.085
"""Two frames at 24 a second, without which two captions look like one."""
PAUSE_S = 1.0
"""Words that far apart are not shown together."""
MAX_LAG_S = 3.0
"""How far captions of people who speak at once may stand behind their words."""
NAME_COLUMNS = 30
NOTICE_S = 4.2
MARKS = (".", "?", "!", "…", "。", "？", "！")
COMMAS = (",", ";", ":", "，", "、", "；", "：")


@dataclass(frozen=True)
class Caption:
    start: float
    end: float
    lines: tuple[str, ...]
    speaker: str = ""

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def width(text: str) -> int:
    """In columns of a terminal or a caption.

    >>> width("abc"), width("日本")
    (3, 4)
    """
    columns = int(wcswidth(text))
    return columns if columns >= 0 else sum(max(int(wcwidth(mark)), 0) for mark in text)


def captions(
    segments: Sequence[Segment], *, named: bool = False, dropped: Sequence[dict[str, Any]] = ()
) -> list[Caption]:
    """`named`: the speaker's name stands before the text. `dropped`: what was removed; each is told
    in a caption of its own, where there is room."""
    groups: list[tuple[list[Word], str]] = []
    for segment in segments:
        prefix = f"{_cut(segment.speaker, NAME_COLUMNS)}: " if named and segment.speaker else ""
        words = _breakable(segment)
        groups += [(words[a:b], prefix) for a, b in _best_cuts(words, prefix)]
    groups.sort(key=lambda group: group[0][0].start)
    timed = _timed(groups)
    return _with_notices(timed, dropped)


def _timed(groups: Sequence[tuple[list[Word], str]]) -> list[Caption]:
    starts: list[float] = []
    for i, (words, _) in enumerate(groups):
        earliest = starts[-1] + _shown_s(*groups[i - 1], words, starts[-1]) if i else 0.0
        starts.append(max(words[0].start, earliest))
    timed = []
    for i, (words, prefix) in enumerate(groups):
        lines = _lines(words, prefix) or _hard_lines(words, prefix)
        start, columns = starts[i], sum(map(width, lines))
        limit = start + MAX_S
        if i + 1 < len(groups):
            limit = min(limit, starts[i + 1] - GAP_S)
        end = max(words[-1].end, start + MIN_S, start + columns / COLUMNS_PER_S)
        timed.append(Caption(start, min(end, limit), tuple(lines), words[0].speaker))
    return timed


def _shown_s(words: Sequence[Word], prefix: str, following: Sequence[Word], start: float) -> float:
    """How long a caption stands before the next may begin. Where two people speak at once, the
    second one's waits until the first one's was read, at most MAX_LAG_S."""
    overlap = words[-1].end - following[0].start
    if words[0].speaker == following[0].speaker or overlap < LEAST_S:
        return LEAST_S
    columns = width(prefix) + sum(width(word.text) for word in words)
    lag = following[0].start + MAX_LAG_S - start
    return max(LEAST_S, min(columns / COLUMNS_PER_S, MAX_S, lag))


# Where a caption may be cut


def _breakable(segment: Segment) -> list[Word]:
    """Its words, joined to phrases where a script has no spaces, and cut where one is wider than a
    line. Words that have no times get a share of the segment's."""
    words = list(segment.words) or _estimated(segment)
    words = [replace(word, speaker=segment.speaker) for word in _phrases(words)]
    pieces = [piece for word in words if word.text.strip() for piece in _narrow(word)]
    return pieces or [Word(segment.start, segment.end, "", 1.0, segment.speaker)]


def _estimated(segment: Segment) -> list[Word]:
    text = segment.text.strip()
    parts = [f" {part}" for part in text.split()]
    if not parts:
        return []
    total = sum(len(part) for part in parts)
    words, at = [], segment.start
    for part in parts:
        end = at + (segment.end - segment.start) * len(part) / total
        words.append(Word(at, end, part))
        at = end
    return words


def _phrases(words: Sequence[Word]) -> list[Word]:
    """Characters of Chinese, Japanese and Thai joined to phrases, which no line break divides."""
    text = "".join(word.text for word in words)
    model = _phrase_model(text)
    if model is None:
        return list(words)
    ends, at = set(), 0
    for phrase in model.parse(text):
        at += len(phrase)
        ends.add(at)
    joined: list[Word] = []
    at, is_new = 0, True
    for word in words:
        if is_new or word.start - joined[-1].end >= PAUSE_S:
            joined.append(word)
        else:
            last = joined[-1]
            joined[-1] = replace(last, end=max(last.end, word.end), text=last.text + word.text)
        at += len(word.text)
        is_new = at in ends or word.text[-1:].isspace()
    return [piece for word in joined for piece in _at_phrases(word, model)]


def _at_phrases(word: Word, model: Any) -> list[Word]:
    """A text without spaces that came as one word, at the borders of its phrases."""
    if width(word.text) <= LINE_COLUMNS:
        return [word]
    return _divided(word, [phrase for phrase in model.parse(word.text) if phrase])


def _phrase_model(text: str) -> Any:
    """BudouX's for the script of the text; None where spaces divide it."""
    import budoux  # 20 ms, for scripts without spaces

    if any("\u3040" <= mark <= "\u30ff" for mark in text):
        return _loaded(budoux.load_default_japanese_parser)
    if any("\u0e00" <= mark <= "\u0e7f" for mark in text):
        return _loaded(budoux.load_default_thai_parser)
    if UNSPACED.search(text):
        return _loaded(budoux.load_default_simplified_chinese_parser)
    return None


@cache
def _loaded(load: Any) -> Any:
    return load()


def _narrow(word: Word) -> list[Word]:
    """A word wider than a line in parts that fit."""
    text = word.text
    if width(text.strip()) <= LINE_COLUMNS:
        return [word]
    parts, current = [], ""
    for mark in text:
        if current.strip() and width((current + mark).strip()) > LINE_COLUMNS:
            parts.append(current)
            current = ""
        current += mark
    return _divided(word, [*parts, current])


def _divided(word: Word, parts: Sequence[str]) -> list[Word]:
    """Its parts, each with its share of the time."""
    pieces, at, total = [], word.start, max(sum(map(len, parts)), 1)
    for text in parts:
        end = at + (word.end - word.start) * len(text) / total
        pieces.append(replace(word, start=at, end=end, text=text))
        at = end
    return pieces


# Which cuts are best


def _best_cuts(words: Sequence[Word], prefix: str) -> list[tuple[int, int]]:
    """(start, stop) of each caption: few of them, cut at the ends of sentences and phrases, none
    with a word alone."""
    costs, previous = [0.0], [0]
    for stop in range(1, len(words) + 1):
        best, origin = float("inf"), stop - 1
        for start in range(stop - 1, -1, -1):
            group = words[start:stop]
            alone = start == stop - 1
            if not alone and not _fits(group, prefix):
                break
            cost = costs[start] + _cost(group, stop == len(words))
            if cost < best:
                best, origin = cost, start
        costs.append(best)
        previous.append(origin)
    cuts, stop = [], len(words)
    while stop:
        cuts.append((previous[stop], stop))
        stop = previous[stop]
    return cuts[::-1]


def _fits(words: Sequence[Word], prefix: str) -> bool:
    gap = words[1].start - words[0].end
    return (
        gap < PAUSE_S
        and words[-1].end - words[0].start <= MAX_S
        and _lines(words, prefix) is not None
    )


def _cost(words: Sequence[Word], is_last: bool) -> float:
    text = words[-1].text.rstrip()
    cut = 3.0
    if is_last or text.endswith(MARKS):
        cut = 0.0
    elif text.endswith(COMMAS):
        cut = 1.0
    columns = sum(width(word.text) for word in words)
    short = 2.0 if columns < LINE_COLUMNS / 2 else 0.0
    seconds = max(words[-1].end - words[0].start, LEAST_S)
    fast = max(0.0, columns / seconds - COLUMNS_PER_S) / COLUMNS_PER_S
    return 4.0 + cut + short + fast


def _lines(words: Sequence[Word], prefix: str) -> list[str] | None:
    """One line, or two as equal as they can be; None where two do not hold it."""
    texts = [word.text for word in words]
    whole = prefix + "".join(texts).strip()
    if width(whole) <= LINE_COLUMNS:
        return [whole]
    best, lines = float("inf"), None
    for i in range(0 if prefix else 1, len(texts)):
        first = (prefix + "".join(texts[:i]).strip()).strip()
        second = "".join(texts[i:]).strip()
        a, b = width(first), width(second)
        if max(a, b) > LINE_COLUMNS or not second:
            continue
        bonus = 8 if first.endswith((*MARKS, *COMMAS)) else 0
        if abs(a - b) - bonus < best:
            best, lines = abs(a - b) - bonus, [first, second]
    return lines


def _hard_lines(words: Sequence[Word], prefix: str) -> list[str]:
    """A single piece that is as wide as a line, below the name."""
    text = "".join(word.text for word in words).strip()
    return [line for line in (prefix.strip(), text) if line] or [""]


def _cut(text: str, columns: int) -> str:
    """At most that wide, with an ellipsis where something is missing."""
    if width(text) <= columns:
        return text
    while text and width(text) > columns - 1:
        text = text[:-1]
    return f"{text}…"


# What was removed


def _with_notices(timed: list[Caption], dropped: Sequence[dict[str, Any]]) -> list[Caption]:
    """A caption for each removed text, at its time or in the next free place after it."""
    result = list(timed)
    for row in sorted(dropped, key=lambda row: float(row["start"])):
        lines = tuple(_notice_lines(f"[removed: {row['why']}]"))
        at = float(row["start"])
        for caption in [*result, None]:
            if caption is None or caption.start - GAP_S - at >= NOTICE_S:
                break
            at = max(at, caption.end + GAP_S)
        result.append(Caption(at, at + NOTICE_S, lines))
        result.sort(key=lambda caption: caption.start)
    return result


def _notice_lines(text: str) -> list[str]:
    words = [Word(0, 0, f" {part}") for part in text.split()]
    while len(words) > 1 and _lines(words, "") is None:
        words = [*words[:-2], replace(words[-2], text=f"{words[-2].text}…]")]
    return _lines(words, "") or [_cut(text, LINE_COLUMNS)]
