"""Any sound file to mono at 16 kHz, a minute at a time, in the container's time and with its faults
reported. Knows no speech.

ffmpeg's libraries decode it (PyAV), soxr resamples it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soxr

from onecard.datasets.files import SKIPPED_FOLDERS
from onecard.errors import DataError, NotFound, SettingsError
from onecard.tasks.asr import container as containers
from onecard.tasks.asr import mixing
from onecard.tasks.asr.container import SUFFIXES, Source, name_of

RATE_HZ = 16_000
"""What Whisper, Silero and the speaker encoder take."""
BLOCK_S = 60
SILENT_LEVEL = 1e-5
"""Root mean square below which a whole piece is silent, and says nothing about its channels."""
CLIPPED = 0.999
CLIPPED_SHARE = 0.001
"""Above this share of samples at full scale, vowels are cut flat and words get lost."""
QUIET_PEAK = 0.003
MIN_GAP_S = 0.1
"""Timestamps of containers jitter by less; a longer gap is lost or late sound, and stays silent."""
MAX_GAP_S = 3600.0
"""A longer jump is a clock that was set, and no silence."""
MAX_FILLED_S = 6 * 3600.0
"""Silence that a file may ask for in all."""


@dataclass(frozen=True)
class Selection:
    """What of a file is heard."""

    track: int = 0
    """From 1; 0 chooses."""
    language: str = ""
    """Preferred where several tracks name theirs."""
    channel: int | None = None
    """One channel from 0 instead of the mix."""


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
    inverted_channel: bool = False
    active_channels: np.ndarray | None = None
    """Which channels had sound somewhere."""
    truncated: bool = False
    damaged_packets: int = 0
    late_s: float = 0.0
    """Silence before the first sound that the container's time asks for."""
    lost_s: float = 0.0
    """Silence within, where packets are missing."""
    tracks: str = ""
    """Where there are several: which they are, and which was taken."""

    def warnings(self) -> list[str]:
        checks = [
            (bool(self.tracks), self.tracks),
            (
                self.clipped > CLIPPED_SHARE,
                f"{self.clipped:.1%} of the samples are at full scale: it was recorded too loud, "
                "and words may be lost",
            ),
            (self.silent_channel, "one channel is silent: only the other one is used"),
            (self.inverted_channel, "one channel is inverted: it was turned round"),
            (
                self.late_s > 0,
                f"the sound starts {self.late_s:.1f} s after the beginning: times are the film's",
            ),
            (
                self.lost_s > 0,
                f"{self.lost_s:.1f} s of sound are missing within: they are silent here",
            ),
            (
                self.truncated,
                f"the file is damaged after {self.seconds:.1f} s: what comes before is used",
            ),
            (self.damaged_packets > 0, f"{self.damaged_packets} damaged packets were skipped"),
            (0 < self.peak < QUIET_PEAK, f"it is very quiet (peak {self.peak:.4f})"),
        ]
        return [text for is_so, text in checks if is_so]


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


def blocks(
    source: Source,
    info: AudioInfo | None = None,
    seconds: float = 0,
    selection: Selection | None = None,
) -> Iterator[np.ndarray]:
    """float32 pieces of at most `seconds` (BLOCK_S when 0), 16 kHz, mono, in -1..1.

    Raises DataError for what is no sound, SettingsError for a track or channel that is not there.
    """
    info = info if info is not None else AudioInfo()
    size = int((seconds or BLOCK_S) * RATE_HZ)
    buffer: list[np.ndarray] = []
    n_buffered = 0
    for piece in _resampled(source, info, selection or Selection()):
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
            f"{name_of(source)} is 0 seconds long",
            why="it has a header and no sound",
            fix="record it again",
        )


def load(source: Source, info: AudioInfo | None = None) -> np.ndarray:
    """The whole file, for clips. Raises DataError."""
    pieces = list(blocks(source, info))
    if not pieces:
        raise DataError(
            f"{name_of(source)} is too short", why="it has a few samples", fix="record it again"
        )
    return np.concatenate(pieces)


def duration_s(source: Source) -> float:
    """As its header says; 0 where it does not. Raises DataError."""
    with containers.opened(source) as container:
        stream = containers.choose_track(container, source)
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        return float(container.duration / av.time_base) if container.duration else 0.0


def require_sound(files: Sequence[Path]) -> None:
    """Raises DataError where none of the files can be opened as sound: told before a model is
    fetched for them."""
    first: DataError | None = None
    for file in files:
        try:
            duration_s(file)
        except DataError as fault:
            first = first or fault
        else:
            return
    if first:
        raise first


def n_channels(source: Source, selection: Selection) -> int:
    """Of the chosen track, as its header says. Raises DataError, SettingsError."""
    with containers.opened(source) as container:
        track = containers.choose_track(container, source, selection.track, selection.language)
        return int(track.codec_context.channels)


def _resampled(source: Source, info: AudioInfo, selection: Selection) -> Iterator[np.ndarray]:
    resampler: soxr.ResampleStream | None = None
    for mono in _mono(source, info, selection):
        if info.rate_hz == RATE_HZ:
            yield mono
            continue
        resampler = resampler or soxr.ResampleStream(info.rate_hz, RATE_HZ, 1, dtype="float32")
        yield resampler.resample_chunk(mono)
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)


