"""Memory switches of a pipeline of diffusers: number types, quantization, offload, decoding in
parts. Each says what it costs in seconds, and how that is known."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import AutoencoderTiny, BitsAndBytesConfig
from diffusers.models.attention_processor import AttnProcessor
from diffusers.quantizers.pipe_quant_config import PipelineQuantizationConfig
from transformers import BitsAndBytesConfig as TransformersBitsAndBytesConfig

from onecard.errors import MissingExtra, NotFound, SettingsError
from onecard.hub import network
from onecard.memory import formats
from onecard.reporting import Reporter

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
QUANTIZED = ("nf4", "nf4-dq", "int8")
TAKES = (*DTYPES, *QUANTIZED, "fp8-layerwise")
TINY = {
    "sd": "madebyollin/taesd",
    "sdxl": "madebyollin/taesdxl",
    "sd3": "madebyollin/taesd3",
    "flux": "madebyollin/taef1",
}
"""Small decoders of each family's latents, on the hub."""
NF4_SHARE = 0.04
"""Of the time of a picture more than in 16 bits (diffusers' published table of FLUX on an A100)."""
LEAF_FACTOR = 3.8
"""Time of a picture with one layer at a time on the card (same table)."""


@dataclass(frozen=True)
class Switch:
    name: str
    cost: str
    """What it costs, in words."""
    basis: Literal["measured", "published", "by its kind"]
    phase: str = ""
    """The phase of a picture that it makes slower: denoising, decoding."""
    share: float = 0.0
    """Of that phase's time, as far as published."""

    def render(self, timings: Mapping[str, float], n: int) -> str:
        """With the seconds of a picture, where they can be told."""
        seconds = timings.get(self.phase, 0.0) / max(n, 1)
        if self.share and seconds:
            text = f"about {seconds * self.share:.2f} s of the {seconds:.2f} s of {self.phase}"
            return f"{self.name}: {text} a picture ({self.basis}: {self.cost})"
        if seconds:
            return (
                f"{self.name}: {self.cost} ({self.basis}); {self.phase} took {seconds:.2f} s a "
                "picture (measured)"
            )
        return f"{self.name}: {self.cost} ({self.basis})"


@dataclass(frozen=True)
class Formats:
    """Number types of the weights."""

    denoiser: str
    texts: tuple[str, ...]
    """One for each text encoder, or one for all, or none: as the denoiser's."""
    dtype: torch.dtype
    """That all computes in."""


@dataclass(frozen=True)
class Options:
    offload: str = "none"
    vae_slicing: bool = False
    vae_tiling: bool = False
    tiny_vae: bool = False
    attn_implementation: str = "sdpa"


def formats_of(
    quant: str, texts: Sequence[str], device: torch.device, reporter: Reporter
) -> Formats:
    """On a CPU all is fp32, which is told. Raises SettingsError, MissingExtra."""
    denoiser = _format(quant, "a pipeline", "--quant")
    encoders = tuple(_format(name, "a text encoder", "--text_encoder_quant") for name in texts)
    if device.type == "cpu":
        if other := [name for name in (denoiser, *encoders) if name != "fp32"]:
            reporter.line(f"on a CPU everything runs in fp32, not in {other[0]}")
        return Formats("fp32", (), torch.float32)
    quantized = [name for name in (denoiser, *encoders) if name in QUANTIZED]
    if quantized and importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra(
            f"{quantized[0]} needs bitsandbytes",
            why="it is not installed",
            fix="pip install bitsandbytes",
        )
    usual = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return Formats(denoiser, encoders, DTYPES.get(denoiser, usual))


def _format(name: str, whose: str, flag: str) -> str:
    plain = formats.ALIASES.get(name.strip().lower(), name.strip().lower())
    if plain in TAKES:
        return plain
    only_planned = formats.known(plain)
    raise SettingsError(
        f"{whose} cannot be loaded in '{name}'",
        why="it is only planned" if only_planned else "it is no format that is known",
        fix=f"{flag} with one of: {', '.join(TAKES)}",
    )


def quantization(wanted: Formats, index: Mapping[str, Any]) -> PipelineQuantizationConfig | None:
    """bitsandbytes' settings of each part that is quantized. `index`: model_index.json."""
    texts = [name for name in index if name.startswith("text_encoder") and index[name][0]]
    chosen = wanted.texts or (wanted.denoiser,) * len(texts)
    if wanted.texts and len(wanted.texts) != len(texts):
        raise SettingsError(
            f"text_encoder_quant names {len(wanted.texts)} formats, the model has {len(texts)} "
            "text encoders",
            why=f"they are: {', '.join(texts)}",
            fix="--text_encoder_quant with one format for each of them",
        )
    mapping: dict[str, Any] = {}
    for name in ("unet", "transformer"):
        if name in index and wanted.denoiser in QUANTIZED:
            kind: Any = BitsAndBytesConfig
            mapping[name] = kind(**_bits(wanted.denoiser, wanted.dtype))
    for name, format in zip(texts, chosen, strict=True):
        if format in QUANTIZED:
            mapping[name] = TransformersBitsAndBytesConfig(**_bits(format, wanted.dtype))
    return PipelineQuantizationConfig(quant_mapping=mapping) if mapping else None


