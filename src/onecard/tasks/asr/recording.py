"""A sound file to a transcript, in chunks that are cut at pauses, so that three hours take the
memory of ten minutes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from onecard.tasks.asr import audio, transcript
from onecard.tasks.asr.audio import RATE_HZ, AudioInfo
from onecard.tasks.asr.configs import DiarizeConfig, RecordingConfig
from onecard.tasks.asr.transcriber import Region, Transcriber, shift
from onecard.tasks.asr.transcript import Transcript

CHUNK_S = 480
"""Sound that is in memory at once (31 MB)."""
MAX_PAUSE_S = 30
"""How far back from the end of a chunk a pause is searched."""

Row = dict[str, Any]
"""What was recognised in a chunk, as JSON: segments, dropped, language, sure."""


def transcribe_recording(
    transcriber: Transcriber,
    path: Path,
    config: RecordingConfig,
    finished: Sequence[Row] = (),
    on_chunk: Callable[[Row, float], None] | None = None,
) -> Transcript:
    """Words and speakers of a file.

    `finished`: rows of its first chunks, which are not transcribed again. `on_chunk(row, seconds)`
    is called for each, finished ones included. Raises DataError.
    """
    info = AudioInfo()
    result = Transcript(language="" if config.language == "auto" else config.language)
    diarizer = _open_diarizer(config, path) if config.diarize else None
    for number, (start_s, sound, regions) in enumerate(chunks(transcriber, path, info)):
        if number < len(finished):
            row = finished[number]
        else:
            row = _transcribe_chunk(transcriber, sound, regions, start_s, result.language)
        result.segments += [transcript.segment_from_dict(s) for s in row["segments"]]
        result.dropped += row["dropped"]
        if row["language"] and not result.language_probability:
            result.language, result.language_probability = row["language"], row["sure"]
        if diarizer is not None:
            diarizer.add(sound, regions, start_s)
        if on_chunk:
            on_chunk(row, len(sound) / RATE_HZ)
    result.seconds, result.warnings = info.seconds, info.warnings()
    if not result.segments:
        result.warnings.append(
            "all that the model wrote was removed: nobody said it"
            if result.dropped
            else "nobody speaks"
        )
    if diarizer is not None:
        result.turns = diarizer.turns()
        result.segments = transcript.assign_speakers(result.segments, result.turns)
    return result


def _transcribe_chunk(
    transcriber: Transcriber,
    sound: np.ndarray,
    regions: Sequence[Region],
    start_s: float,
    language: str,
) -> Row:
    """With times in the recording."""
    hypothesis = transcriber.transcribe(sound, language, regions)
    return {
        "segments": [asdict(shift(segment, start_s)) for segment in hypothesis.segments],
        "dropped": [
            {**row, "start": row["start"] + start_s, "end": row["end"] + start_s}
            for row in hypothesis.dropped
        ],
        "language": hypothesis.language,
        "sure": hypothesis.language_probability,
    }


def _open_diarizer(config: DiarizeConfig, path: Path) -> Any:
    # imports torch, which plain transcription does without: 3 s, 250 MB, and an optional package
    from onecard.tasks.asr import diarization

    return diarization.open_diarizer(config, path)


def chunks(
    transcriber: Transcriber, path: Path, info: AudioInfo
) -> Iterator[tuple[float, np.ndarray, list[Region]]]:
    """(start in seconds, sound, regions of speech in it), cut at pauses; all but CHUNK_S of a file
    stays on the disk."""
    buffer, start = np.zeros(0, dtype=np.float32), 0
    for block in audio.blocks(path, info):
        buffer = np.concatenate([buffer, block])
        if len(buffer) < CHUNK_S * RATE_HZ:
            continue
        regions = transcriber.regions(buffer)
        cut = cut_position(regions, len(buffer))
        yield start / RATE_HZ, buffer[:cut], [row for row in regions if row["end"] <= cut]
        buffer, start = buffer[cut:], start + cut
    if len(buffer):
        yield start / RATE_HZ, buffer, transcriber.regions(buffer)


def cut_position(regions: list[Region], length: int) -> int:
    """Where to cut a chunk of `length` samples: before speech that reaches its end, unless that
    began more than MAX_PAUSE_S ago."""
    if not regions:
        return length
    last = regions[-1]
    reaches_end = last["end"] > length - RATE_HZ
    began_late = last["start"] > length - MAX_PAUSE_S * RATE_HZ
    return max(last["start"], 1) if reaches_end and began_late else length
