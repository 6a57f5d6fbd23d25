"""onecard asr transcribe --live: speech from the microphone or standard input, transcribed after
each pause."""

import queue
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from shutil import which
from typing import IO

import numpy as np

from onecard import fsio
from onecard.errors import DataError, MissingExtra, SettingsError
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.asr import formats, transcript
from onecard.tasks.asr.audio import RATE_HZ
from onecard.tasks.asr.configs import TranscribeConfig
from onecard.tasks.asr.transcriber import open_transcriber, shift
from onecard.tasks.asr.transcript import Transcript
from onecard.training import output_dir

PIECE_S = 0.5
PAUSE_S = 0.7
"""A pause of this length ends a passage."""
VAD_PAD_S = 0.4
"""What voice activity detection adds after the last word."""
MAX_PASSAGE_S = 25.0
"""Speech without a pause is transcribed after this time."""
MAX_SILENCE_S = 5
"""Silence that is kept before a passage begins; of more, the last second is."""


def listen(config: TranscribeConfig, run: Run) -> Result:
    """Until the sound ends or Ctrl-C; all files are written again after each passage.

    Raises SettingsError, DataError, MissingExtra.
    """
    if config.diarize or config.restore_punctuation:
        raise SettingsError(
            "--diarize and --restore_punctuation need the whole recording",
            why="--live transcribes each passage as it ends",
            fix="record it, then onecard asr transcribe FILE --diarize --restore_punctuation",
        )
    run.data("live", rows=0, sha256="")
    session = _Session(config, run)
    try:
        with _open_source(config.live) as pieces:
            for piece in pieces:
                session.add(piece)
    except KeyboardInterrupt:
        pass  # the way to end it
    session.finish_passage()
    result = session.result
    return Result(
        {
            "text": result.text,
            "seconds": result.seconds,
            "language": result.language,
            "dropped": result.dropped,
        },
        f"\nwritten to {session.out}",
    )


class _Session:
    """The sound since the last passage, and the transcript so far."""

    def __init__(self, config: TranscribeConfig, run: Run) -> None:
        self.config, self.run = config, run
        self.out = output_dir.resolve(config.output_dir, run)
        self.transcriber = open_transcriber(config, run)
        self.result = Transcript(language="" if config.language == "auto" else config.language)
        self.probabilities: dict[str, float] = {}
        """The highest of each language, over the passages that are mostly in it."""
        self.buffer = np.zeros(0, dtype=np.float32)
        self.start_s = 0.0
        """Of the buffer."""

    def add(self, piece: np.ndarray) -> None:
        """Transcribes when a pause has ended the passage."""
        self.buffer = np.concatenate([self.buffer, piece])
        seconds = len(self.buffer) / RATE_HZ
        self.result.seconds = self.start_s + seconds
        regions = self.transcriber.regions(self.buffer)
        if regions:
            pause_s = seconds - regions[-1]["end"] / RATE_HZ + VAD_PAD_S
            if pause_s > PAUSE_S or seconds > MAX_PASSAGE_S:
                self.finish_passage()
        elif seconds > MAX_SILENCE_S:
            self.start_s += seconds - 1
            self.buffer = self.buffer[-RATE_HZ:]

    def finish_passage(self) -> None:
        """Transcribe the buffer, show it and write all files."""
        if not len(self.buffer):
            return
        result, start_s = self.result, self.start_s
        hypothesis = self.transcriber.transcribe(self.buffer, result.language)
        if hypothesis.language and not result.language:
            result.language = hypothesis.language
            result.language_probability = hypothesis.language_probability
        before = self.probabilities.get(hypothesis.language, 0.0)
        self.probabilities[hypothesis.language] = max(before, hypothesis.language_probability)
        result.dropped += [
            {**row, "start": row["start"] + start_s, "end": row["end"] + start_s}
            for row in hypothesis.dropped
        ]
        for segment in hypothesis.segments:
            segment = shift(segment, start_s)
            result.segments.append(segment)
            time = formats.timestamp(segment.start)[:8]
            self.run.reporter.stream(f"[{time}] {segment.text.strip()}\n")
        transcript.name_languages(result, self.probabilities, self.config.multilingual)
        for form in self.config.formats:
            text = formats.render(result, form, "live")
            fsio.write_text(self.out / f"live.{form}", text)
        self.start_s += len(self.buffer) / RATE_HZ
        self.buffer = np.zeros(0, dtype=np.float32)


# Sources


@contextmanager
def _open_source(live: str) -> Iterator[Iterator[np.ndarray]]:
    """Pieces of PIECE_S. Raises MissingExtra where nothing can read the microphone, DataError."""
    if live == "stdin":
        yield _pcm16(sys.stdin.buffer)
        return
    try:
        import sounddevice  # optional, and an OSError where PortAudio's library is missing
    except (ModuleNotFoundError, OSError):
        with _arecord() as pieces:
            yield pieces
        return
    blocks: queue.Queue[np.ndarray] = queue.Queue()
    try:
        stream = sounddevice.InputStream(
            samplerate=RATE_HZ,
            channels=1,
            dtype="float32",
            blocksize=int(PIECE_S * RATE_HZ),
            callback=lambda data, *_: blocks.put(data[:, 0].copy()),
        )
    except sounddevice.PortAudioError as fault:
        raise DataError(
            "the microphone cannot be opened",
            why=str(fault),
            fix="plug one in, or choose it in the system's settings; or: ... | onecard asr "
            "transcribe --live stdin",
        ) from None
    with stream:
        yield _drain(blocks)


def _drain(blocks: "queue.Queue[np.ndarray]") -> Iterator[np.ndarray]:
    while True:
        yield blocks.get()


@contextmanager
def _arecord() -> Iterator[Iterator[np.ndarray]]:
    """The microphone by ALSA's recorder. Raises MissingExtra without it, DataError where it
    fails."""
    if not which("arecord"):
        raise MissingExtra(
            "the microphone cannot be opened",
            why="neither the package sounddevice nor the program arecord is installed",
            fix="pip install sounddevice; or: ... | onecard asr transcribe --live stdin",
        )
    words = ["arecord", "-q", "-f", "S16_LE", "-r", str(RATE_HZ), "-c", "1", "-t", "raw"]
    child = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        yield _pcm16(child.stdout)
    finally:
        child.terminate()
    if child.wait() > 0:
        raise DataError(
            "the microphone cannot be opened",
            why=f"arecord ended with {child.returncode}",
            fix="plug one in; arecord -l lists the devices",
        )


def _pcm16(stream: IO[bytes]) -> Iterator[np.ndarray]:
    """Little-endian 16-bit samples as float32."""
    while data := stream.read(int(PIECE_S * RATE_HZ) * 2):
        samples = np.frombuffer(data[: len(data) // 2 * 2], dtype="<i2")
        yield samples.astype(np.float32) / 32768
