"""Mixins of the commands that train. Field names are those of transformers' TrainingArguments."""

from pydantic import Field

from onecard.config import Config


class BatchConfig(Config):
    """Batch."""

    per_device_train_batch_size: int = Field(default=1, ge=1, le=65536)
    """Samples of a micro-batch."""
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=4096)
    """Micro-batches of a step."""


class ScheduleConfig(Config):
    """Schedule."""

    num_train_epochs: float = Field(default=1.0, gt=0, le=1000)
    """Epochs."""
    max_steps: int = Field(default=0, ge=0)
    """Stop after so many steps; 0 goes by epochs."""
    learning_rate: float = Field(default=1e-4, gt=0, lt=1)
    """Peak learning rate."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""


class LoraConfig(Config):
    """LoRA."""

    lora_r: int = Field(default=16, ge=1, le=1024)
    """Rank of the adapters."""
    lora_alpha: float = Field(default=32, gt=0)
    """Scale of the adapters: alpha / r, with rsLoRA alpha / sqrt(r)."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of an adapter's inputs."""


class CheckpointConfig(Config):
    """Output and checkpoints."""

    output_dir: str = ""
    """Where model and checkpoints go; empty means the run's own folder."""
    resume: bool = False
    """Go on from the last whole checkpoint in output_dir."""
    save_steps: int = Field(default=50, ge=0)
    """Steps between checkpoints."""


class VisionConfig(Config):
    """Images."""

    imgsz: int = Field(default=640, ge=32, le=8192)
    """Side of an image (px), or its longer side."""
    height: int = Field(default=0, ge=0, le=8192)
    """Its other side (px); 0 for a square."""
    num_classes: int = Field(default=0, ge=0, le=100_000)
    """Classes; 0 for those of the published weights (80, 1000, 21)."""


class VisionTrainConfig(VisionConfig):
    """Training of a vision model."""

    batch: int = Field(default=16, ge=1, le=4096)
    """Images of a step."""
    amp: bool = True
    """16-bit autocast instead of fp32."""
    ema: bool = True
    """Keep a moving average of the weights beside them, as YOLO trainers do."""
    multi_scale: bool = False
    """Images of changing size, as in the recipes of YOLOX and PP-YOLOE: the largest counts."""
    num_gpus: int = Field(default=1, ge=1, le=1024)
    """Cards: with more than one, DistributedDataParallel keeps a second copy of the gradients."""


class VisionPredictConfig(VisionConfig):
    """Inference of a vision model."""

    batch: int = Field(default=1, ge=1, le=4096)
    """Images at once."""
    half: bool = True
    """16 bits on a GPU."""
