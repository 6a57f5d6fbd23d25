"""What one may choose for speech.

Field names are those of faster-whisper, transformers and PEFT.
"""

from typing import Literal

from pydantic import Field

from onecard.config import Settings as Base
from onecard.runs.tracking import ReportTo


class Settings(Base):
    audio: tuple[str, ...] = ()
    """Sound files, films and folders of them."""
    model_name: str = "base"
    """Whisper by size (tiny, base, small, medium, large-v3, large-v3-turbo), a repository of the
    hub or a folder in CTranslate2's form, or run:ID of a training; base is embedded."""
    language: str = "auto"
    """The language spoken, as en or de; auto hears it from the first speech."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """Write what is said, or say it in English."""
    compute_type: Literal["auto", "int8", "float16", "int8_float16", "bfloat16", "float32"] = "auto"
    """Weights and products: auto is float16 on a card, int8 on a CPU."""
    batch_size: int = Field(default=8, ge=1, le=256)
    """Windows of 30 s heard at once."""
    beam_size: int = Field(default=5, ge=1, le=50)
    """Sentences kept in the running; 1 is fastest."""
    word_timestamps: bool = True
    """When each word was said."""
    hotwords: tuple[str, ...] = ()
    """Words to expect: terms of the trade."""
    names: tuple[str, ...] = ()
    """Names to expect; the editor may mend these, and only these."""
    names_file: str = ""
    """A text file with one name a line, added to names."""
    initial_prompt: str = ""
    """What the model is told was said before."""
    vad_threshold: float = Field(default=0.5, gt=0, lt=1)
    """From which chance on Silero's voice activity is speech."""
    guards: bool = True
    """Take out what nobody said: words over silence, noise and music, and circles."""
    threads: int = Field(default=0, ge=0, le=1024)
    """Threads on a CPU; 0 takes all cores."""
    formats: tuple[str, ...] = ("txt", "srt", "json")
    """Files to write: txt, srt, vtt, tsv, json, rttm."""
    output_dir: str = ""
    """Where files go; empty means the run's own folder."""
    resume: bool = False
    """Leave out what output_dir holds already, and go on in the file that was stopped."""
    live: Literal["", "microphone", "stdin"] = ""
    """Write down what is said now: from the microphone, or from raw 16-bit samples at 16 kHz on
    standard input."""
    diarize: bool = False
    """Tell who speaks when."""
    num_speakers: int = Field(default=0, ge=0, le=100)
    """How many people speak; 0 estimates it."""
    speaker_threshold: float = Field(default=0.27, gt=0, lt=2)
    """Cosine distance from which on two voices are two people."""
    diarizer: Literal["embedded", "pyannote"] = "embedded"
    """embedded needs no token; pyannote needs its package and an accepted licence."""
    name: str = ""
    """enroll: whose voice it is."""
    edit: bool = False
    """Have a language model restore punctuation, casing and the names of the list, and change no
    other word."""
    editor_model: str = "smollm2-135m"
    """The language model that edits: a name of `onecard models list`, a .gguf file or run:ID."""
    references: str = ""
    """evaluate: a folder with a .txt (and .rttm) beside each sound, or pairs as for a dataset."""
    dataset: str = ""
    """train: CSV, JSONL, a folder in Hugging Face's or Kaldi's form, or one with a .txt beside each
    sound."""
    eval_dataset: str = ""
    """train: held-out pairs in the same forms; empty splits some speakers (or recordings) off."""
    general_dataset: str = ""
    """train: pairs of everyday speech, to see whether the gain is paid for elsewhere."""
    method: Literal["lora", "full"] = "lora"
    """Adapters, or all weights."""
    lora_r: int = Field(default=32, ge=1, le=1024)
    """Rank of the adapters."""
    lora_alpha: float = Field(default=64, gt=0)
    """Scale of the adapters: alpha / r."""
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)
    """Share of an adapter's inputs that is dropped in training."""
    freeze_encoder: bool = True
    """Train the decoder alone, on the encoder's output that is made once: many times faster.

    Off, sounds are learned too, with SpecAugment, noise and speed.
    """
    augment: int = Field(default=0, ge=0, le=8)
    """With a frozen encoder: copies of each clip at another speed and with noise, encoded beside
    it."""
    per_device_train_batch_size: int = Field(default=8, ge=1, le=512)
    """Clips of a micro-batch."""
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=4096)
    """Micro-batches of a step."""
    num_train_epochs: float = Field(default=3.0, gt=0, le=1000)
    """Rounds over the data."""
    max_steps: int = Field(default=0, ge=0)
    """Stop after so many steps; 0 goes by epochs."""
    learning_rate: float = Field(default=1e-4, gt=0, lt=1)
    """Highest learning rate."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which it rises."""
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
    """A clip whose text the untrained model misses by more than this share of words is put aside as
    mismatched; above 10 nothing is."""
    seed: int = Field(default=0, ge=0)
    """Seed of adapters, data order and augmentation."""
    host: str = "127.0.0.1"
    """serve: the address to listen on; beyond this machine a token is demanded."""
    port: int = Field(default=8082, ge=0, le=65535)
    """serve: the port; 0 takes a free one."""
    token: str = ""
    """serve: the token that clients must send; beyond this machine one is made when none is given.
    """
    report_to: ReportTo = "none"
    """Also send steps and scores to a tracker."""
