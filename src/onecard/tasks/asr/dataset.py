"""Sounds with their texts: CSV, TSV, JSONL, Hugging Face's audio folder, Kaldi's tables, or a text
beside each sound; and the gates they pass. Knows no model."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onecard import fsio
from onecard.datasets import rows as data_rows
from onecard.errors import DataError, NotFound
from onecard.reporting import Reporter
from onecard.tasks.asr import audio
from onecard.tasks.asr.audio import RATE_HZ

SOUND = ("audio", "file_name", "path", "file", "wav", "audio_filepath", "filename")
TEXT = ("text", "transcription", "sentence", "transcript", "normalized_text")
SPEAKER = ("speaker", "speaker_id", "client_id", "spk")
LONGEST_S = 30.0
SHORTEST_S = 0.1
FASTEST = 30.0
"""Letters a second: fast speech has 20; more means text of another recording."""
SLOWEST = 0.2
QUIET = 1e-4
"""Root mean square (of 1.0) of a clip that is silent: -80 dB."""


@dataclass(frozen=True)
class Pair:
    path: Path
    text: str
    speaker: str = ""
    where: str = ""
    rttm: Path | None = None
    start_s: float = 0.0
    end_s: float = 0.0
    """Of a longer recording; 0 means its end."""

    @property
    def id(self) -> str:
        return self.where or str(self.path)


@dataclass
class Gate:
    """What passed, and what was put aside with its reason."""

    pairs: list[Pair] = field(default_factory=list)
    rejected: list[tuple[Pair, str]] = field(default_factory=list)
    seconds: float = 0.0

    def render(self) -> str:
        reasons = Counter(why.split(":")[0] for _, why in self.rejected)
        lines = [
            f"{len(self.pairs)} clips, {self.seconds / 60:.1f} min of sound, "
            f"{len({p.speaker for p in self.pairs if p.speaker})} speakers named"
        ]
        return "\n".join(
            lines
            + [
                f"  {n} put aside: {why} (e.g. "
                f"{next(p.id for p, w in self.rejected if w.split(':')[0] == why)})"
                for why, n in reasons.most_common()
            ]
        )


def read(name: str) -> list[Pair]:
    """All pairs of a file or folder. Raises NotFound, DataError with file:line."""
    path = Path(name).expanduser()
    if not path.exists():
        raise NotFound(f"there is no {path}", why="nothing lies at that path", fix="check the path")
    if path.is_file():
        return _table(path, path.parent)
    for table in ("metadata.jsonl", "metadata.csv", "train.jsonl", "train.csv"):
        if (path / table).is_file():
            return _table(path / table, path)
    if (path / "wav.scp").is_file() and (path / "text").is_file():
        return _kaldi(path)
    return _beside(path)


def _table(path: Path, base: Path) -> list[Pair]:
    rows = (
        data_rows.jsonl(path)
        if path.suffix.lower() in (".jsonl", ".json")
        else data_rows.table(path)
    )
    sound, text, speaker = (
        next((name for name in names if name in rows[0]), "") for names in (SOUND, TEXT, SPEAKER)
    )
    if not sound or not text:
        raise DataError(
            f"{path} has no columns for sound and text",
            why=f"it has {', '.join(map(str, rows[0]))}",
            fix=f"name them {SOUND[0]} and {TEXT[0]}",
        )
    out = []
    for i, row in enumerate(rows, 1 if path.suffix.lower().startswith(".json") else 2):
        if not row.get(sound) or row.get(text) is None:
            raise DataError(
                f"{path}:{i} lacks its sound or text",
                why=f"{sound}={row.get(sound)!r}, {text}={row.get(text)!r}"[:200],
                fix="fill in both, or remove the row",
            )
        held = str(row[sound].get("path", "")) if isinstance(row[sound], dict) else str(row[sound])
        where = Path(held) if Path(held).is_absolute() else base / held
        out.append(
            Pair(where, str(row[text]).strip(), str(row.get(speaker) or ""), f"{path.name}:{i}")
        )
    return out


def _kaldi(path: Path) -> list[Pair]:
    def table(name: str) -> dict[str, str]:
        file = path / name
        return (
            dict(
                line.split(maxsplit=1)
                for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
                if len(line.split(maxsplit=1)) == 2
            )
            if file.exists()
            else {}
        )

    wavs, texts, speakers, cuts = (
        table("wav.scp"),
        table("text"),
        table("utt2spk"),
        table("segments"),
    )
    out = []
    for key, row in cuts.items():
        try:
            recording, start, end = row.split()
            out.append(
                Pair(
                    path / wavs[recording].strip(),
                    texts[key].strip(),
                    speakers.get(key, "").strip(),
                    key,
                    None,
                    float(start),
                    float(end),
                )
            )
        except (ValueError, KeyError) as fault:
            raise DataError(
                f"{path / 'segments'}: {key} does not hold",
                why=f"{type(fault).__name__}: {row[:60]}",
                fix="key recording start end, and a line of the recording in wav.scp and of the "
                "key in text",
            ) from None
    for key, place in wavs.items():
        if place.rstrip().endswith("|"):
            raise DataError(
                f"{path / 'wav.scp'}: {key} is a command",
                why="a pipe of Kaldi would be run as a program, which data may not ask for",
                fix="write the sounds to files first",
            )
        if key in texts and not cuts:
            out.append(
                Pair(
                    path / place.strip()
                    if not Path(place.strip()).is_absolute()
                    else Path(place.strip()),
                    texts[key].strip(),
                    speakers.get(key, "").strip(),
                    key,
                )
            )
    if not out:
        raise DataError(
            f"{path} pairs nothing",
            why="no name stands in both wav.scp and text",
            fix="check the first column of both",
        )
    return out


def _beside(path: Path) -> list[Pair]:
    """talk.wav with talk.txt (and talk.rttm); a line-by-line Speaker is not known."""
    out = []
    for sound in audio.find([str(path)]):
        text, rttm = sound.with_suffix(".txt"), sound.with_suffix(".rttm")
        if text.is_file() or rttm.is_file():
            out.append(
                Pair(
                    sound,
                    text.read_text(encoding="utf-8", errors="replace").strip()
                    if text.is_file()
                    else "",
                    "",
                    sound.relative_to(path).as_posix(),
                    rttm if rttm.is_file() else None,
                )
            )
    if not out:
        raise DataError(
            f"{path} has no references",
            why="no sound has a .txt or .rttm beside it, and there is no metadata.csv, "
            "metadata.jsonl or wav.scp",
            fix="write what is said into talk.txt beside talk.wav",
        )
    return out


def gates(pairs: Sequence[Pair], reporter: Reporter) -> Gate:
    """Silence, wrong length, text that cannot belong to the sound, duplicates: put aside, each with
    its reason. Raises DataError when nothing is left."""
    out = Gate()
    seen: dict[tuple[str, str], str] = {}
    with reporter.progress("checking clips", len(pairs)) as bar:
        for pair in pairs:
            why, seconds, digest = _look(pair)
            key = (digest, pair.text)
            if not why and key in seen:
                why = f"the same as another: {seen[key]}"
            if why:
                out.rejected.append((pair, why))
            else:
                seen[key] = pair.id
                out.pairs.append(pair)
                out.seconds += seconds
            bar.step()
    if not out.pairs:
        raise DataError(
            "no clip is left",
            why="; ".join(
                f"{n} {why}"
                for why, n in Counter(why.split(":")[0] for _, why in out.rejected).most_common(4)
            ),
            fix="onecard asr train names each clip that was put aside",
        )
    return out


def sound_of(pair: Pair) -> np.ndarray:
    """float32, 16 kHz. Raises DataError."""
    sound = audio.load(pair.path)
    return sound[int(pair.start_s * RATE_HZ) : int(pair.end_s * RATE_HZ) or len(sound)]


def _look(pair: Pair) -> tuple[str, float, str]:
    if not re.search(r"\w", pair.text):
        return "no text", 0.0, ""
    try:
        if not pair.path.is_file():
            return "the file is missing", 0.0, ""
        sound = sound_of(pair)
    except DataError as fault:
        return f"no sound that can be read: {fault.why}", 0.0, ""
    seconds = len(sound) / RATE_HZ
    if seconds > LONGEST_S:
        return "longer than 30 s", seconds, ""
    if seconds < SHORTEST_S:
        return "shorter than 0.1 s", seconds, ""
    if float(np.sqrt(np.mean(sound.astype(np.float64) ** 2))) < QUIET:
        return "silence", seconds, ""
    pace = len(re.sub(r"\W", "", pair.text)) / seconds
    if pace > FASTEST:
        return f"more text than can be said in its time: {pace:.0f} letters a second", seconds, ""
    if pace < SLOWEST:
        return f"hardly any text for its time: {seconds:.0f} s", seconds, ""
    return "", seconds, hashlib.sha256(sound.tobytes()).hexdigest()


def split(
    pairs: Sequence[Pair], share: float, most: int, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """(train, held out): whole speakers where at least three are named, else clips of equal text
    together. Raises DataError."""

    def draw(key: str) -> str:
        return hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogatepass")).hexdigest()

    named = len({pair.speaker for pair in pairs if pair.speaker}) >= 3
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.speaker if named else pair.text.casefold(), []).append(pair)
    few = (
        not named and len(groups) < 10
    )  # a vocabulary of ten words: every word must be learned and asked
    held: list[Pair] = []
    train: list[Pair] = []
    if few:
        for pair in sorted(pairs, key=lambda p: draw(p.id)):
            (held if len(held) < min(share * len(pairs), most) else train).append(pair)
    else:
        for key in sorted(groups, key=draw):
            (
                held
                if len(held) + len(groups[key]) <= max(share * len(pairs), 1) or not held
                else train
            ).extend(groups[key])
        held = held[:most]
    if not train or not held:
        raise DataError(
            "the clips cannot be split",
            why=f"{len(pairs)} clips of {len(groups)} {'speakers' if named else 'texts'}",
            fix="give an --eval_dataset of its own",
        )
    return train, held


def leaks(train: Sequence[Pair], held: Sequence[Pair]) -> None:
    """Raises DataError where a sound stands on both sides."""
    mine = {(pair.path.resolve(), pair.start_s) for pair in train}
    both = [pair.id for pair in held if (pair.path.resolve(), pair.start_s) in mine]
    if both:
        raise DataError(
            f"{len(both)} clips stand in train and eval",
            why=f"the first is {both[0]}",
            fix="take them out of one",
        )


def keep(path: Path, gate: Gate) -> None:
    """Write what was put aside, with its reason."""
    if gate.rejected:
        fsio.write_text(
            path,
            "".join(
                json.dumps(
                    {"where": pair.id, "audio": str(pair.path), "text": pair.text, "why": why},
                    ensure_ascii=False,
                )
                + "\n"
                for pair, why in gate.rejected
            ),
        )
