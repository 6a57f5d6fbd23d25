"""Settings of asr, one Config per command. Names are faster-whisper's, transformers' and PEFT's."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from onecard.config import Config, ShortName
from onecard.runs.config import TrackingConfig
from onecard.serving.config import ServeConfig as HttpConfig
from onecard.tasks.asr import language_names
from onecard.training.config import BatchConfig, CheckpointConfig, LoraConfig, ScheduleConfig

FORMATS = ("txt", "srt", "vtt", "tsv", "json", "rttm")
"""Of a transcript's files."""


class WhisperConfig(Config):
    """Whisper."""

    model: str = "base"
    """Whisper by size (tiny, base, small, medium, large-v3, large-v3-turbo), a repository of the
    hub or a folder in CTranslate2's form, or run:ID of a training; base is embedded."""
    language: str = "auto"
    """The language spoken, as en, de or German; auto detects it from the first speech."""

    @field_validator("language")
    @classmethod
    def _coded(cls, name: str) -> str:
        return language_names.code_of(name)

    n_threads: int = Field(default=0, ge=0, le=1024)
    """CPU threads; 0 takes all cores."""


class DecodeConfig(WhisperConfig):
    """Transcription."""

    task: Literal["transcribe", "translate"] = "transcribe"
    """Transcribe, or translate into English."""
    multilingual: bool = False
    """Detect the language of each stretch of speech, where one recording has several."""
    compute_type: Literal["auto", "int8", "float16", "int8_float16", "bfloat16", "float32"] = "auto"
    """Type of weights and products: auto is float16 on a GPU, int8 on a CPU."""
    batch_size: int = Field(default=8, ge=1, le=256)
    """Windows of 30 s at once."""
    beam_size: int = Field(default=5, ge=1, le=50)
    """Beam width; 1 is fastest."""
    word_timestamps: bool = True
    """Start and end of each word."""
    hotwords: tuple[str, ...] = ()
    """Words to expect: terms of the trade."""
    names: tuple[str, ...] = ()
    """Names to expect; punctuation restoration may correct these, and only these."""
    names_file: str = ""
    """A text file with one name per line, added to names."""
    initial_prompt: str = ""
    """Text that the model is given as its past context."""
    vad_threshold: float = Field(default=0.5, gt=0, lt=1)
    """Silero VAD speech threshold."""
    hallucination_filter: bool = True
    """Remove text over silence, noise and music, loops, and echoes of the initial prompt."""


class DiarizeConfig(Config):
    """Speakers."""

    diarize: bool = False
    """Tell who speaks when."""
    num_speakers: int = Field(default=0, ge=0, le=100)
    """Number of speakers; 0 estimates it."""
    speaker_threshold: float = Field(default=0.0, ge=0, lt=2)
    """Cosine distance between two voices from which they count as two speakers; 0 takes the number
    of speakers whose voices separate best."""
    diarizer: Literal["embedded", "pyannote"] = "embedded"
    """embedded needs no token; pyannote needs its package and an accepted licence."""


class PunctuationConfig(Config):
    """Punctuation."""

    restore_punctuation: bool = False
    """Have a language model restore punctuation, casing and the names of the list, and change no
    other word."""
    punctuation_model: str = "smollm2-135m"
    """The language model that does it: a name of `onecard models list`, a .gguf file or run:ID."""


class RecordingConfig(DecodeConfig, DiarizeConfig):
    """What the transcript of one recording depends on."""

    track: int = Field(default=0, ge=0, le=1000)
    """Audio track of a film, from 1; 0 takes the one in `language`, else the default one."""
    channels: Literal["mix", "split"] = "mix"
    """mix hears all channels as one; split takes each for one speaker, as telephone recordings
    have them."""


class TranscriptConfig(RecordingConfig, PunctuationConfig):
    """Words, speakers and punctuation."""