def _mono(source: Source, info: AudioInfo, selection: Selection) -> Iterator[np.ndarray]:
    """Pieces of about a second at the file's own rate. Raises DataError where nothing decodes."""
    with containers.opened(source) as container:
        stream = containers.choose_track(container, source, selection.track, selection.language)
        if len(container.streams.audio) > 1:
            track = list(container.streams.audio).index(stream) + 1
            info.tracks = (
                f"it has {len(container.streams.audio)} audio tracks "
                f"({containers.describe_tracks(container)}): {track} is used; --track takes another"
            )
        info.rate_hz = stream.rate or 0
        if info.rate_hz <= 0:
            raise DataError(
                f"{name_of(source)} has no sample rate",
                why="its header says 0",
                fix="convert it: ffmpeg -i FILE out.wav",
            )
        mixer = _Mixer(info, selection, containers.start_s(container, stream))
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
                    if gap := mixer.gap_before(frame):
                        if mixer.n_buffered:
                            yield mixer.flush()
                        yield from mixer.silence(gap)
                    mixer.add(frame)
                if mixer.n_buffered >= info.rate_hz:
                    yield mixer.flush()
        except (av.FFmpegError, ValueError) as fault:
            if not mixer.n_total:
                raise DataError(
                    f"{name_of(source)} cannot be decoded",
                    why=str(fault).splitlines()[0][:200],
                    fix="check that it plays; convert it: ffmpeg -i FILE out.wav",
                ) from None
            info.truncated = True
        if not mixer.n_total:
            what, why = f"{name_of(source)} is 0 seconds long", "it has a header and no sound"
            if info.damaged_packets:
                what = f"{name_of(source)} cannot be decoded"
                why = f"all its {info.damaged_packets} packets are damaged"
            raise DataError(what, why=why, fix="record it again, or check that it plays")
        if mixer.n_buffered:
            yield mixer.flush()


class _Mixer:
    """Decoded frames to float32 mono at the file's own rate, and what they say about the file."""

    def __init__(self, info: AudioInfo, selection: Selection, start_s: float) -> None:
        self.info, self.selection, self.start_s = info, selection, start_s
        self.format: tuple[int, str] = (0, "")
        self.names: list[str] = []
        self.resampler: av.AudioResampler | None = None
        self.buffer: list[np.ndarray] = []
        self.n_buffered = self.n_total = self.n_clipped = 0
        self.n_filled = 0
        """Samples of silence, beside `n_total` decoded ones."""
        self.shift_s = 0.0
        """Of the container's clock against the sound, after it was set."""

    def changes_format(self, frame: "av.AudioFrame") -> bool:
        return (frame.sample_rate, frame.layout.name) != self.format

    def gap_before(self, frame: "av.AudioFrame") -> int:
        """Samples of silence that the container's time has before this frame."""
        if frame.pts is None or frame.time_base is None:
            return 0
        so_far_s = (self.n_total + self.n_filled) / self.info.rate_hz
        gap_s = float(frame.pts * frame.time_base) - self.start_s + self.shift_s - so_far_s
        filled_s = self.n_filled / self.info.rate_hz
        if gap_s > MAX_GAP_S or gap_s < -MIN_GAP_S or filled_s + gap_s > MAX_FILLED_S:
            self.shift_s -= gap_s  # the clock was set: the sound goes on where it was
            return 0
        if gap_s <= MIN_GAP_S:
            return 0
        if self.n_total:
            self.info.lost_s += gap_s
        else:
            self.info.late_s = gap_s
        return round(gap_s * self.info.rate_hz)

    def silence(self, n: int) -> Iterator[np.ndarray]:
        self.n_filled += n
        for start in range(0, n, BLOCK_S * self.info.rate_hz):
            yield np.zeros(min(BLOCK_S * self.info.rate_hz, n - start), dtype=np.float32)

    def add(self, frame: "av.AudioFrame") -> None:
        if self.resampler is None or self.changes_format(frame):
            # to floats, one row a channel, all of them at one rate; the channels stay
            self.resampler = av.AudioResampler(format="fltp", rate=self.info.rate_hz)
            self.format = (frame.sample_rate, frame.layout.name)
            self.names = [channel.name for channel in frame.layout.channels]
        for converted in self.resampler.resample(frame):
            rows = converted.to_ndarray()
            self.info.channels = rows.shape[0]
            self.buffer.append(rows)
            self.n_buffered += rows.shape[1]
            self.n_total += rows.shape[1]

    def flush(self) -> np.ndarray:
        """The buffered samples as mono."""
        rows = np.concatenate(self.buffer, axis=1)
        self.buffer, self.n_buffered = [], 0
        rows = np.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
        mono = self._chosen(rows)
        self.n_clipped += int((np.abs(rows) >= CLIPPED).any(axis=0).sum())
        self.info.peak = max(self.info.peak, float(np.abs(mono).max(initial=0.0)))
        self.info.clipped = self.n_clipped / max(self.n_total, 1)
        self.info.seconds = (self.n_total + self.n_filled) / self.info.rate_hz
        return np.clip(mono, -1.0, 1.0)

    def _chosen(self, rows: np.ndarray) -> np.ndarray:
        """One channel, or the mix."""
        info, channel = self.info, self.selection.channel
        if channel is not None:
            if channel >= len(rows):
                raise SettingsError(
                    f"there is no channel {channel + 1}",
                    why=f"the recording has {len(rows)} here",
                    fix="--channels mix",
                )
            return np.ascontiguousarray(rows[channel], dtype=np.float32)
        if len(rows) > 1 and float(mixing.levels(rows).max()) > SILENT_LEVEL:
            # silent in all of the file, not where one of two speakers pauses
            active, earlier = mixing.active(rows), info.active_channels
            same = earlier is not None and len(earlier) == len(active)
            info.active_channels = earlier | active if same else active
            info.silent_channel = len(rows) == 2 and not info.active_channels.all()
        mono, inverted = mixing.mix(rows, self.names)
        info.inverted_channel = info.inverted_channel or inverted
        return mono
