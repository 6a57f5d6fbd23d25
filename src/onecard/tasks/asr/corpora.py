"""Data sets of speech as they come: tables in CSV, TSV and JSONL, LJ Speech, Common Voice,
LibriSpeech, Kaldi, Hugging Face's audio folder, or a text beside each sound. Decodes nothing."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onecard.datasets import rows as data_rows
from onecard.datasets.encoding import decode
from onecard.errors import DataError, NotFound
from onecard.tasks.asr import audio
from onecard.tasks.asr.container import SUFFIXES

AUDIO_COLUMNS = ("audio", "file_name", "path", "file", "wav", "audio_filepath", "filename")
TEXT_COLUMNS = ("text", "transcription", "sentence", "transcript", "normalized_text")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id", "spk")
TABLES = ("metadata.jsonl", "metadata.csv", "train.jsonl", "train.csv")
COMMON_VOICE = ("validated.tsv", "train.tsv")
TRAIN_FOLDERS = ("train", "data/train", "data")
"""Where Hugging Face's audio folders and Kaldi's recipes keep what is trained on."""
SOUND_FOLDERS = ("", "clips", "wavs", "wav", "audio")
"""Beside a table: Common Voice has clips, LJ Speech wavs."""


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


def read(name: str) -> list[Clip]:
    """All clips of a file or folder. Raises NotFound, DataError with file:line."""
    path = Path(name).expanduser()
    if not path.exists():
        raise NotFound(f"there is no {path}", why="nothing lies at that path", fix="check the path")
    if path.is_file():
        return _read_file(path)
    for folder in (path, *(path / below for below in TRAIN_FOLDERS)):
        for table in (*TABLES, *COMMON_VOICE):
            if (folder / table).is_file():
                return _read_file(folder / table)
        if (folder / "wav.scp").is_file() and (folder / "text").is_file():
            return _read_kaldi(folder)
    if tables := sorted(path.glob("*/metadata.csv")) + sorted(path.glob("*/metadata.jsonl")):
        return [clip for table in tables for clip in _read_file(table)]
    if texts := sorted(path.rglob("*.trans.txt")):
        return _read_librispeech(texts)
    return _read_text_files(path)


# Tables


def _read_file(path: Path) -> list[Clip]:
    if path.suffix.lower() == ".csv" and _is_ljspeech(path):
        return _read_ljspeech(path)
    if path.suffix.lower() == ".tsv":
        return _clips_of(path, _tab_rows(path), first_line=2)
    is_json = path.suffix.lower() in (".jsonl", ".json")
    rows = data_rows.jsonl(path) if is_json else data_rows.table(path)
    return _clips_of(path, rows, first_line=1 if is_json else 2)  # a CSV has a header line


def _tab_rows(path: Path) -> list[dict[str, Any]]:
    """Of Common Voice, whose sentences hold quotation marks as they are. Raises DataError."""
    header, *lines = [line for line in _text(path).splitlines() if line.strip()] or [""]
    names = header.split("\t")
    if not lines:
        raise DataError(f"{path} holds no rows", why="it has a header at most", fix="fill it")
    return [dict(zip(names, line.split("\t"), strict=False)) for line in lines]


def _clips_of(path: Path, rows: Sequence[dict[str, Any]], first_line: int) -> list[Clip]:
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
    find = _finder(path.parent)
    for number, row in enumerate(rows, first_line):
        if not row.get(sound) or row.get(text) is None:
            raise DataError(
                f"{path}:{number} lacks its sound or text",
                why=f"{sound}={row.get(sound)!r}, {text}={row.get(text)!r}"[:200],
                fix="fill in both, or remove the row",
            )
        file = find(_file_name(row[sound]))
        speaker_name = str(row.get(speaker) or "")
        clips.append(Clip(file, str(row[text]).strip(), speaker_name, f"{path.name}:{number}"))
    return clips


def _finder(base: Path) -> Callable[[str], Path]:
    """A sound by the name that a table has for it: in its folder or one beside it that corpora use,
    with or without its ending. The folder that held the last one is asked first."""
    folders = [base / name for name in SOUND_FOLDERS]

    def find(name: str) -> Path:
        place = base / name  # an absolute name replaces the base
        if place.is_file():
            return place
        for folder in folders:
            for candidate in (folder / name, *_with_endings(folder, name)):
                if candidate.is_file():
                    folders.remove(folder)
                    folders.insert(0, folder)
                    return candidate
        return place

    return find


def _with_endings(folder: Path, name: str) -> list[Path]:
    if Path(name).suffix.lower() in SUFFIXES or not folder.is_dir():
        return []
    return [folder / f"{name}{suffix}" for suffix in (".wav", ".flac", ".mp3", ".ogg", ".opus")]


def _file_name(value: Any) -> str:
    """A path, or Hugging Face's {"path": ...}."""
    return str(value.get("path", "")) if isinstance(value, dict) else str(value)