class TranscribeConfig(TranscriptConfig):
    """Files."""

    audio: tuple[str, ...] = ()
    """Sound files, films and folders of them."""
    formats: tuple[Annotated[str, ShortName(*FORMATS)], ...] = ("txt", "srt", "json")
    """Files to write: txt, srt, vtt, tsv, json, rttm."""
    output_dir: str = ""
    """Where files go; empty means the run's own folder."""
    resume: bool = False
    """Leave out what output_dir holds already, and go on in the file that was stopped."""
    live: Literal["", "microphone", "stdin"] = ""
    """Transcribe live: from the microphone, or from raw 16-bit samples at 16 kHz on standard input.
    """


class EnrollConfig(Config):
    """Voice."""

    audio: tuple[str, ...] = ()
    """NAME and a clip of the voice: enroll NAME clip.wav."""
    name: str = ""
    """Whose voice it is."""


class ServeConfig(HttpConfig, RecordingConfig):
    """OpenAI API."""

    port: int = Field(default=8082, ge=0, le=65535)
    """Port; 0 takes a free one."""
    timeout_s: int = Field(default=3600, ge=0)
    """Longest time without a byte of an answer (s) before it is given up; 0 for no limit. A whole
    transcript comes at once, at its end."""


class EvaluateConfig(TranscriptConfig, TrackingConfig):
    """Evaluation."""

    references: str = ""
    """A folder with a .txt (and .rttm) beside each sound, or pairs as for a dataset."""


class TrainConfig(
    WhisperConfig, LoraConfig, BatchConfig, ScheduleConfig, CheckpointConfig, TrackingConfig
):
    """Training."""

    dataset: str = ""
    """CSV, JSONL, a folder in Hugging Face's or Kaldi's form, or one with a .txt beside each sound.
    """
    eval_dataset: str = ""
    """Held-out pairs in the same forms; empty splits some speakers (or recordings) off."""
    general_dataset: str = ""
    """Pairs of everyday speech, to see whether the gain is paid for elsewhere."""
    method: Literal["lora", "full"] = "lora"
    """Adapters, or all weights."""
    freeze_encoder: bool = True
    """Train the decoder alone, on encoder output that is computed once: many times faster. Off, the
    encoder is trained too, with SpecAugment, noise and speed perturbation."""
    augment: int = Field(default=0, ge=0, le=8)
    """With a frozen encoder: copies of each clip at another speed and with noise."""
    lora_r: int = Field(default=32, ge=1, le=1024)
    """Rank of the adapters."""
    lora_alpha: float = Field(default=64, gt=0)
    """Scale of the adapters: alpha / r."""
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout of an adapter's inputs."""
    per_device_train_batch_size: int = Field(default=8, ge=1, le=512)
    """Clips of a micro-batch."""
    num_train_epochs: float = Field(default=3.0, gt=0, le=1000)
    """Epochs."""
    gradient_checkpointing: bool = False
    """Keep each layer's input only: less memory, a third slower."""
    bf16: bool = False
    """Compute in bfloat16."""
    save_steps: int = Field(default=50, ge=1)
    """Steps between checkpoints."""
    eval_share: float = Field(default=0.15, gt=0, lt=0.9)
    """Share that is split off when no eval_dataset is given."""
    eval_items: int = Field(default=200, ge=1, le=100_000)
    """Most held-out clips that are scored."""
    max_first_pass_wer: float = Field(default=1.0, gt=0)
    """A clip whose text the untrained model misses by more than this share of words is rejected as
    mismatched; above 10 nothing is."""
    seed: int = Field(default=0, ge=0)
    """Seed of adapters, data order and augmentation."""


class PlanConfig(TranscribeConfig):
    """What-if: another engine than onecard's own."""

    engine: Literal["ctranslate2", "transformers"] = "ctranslate2"
    """What transcribes."""


class PlanTrainConfig(TrainConfig):
    """What-if: other trainers than onecard's own."""

    optim: Literal["adamw", "adamw-8bit", "adafactor", "lion"] = "adamw"
    """Optimizer."""
    label_tokens: int = Field(default=100, ge=1, le=448)
    """Tokens of the longest text of a batch; 30 s of speech make some 80 to 120."""
