"""Whisper under CTranslate2: voice activity, windows of 30 s, words, hallucination filter.

Takes samples, knows no files of sound.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from faster_whisper import BatchedInferencePipeline, WhisperModel
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import TranscriptionOptions, get_suppressed_tokens, pad_or_trim
from faster_whisper.vad import (
    SpeechTimestampsMap,
    VadOptions,
    collect_chunks,
    get_speech_timestamps,
)

from onecard.errors import DataError, SettingsError
from onecard.reporting import Reporter
from onecard.runs.record import Run
from onecard.tasks.asr import hallucination_filter, model_files
from onecard.tasks.asr.audio import RATE_HZ
from onecard.tasks.asr.configs import DecodeConfig
from onecard.tasks.asr.transcript import Segment, Word

WINDOW_S = 30
"""Of Whisper's encoder."""
MIN_SILENCE_MS = 160
"""Silence that ends a region of speech; faster-whisper's batched pipeline has the same."""
FALLBACK_TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Tried when a window repeats itself or is improbable (Radford et al. 2022, section 4.5)."""
MAX_COMPRESSION_RATIO = 2.4
MIN_AVG_LOGPROB = -1.0
"""Thresholds of that paper for a failed window."""
PROMPT_TOKENS = 200
"""For hotwords, and for the initial prompt, of the 224 that Whisper reads before a window."""

Region = dict[str, int]
"""{"start", "end"} of speech, in samples."""


@dataclass
class Hypothesis:
    """What was recognised in a chunk of sound."""

    segments: list[Segment] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    """Removed by the hallucination filter: {start, end, text, why}."""
    language: str = ""
    language_probability: float = 0.0


@contextmanager
def _memory_errors() -> Iterator[None]:
    """CTranslate2 reports an out-of-memory error as a plain RuntimeError; api.run takes the next
    fallback on a MemoryError."""
    try:
        yield
    except RuntimeError as fault:
        if "out of memory" in str(fault).lower():
            raise MemoryError(str(fault)) from fault
        raise


def open_transcriber(config: DecodeConfig, run: Run) -> "Transcriber":
    """On the card that the run was planned for, where it really exists."""
    device = run.plan.device
    return Transcriber(config, run.reporter, cuda=device.type == "cuda" and device.real)


class Transcriber:
    """One model, loaded once.

    Raises NotFound and DataError for the model, SettingsError for a language it does not know.
    """

    def __init__(self, config: DecodeConfig, reporter: Reporter, *, cuda: bool = False) -> None:
        self.config, self.reporter = config, reporter
        self._warned = False
        compute_type: str = config.compute_type
        if compute_type == "auto":
            compute_type = "float16" if cuda else "int8"
        folder = model_files.find(config.model, reporter)
        try:
            with _memory_errors():
                self.model = WhisperModel(
                    str(folder),
                    device="cuda" if cuda else "cpu",
                    compute_type=compute_type,
                    cpu_threads=config.n_threads,
                )
        except (RuntimeError, ValueError) as fault:
            fix = "remove the folder and run it again; or another --compute_type"
            if "library" in str(fault).lower() or "cuda" in str(fault).lower():
                fix = (
                    "install the CUDA libraries that it names (pip install nvidia-cublas-cu12 "
                    "nvidia-cudnn-cu12), or --card cpu"
                )
            raise DataError(
                f"{folder} cannot be opened as a speech model",
                why=str(fault).splitlines()[0][:200],
                fix=fix,
            ) from None
        self.pipeline = BatchedInferencePipeline(self.model)
        languages = self.model.supported_languages
        if config.language != "auto" and config.language not in languages:
            raise SettingsError(
                f"the language '{config.language}' is not known here",
                why=f"{config.model} knows {', '.join(languages[:12])} ...",
                fix="--language en, or auto",
            )

    def regions(self, sound: np.ndarray) -> list[Region]:
        """Where somebody speaks, by Silero's voice activity detection."""
        timestamps: list[Region] = get_speech_timestamps(
            sound,
            VadOptions(
                threshold=self.config.vad_threshold,
                max_speech_duration_s=WINDOW_S,
                min_silence_duration_ms=MIN_SILENCE_MS,
            ),
        )
        return timestamps

    def transcribe(
        self, sound: np.ndarray, language: str, regions: Sequence[Region] | None = None
    ) -> Hypothesis:
        """`sound`: float32, 16 kHz. `language`: "" detects it. `regions`: of speech, where they are
        known."""
        regions = list(regions) if regions is not None else self.regions(sound)
        if not regions:
            return Hypothesis(language=language)
        chunks, chunk_info = collect_chunks(sound, regions, max_duration=WINDOW_S)
        features = [self._features(chunk) for chunk in chunks]
        probability = 1.0
        if not language:
            language, probability = self._detect_language(features)
        hypothesis = Hypothesis(language=language, language_probability=probability)
        tokenizer = self._tokenizer(language)
        options = self._options(tokenizer)
        speech_map = SpeechTimestampsMap(regions, RATE_HZ)
        windows = np.stack([pad_or_trim(feature) for feature in features])
        batch_size = self.config.batch_size
        for i in range(0, len(windows), batch_size):
            part = slice(i, i + batch_size)
            with _memory_errors():
                outputs = self.pipeline.forward(windows[part], tokenizer, chunk_info[part], options)
            for j, rows in enumerate(outputs, i):
                segments = [_segment(row) for row in rows]
                if any(_failed(row) for row in rows):
                    offset = chunk_info[j]["offset"]
                    segments = self._retry(chunks[j], offset, language, tokenizer)
                for segment in segments:
                    self._filter(_in_recording(segment, speech_map), regions, hypothesis)
        return hypothesis

    def _filter(self, segment: Segment, regions: Sequence[Region], hypothesis: Hypothesis) -> None:
        """Append the segment to what was recognised, or to what was dropped."""
        reason = ""
        if self.config.hallucination_filter:
            probabilities = [word.probability for word in segment.words]
            mean = float(np.mean(probabilities)) if probabilities else 1.0
            reason = hallucination_filter.reason_to_drop(segment, _speech_s(segment, regions), mean)
        if not reason:
            hypothesis.segments.append(segment)
            return
        hypothesis.dropped.append(
            {
                "start": segment.start,
                "end": segment.end,
                "text": segment.text.strip(),
                "why": reason,
            }
        )

    def transcribe_clips(self, sounds: Sequence[np.ndarray], language: str) -> list[str]:
        """Texts of clips of at most 30 s, each one window without voice activity detection and
        filter, so that two models can be compared."""
        tokenizer = self._tokenizer(language)
        windows = np.stack([pad_or_trim(self._features(sound)) for sound in sounds])
        chunk_info = [
            {"offset": 0.0, "duration": min(len(sound) / RATE_HZ, WINDOW_S), "segments": []}
            for sound in sounds
        ]
        options = replace(self._options(tokenizer), word_timestamps=False)
        with _memory_errors():
            outputs = self.pipeline.forward(windows, tokenizer, chunk_info, options)
        return [" ".join(row["text"].strip() for row in rows) for rows in outputs]

    def losses(
        self, sounds: Sequence[np.ndarray], token_ids: Sequence[list[int]], language: str
    ) -> list[float]:
        """Nats a token of each clip's reference text (without special tokens) as the engine
        computes it: among text tokens alone, which is what its alignment returns.

        A clip is padded with silence, as transformers does, so that two engines read the same;
        for transcription faster-whisper pads its features with zeros instead.
        """
        tokenizer = self._tokenizer(language)
        padded = [pad_or_trim(sound, WINDOW_S * RATE_HZ) for sound in sounds]
        windows = np.stack([self._features(sound) for sound in padded])
        with _memory_errors():
            alignments = self.model.model.align(
                self.model.encode(windows),
                tokenizer.sot_sequence,
                list(token_ids),
                [windows.shape[-1]] * len(windows),
            )
        smallest = 1e-30  # a probability of 0 in fp16 has no logarithm
        return [
            -float(np.mean(np.log(np.maximum(alignment.text_token_probs, smallest))))
            for alignment in alignments
        ]

    def detect_language(self, sound: np.ndarray) -> tuple[str, float]:
        """(language, its probability)."""
        return self._detect_language([self._features(sound)])

    def _features(self, sound: np.ndarray) -> np.ndarray:
        """(mels, frames)."""
        return np.asarray(self.model.feature_extractor(sound)[..., :-1])

    def _tokenizer(self, language: str) -> Tokenizer:
        return Tokenizer(
            self.model.hf_tokenizer,
            self.model.model.is_multilingual,
            task=self.config.task,
            language=language,
        )

    def _detect_language(self, features: list[np.ndarray]) -> tuple[str, float]:
        if not self.model.model.is_multilingual:
            return "en", 1.0
        silence = np.full((self.model.model.n_mels, 1), -1.5, dtype=np.float32)
        language, probability, _ = self.model.detect_language(
            features=np.concatenate([*features, silence], axis=1), language_detection_segments=2
        )
        return str(language), float(probability)

    def _hotwords(self, tokenizer: Tokenizer) -> str:
        """Hotwords and names, as many as fit into the prompt beside the initial one."""
        hotwords = ", ".join([*self.config.hotwords, *self.config.names])
        n_prompt = len(tokenizer.encode(self.config.initial_prompt))
        n_free = max(0, PROMPT_TOKENS - n_prompt)
        tokens = tokenizer.encode(hotwords)
        if len(tokens) <= n_free:
            return hotwords
        if not self._warned:
            self.reporter.warn(
                f"hotwords and names are longer than {n_free} tokens: the rest is left out"
            )
            self._warned = True
        return str(tokenizer.decode(tokens[:n_free]))

    def _options(self, tokenizer: Tokenizer) -> TranscriptionOptions:
        hotwords = self._hotwords(tokenizer)
        prompt = tokenizer.encode(self.config.initial_prompt)[-PROMPT_TOKENS:]
        return TranscriptionOptions(
            beam_size=self.config.beam_size,
            best_of=5,
            patience=1,
            length_penalty=1,
            repetition_penalty=1,
            no_repeat_ngram_size=0,
            log_prob_threshold=MIN_AVG_LOGPROB,
            no_speech_threshold=0.6,
            compression_ratio_threshold=MAX_COMPRESSION_RATIO,
            condition_on_previous_text=False,
            prompt_reset_on_temperature=0.5,
            temperatures=[0.0],
            initial_prompt=tokenizer.decode(prompt) or None,
            prefix=None,
            suppress_blank=True,
            suppress_tokens=get_suppressed_tokens(tokenizer, [-1]),
            without_timestamps=True,
            max_initial_timestamp=0.0,
            word_timestamps=self.config.word_timestamps,
            prepend_punctuations="\"'“¿([{-",
            append_punctuations="\"'.。,，!！?？:：”)]}、",
            multilingual=False,
            max_new_tokens=None,
            clip_timestamps=[],
            hallucination_silence_threshold=None,
            hotwords=hotwords or None,
        )

    def _retry(
        self, chunk: np.ndarray, offset: float, language: str, tokenizer: Tokenizer
    ) -> list[Segment]:
        """A failed window again, at higher temperatures until it passes the thresholds."""
        rows, _ = self.model.transcribe(
            chunk,
            language=language,
            task=self.config.task,
            beam_size=self.config.beam_size,
            temperature=[0.0, *FALLBACK_TEMPERATURES],
            condition_on_previous_text=False,
            word_timestamps=self.config.word_timestamps,
            vad_filter=False,
            initial_prompt=self.config.initial_prompt or None,
            hotwords=self._hotwords(tokenizer) or None,
            no_speech_threshold=None,
        )
        segments = []
        for row in rows:
            words = tuple(
                Word(word.start + offset, word.end + offset, word.word, word.probability)
                for word in row.words or ()
            )
            segments.append(
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
        return segments


def _failed(row: dict[str, Any]) -> bool:
    return bool(
        row["compression_ratio"] > MAX_COMPRESSION_RATIO or row["avg_logprob"] < MIN_AVG_LOGPROB
    )


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


def _in_recording(segment: Segment, speech_map: SpeechTimestampsMap) -> Segment:
    """Times in the concatenated speech to times in the recording."""
    if not segment.words:
        return replace(
            segment,
            start=speech_map.get_original_time(segment.start),
            end=speech_map.get_original_time(segment.end, is_end=True),
        )
    words = []
    for word in segment.words:
        # both ends of a word in one region of speech
        index = speech_map.get_chunk_index((word.start + word.end) / 2)
        words.append(
            replace(
                word,
                start=speech_map.get_original_time(word.start, index),
                end=speech_map.get_original_time(word.end, index),
            )
        )
    return replace(segment, start=words[0].start, end=words[-1].end, words=tuple(words))


def shift(segment: Segment, seconds: float) -> Segment:
    """The same segment, later by `seconds`."""
    words = tuple(
        replace(word, start=round(word.start + seconds, 3), end=round(word.end + seconds, 3))
        for word in segment.words
    )
    start, end = round(segment.start + seconds, 3), round(segment.end + seconds, 3)
    return replace(segment, start=start, end=end, words=words)


def _speech_s(segment: Segment, regions: Sequence[Region]) -> float:
    """Seconds of the segment's time in which somebody speaks."""
    return sum(
        max(
            0.0, min(segment.end, row["end"] / RATE_HZ) - max(segment.start, row["start"] / RATE_HZ)
        )
        for row in regions
    )
