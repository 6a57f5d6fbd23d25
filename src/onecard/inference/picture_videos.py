"""Frames of video files and webcams, and frames to an mp4, by PyAV (ffmpeg) and OpenCV.

A container may name other files: playlists, session descriptions, references within a film. Only
formats that carry their own pictures are opened, through a file object, and whatever else ffmpeg
asks for is refused.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from onecard import fsio
from onecard.datasets.images import decode
from onecard.errors import DataError, NotFound
from onecard.inference.picture_sources import Rgb, Shot, Source

FORMATS = (
    "asf,avi,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mjpeg,mpeg,mpegvideo,mpegts,m4v,mxf,nut,ogg,"
    "ivf,h264,hevc"
)
"""ffmpeg's names of the formats that hold pictures and open no other file."""
TICKS = 90_000
"""Of a written video, a second: MPEG's clock, which the times of usual frame rates divide."""
SHORT_S = 0.5
"""A video that ends so much before its header's length was cut short."""
MAX_FAULTS = 1000
"""Broken packets after which a video is given up."""


@dataclass
class Video:
    """An opened video and what was seen of it."""

    source: Source
    seconds: float = 0.0
    """Length by the header; 0 where it says none."""
    rate: float = 0.0
    """Frames a second; 0 where unknown."""
    warnings: list[str] = field(default_factory=list)

    def n_frames(self, start_s: float, end_s: float, every: int) -> int:
        """About how many frames will be taken; 0 where the header does not say."""
        end = min(end_s or self.seconds, self.seconds)
        return max(0, round((end - start_s) * self.rate / every))


def _refuse(url: str, *_: Any) -> Any:
    """For ffmpeg's wish to open another file."""
    raise PermissionError(f"it asks for another file: {url[:80]}")


def _words(fault: Exception) -> str:
    """What ffmpeg says, without its number and our path."""
    text = getattr(fault, "strerror", None) or str(fault) or type(fault).__name__
    return str(text).splitlines()[0][:120]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Raises NotFound, DataError."""
    if not path.is_file():  # opening a pipe would wait for ever
        raise NotFound(
            f"there is no video {path}", why="no file lies at that path", fix="check the path"
        )
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            container = av.open(
                file,
                metadata_errors="ignore",
                io_open=_refuse,
                container_options={
                    "format_whitelist": FORMATS,
                    # no protocol has that name: bytes come from the file object alone
                    "protocol_whitelist": "none",
                },
            )
        except (av.FFmpegError, OSError, ValueError) as fault:
            raise DataError(
                f"{path} is no video that can be read",
                why=f"it does not open as a video: {_words(fault)}",
                fix="check that it plays: a copy that broke off has no index; playlists are not "
                "followed",
            ) from None
        stack.enter_context(container)
        if not container.streams.video or container.streams.video[0].codec_context is None:
            kinds = ", ".join(each.type for each in container.streams) or "none"
            unknown = "its pictures are in no form that is known here"
            raise DataError(
                f"{path} holds no pictures",
                why=unknown if container.streams.video else f"its streams: {kinds}",
                fix="give a file with a video",
            )
        yield container


def probe(source: Source) -> Video:
    """Length and frame rate by the header. Raises NotFound, DataError."""
    with _opened(source.path) as container:
        return _facts(source, container)


def _facts(source: Source, container: Any) -> Video:
    stream = container.streams.video[0]
    if stream.duration and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    else:
        seconds = (container.duration or 0) / 1_000_000
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    if not 0 < rate < 1000:
        rate = 0.0
    return Video(source, max(0.0, seconds), rate)


def frames(
    video: Video, start_s: float = 0.0, end_s: float = 0.0, every: int = 1
) -> Iterator[Shot]:
    """Every `every`-th frame from `start_s` to `end_s` (0: the end), upright.

    What cannot be decoded is left out and told in `video.warnings`. Raises NotFound and DataError
    for what is no video.
    """
    path = video.source.path
    with _opened(path) as container:
        stream: Any = container.streams.video[0]
        facts = _facts(video.source, container)
        video.seconds, video.rate = facts.seconds, facts.rate
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > decode.MAX_PIXELS:
            raise DataError(
                f"{path} is not a usable video",
                why=f"{width:,}x{height:,} pixels would fill the memory",
                fix="make it smaller",
            )
        stream.thread_type = "AUTO"
        begin = float((stream.start_time or 0) * stream.time_base)
        if start_s and _has_times(container):
            # to the key frame before; a file without an index is read from its beginning
            with _ignored():
                container.seek(int((begin + start_s) / stream.time_base), stream=stream)
        last_s, n_taken, n_passed = -1.0, 0, 0
        for frame, time_s in _decoded(container, stream, begin, video):
            if time_s < start_s - 1e-6:
                continue
            if end_s and time_s >= end_s:
                return
            last_s = time_s
            if n_passed % every == 0:
                yield Shot(video.source, _upright(frame), n_taken, round(time_s, 6))
                n_taken += 1
            n_passed += 1
        _judge_end(video, last_s, start_s, end_s)


@contextmanager
def _ignored() -> Iterator[None]:
    try:
        yield
    except (av.FFmpegError, OSError, ValueError):
        return


def _decoded(
    container: Any, stream: Any, begin: float, video: Video
) -> Iterator[tuple[Any, float]]:
    """(frame, seconds since the beginning), whatever of the file can be decoded."""
    n_faults, n_frames = 0, 0
    packets = container.demux(stream)
    last_fault = ""
    while n_faults < MAX_FAULTS:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            decoded = packet.decode()
        except (av.FFmpegError, OSError, ValueError) as fault:
            n_faults += 1
            last_fault = _words(fault)
            if isinstance(fault, av.EOFError):
                break
            continue
        for frame in decoded:
            counted = frame.pts is None or not _has_times(container)
            time_s = n_frames / (video.rate or 25.0) if counted else _time(frame) - begin
            n_frames += 1
            yield frame, time_s
    if n_faults:
        video.warnings.append(f"{n_faults:,} parts cannot be decoded: {last_fault}")


def _has_times(container: Any) -> bool:
    """Whether frames say when they are shown. AVI has only the order of decoding, which is another
    where frames refer to later ones; its frames all last equally long and are counted."""
    return "avi" not in container.format.name.split(",")


def _time(frame: Any) -> float:
    return float(frame.pts * frame.time_base)


def _judge_end(video: Video, last_s: float, start_s: float, end_s: float) -> None:
    length = f"{video.seconds:.1f} s"
    if last_s < 0:
        past = video.seconds and start_s >= video.seconds
        why = f"it ends at {length}, before --start_s" if past else "no frame could be decoded"
        video.warnings.append(why)
        return
    wanted = min(end_s or video.seconds, video.seconds)
    if wanted and last_s + 1 / (video.rate or 25.0) < wanted - SHORT_S:
        video.warnings.append(f"it breaks off at {last_s:.1f} s of {length}")


def _upright(frame: Any) -> Rgb:
    """RGB, turned as the video's display matrix says: a phone held upright films sideways."""
    rgb: Rgb = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


