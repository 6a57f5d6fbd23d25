"""Any sound file to mono at 16 kHz, a minute at a time, with its faults reported. Knows no speech.

ffmpeg's libraries decode it (PyAV), soxr resamples it.
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
"""What Whisper, Silero and the speaker encoder take."""
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
SILENT_CHANNEL = 0.01
"""A channel with less than this share of the other's level holds no speech: mixed in, it would
halve the level."""
SILENT_LEVEL = 1e-5
"""Root mean square below which a whole piece is silent, and says nothing about its channels."""
CLIPPED = 0.999
CLIPPED_SHARE = 0.001
"""Above this share of samples at full scale, vowels are cut flat and words get lost."""
QUIET_PEAK = 0.003


@dataclass
class AudioInfo:
    """What was found while decoding; complete when all blocks were read."""

    rate_hz: int = 0
    channels: int = 0
    seconds: float = 0.0
    clipped: float = 0.0
    """Share of samples at full scale."""
    peak: float = 0.0
    silent_channel: bool = False
    active_channels: np.ndarray | None = None
    """Which channels had sound somewhere."""
    truncated: bool = False
    damaged_packets: int = 0

    def warnings(self) -> list[str]:
        warnings = []
        if self.clipped > CLIPPED_SHARE:
            warnings.append(
                f"{self.clipped:.1%} of the samples are at full scale: it was recorded too loud, "
                "and words may be lost"
            )
        if self.silent_channel:
            warnings.append("one channel is silent: only the other one is used")
        if self.truncated:
            warnings.append(
                f"the file is damaged after {self.seconds:.1f} s: what comes before is used"
            )
        if self.damaged_packets:
            warnings.append(f"{self.damaged_packets} damaged packets were skipped")
        if 0 < self.peak < QUIET_PEAK:
            warnings.append(f"it is very quiet (peak {self.peak:.4f})")
        return warnings


def find_files(names: Sequence[str]) -> list[Path]:
    """Sound files among these files and folders, each once. Raises NotFound, DataError."""
    files: dict[Path, None] = {}
    for name in names:
        path = Path(name).expanduser()
        if not path.exists():
            raise NotFound(
                f"there is no {path}", why="nothing lies at that path", fix="check the path"
            )
        inside = [path] if path.is_file() else _files_below(path)
        if not inside:
            raise DataError(
                f"{path} holds no sound",
                why=f"no file ends in {', '.join(sorted(SUFFIXES)[:6])} ...",
                fix="give a folder with recordings",
            )
        files |= dict.fromkeys(inside)
    return list(files)


def _files_below(folder: Path) -> list[Path]:
    """Hidden folders and those that no walk enters are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(
            part.startswith(".") or part in SKIPPED_FOLDERS
            for part in path.relative_to(folder).parts
        )
    )


def blocks(path: Path, info: AudioInfo | None = None, seconds: float = 0) -> Iterator[np.ndarray]:
    """float32 pieces of at most `seconds` (BLOCK_S when 0), 16 kHz, mono, in -1..1.

    Raises DataError for what is no sound.
    """
    info = info if info is not None else AudioInfo()
    size = int((seconds or BLOCK_S) * RATE_HZ)
    buffer: list[np.ndarray] = []
    n_buffered = 0
    for piece in _resampled(path, info):
        buffer.append(piece)
        n_buffered += len(piece)
        while n_buffered >= size:
            joined = np.concatenate(buffer)
            yield joined[:size]
            buffer, n_buffered = [joined[size:]], n_buffered - size
    if n_buffered:
        yield np.concatenate(buffer)
    if not info.seconds:
        raise DataError(
            f"{path} is 0 seconds long", why="it has a header and no sound", fix="record it again"
        )


def load(path: Path, info: AudioInfo | None = None) -> np.ndarray:
    """The whole file, for clips. Raises DataError."""
    pieces = list(blocks(path, info))
    if not pieces:
        raise DataError(f"{path} is too short", why="it has a few samples", fix="record it again")
    return np.concatenate(pieces)


def duration_s(path: Path) -> float:
    """As its header says; 0 where it does not. Raises DataError."""
    with _open(path) as container:
        stream = container.streams.audio[0]
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        return float(container.duration / av.time_base) if container.duration else 0.0


def _open(path: Path) -> "av.container.InputContainer":
    try:
        if not path.stat().st_size:
            raise DataError(f"{path} is empty", why="0 bytes", fix="record it again")
        container = av.open(str(path), metadata_errors="ignore")
    except (av.FFmpegError, OSError, ValueError) as fault:
        raise DataError(
            f"{path} is no sound that can be read",
            why=str(fault).splitlines()[0][:200],
            fix="check that it plays: its content may not be what its ending says",
        ) from None
    if not container.streams.audio:
        container.close()
        raise DataError(
            f"{path} has no audio stream",
            why="it holds " + (", ".join(stream.type for stream in container.streams) or "nothing"),
            fix="give a file with sound",
        )
    return container