def _text(path: Path) -> str:
    return decode(path.read_bytes(), path)[0].lstrip("\ufeff")


# LJ Speech and LibriSpeech


def _is_ljspeech(path: Path) -> bool:
    """id|text|normalised text, without a header."""
    first = next((line for line in _text(path).splitlines() if line.strip()), "")
    cells = first.split("|")
    return len(cells) in (2, 3) and cells[0] not in AUDIO_COLUMNS


def _read_ljspeech(path: Path) -> list[Clip]:
    """With numbers and abbreviations as they are spoken, where a third column has them."""
    clips = []
    find = _finder(path.parent)
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        cells = line.split("|")
        if len(cells) < 2 or not cells[0].strip():
            raise DataError(
                f"{path}:{number} lacks its sound or text",
                why=repr(line[:80]),
                fix="id|text, as LJ Speech has it",
            )
        text = cells[2] if len(cells) > 2 and cells[2].strip() else cells[1]
        clips.append(Clip(find(cells[0].strip()), text.strip(), "", f"{path.name}:{number}"))
    return clips


def _read_librispeech(texts: Sequence[Path]) -> list[Clip]:
    """84-121.trans.txt with a line for each 84-121-0001.flac beside it; 84 is the speaker."""
    clips = []
    for path in texts:
        find = _finder(path.parent)
        for number, line in enumerate(_text(path).splitlines(), 1):
            key, _, text = line.strip().partition(" ")
            if key:
                speaker = key.split("-")[0]
                clips.append(Clip(find(key), text.strip(), speaker, f"{path.name}:{number}"))
    return clips


# Kaldi


def _read_kaldi(path: Path) -> list[Clip]:
    """wav.scp and text, with utt2spk and segments where they exist."""
    recordings, texts, speakers, segments = (
        _kaldi_table(path / name) for name in ("wav.scp", "text", "utt2spk", "segments")
    )
    files = {key: _kaldi_file(path, key, value) for key, value in recordings.items()}
    if segments:
        return [
            _kaldi_segment(path, key, row, files, texts, speakers) for key, row in segments.items()
        ]
    clips = [
        Clip(file, texts[key], speakers.get(key, ""), key)
        for key, file in files.items()
        if key in texts
    ]
    if not clips:
        raise DataError(
            f"{path} pairs nothing",
            why="no name stands in both wav.scp and text",
            fix="check the first column of both",
        )
    return clips


def _kaldi_file(folder: Path, key: str, value: str) -> Path:
    """Of a line of wav.scp; of a pipeline, as 'flac -c -d -s x.flac |', the one sound that it
    decodes. Recipes write paths from their own root, some folders up.

    Raises DataError for a pipeline that is more than that: data may not ask for a program.
    """
    name = value
    if value.endswith("|"):
        try:
            words = shlex.split(value.rstrip("|").strip())
        except ValueError:
            words = []
        sounds = [word for word in words if Path(word).suffix.lower() in SUFFIXES]
        if len(sounds) != 1 or "|" in words:
            raise DataError(
                f"{folder / 'wav.scp'}: {key} is a command",
                why="Kaldi would run it as a program, which data may not ask for",
                fix="write the sounds to files first",
            )
        name = sounds[0]
    bases = [folder, *list(folder.resolve().parents)[:3]]
    candidates = [base / name for base in bases]
    return next((path for path in candidates if path.is_file()), folder / name)


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
    recordings: dict[str, Path],
    texts: dict[str, str],
    speakers: dict[str, str],
) -> Clip:
    try:
        recording, start, end = row.split()
        return Clip(
            recordings[recording],
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


# A text beside each sound


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
            "metadata.jsonl, validated.tsv, *.trans.txt or wav.scp",
            fix="write what is said into talk.txt beside talk.wav",
        )
    return clips
