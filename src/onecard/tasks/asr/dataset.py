"""Clips of sound with their texts: validation and split. Knows no model and no form of data set."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onecard import fsio
from onecard.datasets import jsonl, leakage, splits
from onecard.errors import DataError
from onecard.reporting import Reporter
from onecard.tasks.asr import audio
from onecard.tasks.asr.audio import RATE_HZ
from onecard.tasks.asr.corpora import Clip

MAX_CLIP_S = 30.0
"""Whisper's window."""
MIN_CLIP_S = 0.1
MAX_LETTERS_PER_S = 30.0
"""Fast speech has 20; more means the text of another recording."""
MIN_LETTERS_PER_S = 0.2
SILENCE_RMS = 1e-4
"""Of full scale: -80 dB."""
FEW_TEXTS = 10
"""Below this many different texts, each must be trained and tested: clips are split, not texts."""
MIN_SPEAKERS = 3
"""Named speakers from which whole speakers are held out."""


@dataclass
class ValidationReport:
    """The valid clips, and the rejected ones with the reason."""

    clips: list[Clip] = field(default_factory=list)
    rejected: list[tuple[Clip, str]] = field(default_factory=list)
    seconds: float = 0.0

    def render(self) -> str:
        n_speakers = len({clip.speaker for clip in self.clips if clip.speaker})
        lines = [
            f"{len(self.clips)} clips, {self.seconds / 60:.1f} min of sound, {n_speakers} speakers "
            "named"
        ]
        examples: dict[str, str] = {}
        for clip, reason in self.rejected:
            examples.setdefault(_category(reason), clip.id)
        for category, n in _count(self.rejected).most_common():
            lines.append(f"  {n} rejected: {category} (e.g. {examples[category]})")
        return "\n".join(lines)


def _category(reason: str) -> str:
    """A reason without its details."""
    return reason.split(":")[0]


def _count(rejected: Sequence[tuple[Clip, str]]) -> Counter[str]:
    return Counter(_category(reason) for _, reason in rejected)


def load_sound(clip: Clip) -> np.ndarray:
    """float32, 16 kHz. Raises DataError."""
    sound = audio.load(clip.path)
    return sound[int(clip.start_s * RATE_HZ) : int(clip.end_s * RATE_HZ) or len(sound)]


# Validation


def validate(clips: Sequence[Clip], reporter: Reporter) -> ValidationReport:
    """Reject silence, wrong lengths, texts that cannot belong to the sound, and duplicates.

    Raises DataError when nothing is left.
    """
    report = ValidationReport()
    ids: dict[tuple[str, str], str] = {}
    with reporter.progress("checking clips", len(clips)) as bar:
        for clip in clips:
            reason, seconds, digest = _inspect(clip)
            key = (digest, clip.text)
            if not reason and key in ids:
                reason = f"the same as another: {ids[key]}"
            if reason:
                report.rejected.append((clip, reason))
            else:
                ids[key] = clip.id
                report.clips.append(clip)
                report.seconds += seconds
            bar.step()
    if not report.clips:
        counts = _count(report.rejected).most_common(4)
        raise DataError(
            "no clip is left",
            why="; ".join(f"{n} {category}" for category, n in counts),
            fix="onecard asr train names each rejected clip",
        )
    return report


def _inspect(clip: Clip) -> tuple[str, float, str]:
    """(reason to reject it, or nothing; seconds; digest of the samples)."""
    if not re.search(r"\w", clip.text):
        return "no text", 0.0, ""
    if not clip.path.is_file():
        return "the file is missing", 0.0, ""
    try:
        sound = load_sound(clip)
    except DataError as fault:
        return f"no sound that can be read: {fault.why}", 0.0, ""
    seconds = len(sound) / RATE_HZ
    if seconds > MAX_CLIP_S:
        return "longer than 30 s", seconds, ""
    if seconds < MIN_CLIP_S:
        return "shorter than 0.1 s", seconds, ""
    if float(np.sqrt(np.mean(sound.astype(np.float64) ** 2))) < SILENCE_RMS:
        return "silence", seconds, ""
    rate = len(re.sub(r"\W", "", clip.text)) / seconds
    if rate > MAX_LETTERS_PER_S:
        return f"more text than can be said in its time: {rate:.0f} letters a second", seconds, ""
    if rate < MIN_LETTERS_PER_S:
        return f"hardly any text for its time: {seconds:.0f} s", seconds, ""
    return "", seconds, hashlib.sha256(sound.tobytes()).hexdigest()


def write_rejected(path: Path, report: ValidationReport) -> None:
    """JSONL with the reason of each; no file where nothing was rejected."""
    if report.rejected:
        rows = [
            {"where": clip.id, "audio": str(clip.path), "text": clip.text, "why": reason}
            for clip, reason in report.rejected
        ]
        fsio.write_text(path, jsonl.to_jsonl(rows))


# Split


def split(
    clips: Sequence[Clip], share: float, max_items: int, seed: int
) -> tuple[list[Clip], list[Clip]]:
    """(train, evaluation): whole speakers where at least MIN_SPEAKERS are named, else clips of
    equal text together. Raises DataError."""
    by_speaker = len({clip.speaker for clip in clips if clip.speaker}) >= MIN_SPEAKERS
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.speaker if by_speaker else clip.text.casefold(), []).append(clip)
    if not by_speaker and len(groups) < FEW_TEXTS:
        train, evaluation = _split_clips(clips, min(share * len(clips), max_items), seed)
    else:
        train, evaluation = _split_groups(groups, max(share * len(clips), 1), seed)
    evaluation = evaluation[:max_items]
    if not train or not evaluation:
        raise DataError(
            "the clips cannot be split",
            why=f"{len(clips)} clips of {len(groups)} {'speakers' if by_speaker else 'texts'}",
            fix="give an --eval_dataset of its own",
        )
    return train, evaluation


def _split_clips(clips: Sequence[Clip], n: float, seed: int) -> tuple[list[Clip], list[Clip]]:
    order = sorted(clips, key=lambda clip: splits.hash_rank(seed, clip.id))
    train: list[Clip] = []
    evaluation: list[Clip] = []
    for clip in order:
        (evaluation if len(evaluation) < n else train).append(clip)
    return train, evaluation


def _split_groups(
    groups: dict[str, list[Clip]], n: float, seed: int
) -> tuple[list[Clip], list[Clip]]:
    """Whole groups into the evaluation set while they fit; the first one in any case."""
    train: list[Clip] = []
    evaluation: list[Clip] = []
    for key in sorted(groups, key=lambda key: splits.hash_rank(seed, key)):
        fits = len(evaluation) + len(groups[key]) <= n
        (evaluation if fits or not evaluation else train).extend(groups[key])
    return train, evaluation


def check_leakage(train: Sequence[Clip], evaluation: Sequence[Clip]) -> None:
    """Raises DataError where a sound stands in both."""
    shared = leakage.shared_items(_keyed(train), _keyed(evaluation))
    leakage.refuse_leakage(shared, "clips")


def _keyed(clips: Sequence[Clip]) -> list[tuple[tuple[Path, float], str]]:
    return [((clip.path.resolve(), clip.start_s), clip.id) for clip in clips]
