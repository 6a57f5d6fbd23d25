"""Settings of finetune, one Config per command. Names are those of transformers, TRL and PEFT."""

from typing import Annotated, Literal

from pydantic import Field

from onecard.config import Config, ShortName
from onecard.inference.config import AUTO
from onecard.runs.config import TrackingConfig
from onecard.training.config import (
    BatchConfig,
    CheckpointConfig,
    LoraConfig,
    PrecisionConfig,
    ScheduleConfig,
)

LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
QUANTS = ("f16", "q4_0", "q8_0", "q2_k", "q3_k_m", "q4_k_s", "q4_k_m", "q5_k_m", "q6_k")
Quant = Annotated[str, ShortName(*QUANTS, "none")]


class BaseModelConfig(Config):
    """Base model."""

    model: str = AUTO
    """The model to tune: a name of `onecard models list`, org/name of the hub, a folder with
    config.json and safetensors, or run:ID; auto takes the best one whose training fits the device,
    and the embedded one offline or without a card."""


class DataConfig(Config):
    """Data."""

    dataset: str = ""
    """Training pairs: JSONL, JSON, CSV or Parquet in Alpaca, ShareGPT, messages, prompt/completion
    or question/answer form, or a folder of MedQuAD-like XML."""
    eval_dataset: str = ""
    """Held-out pairs in the same forms; empty splits some off the dataset, whole groups at a time.
    """
    columns: tuple[str, ...] = ()
    """Your own column names: --columns prompt=frage completion=antwort; for XML:
    item=QAPair, prompt=Question, completion=Answer. Parts: system, prompt, completion, rejected,
    group, item."""
    max_seq_length: int = Field(default=1024, ge=32, le=1_000_000)
    """Longest sample and, with packing, the size of a pack (tokens)."""
    overlong: Literal["drop", "cut"] = "drop"
    """A sample longer than max_seq_length is left out (drop), or its end is cut off (cut)."""
    method: Literal["sft", "dpo", "orpo"] = "sft"
    """sft learns answers; dpo and orpo learn from preference pairs (prompt, chosen, rejected)."""
    eval_share: float = Field(default=0.1, gt=0, lt=0.9)
    """Share of the groups that is split off for evaluation when no eval_dataset is given."""
    eval_items: int = Field(default=100, ge=2, le=100_000)
    """Most held-out items that are scored by their loss."""
    seed: int = Field(default=0, ge=0)
    """Seed of the split, the adapters, the data order and dropout."""


class ScoreConfig(Config):
    """Answers."""

    generate_items: int = Field(default=24, ge=0, le=10_000)
    """How many of them are answered and compared with their references; 0 for none."""
    max_new_tokens: int = Field(default=128, ge=1, le=8192)
    """Longest answer in an evaluation (tokens)."""


class ExportFormatConfig(Config):
    """Export."""

    quants: tuple[Quant, ...] = ("f16", "q8_0", "q4_k_m")
    """GGUF files to make, each scored again; --quants none for no file."""
    adapter_gguf: bool = True
    """Also make a GGUF of the adapter alone, for llama.cpp's --lora."""


class CheckConfig(BaseModelConfig, DataConfig):
    """Validation of the data."""


