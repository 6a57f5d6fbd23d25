"""Opens a sound or film and chooses its track, by ffmpeg's libraries (PyAV). Decodes nothing.

A container may name other files: playlists (hls, concat, dash), session descriptions (sdp) and
references within a film. A stranger's file must not read the owner's, so only formats that carry
their own sound are opened, through a file object, and whatever else ffmpeg asks for is refused.
The content decides what a file is and not its ending.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import av

from onecard.errors import DataError, SettingsError
from onecard.tasks.asr import language_names

Source = Path | bytes
"""A file, or the bytes of one that came over the network."""

FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,gsm,ircam,loas,"
    "matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mlp,mp3,mpc,mpc8,mpeg,mpegts,mxf,nistsphere,nut,ogg,"
    "oma,rm,shn,sox,spdif,tak,truehd,tta,voc,w64,wav,wtv,wv,xwma"
)
"""ffmpeg's names of the formats that hold sound and open no other file."""
SUFFIXES = frozenset(
    [
        ".wav",
        ".wave",
        ".w64",
        ".rf64",
        ".flac",
        ".ogg",
        ".oga",
        ".ogv",
        ".ogx",
        ".opus",
        ".spx",
        ".mp3",
        ".mp2",
        ".mpga",
        ".m4a",
        ".m4b",
        ".m4r",
        ".m4v",
        ".aac",
        ".adts",
        ".wma",
        ".wmv",
        ".asf",
        ".aiff",
        ".aif",
        ".aifc",
        ".au",
        ".snd",
        ".amr",
        ".awb",
        ".webm",
        ".weba",
        ".mp4",
        ".mkv",
        ".mka",
        ".mov",
        ".qt",
        ".avi",
        ".3gp",
        ".3gpp",
        ".3g2",
        ".caf",
        ".wv",
        ".ape",
        ".tta",
        ".tak",
        ".mpc",
        ".ac3",
        ".eac3",
        ".dts",
        ".mpg",
        ".mpeg",
        ".vob",
        ".mts",
        ".m2ts",
        ".flv",
        ".f4v",
        ".mxf",
        ".dsf",
        ".voc",
        ".sph",
        ".gsm",
        ".ra",
        ".rm",
        ".rmvb",
        ".nut",
    ]
)
"""Endings by which a folder's recordings are found. Not .ts: most of those are programs."""


def name_of(source: Source) -> str:
    return str(source) if isinstance(source, Path) else "the file"


def _refuse(url: str, *_: Any) -> Any:
    """For ffmpeg's wish to open another file."""
    raise PermissionError(f"it asks for another file: {url[:80]}")


@contextmanager
def opened(source: Source) -> Iterator["av.container.InputContainer"]:
    """Raises DataError for what is no sound."""
    with ExitStack() as stack:
        try:
            if isinstance(source, Path):
                empty = not source.stat().st_size
                file: Any = stack.enter_context(source.open("rb"))
            else:
                empty, file = not source, BytesIO(source)
            if empty:
                raise DataError(f"{name_of(source)} is empty", why="0 bytes", fix="record it again")
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
                f"{name_of(source)} is no sound that can be read",
                why=str(fault).splitlines()[0][:200],
                fix="check that it plays: its content may not be what its ending says; playlists "
                "are not followed",
            ) from None
        stack.enter_context(container)
        if not container.streams.audio:
            kinds = ", ".join(stream.type for stream in container.streams)
            raise DataError(
                f"{name_of(source)} has no audio stream",
                why=f"it holds {kinds or 'nothing'}",
                fix="give a file with sound",
            )
        yield container


def choose_track(
    container: "av.container.InputContainer", source: Source, number: int = 0, language: str = ""
) -> "av.AudioStream":
    """The audio track `number` from 1. 0 takes the one in `language` where a film has several, else
    the one that its maker marked as default, else the first.

    Raises SettingsError for a track that it does not have.
    """
    tracks = container.streams.audio
    if number > len(tracks):
        raise SettingsError(
            f"{name_of(source)} has no audio track {number}",
            why=f"it has {len(tracks)}: {describe_tracks(container)}",
            fix=f"--track 1 to {len(tracks)}",
        )
    if number:
        return tracks[number - 1]
    if language and language != "auto":
        spoken = [track for track in tracks if language_of(track) == language]
        if spoken and len(spoken) < len(tracks):
            tracks = tuple(spoken)
    marked = [track for track in tracks if track.disposition & av.stream.Disposition.default]
    return next(iter(marked or tracks))


def language_of(track: "av.AudioStream") -> str:
    """As Whisper writes it: 'de' for the tags ger, deu and de-AT; empty where there is none."""
    code = language_names.code_of(track.language or "")
    return code if code in language_names.BY_CODE else ""


def describe_tracks(container: "av.container.InputContainer") -> str:
    """Number, language and title of each."""
    return ", ".join(
        " ".join(filter(None, [str(i), track.language, track.metadata.get("title", "")[:40]]))
        for i, track in enumerate(container.streams.audio, 1)
    )


def start_s(container: "av.container.InputContainer", stream: "av.AudioStream") -> float:
    """The time of the container that players show as 0."""
    if container.start_time is not None:
        return float(container.start_time / av.time_base)
    if stream.start_time is not None and stream.time_base is not None:
        return float(stream.start_time * stream.time_base)
    return 0.0
