"""Settings of diffusion, one Config per command. Names are those of diffusers."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from onecard.config import Config, ShortName


class PipelineConfig(Config):
    """Pipeline."""

    model: str = ""
    """sd-1.5, sdxl, sd3.5-medium, flux.1, flux.2-klein-4b, z-image-turbo, qwen-image, wan2.1-1.3b
    ..."""
    imgsz: int = Field(default=0, ge=0, le=4096)
    """Width of a picture (px); 0 for the model's own."""
    height: int = Field(default=0, ge=0, le=4096)
    """Height of a picture (px); 0 for a square."""
    quant: str = "fp16"
    """Weights of the denoiser and the text encoders: fp16 or bf16 as with torch_dtype=..., fp32 as
    diffusers loads without one; fp8-layerwise, int8, nf4, quanto-int8 ..., or of a GGUF file of the
    denoiser q4_k_s, q8_0 ..."""


class GenerateConfig(PipelineConfig):
    """Generation."""

    num_images: int = Field(default=1, ge=1, le=256)
    """Pictures at once."""
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"
    """Attention kernel; eager keeps score matrices."""
    offload: Literal["none", "model", "sequential"] = "none"
    """What waits in the computer's memory: nothing, the parts not at work, all but one layer."""

    @field_validator("offload", mode="before")
    @classmethod
    def _nothing(cls, value: object) -> object:
        """No offload in other programs' words."""
        word = str(value or "").strip().lower()
        return "none" if word in ("", "no", "none", "false", "off", "0") else value

    num_frames: int = Field(default=0, ge=0, le=1025)
    """Length of a film; 0 for the model's usual one."""
    vae_slicing: bool = False
    """The decoder takes one picture at a time."""
    vae_tiling: bool = False
    """The decoder takes tiles of 512 px."""
    tiny_vae: bool = False
    """TAESD decodes instead of the pipeline's own decoder."""
    text_encoder_quant: tuple[Annotated[str, ShortName()], ...] = ()
    """Weights of each text encoder, in the pipeline's order; empty: as the denoiser's."""


class TrainConfig(PipelineConfig):
    """LoRA training."""

    quant: str = "bf16"
    """Frozen weights: bf16, fp16, fp32, fp8, int8, nf4, quanto-int8 ..."""
    method: Literal["lora", "full"] = "lora"
    """Adapters on the attention's projections, or the whole denoiser."""
    train_batch_size: int = Field(default=1, ge=1, le=256)
    """Pictures of a step."""
    rank: int = Field(default=16, ge=1, le=1024)
    """Rank of the adapters."""
    optim: Literal["adamw", "adamw-8bit", "adafactor", "lion"] = "adamw"
    """Optimizer."""
    gradient_checkpointing: bool = True
    """Keep each block's input only and compute the rest again."""
    cache_latents: bool = False
    """Compute latents and text embeddings before training: the encoders leave the GPU."""
