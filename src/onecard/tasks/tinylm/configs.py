"""Settings of tinylm, one Config per command. Names are those of nanoGPT and transformers.

0 means: computed from `size`, and reported with its reason.
"""

from typing import Annotated, Literal

from pydantic import Field

from onecard.config import Config, ShortName
from onecard.runs.config import TrackingConfig
from onecard.training.config import CheckpointConfig

POSITIONS = ("learned", "sinusoidal", "rope", "alibi")
QUANTS = ("f32", "f16", "bf16", "q8_0")
Quant = Annotated[str, ShortName(*QUANTS, "none")]


class CorpusConfig(Config):
    """Text."""

    dataset: str = ""
    """A text file, a JSONL file with a field `text`, or a folder of text and code files."""
    tokenizer: str = "char"
    """char: one token per character; bpe: byte-level BPE trained on the text; code: the same with
    single digits, for source code; or a tokenizer.json of your own."""
    vocab_size: int = Field(default=4096, ge=257, le=65_000)
    """bpe, code: size of the vocabulary (tokens)."""
    split: Literal["position", "document", "file"] = "position"
    """What is held out: the end of the text, some documents (parts between blank lines or
    <|endoftext|>), or some files of the folder."""
    val_share: float = Field(default=0.1, gt=0, lt=0.9)
    """Share that is held out."""
    seed: int = Field(default=0, ge=0)
    """Seed of weights, batches, split and dropout."""


class ArchitectureConfig(Config):
    """Architecture."""

    size: str = "1m"
    """The one dial: weights of the model (1m, 3m, 10m, 124m); everything else follows and is
    printed with its reason."""
    n_layer: int = Field(default=0, ge=0, le=200)
    """Layers."""
    n_head: int = Field(default=0, ge=0, le=256)
    """Query heads."""
    n_kv_head: int = Field(default=0, ge=0, le=256)
    """Key and value heads; fewer than n_head is GQA."""
    n_embd: int = Field(default=0, ge=0, le=16384)
    """Width of the embedding."""
    d_ff: int = Field(default=0, ge=0, le=65536)
    """Width of the MLP."""
    block_size: int = Field(default=0, ge=0, le=131_072)
    """Context length (tokens)."""
    mlp: Literal["swiglu", "gelu"] = "swiglu"
    """Form of the MLP."""
    qk_norm: bool = True
    """Normalise queries and keys: stable at higher learning rates. Exported in Qwen3's layout, else
    in Llama's."""
    rope_theta: float = Field(default=10_000.0, gt=1)
    """RoPE base frequency."""


class RecipeConfig(Config):
    """Training."""

    dropout: float = Field(default=-1, ge=-1, lt=1)
    """Dropout in training; -1 chooses it by the number of epochs."""
    optim: Literal["muon", "adamw"] = "muon"
    """muon: matrices by Muon, everything else by AdamW; adamw: all by AdamW."""
    learning_rate: float = Field(default=0, ge=0, lt=1)
    """Peak learning rate of AdamW."""
    muon_lr: float = Field(default=0.02, gt=0, lt=1)
    """Peak learning rate of Muon."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Weight decay of matrices; norms and embeddings have none."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)
    """Where the cosine ends, as a share of the peak rate."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradient clipping."""
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """Keep an exponential moving average of the weights, which is scored and saved; 0.99 is usual,
    0 is off."""
    per_device_train_batch_size: int = Field(default=0, ge=0, le=65536)
    """Samples of a micro-batch."""
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=4096)
    """Micro-batches of a step."""
    max_steps: int = Field(default=0, ge=0)
    """Steps."""
    bf16: Literal["auto", "on", "off"] = "auto"
    """Compute in bfloat16; auto measures both on the first batch and takes the faster one."""
    n_threads: int = Field(default=0, ge=0, le=1024)
    """CPU threads; 0 takes all cores, or one where another program wants them (measured on the
    first batch)."""


class TrainConfig(CorpusConfig, ArchitectureConfig, RecipeConfig, CheckpointConfig, TrackingConfig):
    """Run."""

    position: Literal["learned", "sinusoidal", "rope", "alibi"] = "rope"
    """Position encoding."""
    minutes: float = Field(default=0, ge=0, le=100_000)
    """Train for about this long, validations and the final score included: the steps are then
    computed from the measured times, and validations made smaller or rarer."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile; auto measures whether it pays within this training."""
    eval_steps: int = Field(default=0, ge=0)
    """Steps between two validations; 0 takes a twentieth of the training."""
    save_steps: int = Field(default=0, ge=0)
    """Steps between checkpoints; 0 is as eval_steps."""
    logging_steps: int = Field(default=10, ge=1)
    """Steps between two lines of the record."""
    sample: str = "\n"
    """Prompt of the samples while it trains; escapes as in prompt of generate."""
    sample_tokens: int = Field(default=120, ge=0, le=10_000)
    """Length of a sample while it trains; 0 for none."""
    keep_best: bool = True
    """Keep the weights with the lowest validation loss, not the last ones."""
    profile: bool = False
    """Profile steps 11 to 15: a trace for chrome://tracing and a table of the top operations."""
    quants: tuple[Quant, ...] = ("f16",)
    """GGUF files to make: f32, f16, bf16, q8_0; --quants none for no file."""


class AblateConfig(TrainConfig):
    """Ablation."""

    positions: tuple[Annotated[str, ShortName(*POSITIONS)], ...] = POSITIONS
    """The position encodings to compare."""
    seeds: int = Field(default=3, ge=1, le=100)
    """Trainings of each encoding."""


class GenerateConfig(Config):
    """Sampling."""

    run_id: str = ""
    """The run of a training, or the folder with its model."""
    prompt: str = "\n"
    """What the text begins with; `\\n`, `\\t` and `\\\\` are line break, tab and backslash."""
    stop: str = ""
    """End where this text comes, which is not shown; escapes as in prompt."""
    max_new_tokens: int = Field(default=300, ge=1, le=100_000)
    """Tokens to write."""
    num_samples: int = Field(default=1, ge=1, le=256)
    """Texts at once."""
    temperature: float = Field(default=0.8, ge=0, le=10)
    """0 takes the likeliest token, 1 samples from the model's own distribution."""
    top_k: int = Field(default=0, ge=0)
    """Sample from the k likeliest tokens only; 0 from all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample from the likeliest tokens that make up this share."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sampling."""


class EvaluateConfig(CorpusConfig, TrackingConfig):
    """Evaluation."""

    run_id: str = ""
    """The run of a training, or the folder with its model."""


class ExportConfig(Config):
    """Export."""

    run_id: str = ""
    """The run of a training, or the folder with its model."""
    quants: tuple[Quant, ...] = ("f16",)
    """GGUF types: f32, f16, bf16, q8_0."""
    output_dir: str = ""
    """Where files go; empty means the run's own folder."""
