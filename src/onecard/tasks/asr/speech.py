"""Where somebody speaks, packed into the windows that Whisper reads, and times back from there.

Knows no words' meaning and no model but Silero's voice activity detection.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from faster_whisper.vad import VadOptions, get_speech_timestamps

from onecard.tasks.asr.audio import RATE_HZ
from onecard.tasks.asr.transcript import Segment, Word

WINDOW_S = 30
"""Of Whisper's encoder."""
MIN_SILENCE_MS = 160
"""Silence that ends a region of speech; faster-whisper's batched pipeline has the same."""
SEAM_S = 0.05
"""A word that reaches less than this over a seam ends before it."""
FRAME = RATE_HZ // 10
SPEECH_DBFS = -23.0
"""Broadcasters' loudness of speech."""
QUIET_DBFS = -60.0
"""Sound that is louder than this somewhere is left as it is: raising it changes no more than where
regions begin."""
FLOOR_DBFS = -40.0
MAX_GAIN_DB = 60.0
NO_SIGNAL = 1e-6
"""Root mean square of digital silence, which says nothing about the noise."""
VAD_PAD_S = 0.4
"""What Silero's voice activity detection adds on each side of speech."""
COVER_S = 0.3
"""Words this near to a region are of it."""
MIN_WORDLESS_S = 0.25
"""A shorter region may be a click."""
MIN_UNHEARD_S = 0.5
"""A shorter region without words may be a cough."""
JOIN_S = 2.0

Region = dict[str, int]
"""{"start", "end"} of speech, in samples."""
Span = dict[str, float]
"""{"start", "end"} in seconds."""


def regions(sound: np.ndarray, threshold: float) -> list[Region]:
    """Where somebody speaks."""
    intervals: list[Region] = get_speech_timestamps(
        levelled(sound),
        VadOptions(
            threshold=threshold,
            max_speech_duration_s=WINDOW_S,
            min_silence_duration_ms=MIN_SILENCE_MS,
        ),
    )
    return intervals


def levelled(sound: np.ndarray) -> np.ndarray:
    """Quiet sound raised to where Silero knows speech, its noise no further than FLOOR_DBFS.

    Silero hears nothing in speech at -80 dB, and misses more the further the microphone is.
    """
    frames = sound[: len(sound) // FRAME * FRAME].reshape(-1, FRAME)
    levels = np.sqrt((frames.astype(np.float64) ** 2).mean(axis=1))
    levels = levels[levels > NO_SIGNAL]
    if not len(levels):
        return sound
    loud, floor = np.percentile(levels, [95, 10])
    gain = min(_amplitude(SPEECH_DBFS) / loud, _amplitude(FLOOR_DBFS) / floor)
    if loud > _amplitude(QUIET_DBFS) or gain <= 1:
        return sound
    raised = np.clip(sound * np.float32(min(gain, _amplitude(MAX_GAIN_DB))), -1, 1)
    return np.asarray(raised, dtype=np.float32)


def _amplitude(decibels: float) -> float:
    return float(10 ** (decibels / 20))


def speech_s(start: float, end: float, regions: Sequence[Region]) -> float:
    """Seconds between two times in which somebody speaks."""
    return sum(
        max(0.0, min(end, row["end"] / RATE_HZ) - max(start, row["start"] / RATE_HZ))
        for row in regions
    )


@dataclass(frozen=True)
class Window:
    """Regions of speech, one behind the other without the pauses between them."""

    regions: tuple[Region, ...]
    sound: np.ndarray

    @property
    def seconds(self) -> float:
        return len(self.sound) / RATE_HZ

    def _region_at(self, seconds: float) -> int:
        """The number of the region that holds this time of the window."""
        so_far = 0
        for i, row in enumerate(self.regions):
            so_far += row["end"] - row["start"]
            if seconds * RATE_HZ < so_far:
                return i
        return len(self.regions) - 1

    def _begin_s(self, number: int) -> float:
        """Of a region, in the window."""
        return sum(row["end"] - row["start"] for row in self.regions[:number]) / RATE_HZ

    def time(self, seconds: float) -> float:
        """Of the recording."""
        return float(self._time_in(self._region_at(seconds), seconds))

    def _time_in(self, number: int, seconds: float) -> float:
        """Of the recording, within one region."""
        row = self.regions[number]
        at = row["start"] / RATE_HZ + max(0.0, seconds - self._begin_s(number))
        return min(at, row["end"] / RATE_HZ)

    def place(self, word: Word) -> tuple[float, float]:
        """Start and end of a word in the recording, both in one region.

        Attention finds the end of a word; its start is where the one before ended, and so may lie
        before the pause that was cut out: a word that crosses a seam belongs behind it.
        """
        number = self._region_at(max(word.start, word.end - SEAM_S))
        return float(self._time_in(number, word.start)), float(self._time_in(number, word.end))


def pack(sound: np.ndarray, regions: Sequence[Region], max_s: float = WINDOW_S) -> list[Window]:
    """Regions in windows of at most `max_s`; a longer one stands alone."""
    windows: list[Window] = []
    group: list[Region] = []
    length = 0
    for region in regions:
        size = region["end"] - region["start"]
        if group and length + size > max_s * RATE_HZ:
            windows.append(_window(sound, group))
            group, length = [], 0
        group.append(region)
        length += size
    if group:
        windows.append(_window(sound, group))
    return windows


def _window(sound: np.ndarray, group: Sequence[Region]) -> Window:
    pieces = [sound[row["start"] : row["end"]] for row in group]
    return Window(tuple(group), np.concatenate(pieces))


def wordless(regions: Sequence[Region], segments: Sequence[Segment], length: int) -> list[Region]:
    """Regions of some length in which no word stands. `length`: of the sound, in samples."""
    missed = []
    for region, (a, b) in zip(regions, spans(regions, length), strict=True):
        start, end = a / RATE_HZ, b / RATE_HZ
        covered = any(
            word.start < end + COVER_S and word.end > start - COVER_S
            for segment in segments
            for word in segment.words
        )
        if not covered and end - start >= MIN_WORDLESS_S:
            missed.append(region)
    return missed


def unheard(regions: Sequence[Region], segments: Sequence[Segment], length: int) -> list[Span]:
    """{start, end} in seconds of speech for which there are no words."""
    gaps: list[Span] = []
    missed = wordless(regions, segments, length)
    for region, (a, b) in zip(regions, spans(regions, length), strict=True):
        start, end = a / RATE_HZ, b / RATE_HZ
        if region not in missed or end - start < MIN_UNHEARD_S:
            continue
        if gaps and start - gaps[-1]["end"] < JOIN_S:
            gaps[-1]["end"] = end
        else:
            gaps.append({"start": start, "end": end})
    return gaps


def without_padding(regions: Sequence[Region], length: int) -> list[tuple[int, int]]:
    """(start, end) in samples of speech without what voice activity detection added around it.

    `length`: of the sound that the regions are in.
    """
    return [(a, b) for a, b in spans(regions, length) if b > a]


def spans(regions: Sequence[Region], length: int) -> list[tuple[int, int]]:
    """without_padding, one for each region."""
    pad, found = int(VAD_PAD_S * RATE_HZ), []
    for i, region in enumerate(regions):
        start, end = region["start"], region["end"]
        gap_before = start - regions[i - 1]["end"] if i else start + pad
        gap_after = length - end + pad
        if i + 1 < len(regions):
            gap_after = regions[i + 1]["start"] - end
        a, b = start + (pad if gap_before > 0 else 0), end - (pad if gap_after > 0 else 0)
        found.append((a, b) if b - a > RATE_HZ // 10 else (start, end))
    return found
