"""Whisper under CTranslate2: windows of 30 s to words, guarded against what nobody said.

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

from onecard import cancellation
from onecard.errors import DataError, SettingsError
from onecard.reporting import Reporter
from onecard.runs.record import Run
from onecard.tasks.asr import (
    compute_types,
    guards,
    hallucination_filter,
    languages,
    loops,
    model_files,
    segments,
    speech,
)
from onecard.tasks.asr.audio import RATE_HZ
from onecard.tasks.asr.configs import DecodeConfig
from onecard.tasks.asr.speech import WINDOW_S, Region, Window
from onecard.tasks.asr.transcript import Segment, Word

FALLBACK_TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Tried when a window repeats itself or is improbable (Radford et al. 2022, section 4.5)."""
MAX_COMPRESSION_RATIO = 2.4
MIN_AVG_LOGPROB = -1.0
"""Thresholds of that paper for a failed window."""
SURE_LANGUAGE = 0.8
"""Probability from which a window is reported as another language."""
SURE_WORDS = 0.5
"""Mean probability from which words are added to a region that had none."""
BESIDE_S = 4.0
PROMPT_TOKENS = 200
"""For hotwords, and for the initial prompt, of the 224 that Whisper reads before a window."""


@dataclass
class Hypothesis:
    """What was recognised in a chunk of sound."""

    segments: list[Segment] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    """Removed as said by nobody: {start, end, text, why}."""
    language: str = ""
    language_probability: float = 0.0
    unheard: list[dict[str, float]] = field(default_factory=list)
    """Speech without words."""
    foreign: list[dict[str, Any]] = field(default_factory=list)
    """What sounds like another language than the one it was written in: {start, end, language}."""


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
        compute_type = compute_types.resolve(config.compute_type, cuda)
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
        self.pipeline = _Pipeline(self.model)
        languages = self.model.supported_languages
        if config.language != "auto" and config.language not in languages:
            raise SettingsError(
                f"the language '{config.language}' is not known here",
                why=f"{config.model} knows {', '.join(languages[:12])} ...",
                fix="--language en, or auto",
            )

    def regions(self, sound: np.ndarray) -> list[Region]:
        """Where somebody speaks, by Silero's voice activity detection."""
        return speech.regions(sound, self.config.vad_threshold)

    def transcribe(
        self, sound: np.ndarray, language: str, regions: Sequence[Region] | None = None
    ) -> Hypothesis:
        """`sound`: float32, 16 kHz. `language`: "" detects it. `regions`: of speech, where they are
        known."""
        regions = list(regions) if regions is not None else self.regions(sound)
        if not regions:
            return Hypothesis(language=language)
        probability = 1.0
        own_language = self.config.multilingual and self.config.language == "auto"
        if own_language and self.model.model.is_multilingual:
            runs = languages.runs(regions, [self._language_odds(sound, row) for row in regions])
            language, probability = languages.most_spoken(runs)
        else:
            if not language:
                windows = speech.pack(sound, regions)
                language, probability = self._detect_language(
                    [self._features(window.sound) for window in windows]
                )
            runs = [languages.Run(language, tuple(regions), probability)]
        hypothesis = Hypothesis(language=language, language_probability=probability)
        for run in runs:
            windows = speech.pack(sound, run.regions)
            for window, rows in zip(windows, self._decode(windows, run.language), strict=True):
                hypothesis.foreign += self._foreign(window, rows, run.language)
                for row in rows.segments:
                    placed = _in_recording(replace(row, language=run.language), window)
                    for segment in segments.split(placed):
                        self._filter(segment, regions, hypothesis)
                hypothesis.dropped += [
                    {**gone, "start": window.time(gone["start"]), "end": window.time(gone["end"])}
                    for gone in rows.removed
                ]
            self._hear_missed(sound, run, hypothesis)
        hypothesis.segments.sort(key=lambda segment: segment.start)
        hypothesis.dropped.sort(key=lambda row: row["start"])
        hypothesis.unheard = speech.unheard(regions, hypothesis.segments, len(sound))
        return hypothesis

    def _decode(self, windows: Sequence[Window], language: str) -> list[guards.Heard]:
        """Words of each, in the window's time, without loops and echoes."""
        tokenizer = self._tokenizer(language)
        options, plain = self._options(tokenizer), self._options(tokenizer, prompted=False)
        heard = self._forward([window.sound for window in windows], tokenizer, options)
        results = []
        for window, rows in zip(windows, heard, strict=True):
            listener = guards.Listener(
                window.sound,
                lambda sounds: [row.segments for row in self._forward(sounds, tokenizer, plain)],
                self.config.initial_prompt,
            )
            failed = any(map(_failed, rows.segments))
            if failed and not (self.config.hallucination_filter and listener.repeats(rows)):
                rows = replace(rows, segments=self._retry(window.sound, language, tokenizer))
            results.append(listener.checked(rows) if self.config.hallucination_filter else rows)
        return results

    def _hear_missed(self, sound: np.ndarray, run: languages.Run, hypothesis: Hypothesis) -> None:
        """Regions that came out without words, each by itself: in a window of many turns Whisper
        leaves out short replies. Only what it is sure of is added."""
        missed = [
            row
            for row in speech.wordless(run.regions, hypothesis.segments, len(sound))
            if not _removed_at(row, hypothesis)
        ]
        tokenizer = self._tokenizer(run.language)
        windows = speech.pack(sound, missed, max_s=0)
        options = self._options(tokenizer, prompted=False)
        heard = self._forward([window.sound for window in windows], tokenizer, options)
        for window, rows in zip(windows, heard, strict=True):
            for row in rows.segments:
                placed = _in_recording(replace(row, language=run.language), window)
                if _is_sure(row) and not _is_beside(placed, hypothesis.segments):
                    self._filter(placed, run.regions, hypothesis)

    def _forward(
        self, sounds: Sequence[np.ndarray], tokenizer: Tokenizer, options: TranscriptionOptions
    ) -> list[guards.Heard]:
        """One window each, in batches."""
        heard = []
        for i in range(0, len(sounds), self.config.batch_size):
            cancellation.check()
            part = sounds[i : i + self.config.batch_size]
            features = np.stack([pad_or_trim(self._features(sound)) for sound in part])
            info = [
                {"offset": 0.0, "duration": len(sound) / RATE_HZ, "segments": []} for sound in part
            ]
            self.pipeline.last_speech_timestamp = 0.0
            with _memory_errors():
                outputs = self.pipeline.forward(features, tokenizer, info, options)
            for rows, (language, probability) in zip(outputs, self.pipeline.languages, strict=True):
                heard.append(guards.Heard([_segment(row) for row in rows], language, probability))
        return heard

    def _foreign(self, window: Window, heard: guards.Heard, language: str) -> list[dict[str, Any]]:
        """What to tell of a window that sounds like another language."""
        if heard.language in ("", language) or heard.language_probability < SURE_LANGUAGE:
            return []
        start, end = window.time(0.0), window.time(window.seconds)
        return [{"start": start, "end": end, "language": heard.language}]

    def _filter(self, segment: Segment, regions: Sequence[Region], hypothesis: Hypothesis) -> None:
        """Append the segment to what was recognised, or to what was dropped."""
        reason = ""
        if self.config.hallucination_filter:
            probabilities = [word.probability for word in segment.words]
            mean = float(np.mean(probabilities)) if probabilities else 1.0
            speech_s = speech.speech_s(segment.start, segment.end, regions)
            reason = hallucination_filter.reason_to_drop(segment, speech_s, mean)
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

    def _language_odds(self, sound: np.ndarray, region: Region) -> dict[str, float]:
        """language -> probability, of one region of speech."""
        features = self._features(sound[region["start"] : region["end"]])
        with _memory_errors():
            encoded = self.model.encode(pad_or_trim(features))
            rows = self.model.model.detect_language(encoded)[0]
        return {token[2:-2]: probability for token, probability in rows}

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

    def _options(self, tokenizer: Tokenizer, prompted: bool = True) -> TranscriptionOptions:
        """`prompted`: with the initial prompt and the hotwords."""
        hotwords = self._hotwords(tokenizer) if prompted else ""
        prompt = tokenizer.encode(self.config.initial_prompt)[-PROMPT_TOKENS:] if prompted else []
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
            word_timestamps=True,
            prepend_punctuations="\"'“¿([{-",
            append_punctuations="\"'.。,，!！?？:：”)]}、",
            multilingual=False,
            max_new_tokens=None,
            clip_timestamps=[],
            hallucination_silence_threshold=None,
            hotwords=hotwords or None,
        )

    def _retry(self, sound: np.ndarray, language: str, tokenizer: Tokenizer) -> list[Segment]:
        """A failed window again, at higher temperatures until it passes the thresholds."""
        cancellation.check()
        rows, _ = self.model.transcribe(
            sound,
            language=language,
            task=self.config.task,
            beam_size=self.config.beam_size,
            temperature=[0.0, *FALLBACK_TEMPERATURES],
            condition_on_previous_text=False,
            word_timestamps=True,
            vad_filter=False,
            initial_prompt=self.config.initial_prompt or None,
            hotwords=self._hotwords(tokenizer) or None,
            no_speech_threshold=None,
        )
        return [
            Segment(
                row.start,
                row.end,
                row.text,
                tuple(
                    Word(word.start, word.end, word.word, word.probability)
                    for word in row.words or ()
                ),
                row.avg_logprob,
                row.no_speech_prob,
                row.compression_ratio,
            )
            for row in rows
        ]