class TrainConfig(
    CheckConfig,
    PrecisionConfig,
    LoraConfig,
    BatchConfig,
    ScheduleConfig,
    CheckpointConfig,
    ScoreConfig,
    ExportFormatConfig,
    TrackingConfig,
):
    """Training."""

    beta: float = Field(default=0.1, gt=0)
    """dpo, orpo: strength of the preferences."""
    packing: bool = True
    """Several samples in one row; attention does not cross from one to another."""
    use_rslora: bool = False
    """Rank-stabilized scale: worth it from rank 64 on."""
    use_dora: bool = False
    """Adapters with a magnitude of their own; slower."""
    target_modules: tuple[Annotated[str, ShortName()], ...] = LAYERS
    """Layers with adapters; all linear ones unless named."""
    neftune_noise_alpha: float = Field(default=0.0, ge=0)
    """Noise on the embeddings while training (NEFTune); 5 is usual, 0 is off."""
    per_device_train_batch_size: int = Field(default=1, ge=1, le=512)
    """Packs (or samples, without packing) of a micro-batch."""
    gradient_accumulation_steps: int = Field(default=8, ge=1, le=4096)
    """Micro-batches of a step."""
    learning_rate: float = Field(default=2e-4, gt=0, lt=1)
    """Peak learning rate."""
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradient clipping."""
    optim: Literal["auto", "adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = "auto"
    """Optimizer; auto takes paged 8-bit AdamW on a GPU and plain AdamW on a CPU."""
    save_steps: int = Field(default=50, ge=1)
    """Steps between checkpoints."""
    logging_steps: int = Field(default=1, ge=1)
    """Steps between two lines of the record."""


class PlanConfig(TrainConfig):
    """What-if: other trainers than onecard's own."""

    use_peft: bool = True
    """Adapters (LoRA); off plans full fine-tuning, which onecard does not run."""
    optim: Literal[
        "auto",
        "adamw_torch",
        "adamw_8bit",
        "paged_adamw_8bit",
        "paged_adamw_32bit",
        "adafactor",
        "lion_32bit",
        "lion_8bit",
        "sgd",
        "muon",
    ] = "auto"  # type: ignore[assignment]
    """Optimizer; paged states live in the computer's memory when the card is full."""
    attn_implementation: Literal["onecard", "sdpa", "flash_attention_2", "eager"] = "onecard"
    """Attention kernel; eager keeps score matrices."""
    loss: Literal["onecard", "upcast", "plain", "chunked", "fused"] = "onecard"
    """Cross-entropy: upcast is transformers' own in fp32, fused is Liger's, chunked is torchtune's.
    """
    weights: str = ""
    """Frozen weights in another format: gptq-int4, nf4, fp16, fp32 ..."""
    fp32_norms: bool = False
    """Embeddings, head and norms in fp32, as PEFT's prepare_model_for_kbit_training leaves them."""
    fp32_master_weights: bool = False
    """Full training: weights in fp32 under autocast (bf16 or fp16 of a model loaded in fp32)."""
    autocast_adapter_dtype: bool = True
    """Adapters in fp32, as PEFT makes them; off leaves them in the model's 16 bits, as litgpt and
    torchtune do."""
    keep_logits: bool = False
    """The training loop holds the model's output while it runs backward, as a plain loop with
    `outputs = model(...)` does; the Trainers of transformers and TRL drop it."""
    keep_inputs: bool = False
    """4-bit layers keep what they read, as bitsandbytes before 0.43 and litgpt do."""
    tie_word_embeddings: bool = True
    """Off: the trainer holds head and table apart though the model ties them (litgpt)."""
    torch_compile: bool = False
    """torch.compile keeps less of norms and gates."""
    optimizer_in_bwd: bool = False
    """Each weight is updated as soon as its gradient is there, and the gradient is dropped
    (torchtune)."""
    enable_activation_offloading: bool = False
    """Layers' inputs wait in the computer's memory (torchtune, Unsloth)."""
    deepspeed: bool = False
    """DeepSpeed's own fp16 optimizer: 16-bit and fp32 weights and gradients side by side."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO: what num_gpus cards share: 1 optimizer, 2 gradients too, 3 weights too."""
    num_gpus: int = Field(default=1, ge=1, le=1024)
    """Cards that share by zero_stage; the plan is of one of them."""


class EvaluateConfig(ScoreConfig, TrackingConfig):
    """Evaluation."""

    run_id: str = ""
    """The training run to take the adapter from."""
    eval_dataset: str = ""
    """Pairs to score; empty takes what the run held out."""
    eval_items: int = Field(default=100, ge=2, le=100_000)
    """Most items that are scored by their loss."""
    columns: tuple[str, ...] = ()
    """Your own column names, as for training."""
    rubric: str = ""
    """Also have judge_model mark the answers by this rubric."""
    judge_model: str = ""
    """The language model that marks."""
    seed: int = Field(default=0, ge=0)
    """Seed."""


class ExportConfig(ExportFormatConfig):
    """Export."""

    run_id: str = ""
    """The training run to take the adapter from."""
    output_dir: str = ""
    """Where files go; empty means the training run's own folder."""
    generate_items: int = Field(default=24, ge=0, le=10_000)
    """How many held-out items are answered by each file and compared; 0 for none."""
    max_new_tokens: int = Field(default=128, ge=1, le=8192)
    """Longest answer (tokens)."""


class DraftConfig(Config):
    """Synthetic data."""

    notes: str = ""
    """Folder of notes from which pairs are drafted."""
    num_pairs: int = Field(default=20, ge=1, le=100_000)
    """How many pairs to draft."""
    model: str = AUTO
    """The language model that drafts."""
    output_dir: str = ""
    """Where the pairs go; empty means the run's own folder."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sampling."""
