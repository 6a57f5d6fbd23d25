"""What is said now, written down as it is said: sound comes in from the microphone or standard
input, a passage is heard when a pause ends it. Knows no files."""

import queue
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which

import numpy as np

from onecard import fsio
from onecard.errors import DataError, MissingExtra, SettingsError
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.asr import words
from onecard.tasks.asr.audio import RATE_HZ
from onecard.tasks.asr.configs import Settings
from onecard.tasks.asr.model import Transcriber, open_ear, shifted
from onecard.tasks.asr.words import Transcript

PIECE_S = 0.5
PAUSE_S = 0.7
"""A pause of this length ends a passage."""
LONGEST_S = 25.0
"""Somebody who makes no pause is written down after this time."""


def listen(settings: Settings, run: Run) -> Result:
    """Until the sound ends or Ctrl-C; all that was said is on the disk after each passage.

    Raises SettingsError, DataError, MissingExtra.
    """
    if settings.diarize or settings.edit:
        raise SettingsError(
            "who speaks and the editor need the whole recording",
            why="--live writes down each passage as it ends",
            fix="record it, then onecard asr transcribe FILE --diarize --edit",
        )
    run.data("live", rows=0, sha256="")
    ear = open_ear(settings, run)
    made = Transcript(language="" if settings.language == "auto" else settings.language)
    held, start = np.zeros(0, dtype=np.float32), 0.0
    out = (
        Path(settings.output_dir).expanduser()
        if settings.output_dir
        else (run.folder or Path.cwd()) / "artifacts"
    )
    try:
        with _source(settings.live) as pieces:
            for piece in pieces:
                held = np.concatenate([held, piece])
                made.seconds = start + len(held) / RATE_HZ
                regions = ear.regions(held)
                last = regions[-1]["end"] / RATE_HZ if regions else 0.0
                quiet = (
                    len(held) / RATE_HZ - last
                )  # the voice activity adds 0.4 s behind the last word
                if not regions and len(held) > 5 * RATE_HZ:
                    start, held = start + (len(held) - RATE_HZ) / RATE_HZ, held[-RATE_HZ:]
                elif regions and (quiet > PAUSE_S - 0.4 or len(held) > LONGEST_S * RATE_HZ):
                    _passage(ear, held, start, made, run, out)
                    start, held = start + len(held) / RATE_HZ, np.zeros(0, dtype=np.float32)
        if len(held):
            _passage(ear, held, start, made, run, out)
    except KeyboardInterrupt:
        if len(held):
            _passage(ear, held, start, made, run, out)
    return Result(
        {
            "text": made.text,
            "seconds": made.seconds,
            "language": made.language,
            "dropped": made.dropped,
        },
        f"\nwritten to {out}",
    )


def _passage(
    ear: Transcriber, sound: np.ndarray, start: float, made: Transcript, run: Run, out: Path
) -> None:
    """Heard, shown, and kept."""
    segments, dropped, language, sure = ear.hear(sound, made.language)
    if language and not made.language:
        made.language, made.language_probability = language, sure
    made.dropped += [
        {**row, "start": row["start"] + start, "end": row["end"] + start} for row in dropped
    ]
    for segment in segments:
        made.segments.append(shifted(segment, start))
        run.reporter.stream(
            f"[{words.clock(made.segments[-1].start)[:8]}] {segment.text.strip()}\n"
        )
    for form in ear.s.formats:
        fsio.write_text(out / f"live.{form}", words.write(made, form, "live"))


@contextmanager
def _source(live: str) -> Iterator[Iterator[np.ndarray]]:
    """Pieces of half a second. Raises MissingExtra where there is no way to the microphone."""
    if live == "stdin":
        yield _raw(sys.stdin.buffer)
        return
    try:
        import sounddevice
    except (ModuleNotFoundError, OSError):
        if not which("arecord"):
            raise MissingExtra(
                "the microphone cannot be opened",
                why="neither the package sounddevice nor the program arecord is here",
                fix="pip install sounddevice; or: ... | onecard asr transcribe --live stdin",
            ) from None
        child = subprocess.Popen(
            ["arecord", "-q", "-f", "S16_LE", "-r", str(RATE_HZ), "-c", "1", "-t", "raw"],
            stdout=subprocess.PIPE,
        )
        try:
            yield _raw(child.stdout)
        finally:
            child.terminate()
        if child.wait() > 0:
            raise DataError(
                "the microphone cannot be opened",
                why=f"arecord ended with {child.returncode}",
                fix="plug one in; arecord -l lists what is there",
            ) from None
        return
    heard: queue.Queue[np.ndarray] = queue.Queue()
    try:
        stream = sounddevice.InputStream(
            samplerate=RATE_HZ,
            channels=1,
            dtype="float32",
            blocksize=int(PIECE_S * RATE_HZ),
            callback=lambda data, *_: heard.put(data[:, 0].copy()),
        )
    except sounddevice.PortAudioError as fault:
        raise DataError(
            "the microphone cannot be opened",
            why=str(fault),
            fix="plug one in, or choose it in the system's settings; or: ... | onecard asr "
            "transcribe --live stdin",
        ) from None
    with stream:
        yield _from(heard)


def _from(heard: "queue.Queue[np.ndarray]") -> Iterator[np.ndarray]:
    while True:
        yield heard.get()


def _raw(stream: object) -> Iterator[np.ndarray]:
    """Little-endian 16-bit samples."""
    while data := stream.read(int(PIECE_S * RATE_HZ) * 2):  # type: ignore[attr-defined]
        yield np.frombuffer(data[: len(data) // 2 * 2], dtype="<i2").astype(np.float32) / 32768
