"""A sound file to a transcript, in chunks that are cut at pauses, so that three hours take the
memory of ten minutes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from onecard.tasks.asr import audio, formats, segments, transcript
from onecard.tasks.asr.audio import RATE_HZ, AudioInfo, Selection
from onecard.tasks.asr.configs import DiarizeConfig, RecordingConfig
from onecard.tasks.asr.container import Source
from onecard.tasks.asr.speech import Region
from onecard.tasks.asr.transcriber import Transcriber, shift
from onecard.tasks.asr.transcript import Transcript

CHUNK_S = 480
"""Sound that is in memory at once (31 MB)."""
MAX_PAUSE_S = 30
"""How far back from the end of a chunk a pause is searched."""

MAX_CHANNELS = 8
"""That --channels split hears one after the other."""
MIN_UNHEARD_S = 1.5
"""Speech without words that is worth a warning, in all."""

Row = dict[str, Any]
"""What was recognised in a chunk, as JSON: segments, dropped, language, sure, unheard, foreign."""
OnChunk = Callable[[Row, float], None]


def transcribe_recording(
    transcriber: Transcriber,
    source: Source,
    config: RecordingConfig,
    finished: Sequence[Row] = (),
    on_chunk: OnChunk | None = None,
) -> Transcript:
    """Words and speakers of a file.

    `finished`: rows of its first chunks, which are not transcribed again. `on_chunk(row, seconds)`
    is called for each, finished ones included. Raises DataError, SettingsError.
    """
    language = "" if config.language == "auto" else config.language
    selection = Selection(config.track, language)
    job = _Job(transcriber, source, config, iter(finished), on_chunk)
    result = Transcript(language=language)
    if config.channels == "split" and (n := audio.n_channels(source, selection)) > 1:
        for channel in range(min(n, MAX_CHANNELS)):
            job.hear(result, replace(selection, channel=channel))
        result.segments.sort(key=lambda segment: segment.start)
        result.dropped.sort(key=lambda row: row["start"])
        result.turns = transcript.turns_of(result.segments)
    else:
        job.hear(result, selection)
    transcript.name_languages(result, job.probabilities, config.multilingual)
    result.warnings += _warnings(result)
    if not config.word_timestamps:
        result.segments = segments.without_words(result.segments)
    return result


@dataclass
class _Job:
    """One recording, of which a channel at a time is heard."""

    transcriber: Transcriber
    source: Source
    config: RecordingConfig
    finished: Iterator[Row]
    on_chunk: OnChunk | None
    probabilities: dict[str, float] = field(default_factory=dict)
    """The highest of each language, over the chunks that are mostly in it."""

    def hear(self, result: Transcript, selection: Selection) -> None:
        """Add what is said to `result`."""
        info, heard = AudioInfo(), []
        split = selection.channel is not None
        diarizer = _open_diarizer(self.config) if self.config.diarize and not split else None
        for start_s, sound, regions in chunks(self.transcriber, self.source, info, selection):
            row = next(self.finished, None)
            if row is None:
                row = _transcribe_chunk(self.transcriber, sound, regions, start_s, result.language)
            heard += [transcript.segment_from_dict(s) for s in row["segments"]]
            result.dropped += row["dropped"]
            result.unheard += row.get("unheard", [])
            result.foreign += row.get("foreign", [])
            before = self.probabilities.get(row["language"], 0.0)
            self.probabilities[row["language"]] = max(before, row["sure"])
            if row["language"] and not result.language_probability:
                result.language, result.language_probability = row["language"], row["sure"]
            if diarizer is not None:
                diarizer.add(sound, regions, start_s)
            if self.on_chunk:
                self.on_chunk(row, len(sound) / RATE_HZ)
        result.seconds = max(result.seconds, info.seconds)
        if diarizer is not None:
            result.turns = diarizer.turns()
            heard = transcript.assign_speakers(heard, result.turns)
        if split:
            name = f"channel {(selection.channel or 0) + 1}"
            heard = [transcript.spoken_by(segment, name) for segment in heard]
        result.segments += heard
        result.warnings += [text for text in info.warnings() if text not in result.warnings]


def _warnings(result: Transcript) -> list[str]:
    warnings = []
    if not result.segments:
        warnings.append(
            "all that the model wrote was removed: nobody said it"
            if result.dropped
            else "nobody speaks"
        )
    seconds = sum(row["end"] - row["start"] for row in result.unheard)
    if seconds >= MIN_UNHEARD_S:
        warnings.append(f"{seconds:.1f} s of speech without words: {_places(result.unheard)}")
    for language in dict.fromkeys(row["language"] for row in result.foreign):
        places = [row for row in result.foreign if row["language"] == language]
        warnings.append(
            f"{_places(places)} sounds like '{language}' and was written as "
            f"'{result.language}': --multilingual decides for each stretch of speech"
        )
    return warnings


def _places(rows: Sequence[dict[str, Any]]) -> str:
    """Times of the first few."""
    names = [
        f"{formats.timestamp(row['start'])[:8]} to {formats.timestamp(row['end'])[:8]}"
        for row in rows[:3]
    ]
    return ", ".join(names) + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")


def _transcribe_chunk(
    transcriber: Transcriber,
    sound: np.ndarray,
    regions: Sequence[Region],
    start_s: float,
    language: str,
) -> Row:
    """With times in the recording."""
    hypothesis = transcriber.transcribe(sound, language, regions)

    def later(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {**row, "start": row["start"] + start_s, "end": row["end"] + start_s} for row in rows
        ]

    return {
        "segments": [asdict(shift(segment, start_s)) for segment in hypothesis.segments],
        "dropped": later(hypothesis.dropped),
        "unheard": later(hypothesis.unheard),
        "foreign": later(hypothesis.foreign),
        "language": hypothesis.language,
        "sure": hypothesis.language_probability,
    }


def _open_diarizer(config: DiarizeConfig) -> Any:
    # imports torch, which plain transcription does without: 3 s, 250 MB, and an optional package
    from onecard.tasks.asr import diarization

    return diarization.open_diarizer(config)


def chunks(
    transcriber: Transcriber, source: Source, info: AudioInfo, selection: Selection | None = None
) -> Iterator[tuple[float, np.ndarray, list[Region]]]:
    """(start in seconds, sound, regions of speech in it), cut at pauses; all but CHUNK_S of a file
    stays on the disk."""
    buffer, start = np.zeros(0, dtype=np.float32), 0
    for block in audio.blocks(source, info, selection=selection):
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
