"""What a command of vision looks at: pictures, folders, patterns, video files and webcams, each
with a name of its own under which its results are written.

Only local files are opened, through a file object. No torch.
"""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onecard.datasets.images import decode
from onecard.datasets.images.gathering import files_below
from onecard.datasets.images.records import RejectedLabel
from onecard.errors import NotFound, SettingsError

VIDEO_SUFFIXES = frozenset(
    [
        *(".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".wmv", ".asf", ".flv", ".f4v"),
        *(".mpg", ".mpeg", ".vob", ".mts", ".m2ts", ".3gp", ".3gpp", ".3g2", ".ogv", ".mxf"),
        *(".mjpeg", ".mjpg", ".nut"),
    ]
)
"""Endings of video files, in lower case. Not .ts: most of those are programs."""
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:.*", re.DOTALL)
"""What a library could take for a protocol: http://, rtsp:, concat:, data: ... Two letters or more,
so that C:\\ is a drive."""
WEBCAM = re.compile(r"webcam(?::(\d{1,3}))?", re.IGNORECASE)
FIX = "give pictures, folders, patterns as 'shots/*.jpg', video files, or webcam:0"

Rgb = NDArray[np.uint8]
Kind = Literal["picture", "video", "webcam"]


@dataclass(frozen=True)
class Source:
    """One picture, video or camera."""

    kind: Kind
    path: Path
    """Of a webcam only its name."""
    name: str
    """Its path below the folder that was named, with slashes; unique among the sources."""


@dataclass(frozen=True)
class Shot:
    """A decoded picture, or a frame of a video."""

    source: Source
    rgb: Rgb
    frame: int = -1
    """Number of the frame that was taken, from `start_s` on; -1 for a picture."""
    time_s: float = 0.0
    """Since the video's beginning."""

    @property
    def name(self) -> str:
        """Unique among all pictures and frames: clip.mp4/000012 for a frame."""
        return shot_name(self.source.name, self.frame)


def shot_name(source: str, frame: int) -> str:
    """
    >>> shot_name("a/clip.mp4", 12), shot_name("a/b.jpg", -1)
    ('a/clip.mp4/000012', 'a/b.jpg')
    """
    return f"{source}/{frame:06d}" if frame >= 0 else source


@dataclass
class Sources:
    """All that was named."""

    rows: list[Source] = field(default_factory=list)
    rejected: list[RejectedLabel] = field(default_factory=list)
    """What was named and is not there."""


def find_sources(
    words: Sequence[str], *, videos: bool = True, leave_out: Path | None = None
) -> Sources:
    """Every source once, in the order of the words and, below a folder, of names.

    `leave_out`: a folder that is not searched, where results are written. Without `videos` only
    pictures are taken. Raises SettingsError for an address or no word, NotFound where nothing
    is there.
    """
    if not words:
        raise SettingsError("there is nothing to look at", why="no source was named", fix=FIX)
    sources, names, known = Sources(), Names(), set[str]()
    for word in words:
        if camera := WEBCAM.fullmatch(word):
            if not videos:
                raise SettingsError(
                    f"{word} gives no files", why="labels belong to files", fix="give pictures"
                )
            number = camera[1] or "0"
            if f"webcam:{number}" not in known:
                name = names.claim([f"webcam-{number}"])
                sources.rows.append(Source("webcam", Path(number), name))
            known.add(f"webcam:{number}")
            continue
        _refuse_address(word)
        for path, relative, kind in _files_of(word, sources, videos, leave_out):
            real = os.path.realpath(path)
            if real in known:
                continue
            known.add(real)
            above = path.absolute().parents[len(Path(relative).parts) - 1].name
            name = names.claim([relative, f"{above}/{relative}" if above else relative])
            sources.rows.append(Source(kind, path, name))
    if not sources.rows:
        raise NotFound(
            "there is nothing to look at",
            why="; ".join(f"{row.where}: {row.reason}" for row in sources.rejected)[:500]
            or "no picture or video lies there",
            fix=FIX,
        )
    return sources


def _refuse_address(word: str) -> None:
    if ADDRESS.fullmatch(word) and ("://" in word or not os.path.lexists(word)):
        raise SettingsError(
            f"{word[:200]} is not opened",
            why="it looks like an address, and only local files are opened",
            fix="download it first; a camera is webcam:0",
        )


def _files_of(
    word: str, sources: Sources, videos: bool, leave_out: Path | None
) -> Iterator[tuple[Path, str, Kind]]:
    """(path, path below what was named, kind) of each file of a word."""
    path = Path(word).expanduser()
    if path.is_dir():
        rows = list(_below(path, leave_out, videos))
        if not rows:
            sources.rejected.append(RejectedLabel(word, "no picture or video lies in it"))
        yield from rows
    elif path.exists():
        yield _file(path, path.name, videos)
    elif glob.has_magic(word):
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 any base
        base = _fixed_part(path)
        rows = []
        for match in map(Path, matches):
            if match.is_dir() or _is_below(match, leave_out):
                continue
            if _is_wanted(match, videos):
                rows.append(_file(match, match.relative_to(base).as_posix(), videos))
        if not rows:
            sources.rejected.append(RejectedLabel(word, "no picture or video matches it"))
        yield from rows
    else:
        sources.rejected.append(RejectedLabel(word, "nothing lies at that path"))


def _below(folder: Path, leave_out: Path | None, videos: bool) -> Iterator[tuple[Path, str, Kind]]:
    for path in files_below(folder):
        if _is_wanted(path, videos) and not _is_below(path, leave_out):
            yield _file(path, path.relative_to(folder).as_posix(), videos)


def _is_wanted(path: Path, videos: bool) -> bool:
    return decode.is_picture(path) or (videos and is_video(path))


def _file(path: Path, relative: str, videos: bool) -> tuple[Path, str, Kind]:
    """A file of another ending that was named itself is tried as a picture: its content counts."""
    return path, relative, "video" if videos and is_video(path) else "picture"


def is_video(path: Path) -> bool:
    """By its ending, in upper or lower case; hidden files are none."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


def _is_below(path: Path, folder: Path | None) -> bool:
    return folder is not None and path.resolve().is_relative_to(folder.resolve())


def _fixed_part(pattern: Path) -> Path:
    """The folders of a pattern before its first wildcard."""
    parts: list[str] = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)


class Names:
    """Names of files to write, none of them twice; letters in upper and lower case are the same,
    as on the disks of Windows and macOS."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def claim(self, candidates: Sequence[str]) -> str:
        """The first candidate that is free, else the last one with a number."""
        last = Path(candidates[-1])
        numbered = (
            last.with_name(f"{last.stem}-{i}{last.suffix}").as_posix() for i in range(2, 1 << 30)
        )
        for name in candidates:
            if self._is_free(name):
                return name
        return next(name for name in numbered if self._is_free(name))

    def _is_free(self, name: str) -> bool:
        key = name.casefold()
        if key in self._taken:
            return False
        self._taken.add(key)
        return True


def read_picture(source: Source) -> Shot:
    """Raises NotFound, DataError."""
    return Shot(source, decode.read_rgb(source.path))
