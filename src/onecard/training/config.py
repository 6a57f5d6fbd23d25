"""Mixins of the commands that train. Field names are those of transformers' TrainingArguments."""

from typing import ClassVar

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


class PrecisionConfig(Config):
    """Precision and memory."""

    load_in_4bit: bool = False
    """Frozen weights in nf4 with double quantization (QLoRA)."""
    load_in_8bit: bool = False
    """Frozen weights in int8."""
    bf16: bool = False
    """Compute in bfloat16; frozen weights that are not quantized are kept in it too."""
    gradient_checkpointing: bool = False
    """Keep each layer's input only and compute the rest again: less memory, about a third slower,
    the same mathematics."""


class OutputConfig(Config):
    """Output and checkpoints."""

    output_dir: str = ""
    """Where model and checkpoints go; empty means the run's own folder."""
    resume: bool = False
    """Go on from the last whole checkpoint in output_dir."""


class CheckpointConfig(OutputConfig):
    """Checkpoints."""

    save_steps: int = Field(default=50, ge=0)
    """Steps between checkpoints."""


class VisionConfig(Config):
    """Images."""

    imgsz: int = Field(default=640, ge=32, le=8192)
    """Side of an image (px), or its longer side."""
    height: int = Field(default=0, ge=0, le=8192)
    """Its other side (px); 0 for a square."""
    num_classes: int = Field(default=0, ge=0, le=100_000)
    """Classes, for a plan without data; 0 for those of the published weights (80, 1000, 21)."""


class AugmentConfig(Config):
    """Augmentation. Names are those of Ultralytics."""

    augment: bool = True
    """Change each training image at random; off, it is only resized."""
    fliplr: float = Field(default=0.5, ge=0, le=1)
    """Chance of a left-right flip; 0 where left and right differ, as in text."""
    flipud: float = Field(default=0.0, ge=0, le=1)
    """Chance of an upside-down flip, for pictures without an up: cells, aerial views."""
    degrees: float = Field(default=0.0, ge=0, le=180)
    """Largest rotation (degrees)."""
    translate: float = Field(default=0.1, ge=0, le=0.9)
    """Largest shift, as a share of the side."""
    scale: float = Field(default=0.5, ge=0, lt=1)
    """Largest change of size: 0.5 is from half to one and a half."""
    hsv_h: float = Field(default=0.015, ge=0, le=0.5)
    """Largest change of the hue."""
    hsv_s: float = Field(default=0.7, ge=0, le=1)
    """Largest change of the saturation."""
    hsv_v: float = Field(default=0.4, ge=0, le=1)
    """Largest change of the brightness."""


class VisionTrainConfig(VisionConfig, AugmentConfig, OutputConfig):
    """Training of a vision model. Names are those of Ultralytics."""

    own_trainer: ClassVar[bool] = True
    """Whether onecard trains it; a what-if of another program's recipe is not."""
    epochs: int = Field(default=50, ge=1, le=10_000)
    """Epochs."""
    batch: int = Field(default=16, ge=-1, le=4096)
    """Images at once; -1 takes 16, or as many as the plan says fit at the largest size."""
    accumulate: int = Field(default=1, ge=1, le=1024)
    """Batches of one step of the optimizer."""
    lr0: float = Field(default=0.0, ge=0, lt=10)
    """Peak learning rate; 0 takes the usual one of model and optimizer."""
    weight_decay: float = Field(default=0.0005, ge=0, lt=1)
    """Weight decay of matrices; norms and biases have none."""
    warmup_epochs: float = Field(default=3.0, ge=0, le=1000)
    """Epochs in which the learning rate rises."""
    patience: int = Field(default=50, ge=0, le=10_000)
    """Stop after so many epochs without a better validation; 0 never stops early."""
    freeze: int = Field(default=0, ge=0, le=1000)
    """First layers (a YOLO's) or stages (a backbone's) that stay as they are."""
    cls_pw: float = Field(default=0.0, ge=0, le=1)
    """Class weights: the inverse of a class's frequency to this power; 0 weighs all alike."""
    pretrained: bool = True
    """Start from trained weights where there are some; off, from random ones."""
    seed: int = Field(default=0, ge=0)
    """Seed of weights, order, augmentation and splits."""
    workers: int = Field(default=-1, ge=-1, le=256)
    """Processes that read images; -1 takes none on a CPU and up to 8 with a GPU."""
    amp: bool = True
    """16-bit autocast instead of fp32, on a GPU."""
    ema: bool = True
    """Keep a moving average of the weights beside them, as YOLO trainers do."""
    multi_scale: bool = False
    """Images of changing size: the largest counts in the plan."""
    learning_curve: bool = False
    """Train on 25, 50 and 100 % of the labels and tell whether more labels would help."""
    num_gpus: int = Field(default=1, ge=1, le=1024)
    """Cards: with more than one, DistributedDataParallel keeps a second copy of the gradients."""


class VisionPredictConfig(VisionConfig):
    """Inference of a vision model."""

    batch: int = Field(default=1, ge=1, le=4096)
    """Images at once."""
    half: bool = True
    """16 bits on a GPU."""
