"""Words to segments: cut where the speaker pauses, at sentences, and where one grows too long."""

from collections.abc import Sequence
from dataclasses import replace

from onecard.tasks.asr.transcript import Segment, Word, part

PAUSE_S = 0.5
"""A pause of this length ends a segment."""
BREATH_S = 0.2
"""A pause of this length ends it after a sentence."""
LONG_S = 5.0
"""A segment of this length ends with its sentence, pause or not."""
MAX_S = 15.0
MIN_SENTENCE_WORD = 3
"""Letters: 'Mr.' and 'St.' end no sentence."""
SENTENCE_ENDS = (".", "?", "!", "…", "。", "？", "！", "؟", "।")


def split(segment: Segment) -> list[Segment]:
    """The segment in parts; as it is where it has no words."""
    if not segment.words:
        return [segment]
    runs: list[list[Word]] = [[segment.words[0]]]
    for word in segment.words[1:]:
        if _ends(runs[-1], word):
            runs.append([])
        runs[-1].append(word)
    return [part(segment, short) for run in runs for short in _shortened(run)]


def _ends(run: Sequence[Word], following: Word) -> bool:
    last = run[-1]
    if following.text[:1].isascii() and not following.text[:1].isspace():
        return False  # the second half of twenty-one
    gap = following.start - last.end
    if gap >= PAUSE_S:
        return True
    text = last.text.strip().rstrip("\"'”’»」)")
    if not text.endswith(SENTENCE_ENDS):
        return False
    if gap >= BREATH_S:
        return True
    is_word = len(text.rstrip("".join(SENTENCE_ENDS))) > MIN_SENTENCE_WORD or not text.isascii()
    return is_word and last.end - run[0].start >= LONG_S


def _shortened(words: list[Word]) -> list[list[Word]]:
    """Halved at the longest pause or a comma near the middle, until each is short enough."""
    if len(words) < 2 or words[-1].end - words[0].start <= MAX_S:
        return [words]
    middle = (words[0].start + words[-1].end) / 2
    length = words[-1].end - words[0].start

    def value(i: int) -> float:
        before, after = words[i - 1], words[i]
        comma = 0.2 if before.text.rstrip().endswith((",", "，", "、", ";", ":")) else 0.0
        return (after.start - before.end) + comma - abs(before.end - middle) / length

    at = max(range(1, len(words)), key=value)
    return [*_shortened(words[:at]), *_shortened(words[at:])]


def without_words(segments: Sequence[Segment]) -> list[Segment]:
    """For transcripts that tell no times of words."""
    return [replace(segment, words=()) for segment in segments]
