"""Loops and echoes of the prompt in what was heard: the sound is heard again in short parts, and
decides whether they were said.

A loop of the decoder does not survive another cut of the sound; "no, no, no" does. Only the span in
question is replaced, and what was taken out is told.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onecard.tasks.asr import loops
from onecard.tasks.asr.audio import RATE_HZ
from onecard.tasks.asr.loops import Span
from onecard.tasks.asr.transcript import Segment, Word

PART_S = 3.0
"""Length of the parts that are heard again: a loop needs longer ones, as a rule."""
MIN_PART_S = 1.0
SEARCH_S = 0.75
"""How far from PART_S the quietest place is searched."""
FRAME = 320
"""Samples of the frames whose level is compared: 20 ms."""
MAX_LETTERS_PER_S = 40.0
"""Nobody speaks faster; fast speech has 20."""
HEARD_AGAIN = 0.5
"""Share of the repeats, or of an echo's words, that a second hearing must have."""

Decode = Callable[[Sequence[np.ndarray]], Sequence[Sequence[Segment]]]
"""Sounds of at most 30 s to segments, without a prompt."""


@dataclass
class Heard:
    """Of one window, in its time."""

    segments: list[Segment]
    language: str = ""
    """What the sound is most like."""
    language_probability: float = 0.0
    removed: list[dict[str, Any]] = field(default_factory=list)


class Listener:
    """One window, which can be heard again."""

    def __init__(self, sound: np.ndarray, decode: Decode, prompt: str) -> None:
        self.sound, self.decode, self.prompt = sound, decode, prompt
        self._heard: dict[tuple[int, int], list[Word]] = {}

    def repeats(self, heard: Heard) -> bool:
        """Whether a phrase stands in it over and over because somebody said so."""
        has_real_loop = False
        for segment in heard.segments:
            for loop in loops.find([word.text for word in segment.words]):
                if not self._was_said(segment.words[loop.start : loop.stop], loop):
                    return False
                has_real_loop = True
        return has_real_loop

    def checked(self, heard: Heard) -> Heard:
        """Without loops that nobody said and echoes of the prompt; with what was heard there."""
        removed: list[dict[str, Any]] = list(heard.removed)
        segments = [self._without_echo(segment, removed) for segment in heard.segments]
        segments = [self._without_loops(segment, removed) for segment in segments]
        return replace(
            heard, segments=[segment for segment in segments if segment.text], removed=removed
        )

    def _without_loops(self, segment: Segment, removed: list[dict[str, Any]]) -> Segment:
        words = list(segment.words)
        for loop in reversed(loops.find([word.text for word in words])):
            span = words[loop.start : loop.stop]
            if self._was_said(span, loop):
                continue
            again = self._plausible(self._again(span[0].start, span[-1].end))
            words[loop.start : loop.stop] = again
            removed.append(_row(span, "a phrase repeated over and over"))
        return _with_words(segment, words)

    def _without_echo(self, segment: Segment, removed: list[dict[str, Any]]) -> Segment:
        words = list(segment.words)
        echo = loops.echo([word.text for word in words], self.prompt) if self.prompt else None
        if echo is None:
            return segment
        span = words[echo.start : echo.stop]
        again = self._plausible(self._again(0.0, len(self.sound) / RATE_HZ))
        confirmations = {loops.letters(word.text) for word in again}
        n_confirmed = sum(loops.letters(word.text) in confirmations for word in span)
        if n_confirmed >= HEARD_AGAIN * len(span):
            return segment
        removed.append(_row(span, "an echo of the initial prompt"))
        return _with_words(segment, again or words[: echo.start] + words[echo.stop :])

    def _was_said(self, span: Sequence[Word], loop: Span) -> bool:
        seconds = span[-1].end - span[0].start
        n_letters = sum(len(loops.letters(word.text)) for word in span)
        if n_letters > MAX_LETTERS_PER_S * max(seconds, 0.1):
            return False
        again = self._again(span[0].start, span[-1].end)
        share = max(
            loops.repeats_in(loop.phrase, "".join(word.text for word in again)) / loop.repeats,
            loops.share_in([word.text for word in span], [word.text for word in again]),
        )
        return share >= HEARD_AGAIN and len(again) <= len(span) / HEARD_AGAIN

    def _again(self, start: float, end: float) -> list[Word]:
        """Words between two times, heard in parts."""
        key = (int(start * RATE_HZ), int(end * RATE_HZ))
        if key not in self._heard:
            sounds, starts = [], []
            for a, b in parts(self.sound[key[0] : key[1]]):
                sounds.append(self.sound[key[0] + a : key[0] + b])
                starts.append((key[0] + a) / RATE_HZ)
            words: list[Word] = []
            rows = self.decode(sounds) if sounds else []
            for at, segments in zip(starts, rows, strict=True):
                words += [
                    replace(word, start=word.start + at, end=word.end + at)
                    for segment in segments
                    for word in segment.words
                ]
            self._heard[key] = words
        return self._heard[key]

    @staticmethod
    def _plausible(words: Sequence[Word]) -> list[Word]:
        """Nothing where the second hearing loops too, or writes more than can be said."""
        if not words or loops.find([word.text for word in words]):
            return []
        n_letters = sum(len(loops.letters(word.text)) for word in words)
        seconds = words[-1].end - words[0].start
        return list(words) if n_letters <= MAX_LETTERS_PER_S * max(seconds, 0.1) else []


def parts(sound: np.ndarray) -> list[tuple[int, int]]:
    """(start, end) of pieces of about PART_S, cut where it is quietest nearby."""
    cuts, n = [0], len(sound)
    width, reach = int(PART_S * RATE_HZ), int(SEARCH_S * RATE_HZ)
    while n - cuts[-1] > width + int(MIN_PART_S * RATE_HZ):
        begin = cuts[-1] + width - reach
        near = sound[begin : begin + 2 * reach]
        frames = near[: len(near) // FRAME * FRAME].reshape(-1, FRAME)
        quietest = int(np.argmin((frames.astype(np.float64) ** 2).mean(axis=1)))
        cuts.append(begin + quietest * FRAME + FRAME // 2)
    return [(a, b) for a, b in zip(cuts, [*cuts[1:], n], strict=True) if b > a]


def _row(span: Sequence[Word], why: str) -> dict[str, Any]:
    text = "".join(word.text for word in span).strip()
    return {"start": span[0].start, "end": span[-1].end, "text": text, "why": why}


def _with_words(segment: Segment, words: Sequence[Word]) -> Segment:
    if not words:
        return replace(segment, words=(), text="")
    text = "".join(word.text for word in words)
    return replace(segment, start=words[0].start, end=words[-1].end, text=text, words=tuple(words))
