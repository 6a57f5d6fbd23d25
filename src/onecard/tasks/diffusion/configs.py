"""Settings of diffusion, one Config per command. Names are those of diffusers."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from onecard.config import Config, ShortName
from onecard.runs.config import TrackingConfig
from onecard.training.config import OutputConfig


class PipelineConfig(Config):
    """Pipeline."""

    model: str = "auto"
    """A folder in diffusers' form, a .safetensors file, a repository of the hub, or a name: sd-1.5,
    sdxl, sd3.5-medium, flux.1, z-image-turbo ...; auto takes sdxl where it fits, else sd-1.5."""
    imgsz: int = Field(default=0, ge=0, le=4096)
    """Width of a picture (px); 0 for the model's own."""
    height: int = Field(default=0, ge=0, le=4096)
    """Height of a picture (px); 0 for a square."""
    quant: str = "fp16"
    """Weights of the denoiser and the text encoders: fp16 or bf16 as with torch_dtype=..., fp32 as
    diffusers loads without one; fp8-layerwise, int8, nf4, quanto-int8 ..., or of a GGUF file of the
    denoiser q4_k_s, q8_0 ..."""


class SamplerConfig(Config):
    """Sampler."""

    num_inference_steps: int = Field(default=0, ge=0, le=1000)
    """Steps of the sampler; 0 for the model's usual number."""
    guidance_scale: float = Field(default=-1.0, ge=-1, le=50)
    """How strongly the prompt is followed; -1 for the model's usual value, 0 to 1 is off."""
    scheduler: Literal["auto", "ddim", "euler", "euler-a", "dpm++", "unipc", "lcm"] = "auto"
    """Sampler; auto takes the one that the model's folder names."""
    seed: int = Field(default=-1, ge=-1, lt=2**63)
    """Seed of the first picture, the next ones count on; -1 draws one and tells it."""


class PromptConfig(Config):
    """Prompt."""

    prompt: str = ""
    """What is to be seen."""
    negative_prompt: str = ""
    """What is not to be seen."""
    lora: tuple[str, ...] = ()
    """LoRA files or runs, each with its weight: style.safetensors:0.8, run:ID."""
    init_image: str = ""
    """A picture to start from (img2img)."""
    mask_image: str = ""
    """Where init_image is painted anew: white yes, black no (inpainting)."""
    strength: float = Field(default=0.8, gt=0, le=1)
    """How far init_image is changed: 1 keeps nothing of it."""
    safety_checker: bool = True
    """Blacken what the model's own safety checker flags, where it has one."""
    compile: bool = False
    """torch.compile of the denoiser: faster after a slow first picture."""
    output_dir: str = ""
    """Where pictures go; empty means the run's own folder."""


class GenerateConfig(PipelineConfig, PromptConfig, SamplerConfig):
    """Generation."""

    num_images: int = Field(default=1, ge=1, le=256)
    """Pictures."""
    batch_size: int = Field(default=0, ge=0, le=256)
    """Pictures at once; 0 for all of them on a card, and one by one on a CPU."""
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


class PlanGenerateConfig(GenerateConfig):
    """What-if: any pipeline whose parts are known."""

    model: str = ""
    """sd-1.5, sdxl, sd3.5-medium, flux.1, flux.2-klein-4b, z-image-turbo, qwen-image, wan2.1-1.3b
    ..., a folder in diffusers' form or a .safetensors file."""


class AgainConfig(Config):
    """Again."""

    picture: str = ""
    """A PNG that onecard made."""
    model: str = ""
    """The model, where it lies elsewhere now."""
    lora: tuple[str, ...] = ()
    """The LoRAs, where they lie elsewhere now."""
    output_dir: str = ""
    """Where the picture goes; empty means the run's own folder."""


class CaptionedDataConfig(Config):
    """Pictures and captions."""

    data: str = ""
    """A folder of pictures, with captions in .txt files of the same names or in metadata.jsonl or
    .csv."""
    trigger: str = ""
    """The word that calls the style or the subject, as sks; every caption is to hold it."""
    caption: str = ""
    """A caption for pictures without one: "a picture of {trigger} dog"; {trigger} and {name} (of
    the file) are filled in. Empty: "a picture in the style of {trigger}"."""
    caption_source: Literal["auto", "files", "template", "model"] = "auto"
    """files: captions beside the pictures, one is needed for each; template: `caption` for all;
    model: `caption_model` looks at each; auto: files, and the template where there is none."""
    caption_model: str = ""
    """A captioning model of transformers (BLIP, Florence-2, GIT): a folder or a name of the hub."""
    imgsz: int = Field(default=0, ge=0, le=4096)
    """Width of a picture (px), of a square as large as a bucket; 0 for the model's own."""
    buckets: bool = True
    """Keep the ratio of each picture by one of several sizes of about imgsz x imgsz pixels; off,
    the middle is cut out square."""
    min_side: int = Field(default=0, ge=0, le=4096)
    """Pictures whose shorter side is below it are rejected (px): nothing is enlarged. 0 takes half
    of imgsz."""
    allow_duplicates: bool = False
    """Keep copies and near-copies of a picture; off, the first one stays."""


class CheckConfig(CaptionedDataConfig):
    """Check."""