def _resampled(path: Path, info: AudioInfo) -> Iterator[np.ndarray]:
    resampler: soxr.ResampleStream | None = None
    for mono in _mono(path, info):
        if info.rate_hz == RATE_HZ:
            yield mono
            continue
        resampler = resampler or soxr.ResampleStream(info.rate_hz, RATE_HZ, 1, dtype="float32")
        yield resampler.resample_chunk(mono)
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)


def _mono(path: Path, info: AudioInfo) -> Iterator[np.ndarray]:
    """Pieces of about a second at the file's own rate. Raises DataError where nothing decodes."""
    with _open(path) as container:
        stream = container.streams.audio[0]
        info.rate_hz = stream.rate or 0
        if info.rate_hz <= 0:
            raise DataError(
                f"{path} has no sample rate",
                why="its header says 0",
                fix="convert it: ffmpeg -i FILE out.wav",
            )
        mixer = _Mixer(info)
        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:  # a damaged frame: the ones after it may decode
                    info.damaged_packets += 1
                    continue
                for frame in frames:
                    if mixer.changes_format(frame) and mixer.n_buffered:
                        yield mixer.flush()
                    mixer.add(frame)
                if mixer.n_buffered >= info.rate_hz:
                    yield mixer.flush()
        except (av.FFmpegError, ValueError) as fault:
            if not mixer.n_total:
                raise DataError(
                    f"{path} cannot be decoded",
                    why=str(fault).splitlines()[0][:200],
                    fix="check that it plays; convert it: ffmpeg -i FILE out.wav",
                ) from None
            info.truncated = True
        if not mixer.n_total:
            what, why = f"{path} is 0 seconds long", "it has a header and no sound"
            if info.damaged_packets:
                what = f"{path} cannot be decoded"
                why = f"all its {info.damaged_packets} packets are damaged"
            raise DataError(what, why=why, fix="record it again, or check that it plays")
        if mixer.n_buffered:
            yield mixer.flush()


class _Mixer:
    """Decoded frames to float32 mono at the file's own rate, and what they say about the file."""

    def __init__(self, info: AudioInfo) -> None:
        self.info = info
        self.format: tuple[int, str] = (0, "")
        self.resampler: av.AudioResampler | None = None
        self.buffer: list[np.ndarray] = []
        self.n_buffered = self.n_total = self.n_clipped = 0

    def changes_format(self, frame: "av.AudioFrame") -> bool:
        return (frame.sample_rate, frame.layout.name) != self.format

    def add(self, frame: "av.AudioFrame") -> None:
        if self.resampler is None or self.changes_format(frame):
            # to floats, one row a channel, all of them at one rate; the channels stay
            self.resampler = av.AudioResampler(format="fltp", rate=self.info.rate_hz)
            self.format = (frame.sample_rate, frame.layout.name)
        for converted in self.resampler.resample(frame):
            rows = converted.to_ndarray()
            self.info.channels = rows.shape[0]
            self.buffer.append(rows)
            self.n_buffered += rows.shape[1]
            self.n_total += rows.shape[1]

    def flush(self) -> np.ndarray:
        """The buffered samples, mixed to mono."""
        rows = np.concatenate(self.buffer, axis=1)
        self.buffer, self.n_buffered = [], 0
        mono = np.nan_to_num(_mix(rows, self.info), nan=0.0, posinf=0.0, neginf=0.0)
        self.n_clipped += int((np.abs(rows) >= CLIPPED).any(axis=0).sum())
        self.info.peak = max(self.info.peak, float(np.abs(mono).max(initial=0.0)))
        self.info.clipped = self.n_clipped / max(self.n_total, 1)
        self.info.seconds = self.n_total / self.info.rate_hz
        return np.clip(mono, -1.0, 1.0)


def _mix(rows: np.ndarray, info: AudioInfo) -> np.ndarray:
    """(channels, n) to (n): the mean of the channels that are not silent."""
    if rows.shape[0] == 1:
        return np.ascontiguousarray(rows[0], dtype=np.float32)
    levels = np.sqrt((rows.astype(np.float64) ** 2).mean(axis=1))
    highest = levels.max(initial=0.0)
    active = levels > SILENT_CHANNEL * highest
    if highest > SILENT_LEVEL:
        # silent in all of the file, not where one of two speakers pauses
        earlier = info.active_channels
        if earlier is not None and len(earlier) == len(active):
            info.active_channels = earlier | active
        else:
            info.active_channels = active
        info.silent_channel = not info.active_channels.all()
        rows = rows[active]
    return np.ascontiguousarray(rows.mean(axis=0), dtype=np.float32)