class _Pipeline(BatchedInferencePipeline):
    """faster-whisper's, and which language each window of the last batch sounds like: one step of
    the decoder beside the hundreds that write the words."""

    languages: list[tuple[str, float]]

    def generate_segment_batched(
        self, features: np.ndarray, tokenizer: Tokenizer, options: TranscriptionOptions
    ) -> Any:
        encoded, output = super().generate_segment_batched(features, tokenizer, options)
        self.languages = [("", 0.0)] * len(output)
        if self.model.model.is_multilingual:
            rows = self.model.model.detect_language(encoded)
            self.languages = [(row[0][0][2:-2], float(row[0][1])) for row in rows]
        return encoded, output


def _is_sure(segment: Segment) -> bool:
    """Sure enough to believe a region that had no words before."""
    if not segment.words or hallucination_filter.CLOSING_PHRASES.match(segment.text):
        return False
    mean = float(np.mean([word.probability for word in segment.words]))
    return (
        mean >= SURE_WORDS
        and segment.avg_logprob >= MIN_AVG_LOGPROB
        and segment.compression_ratio <= MAX_COMPRESSION_RATIO
        and segment.no_speech_prob < hallucination_filter.NO_SPEECH_PROB
    )


def _is_beside(segment: Segment, others: Sequence[Segment]) -> bool:
    """Whether the same words stand near it: heard, and placed on the other side."""
    text = loops.letters(segment.text)
    near = "".join(
        loops.letters(word.text)
        for other in others
        for word in other.words
        if word.start < segment.end + BESIDE_S and word.end > segment.start - BESIDE_S
    )
    return not text or text in near


def _removed_at(region: Region, hypothesis: Hypothesis) -> bool:
    start, end = region["start"] / RATE_HZ, region["end"] / RATE_HZ
    return any(row["start"] < end and row["end"] > start for row in hypothesis.dropped)


def _failed(segment: Segment) -> bool:
    return (
        segment.compression_ratio > MAX_COMPRESSION_RATIO or segment.avg_logprob < MIN_AVG_LOGPROB
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


def _in_recording(segment: Segment, window: Window) -> Segment:
    """Times of the window to times of the recording."""
    if not segment.words:
        return replace(segment, start=window.time(segment.start), end=window.time(segment.end))
    words = []
    for word in segment.words:
        start, end = window.place(word)
        words.append(replace(word, start=start, end=end))
    return replace(segment, start=words[0].start, end=words[-1].end, words=tuple(words))


def shift(segment: Segment, seconds: float) -> Segment:
    """The same segment, later by `seconds`."""
    words = tuple(
        replace(word, start=round(word.start + seconds, 3), end=round(word.end + seconds, 3))
        for word in segment.words
    )
    start, end = round(segment.start + seconds, 3), round(segment.end + seconds, 3)
    return replace(segment, start=start, end=end, words=words)
