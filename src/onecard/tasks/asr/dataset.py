"""Clips of sound with their texts: CSV, TSV, JSONL, Hugging Face's audio folder, Kaldi's tables or
a text beside each sound; their validation and split. Knows no model."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onecard import fsio
from onecard.datasets import jsonl, leakage, splits
from onecard.datasets import rows as data_rows
from onecard.errors import DataError, NotFound
from onecard.reporting import Reporter
from onecard.tasks.asr import audio
from onecard.tasks.asr.audio import RATE_HZ

AUDIO_COLUMNS = ("audio", "file_name", "path", "file", "wav", "audio_filepath", "filename")
TEXT_COLUMNS = ("text", "transcription", "sentence", "transcript", "normalized_text")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id", "spk")
TABLES = ("metadata.jsonl", "metadata.csv", "train.jsonl", "train.csv")
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


@dataclass(frozen=True)
class Clip:
    path: Path
    text: str
    speaker: str = ""
    source: str = ""
    """file:line it came from."""
    rttm: Path | None = None
    start_s: float = 0.0
    end_s: float = 0.0
    """In a longer recording; 0 means its end."""

    @property
    def id(self) -> str:
        return self.source or str(self.path)


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


# Reading


def read(name: str) -> list[Clip]:
    """All clips of a file or folder. Raises NotFound, DataError with file:line."""
    path = Path(name).expanduser()
    if not path.exists():
        raise NotFound(f"there is no {path}", why="nothing lies at that path", fix="check the path")
    if path.is_file():
        return _read_table(path, path.parent)
    for table in TABLES:
        if (path / table).is_file():
            return _read_table(path / table, path)
    if (path / "wav.scp").is_file() and (path / "text").is_file():
        return _read_kaldi(path)
    return _read_text_files(path)


def _read_table(path: Path, base: Path) -> list[Clip]:
    """`base`: the folder that relative paths are in."""
    is_json = path.suffix.lower() in (".jsonl", ".json")
    rows = data_rows.jsonl(path) if is_json else data_rows.table(path)
    sound, text, speaker = (
        next((name for name in names if name in rows[0]), "")
        for names in (AUDIO_COLUMNS, TEXT_COLUMNS, SPEAKER_COLUMNS)
    )
    if not sound or not text:
        raise DataError(
            f"{path} has no columns for sound and text",
            why=f"it has {', '.join(map(str, rows[0]))}",
            fix=f"name them {AUDIO_COLUMNS[0]} and {TEXT_COLUMNS[0]}",
        )
    clips = []
    for number, row in enumerate(rows, 1 if is_json else 2):  # a CSV has a header line
        if not row.get(sound) or row.get(text) is None:
            raise DataError(
                f"{path}:{number} lacks its sound or text",
                why=f"{sound}={row.get(sound)!r}, {text}={row.get(text)!r}"[:200],
                fix="fill in both, or remove the row",
            )
        file = base / _file_name(row[sound])  # an absolute name replaces the base
        speaker_name = str(row.get(speaker) or "")
        clips.append(Clip(file, str(row[text]).strip(), speaker_name, f"{path.name}:{number}"))
    return clips


def _file_name(value: Any) -> str:
    """A path, or Hugging Face's {"path": ...}."""
    return str(value.get("path", "")) if isinstance(value, dict) else str(value)


def _read_kaldi(path: Path) -> list[Clip]:
    """wav.scp and text, with utt2spk and segments where they exist."""
    recordings, texts, speakers, segments = (
        _kaldi_table(path / name) for name in ("wav.scp", "text", "utt2spk", "segments")
    )
    for key, command in recordings.items():
        if command.endswith("|"):
            raise DataError(
                f"{path / 'wav.scp'}: {key} is a command",
                why="Kaldi would run it as a program, which data may not ask for",
                fix="write the sounds to files first",
            )
    if segments:
        return [
            _kaldi_segment(path, key, row, recordings, texts, speakers)
            for key, row in segments.items()
        ]
    clips = [
        Clip(path / file, texts[key], speakers.get(key, ""), key)
        for key, file in recordings.items()
        if key in texts
    ]
    if not clips:
        raise DataError(
            f"{path} pairs nothing",
            why="no name stands in both wav.scp and text",
            fix="check the first column of both",
        )
    return clips


def _kaldi_table(path: Path) -> dict[str, str]:
    """first column -> the rest of the line; empty for a file that does not exist."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    pairs = [line.split(maxsplit=1) for line in lines]
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def _kaldi_segment(
    path: Path,
    key: str,
    row: str,
    recordings: dict[str, str],
    texts: dict[str, str],
    speakers: dict[str, str],
) -> Clip:
    try:
        recording, start, end = row.split()
        return Clip(
            path / recordings[recording],
            texts[key],
            speakers.get(key, ""),
            key,
            start_s=float(start),
            end_s=float(end),
        )
    except (ValueError, KeyError) as fault:
        raise DataError(
            f"{path / 'segments'}: {key} is not a valid segment",
            why=f"{type(fault).__name__}: {row[:60]}",
            fix="key recording start end, and a line of the recording in wav.scp and of the "
            "key in text",
        ) from None


def _read_text_files(path: Path) -> list[Clip]:
    """talk.wav with talk.txt, talk.rttm or both beside it."""
    clips = []
    for sound in audio.find_files([str(path)]):
        text_file, rttm = sound.with_suffix(".txt"), sound.with_suffix(".rttm")
        if not text_file.is_file() and not rttm.is_file():
            continue
        text = ""
        if text_file.is_file():
            text = text_file.read_text(encoding="utf-8", errors="replace").strip()
        source = sound.relative_to(path).as_posix()
        clips.append(Clip(sound, text, "", source, rttm if rttm.is_file() else None))
    if not clips:
        raise DataError(
            f"{path} has no references",
            why="no sound has a .txt or .rttm beside it, and there is no metadata.csv, "
            "metadata.jsonl or wav.scp",
            fix="write what is said into talk.txt beside talk.wav",
        )
    return clips


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
