"""What one may choose for a fine-tune. Field names are those of transformers, TRL and PEFT."""

from typing import Literal

from pydantic import Field

from onecard.config import Settings as Base
from onecard.runs.tracking import ReportTo

LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Settings(Base):
    model_name: str = "smollm2-135m"
    """The model to tune: a name of `onecard models list`, org/name of the hub, a folder with
    config.json and safetensors, or run:ID."""
    dataset: str = ""
    """Your pairs: JSONL, JSON, CSV or Parquet in Alpaca, ShareGPT, messages, prompt/completion or
    question/answer form, or a folder of MedQuAD-like XML."""
    eval_dataset: str = ""
    """Held-out pairs in the same forms; empty splits some off the dataset, whole groups at a time.
    """
    columns: tuple[str, ...] = ()
    """Names of your own: --columns prompt=frage --columns completion=antwort; for XML: item=QAPair,
    prompt=Question, completion=Answer. Parts: system, prompt, completion, rejected, group, item."""
    method: Literal["sft", "dpo", "orpo"] = "sft"
    """sft learns answers; dpo and orpo learn from preference pairs (prompt, chosen, rejected)."""
    load_in_4bit: bool = False
    """Frozen weights in nf4 with double quantization (QLoRA)."""
    load_in_8bit: bool = False
    """Frozen weights in int8."""
    bf16: bool = False
    """Compute in bfloat16; frozen weights that are not quantized lie in it too."""
    gradient_checkpointing: bool = False
    """Keep each layer's input only and compute the rest anew: less memory, about a third slower,
    the same mathematics."""
    lora_r: int = Field(default=16, ge=1, le=1024)
    """Rank of the adapters."""
    lora_alpha: float = Field(default=32, gt=0)
    """Scale of the adapters: alpha / r, with rslora alpha / sqrt(r)."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is dropped in training."""
    use_rslora: bool = False
    """Rank-stabilized scale: worth it from rank 64 on."""
    use_dora: bool = False
    """Adapters with a magnitude of their own; slower."""
    target_modules: tuple[str, ...] = LAYERS
    """Layers with adapters; all linear ones unless named."""
    neftune_noise_alpha: float = Field(default=0.0, ge=0)
    """Noise on the embeddings while training (NEFTune); 5 is usual, 0 is off."""
    beta: float = Field(default=0.1, gt=0)
    """dpo, orpo: how strongly preferences pull."""
    per_device_train_batch_size: int = Field(default=1, ge=1, le=512)
    """Packs (or samples, without packing) of a micro-batch."""
    gradient_accumulation_steps: int = Field(default=8, ge=1, le=4096)
    """Micro-batches of a step."""
    max_seq_length: int = Field(default=1024, ge=32, le=1_000_000)
    """Longest sample and, with packing, the size of a pack (tokens)."""
    packing: bool = True
    """Lay several samples in one row; attention does not cross from one to another."""
    overlong: Literal["drop", "cut"] = "drop"
    """What happens to a sample longer than max_seq_length: it is left out, or its end is cut off.
    """
    num_train_epochs: float = Field(default=1.0, gt=0, le=1000)
    """Rounds over the data."""
    max_steps: int = Field(default=0, ge=0)
    """Stop after so many steps; 0 goes by epochs."""
    learning_rate: float = Field(default=2e-4, gt=0, lt=1)
    """Highest learning rate."""
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decay."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Longer gradients are cut to this."""
    optim: Literal["auto", "adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = "auto"
    """The optimizer; auto takes paged 8-bit AdamW on a card and plain AdamW on a CPU."""
    seed: int = Field(default=0, ge=0)
    """Seed of adapters, data order and dropout."""
    output_dir: str = ""
    """Where adapter, checkpoints and exports go; empty means the run's own folder."""
    resume: bool = False
    """Go on from the last whole checkpoint in output_dir."""
    save_steps: int = Field(default=50, ge=1)
    """Steps between checkpoints."""
    logging_steps: int = Field(default=1, ge=1)
    """Steps between two lines of the record."""
    eval_share: float = Field(default=0.1, gt=0, lt=0.9)
    """Share of the groups that is split off for evaluation when no eval_dataset is given."""
    eval_items: int = Field(default=100, ge=2, le=100_000)
    """Most held-out items that are scored by their loss."""
    generate_items: int = Field(default=24, ge=0, le=10_000)
    """Of these, how many are answered in words and compared with their references; 0 for none."""
    max_new_tokens: int = Field(default=128, ge=1, le=8192)
    """Longest answer in an evaluation (tokens)."""
    rubric: str = ""
    """evaluate: also have judge_model mark the answers by this rubric."""
    judge_model: str = ""
    """evaluate, make-data: the language model that marks or drafts."""
    quants: tuple[str, ...] = ("f16", "q8_0", "q4_k_m")
    """GGUF files that are made after training, each scored again; none with --quants none."""
    adapter_gguf: bool = True
    """Also make a GGUF of the adapter alone, for llama.cpp's --lora."""
    notes: str = ""
    """make-data: folder of notes from which pairs are drafted."""
    pairs: int = Field(default=20, ge=1, le=100_000)
    """make-data: how many pairs to draft."""
    run_id: str = ""
    """export, evaluate: the training run to take the adapter from."""
    report_to: ReportTo = "none"
    """Also send steps and scores to a tracker."""