def _bits(format: str, dtype: torch.dtype) -> dict[str, Any]:
    if format == "int8":
        return {"load_in_8bit": True}
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": format == "nf4-dq",
        "bnb_4bit_compute_dtype": dtype,
    }


def take(
    pipe: Any,
    family: str,
    wanted: Formats,
    options: Options,
    device: torch.device,
    reporter: Reporter,
) -> tuple[Switch, ...]:
    """Turn the switches on and bring the pipeline to its device. Raises NotFound for a tiny decoder
    that is not here."""
    switches = [*_weights(pipe, wanted), *_attention(pipe, options, reporter)]
    switches += _decoder(pipe, family, wanted, options, reporter)
    if device.type == "cpu":
        if options.offload != "none":
            reporter.line(f"on a CPU --offload {options.offload} does nothing: no card is there")
        return tuple(switches)
    if options.offload == "model":
        pipe.enable_model_cpu_offload()
        cost = "each part is brought to the card when it is at work"
        switches.append(Switch("offload model", cost, "by its kind", "denoising"))
    elif options.offload == "sequential":
        pipe.enable_sequential_cpu_offload()
        cost = f"{LEAF_FACTOR} times the time"
        share = 1 - 1 / LEAF_FACTOR
        switches.append(Switch("offload sequential", cost, "published", "denoising", share))
    else:
        pipe.to(device)
    return tuple(switches)


def _weights(pipe: Any, wanted: Formats) -> list[Switch]:
    if wanted.denoiser in ("nf4", "nf4-dq"):
        cost, share = f"{NF4_SHARE:.0%} of the time", NF4_SHARE / (1 + NF4_SHARE)
        return [Switch(wanted.denoiser, cost, "published", "denoising", share)]
    if wanted.denoiser == "int8":
        cost = "slower than in 16 bits, by how much depends on the card"
        return [Switch("int8", cost, "by its kind", "denoising")]
    if wanted.denoiser == "fp8-layerwise":
        net = getattr(pipe, "unet", None) or pipe.transformer
        net.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=wanted.dtype)
        cost = "each layer is cast to 16 bits before it computes"
        return [Switch("fp8-layerwise", cost, "by its kind", "denoising")]
    return []


def _attention(pipe: Any, options: Options, reporter: Reporter) -> list[Switch]:
    """eager costs memory and time: no switch that saves any."""
    if options.attn_implementation == "eager":
        if hasattr(pipe, "unet"):
            pipe.unet.set_attn_processor(AttnProcessor())
        else:
            reporter.warn("a transformer keeps its fused attention; eager is for UNets")
    return []


def _decoder(
    pipe: Any, family: str, wanted: Formats, options: Options, reporter: Reporter
) -> list[Switch]:
    switches = []
    if options.tiny_vae and not isinstance(pipe.vae, AutoencoderTiny):
        pipe.vae = _tiny(family, wanted.dtype)
        cost = "faster; fine detail is lost"
        switches.append(Switch("tiny_vae", cost, "by its kind", "decoding"))
    for name, on, cost in (
        ("slicing", options.vae_slicing, "pictures are decoded one after the other"),
        ("tiling", options.vae_tiling, "tiles overlap by a quarter; small pictures are one tile"),
    ):
        if on and not hasattr(pipe.vae, f"enable_{name}"):
            reporter.warn(f"{type(pipe.vae).__name__} has no {name}: it decodes as a whole")
        elif on:
            getattr(pipe.vae, f"enable_{name}")()
            switches.append(Switch(f"vae_{name}", cost, "by its kind", "decoding"))
    return switches


def _tiny(family: str, dtype: torch.dtype) -> Any:
    if family not in TINY:
        raise SettingsError(
            f"no tiny decoder of {family} is known",
            why=f"there are some of {', '.join(TINY)}",
            fix="--no_tiny_vae",
        )
    repo = TINY[family]
    kind: Any = AutoencoderTiny
    try:
        return kind.from_pretrained(repo, dtype=dtype, local_files_only=not network.hub_reachable())
    except (OSError, ValueError) as fault:
        raise NotFound(
            f"{repo} is not on this machine",
            why=str(fault).strip().splitlines()[0][:200],
            fix="go online once, or --vae_tiling in place of --tiny_vae",
        ) from None
