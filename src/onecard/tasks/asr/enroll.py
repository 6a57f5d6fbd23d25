"""onecard asr enroll: keeps a person's voice under a name, which diarization then uses."""

import json
from collections.abc import Sequence
from pathlib import Path

from onecard import fsio, paths
from onecard.errors import DataError, SettingsError
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.asr import audio, diarization, speaker_embedding, speech
from onecard.tasks.asr.audio import RATE_HZ
from onecard.tasks.asr.configs import DecodeConfig, EnrollConfig
from onecard.tasks.asr.transcriber import Transcriber, open_transcriber


def enroll(config: EnrollConfig, run: Run) -> Result:
    """The mean voice of one or more clips. Raises SettingsError, NotFound, DataError."""
    name, clips = _name_and_clips(config)
    files = audio.find_files(clips)
    audio.require_sound(files)
    embedding, seconds = _embed(name, files, open_transcriber(DecodeConfig(), run))
    path = paths.safe_join(diarization.voices_folder(), f"{name}.json")
    voice = {"name": name, "vector": embedding, "seconds": seconds}
    fsio.write_text(path, json.dumps(voice))
    return Result(
        {"name": name, "path": str(path), "seconds": seconds},
        f"{name} is enrolled, from {seconds:.1f} s of speech: {path}",
    )


def _name_and_clips(config: EnrollConfig) -> tuple[str, tuple[str, ...]]:
    """--name, else the first of the positional arguments."""
    if not config.audio:
        raise SettingsError(
            "there is no name and no clip",
            why="enroll takes a name and at least one clip",
            fix="onecard asr enroll anna clip.wav",
        )
    name, clips = config.name, config.audio
    if not name:
        name, clips = config.audio[0], config.audio[1:]
    if "/" in name or name.startswith("."):
        raise SettingsError(
            f"'{name}' cannot be a name",
            why="it is stored as a file of that name",
            fix="letters, digits and spaces",
        )
    if not clips:
        raise SettingsError(
            f"there is no clip of {name}",
            why="only a name was given",
            fix=f"onecard asr enroll {name} clip.wav",
        )
    return name, clips


def _embed(name: str, files: Sequence[Path], transcriber: Transcriber) -> tuple[list[float], float]:
    """(embedding, seconds of speech). Raises DataError where the clips hold too little speech."""
    encoder = speaker_embedding.load_encoder()
    embeddings, lengths = [], []
    for file in files:
        sound = audio.load(file)
        for a, b in speech.without_padding(transcriber.regions(sound), len(sound)):
            embeddings.append(encoder.embed(sound[a:b]))
            lengths.append((b - a) / RATE_HZ)
    seconds = float(sum(lengths))
    if seconds < diarization.MIN_SPEAKER_S:
        raise DataError(
            f"there is too little speech of {name}",
            why=f"{seconds:.1f} s in {len(files)} clips",
            fix="a clip with at least three seconds of that one voice",
        )
    mean = diarization.mean_embedding(embeddings, lengths)
    return [round(float(x), 6) for x in mean], seconds