class TrainConfig(PipelineConfig, CaptionedDataConfig, OutputConfig, TrackingConfig):
    """LoRA training."""

    imgsz: int = Field(default=0, ge=0, le=4096)
    """Width of a picture (px), of a square as large as a bucket; 0 for the model's own."""
    quant: str = "bf16"
    """Frozen weights: bf16, fp16, fp32, fp8, int8, nf4, quanto-int8 ..."""
    method: Literal["lora", "full"] = "lora"
    """Adapters on the attention's projections, or the whole denoiser (planned only)."""
    train_batch_size: int = Field(default=1, ge=1, le=256)
    """Pictures of a step."""
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=4096)
    """Batches of one step of the optimizer."""
    max_train_steps: int = Field(default=800, ge=1, le=1_000_000)
    """Steps of the optimizer."""
    learning_rate: float = Field(default=1e-4, gt=0, lt=1)
    """Peak learning rate of the denoiser's adapters."""
    lr_scheduler: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes on after warm-up."""
    lr_warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    rank: int = Field(default=16, ge=1, le=1024)
    """Rank of the adapters."""
    lora_alpha: float = Field(default=0.0, ge=0, le=1e6)
    """Scale of the adapters is alpha / rank; 0 takes the rank."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of an adapter's inputs."""
    train_text_encoder: bool = False
    """Adapters on the text encoders as well."""
    text_encoder_lr: float = Field(default=5e-5, gt=0, lt=1)
    """Peak learning rate of the text encoders' adapters."""
    optim: Literal["adamw", "adamw-8bit", "adafactor", "lion"] = "adamw"
    """Optimizer."""
    weight_decay: float = Field(default=0.01, ge=0, lt=1)
    """Weight decay."""
    gradient_checkpointing: bool = True
    """Keep each block's input only and compute the rest again."""
    cache_latents: bool = True
    """Compute latents and text embeddings before training: the encoders leave the GPU."""
    vae_tiling: bool = False
    """Sample grids are decoded in tiles of 512 px."""
    flip: bool = False
    """Learn from mirrored pictures too."""
    with_prior_preservation: bool = False
    """Learn from pictures of the class without the trigger as well, so that they stay as they
    were."""
    class_prompt: str = ""
    """What the trigger is one of: "a dog", "a painting"."""
    class_data: str = ""
    """A folder of pictures of the class, with captions beside them or class_prompt for all; empty:
    the base generates them, once."""
    num_class_images: int = Field(default=100, ge=1, le=10_000)
    """Pictures of the class."""
    prior_target: Literal["base", "noise"] = "base"
    """What class pictures are held to: base is what the denoiser without adapters gives for them,
    so that nothing is learned from them but to stay; noise is DreamBooth's, which also learns the
    pictures themselves."""
    prior_loss_weight: float = Field(default=1.0, gt=0, le=100)
    """Weight of the class's loss."""
    snr_gamma: float = Field(default=5.0, ge=0, le=100)
    """Min-SNR weighting of the loss (Hang et al. 2023); 0 is off."""
    noise_offset: float = Field(default=0.0, ge=0, le=1)
    """Shift of a latent channel's noise, for darker and lighter pictures."""
    prediction_type: Literal["auto", "epsilon", "v_prediction"] = "auto"
    """What the denoiser predicts; auto reads it from the model's scheduler."""
    ema: bool = False
    """Keep a moving average of the adapters and save that."""
    save_steps: int = Field(default=100, ge=0)
    """Steps between saved checkpoints, each of them a LoRA that is measured at the end; 0 keeps the
    last alone."""
    validation_steps: int = Field(default=100, ge=0)
    """Steps between sample grids and validation losses; 0 makes none."""
    validation_prompts: tuple[str, ...] = ()
    """Prompts of the sample grid; empty: two with the trigger, one without."""
    num_validation_images: int = Field(default=4, ge=1, le=64)
    """Pictures of a sample grid for each prompt, on fixed seeds."""
    val_share: float = Field(default=0.0, ge=0, lt=0.9)
    """Share of the pictures that is held out for the validation loss; 0 takes a tenth from 20
    pictures up, and none below."""
    num_eval_images: int = Field(default=64, ge=0, le=1024)
    """Pictures with the trigger, and as many without, by which checkpoints are compared at the end;
    0 compares none."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the adapters, order, noise and sample grids."""


class PlanTrainConfig(TrainConfig):
    """What-if: a LoRA of any pipeline whose parts are known."""

    model: str = ""
    """sd-1.5, sdxl, sd3.5-medium, flux.1, z-image ..., a folder in diffusers' form or a
    .safetensors file."""


class EvaluateConfig(SamplerConfig):
    """Comparison of checkpoints."""

    run_id: str = ""
    """The run of a training, or the folder with its LoRAs."""
    data: str = ""
    """Pictures of the style or subject, where they lie elsewhere now."""
    model: str = ""
    """The base, where it lies elsewhere now."""
    num_eval_images: int = Field(default=64, ge=4, le=1024)
    """Pictures of each checkpoint with the trigger, and as many without."""
    batch: int = Field(default=4, ge=1, le=256)
    """Pictures generated at once."""
    features: str = "auto"
    """What pictures are compared by: auto, dinov2, clip, efficientnet-lite0, or a folder of a
    model."""
    compose_lora: str = ""
    """Another LoRA that the recommended checkpoint is tried together with."""
    resume: bool = False
    """Use the pictures that output_dir holds already."""
    output_dir: str = ""
    """Where pictures and tables go; empty means the run's own folder."""
