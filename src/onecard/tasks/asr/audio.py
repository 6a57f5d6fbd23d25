"""Any sound file to 16,000 samples a second in one channel, a minute at a time, with what is wrong
with it told. Knows no speech.

ffmpeg's libraries read it (PyAV), soxr turns the rate.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soxr

from onecard.datasets.files import SKIPPED_FOLDERS
from onecard.errors import DataError, NotFound

RATE_HZ = 16_000
"""What Whisper, Silero and the voice encoder hear."""
BLOCK_S = 60
SUFFIXES = {
    ".wav",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".m4a",
    ".aac",
    ".wma",
    ".aiff",
    ".aif",
    ".au",
    ".amr",
    ".webm",
    ".mp4",
    ".mkv",
    ".mov",
    ".avi",
    ".3gp",
}
DEAD = 0.01
"""A channel whose level is this share of the other's holds no speech: mixed in, it would halve the
level."""
CLIPPED = 0.999
CLIPPED_SHARE = 0.001
"""From this share of samples at full scale on, vowels are cut flat and words get lost."""


@dataclass
class Facts:
    """What was found while reading; complete when all blocks were read."""

    rate_hz: int = 0
    channels: int = 0
    seconds: float = 0.0
    clipped: float = 0.0
    """Share of samples at full scale."""
    peak: float = 0.0
    dead_channel: bool = False
    lived: np.ndarray | None = None
    """Which channels had sound somewhere."""
    cut_short: bool = False
    damaged: int = 0
    """Packets that could not be decoded."""

    def warnings(self) -> list[str]:
        out = []
        if self.clipped > CLIPPED_SHARE:
            out.append(
                f"{self.clipped:.1%} of the samples are at full scale: it was recorded too loud, "
                "and words may be lost"
            )
        if self.dead_channel:
            out.append("one channel is silent: the other one is heard alone")
        if self.cut_short:
            out.append(f"the file is damaged after {self.seconds:.1f} s: what came before is used")
        if self.damaged:
            out.append(f"{self.damaged} damaged places were passed over")
        if 0 < self.peak < 0.003:
            out.append(f"it is very quiet (peak {self.peak:.4f})")
        return out


def find(names: Sequence[str]) -> list[Path]:
    """Sound files of these files and folders, each once. Raises NotFound, DataError."""
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name).expanduser()
        if not path.exists():
            raise NotFound(
                f"there is no {path}", why="nothing lies at that path", fix="check the path"
            )
        held = (
            [path]
            if path.is_file()
            else sorted(
                p
                for p in path.rglob("*")
                if p.suffix.lower() in SUFFIXES
                and p.is_file()
                and not any(
                    part.startswith(".") or part in SKIPPED_FOLDERS
                    for part in p.relative_to(path).parts
                )
            )
        )
        if not held:
            raise DataError(
                f"{path} holds no sound",
                why=f"no file ends in {', '.join(sorted(SUFFIXES)[:6])} ...",
                fix="give a folder with recordings",
            )
        found |= dict.fromkeys(held)
    return list(found)


def blocks(path: Path, facts: Facts | None = None, seconds: float = 0) -> Iterator[np.ndarray]:
    """float32 pieces of at most `seconds` (BLOCK_S when 0), 16 kHz, one channel, in -1..1.

    Raises DataError for what is no sound.
    """
    facts = facts if facts is not None else Facts()
    size, held, n_held = int((seconds or BLOCK_S) * RATE_HZ), [], 0
    for piece in _resampled(path, facts):
        held.append(piece)
        n_held += len(piece)
        while n_held >= size:
            whole = np.concatenate(held)
            yield whole[:size]
            held, n_held = [whole[size:]], n_held - size
    if n_held:
        yield np.concatenate(held)
    if not facts.seconds:
        raise DataError(
            f"{path} is 0 seconds long", why="it has a head and no sound", fix="record it again"
        )


def load(path: Path, facts: Facts | None = None) -> np.ndarray:
    """The whole file; for clips and tests. Raises DataError."""
    found = list(blocks(path, facts))
    if not found:
        raise DataError(f"{path} is too short", why="it holds a few samples", fix="record it again")
    return np.concatenate(found)


def duration_s(path: Path) -> float:
    """As its head says; 0 where it does not. Raises DataError."""
    with _opened(path) as container:
        stream = container.streams.audio[0]
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        return float(container.duration / av.time_base) if container.duration else 0.0


def _opened(path: Path) -> "av.container.InputContainer":
    try:
        if not path.stat().st_size:
            raise DataError(f"{path} is empty", why="0 bytes", fix="record it again")
        container = av.open(str(path), metadata_errors="ignore")
    except (av.FFmpegError, OSError, ValueError) as fault:
        raise DataError(
            f"{path} is no sound that can be read",
            why=str(fault).splitlines()[0][:200],
            fix="check that it plays; a text or picture with this ending stays what it is",
        ) from None
    if not container.streams.audio:
        container.close()
        raise DataError(
            f"{path} has no audio stream",
            why="it holds " + (", ".join(stream.type for stream in container.streams) or "nothing"),
            fix="give a file with sound",
        )
    return container


def _resampled(path: Path, facts: Facts) -> Iterator[np.ndarray]:
    turn: soxr.ResampleStream | None = None
    for mono in _mono(path, facts):
        if facts.rate_hz == RATE_HZ:
            yield mono
            continue
        turn = turn or soxr.ResampleStream(facts.rate_hz, RATE_HZ, 1, dtype="float32")
        yield turn.resample_chunk(mono)
    if turn is not None:
        yield turn.resample_chunk(np.zeros(0, dtype=np.float32), last=True)


def _mono(path: Path, facts: Facts) -> Iterator[np.ndarray]:
    """Pieces of about a second at the file's own rate."""
    loud = 0
    with _opened(path) as container:
        stream = container.streams.audio[0]
        facts.rate_hz = stream.rate or 0
        if facts.rate_hz <= 0:
            raise DataError(
                f"{path} has no sample rate",
                why="its head says 0",
                fix="convert it: ffmpeg -i FILE out.wav",
            )
        turn = av.AudioResampler(
            format="fltp", rate=facts.rate_hz
        )  # floats, one row a channel; channels stay
        shape: tuple[int, str] = (0, "")
        held: list[np.ndarray] = []
        total = 0

        def mixed() -> np.ndarray:
            nonlocal loud
            piece = np.concatenate(held, axis=1)
            held.clear()
            mono = _mix(piece, facts)
            mono = np.nan_to_num(mono, nan=0.0, posinf=0.0, neginf=0.0)
            loud += int((np.abs(piece) >= CLIPPED).any(axis=0).sum())
            facts.peak = max(facts.peak, float(np.abs(mono).max(initial=0.0)))
            facts.clipped = loud / max(total, 1)
            facts.seconds = total / facts.rate_hz
            return np.clip(mono, -1.0, 1.0)

        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:  # a damaged frame: what comes after it is heard
                    facts.damaged += 1
                    continue
                for frame in frames:
                    if (frame.sample_rate, frame.layout.name) != shape:
                        if held:
                            yield mixed()
                        turn, shape = (
                            av.AudioResampler(format="fltp", rate=facts.rate_hz),
                            (frame.sample_rate, frame.layout.name),
                        )
                    for turned in turn.resample(frame):
                        rows = turned.to_ndarray()
                        facts.channels = rows.shape[0]
                        held.append(rows)
                        total += rows.shape[1]
                if sum(rows.shape[1] for rows in held) >= facts.rate_hz:
                    yield mixed()
        except (av.FFmpegError, ValueError) as fault:
            if not total:
                raise DataError(
                    f"{path} cannot be decoded",
                    why=str(fault).splitlines()[0][:200],
                    fix="check that it plays; convert it: ffmpeg -i FILE out.wav",
                ) from None
            facts.cut_short = True
        if not total:
            raise DataError(
                f"{path} is 0 seconds long" if not facts.damaged else f"{path} cannot be decoded",
                why="it has a head and no sound"
                if not facts.damaged
                else f"all its {facts.damaged} packets are damaged",
                fix="record it again, or check that it plays",
            )
        if held:
            yield mixed()


def _mix(rows: np.ndarray, facts: Facts) -> np.ndarray:
    """(channels, n) to (n): the mean of the channels that are alive."""
    if rows.shape[0] == 1:
        return np.ascontiguousarray(rows[0], dtype=np.float32)
    levels = np.sqrt((rows.astype(np.float64) ** 2).mean(axis=1))
    alive = levels > DEAD * levels.max(initial=0.0)
    if levels.max(initial=0.0) > 1e-5:
        facts.lived = (
            facts.lived | alive
            if facts.lived is not None and len(facts.lived) == len(alive)
            else alive
        )
        facts.dead_channel = (
            not facts.lived.all()
        )  # in all of it, not where one of two speakers is silent
        rows = rows[alive]
    return np.ascontiguousarray(rows.mean(axis=0), dtype=np.float32)
