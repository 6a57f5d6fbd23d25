"""What one may choose for a tiny language model.

Field names are those of nanoGPT and transformers; 0 means: computed from `size`, and told with its
reason.
"""

from typing import Literal

from pydantic import Field

from onecard.config import Settings as Base
from onecard.runs.tracking import ReportTo

POSITIONS = ("learned", "sinusoidal", "rope", "alibi")


class Settings(Base):
    dataset: str = ""
    """A text file, a JSONL file with a field `text`, or a folder of text and code files."""
    tokenizer: str = "char"
    """char: one token a character; bpe: byte-level BPE trained on the text; code: the same with
    digits alone, for source code; or a tokenizer.json of your own."""
    vocab_size: int = Field(default=4096, ge=257, le=65_000)
    """bpe, code: tokens of the vocabulary."""
    split: Literal["position", "document", "file"] = "position"
    """What is held out: the end of the text, some documents (parts between blank lines or
    <|endoftext|>), or some files of the folder."""
    val_share: float = Field(default=0.1, gt=0, lt=0.9)
    """Share that is held out."""
    size: str = "1m"
    """The one dial: weights of the model (1m, 3m, 10m, 124m); the rest follows and is printed with
    its reason."""
    n_layer: int = Field(default=0, ge=0, le=200)
    """Layers."""
    n_head: int = Field(default=0, ge=0, le=256)
    """Query heads."""
    n_kv_head: int = Field(default=0, ge=0, le=256)
    """Key and value heads; fewer than n_head is GQA."""
    n_embd: int = Field(default=0, ge=0, le=16384)
    """Width."""
    d_ff: int = Field(default=0, ge=0, le=65536)
    """Width of the MLP."""
    block_size: int = Field(default=0, ge=0, le=131_072)
    """Tokens of a sample: how far the model looks back."""
    position: Literal["learned", "sinusoidal", "rope", "alibi"] = "rope"
    """How a token learns where it stands."""
    mlp: Literal["swiglu", "gelu"] = "swiglu"
    """The MLP's form."""
    qk_norm: bool = True
    """Norm queries and keys: bears higher learning rates.

    Exported as Qwen3's layout, else as Llama's.
    """
    rope_theta: float = Field(default=10_000.0, gt=1)
    """RoPE's base."""
    dropout: float = Field(default=-1, ge=-1, lt=1)
    """Share of each addition that is dropped in training; -1 goes by the rounds over the text."""
    optim: Literal["muon", "adamw"] = "muon"
    """muon: matrices by Muon, the rest by AdamW; adamw: all by AdamW."""
    learning_rate: float = Field(default=0, ge=0, lt=1)
    """Highest learning rate of AdamW."""
    muon_lr: float = Field(default=0.02, gt=0, lt=1)
    """Highest learning rate of Muon."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Of matrices; norms and tables have none."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)
    """Where the cosine ends, as a share of the highest rate."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Longer gradients are cut to this."""
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """Also keep an average of the weights, which is what is scored and saved; 0.99 is usual, 0 is
    off."""
    per_device_train_batch_size: int = Field(default=0, ge=0, le=65536)
    """Samples of a micro-batch."""
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=4096)
    """Micro-batches of a step."""
    max_steps: int = Field(default=0, ge=0)
    """Steps."""
    minutes: float = Field(default=0, ge=0, le=100_000)
    """Train for about so long: the steps are then computed from the measured time of one."""
    bf16: Literal["auto", "on", "off"] = "auto"
    """Compute in bfloat16; auto measures both on the first batch and takes the faster one."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile; auto measures whether it pays within this training."""
    threads: int = Field(default=0, ge=0, le=1024)
    """Threads on a CPU; 0 takes all cores, or one where another program wants them (measured on the
    first batch)."""
    eval_steps: int = Field(default=0, ge=0)
    """Steps between two looks at the validation text; 0 takes a twentieth of the training."""
    save_steps: int = Field(default=0, ge=0)
    """Steps between checkpoints; 0 is as eval_steps."""
    logging_steps: int = Field(default=10, ge=1)
    """Steps between two lines of the record."""
    sample: str = "\n"
    """What samples begin with while it trains."""
    sample_tokens: int = Field(default=120, ge=0, le=10_000)
    """Length of a sample while it trains; 0 for none."""
    keep_best: bool = True
    """Keep the weights with the lowest validation loss, not the last ones."""
    seed: int = Field(default=0, ge=0)
    """Seed of weights, batches and dropout."""
    output_dir: str = ""
    """Where model and checkpoints go; empty means the run's own folder."""
    resume: bool = False
    """Go on from the last checkpoint in output_dir, to the bit-same curve on a CPU."""
    profile: bool = False
    """Profile steps 11 to 15: a trace for chrome://tracing and a table of the top operations."""
    run_id: str = ""
    """evaluate, generate, export: the run of a training, or the folder with its model."""
    prompt: str = "\n"
    """generate: what the text begins with."""
    max_new_tokens: int = Field(default=300, ge=1, le=100_000)
    """generate: tokens to write."""
    num_samples: int = Field(default=1, ge=1, le=256)
    """generate: texts at once."""
    temperature: float = Field(default=0.8, ge=0, le=10)
    """generate: 0 takes the likeliest token, 1 draws as the model says."""
    top_k: int = Field(default=0, ge=0)
    """generate: draw from the k likeliest only; 0 from all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """generate: draw from the likeliest that make up this share."""
    quants: tuple[str, ...] = ("f16",)
    """export: GGUF types: f32, f16, bf16, q8_0."""
    positions: tuple[str, ...] = POSITIONS
    """ablate: the position codes to hold against each other."""
    seeds: int = Field(default=3, ge=1, le=100)
    """ablate: trainings of each code."""
    report_to: ReportTo = "none"
    """Also send steps and scores to a tracker."""