def webcam_frames(
    video: Video, start_s: float = 0.0, end_s: float = 0.0, every: int = 1
) -> Iterator[Shot]:
    """Frames of a camera until it ends, or for `end_s` seconds. Raises NotFound without one."""
    # it tells a missing camera on standard error, in its own words
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    number = int(str(video.source.path))
    camera = cv2.VideoCapture(number)
    try:
        if not camera.isOpened():
            raise NotFound(
                f"there is no webcam {number}",
                why="no camera of that number can be opened on this machine",
                fix="plug one in, close the program that uses it, or give another number",
            )
        video.rate = max(0.0, float(camera.get(cv2.CAP_PROP_FPS)))
        first = cv2.getTickCount()
        n_passed = n_taken = 0
        while True:
            is_read, bgr = camera.read()
            time_s = (cv2.getTickCount() - first) / cv2.getTickFrequency()
            if not is_read:
                video.warnings.append(f"the camera gave no picture after {time_s:.1f} s")
                return
            if end_s and time_s >= end_s:
                return
            if time_s < start_s:
                continue
            if n_passed % every == 0:
                rgb = np.ascontiguousarray(bgr[:, :, ::-1], np.uint8)
                yield Shot(video.source, rgb, n_taken, round(time_s, 3))
                n_taken += 1
            n_passed += 1
    finally:
        camera.release()


class VideoWriter:
    """An mp4 (H.264) of RGB frames with their own times; the file is there when the block ends
    well. Raises DataError where it cannot be written."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path = path
        self.rate = Fraction(rate or 25.0).limit_denominator(1001)
        self._stack = ExitStack()
        self._container: Any = None
        self._stream: Any = None
        self._last_pts = -1

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *fault: Any) -> None:
        if fault[0] is None and self._stream is not None:
            self._mux(self._stream.encode(None))
        self._stack.__exit__(*fault)

    def _begin(self, rgb: Rgb) -> None:
        """With the first frame, so that no video without one is written."""
        draft = self._stack.enter_context(fsio.atomic_write(self.path))
        self._container = self._stack.enter_context(av.open(str(draft), "w", format="mp4"))
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self._stream = self._container.add_stream(codec, rate=self.rate)
        # H.264 stores colour for two pixels together: sides are even
        self._stream.height, self._stream.width = (side + side % 2 for side in rgb.shape[:2])
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = Fraction(1, TICKS)
        if codec == "libx264":
            self._stream.options = {"crf": "23", "preset": "veryfast"}

    def write(self, rgb: Rgb, time_s: float) -> None:
        """A frame of another size than the first is fitted to it."""
        if self._stream is None:
            self._begin(rgb)
        wide, high = self._stream.width, self._stream.height
        if abs(rgb.shape[0] - high) > 1 or abs(rgb.shape[1] - wide) > 1:
            rgb = np.asarray(cv2.resize(rgb, (wide, high)), np.uint8)
        margins = ((0, max(0, high - rgb.shape[0])), (0, max(0, wide - rgb.shape[1])), (0, 0))
        padded = np.pad(rgb[:high, :wide], margins, mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
        frame.pts = self._last_pts = max(round(time_s * TICKS), self._last_pts + 1)
        frame.time_base = Fraction(1, TICKS)
        self._mux(self._stream.encode(frame))

    def _mux(self, packets: Any) -> None:
        for packet in packets:
            self._container.mux(packet)
