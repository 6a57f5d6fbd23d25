"""Settings of vlm, one Config per command. Names are those of transformers and PEFT."""

from typing import Literal

from pydantic import Field

from onecard.config import Config


class VlmConfig(Config):
    """Vision-language model."""

    model: str = ""
    """llava-1.5-7b, qwen2.5-vl-3b, smolvlm-2.2b, internvl2-2b, gemma-3-4b ..."""
    imgsz: int = Field(default=0, ge=0, le=8192)
    """Longer side of a picture (px); 0 for the largest that the model takes."""
    height: int = Field(default=0, ge=0, le=8192)
    """Its other side (px); 0 for a square."""
    text_tokens: int = Field(default=256, ge=1, le=100_000)
    """Tokens of text beside the picture."""


class AskConfig(VlmConfig):
    """Question."""

    batch_size: int = Field(default=1, ge=1, le=256)
    """Pictures at once."""
    quant: str = "bf16"
    """Weights of the language model: bf16, int8, nf4 ..."""
    num_images: int = Field(default=1, ge=0, le=1)
    """Pictures of a question; 0 for words only."""
    logits_to_keep: int = Field(default=1, ge=0)
    """0 makes logits of the whole prompt, in fp32, as transformers before 4.45 does; models that
    bring such code of their own do it anyway."""
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"
    """Attention kernel of the vision tower; eager keeps score matrices."""


class TrainConfig(VlmConfig):
    """Training."""

    method: Literal["lora", "full"] = "lora"
    """Adapters on the language model, or all its weights; the projector is trained too."""
    load_in_4bit: bool = False
    """Frozen weights in nf4 with double quantization (QLoRA)."""
    per_device_train_batch_size: int = Field(default=1, ge=1, le=256)
    """Samples of a micro-batch, each with one picture."""
    vision_tower: Literal["frozen", "lora", "full"] = "frozen"
    """What happens to the vision tower."""
    lora_r: int = Field(default=16, ge=1, le=1024)
    """Rank of the adapters."""
    optim: Literal["adamw", "adamw-8bit", "paged-adamw-8bit", "lion"] = "adamw"
    """Optimizer."""
    gradient_checkpointing: bool = True
    """Keep each layer's input only and compute the rest again."""
    fp32_master_weights: bool = False
    """Full training: weights in fp32 under autocast, as a model loaded in fp32 is trained."""
    loss: Literal["upcast", "chunked", "fused"] = "upcast"
    """Cross-entropy: in fp32 as transformers makes it, in chunks, or fused (Liger)."""
