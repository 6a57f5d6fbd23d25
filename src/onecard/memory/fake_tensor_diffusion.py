"""The truth check of a diffusion plan: diffusers' own UNet and decoder on fake tensors, a training
step of a LoRA with its optimizer, and a picture that is made; every storage counted.

Heavy: imports torch, diffusers and peft. Knows no formula.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft import LoraConfig
from torch._subclasses import FakeTensorMode

from onecard.errors import DataError
from onecard.memory.architectures import pipeline_folder
from onecard.memory.architectures.pipelines import Pipeline
from onecard.memory.estimators import diffusion
from onecard.memory.fake_tensor import Counter
from onecard.memory.fake_tensor_nets import give_storage

NOTE = "the real UNet and decoder: the second step of a LoRA, or a picture made; weights counted"
"""What `check` traces."""
UNETS: dict[str, dict[str, Any]] = {
    "sd-1.5": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd-2.1": {
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": {
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "block_out_channels": (320, 640, 1280),
        "transformer_layers_per_block": (1, 2, 10),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
}
Spec = Mapping[str, Any]
"""The config of a UNet2DConditionModel."""
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def training(
    spec: Spec, B: int, height: int, width: int, rank: int, dtype: torch.dtype, checkpointing: bool
) -> int:
    """Peak bytes of the second step of a LoRA with AdamW: weights, adapters, gradients, optimizer
    states and activations. `dtype`: of the frozen weights."""
    net = _build_unet(spec, dtype)
    with torch.device("meta"):
        net.requires_grad_(False)
        net.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS))
    for weight in net.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    if checkpointing:
        net.enable_gradient_checkpointing()
    with FakeTensorMode(allow_non_fake_inputs=True), Counter() as counter:
        give_storage(net)
        net.train()
        trained = [weight for weight in net.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4)
        for _ in range(2):
            counter.peak = counter.now
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
                output = net(**_inputs(spec, B, height, width, dtype), return_dict=False)[0]
            loss = output.float().square().mean()
            del output
            loss.backward()
            del loss
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return int(counter.peak)


def denoising(spec: Spec, B: int, height: int, width: int, dtype: torch.dtype) -> int:
    """Peak bytes beyond the weights of one call of the UNet without gradients."""
    return _peak_beside(
        _build_unet(spec, dtype), lambda net: net(**_inputs(spec, B, height, width, dtype))[0]
    )


def decoding(B: int, height: int, width: int, dtype: torch.dtype, channels: int = 4) -> int:
    """Peak bytes beyond the weights while AutoencoderKL of Stable Diffusion makes pixels."""
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
    }
    kind: Any = AutoencoderKL
    with torch.device("meta"):
        vae = kind(latent_channels=channels, **blocks).to(dtype)
    shape = (B, channels, height // 8, width // 8)
    return _peak_beside(vae, lambda net: net.decode(torch.empty(shape, dtype=dtype))[0])


def _peak_beside(net: Any, call: Any) -> int:
    with FakeTensorMode(allow_non_fake_inputs=True), Counter() as counter, torch.no_grad():
        give_storage(net)
        before = counter.now
        counter.peak = before
        call(net.eval())
        return int(counter.peak - before)


def _build_unet(spec: Spec, dtype: torch.dtype) -> Any:
    kind: Any = UNet2DConditionModel
    with torch.device("meta"):  # initializers look at values, which fakes have not
        return kind.from_config({"sample_size": 64, **spec}).to(dtype)


def _inputs(spec: Spec, B: int, height: int, width: int, dtype: torch.dtype) -> dict[str, Any]:
    channels = spec.get("in_channels", 4)
    inputs: dict[str, Any] = {
        "sample": torch.empty(B, channels, height // 8, width // 8, dtype=dtype),
        "timestep": torch.ones(B),
        "encoder_hidden_states": torch.empty(B, 77, spec["cross_attention_dim"], dtype=dtype),
    }
    if spec.get("addition_embed_type") == "text_time":
        pooled = spec["projection_class_embeddings_input_dim"] - 6 * spec["addition_time_embed_dim"]
        inputs["added_cond_kwargs"] = {
            "text_embeds": torch.empty(B, pooled, dtype=dtype),
            "time_ids": torch.empty(B, 6, dtype=dtype),
        }
    return inputs


def check(tracer: str, config: Any) -> tuple[int, int]:
    """(traced, counted by the simulator) of a plan: the peak of a LoRA's second step, or the
    larger one of denoising and decoding of pictures; the UNet's weights, adapters and optimizer
    states among them, without what cuDNN copies.

    Raises DataError for a pipeline without a UNet, or for a training of all weights.
    """
    diffusers.utils.logging.set_verbosity_error()  # it warns of every cast
    p, spec = find(config.model)
    height, width = config.height or config.imgsz or p.size, config.imgsz or p.size
    fp32 = config.quant in ("fp32", "f32")
    dtype = torch.float32 if fp32 else torch.bfloat16
    if hasattr(config, "rank"):
        return _check_training((p, spec), config, height, width, dtype)
    weights = diffusion.net_params(p) * dtype.itemsize
    images = config.num_images * (2 if p.guided else 1)
    if p.decoder.widths != (128, 256, 512, 512):
        raise DataError(
            f"the decoder of {p.name} cannot be traced",
            why="a trace runs the AutoencoderKL of Stable Diffusion",
            fix="plan it without --trace",
        )
    whole = 1 if config.vae_slicing or config.vae_tiling else config.num_images
    side = (min(height, 512), min(width, 512)) if config.vae_tiling else (height, width)
    pixels = torch.float32 if p.upcast else dtype
    traced = max(
        denoising(spec, images, height, width, dtype), decoding(whole, *side, pixels, p.channels)
    )
    making = diffusion.Making(
        config.num_images,
        height,
        width,
        "fp32" if fp32 else "bf16",
        slicing=config.vae_slicing,
        tiling=config.vae_tiling,
        device=False,
    )
    return traced + weights, diffusion.hump(p, making) + weights


def find(name: str) -> tuple[Pipeline, Spec]:
    """A pipeline by its name or its folder, with the config of its UNet. Raises NotFound, and
    DataError for one without a UNet, or whose VAE is not Stable Diffusion's."""
    if not pipeline_folder.is_named(name):
        p = diffusion.find(name)
        spec = UNETS.get(p.net)
    else:
        path = Path(name).expanduser()
        p, config = pipeline_folder.read(path), path / "unet" / "config.json"
        spec = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else None
        spec = spec or UNETS.get(p.net)
    if not spec or p.factor != 8:
        raise DataError(
            f"{p.name} has no UNet on latents of an eighth",
            why="a trace runs diffusers' UNet2DConditionModel and AutoencoderKL",
            fix="plan it without --trace",
        )
    return p, spec


def _check_training(
    base: tuple[Pipeline, Spec], config: Any, height: int, width: int, dtype: torch.dtype
) -> tuple[int, int]:
    p, spec = base
    if config.method != "lora" or config.optim != "adamw":
        raise DataError(
            "this training cannot be traced",
            why="a trace runs a LoRA with AdamW",
            fix="plan it without --trace, or with --method lora --optim adamw",
        )
    traced = training(
        spec,
        config.train_batch_size,
        height,
        width,
        config.rank,
        dtype,
        config.gradient_checkpointing,
    )
    recipe = diffusion.Training(
        "lora",
        config.train_batch_size,
        height,
        width,
        config.rank,
        "fp32" if dtype == torch.float32 else "bf16",
        checkpointing=config.gradient_checkpointing,
        cached=True,
        device=False,
    )
    terms = diffusion.train(p, recipe)
    return traced, sum(term.bytes for term in terms if term.name != "workspace")
