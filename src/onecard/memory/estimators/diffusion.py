"""Memory of image generators: making a picture, and training a LoRA or the whole network. Tapes run
the parts; this file knows the pipelines and their phases.

A pipeline reads the text, takes noise away step by step, and decodes: the peak is the largest of
the three phases beside what lies on the card then.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

from onecard.errors import not_found
from onecard.memory import formats
from onecard.memory.architectures import denoisers as nets
from onecard.memory.estimators.training import OPTIMIZER
from onecard.memory.plan import Term
from onecard.memory.simulator import Tape, Tensor
from onecard.units import MIB


@dataclass(frozen=True)
class Text:
    """A text encoder: its weights in millions, those that stay 16 bits when it is quantized, and
    those that transformers keeps in fp32."""

    name: str
    linear: float
    table: float
    kept_fp32: float = 0.0
    """T5's `wo`: kept in fp32 by transformers when bitsandbytes loads the rest (T5PreTrainedModel;
    FLUX in nf4: 12.6 GiB after loading)."""


CLIP_L, CLIP_H, CLIP_G = (
    Text("CLIP-L", 85.1, 38.0),
    Text("OpenCLIP-H", 290.0, 50.7),
    Text("OpenCLIP-bigG", 631.0, 63.7),
)
T5_XXL, MT5_XL, BERT = (
    Text("T5-XXL", 3623.9, 131.6, 1006.6),
    Text("mT5-XL", 1158.0, 512.4, 251.7),
    Text("BERT", 302.0, 49.0),
)
QWEN_VL = Text("Qwen2.5-VL-7B", 7202.0, 1090.0)


@dataclass(frozen=True)
class Pipeline:
    name: str
    net: str
    """A UNet or a transformer of nets/diffusion.py."""
    texts: tuple[Text, ...]
    size: int
    """The usual side of a picture (px)."""
    channels: int = 4
    """Of the latent picture."""
    guided: bool = True
    """Classifier-free guidance runs the network on two pictures for one."""
    upcast: bool = False
    """Its decoder overflows in fp16 and runs in fp32 (SDXL)."""
    factor: int = 8
    trains_fp32: bool = False
    """Its training script keeps frozen parts in fp32 under autocast, and its class makes little of
    gradient checkpointing (aMUSEd's published table)."""


PIPELINES = (
    Pipeline("sd-1.5", "sd-1.5", (CLIP_L,), 512),
    Pipeline("sd-2.1", "sd-2.1", (CLIP_H,), 768),
    Pipeline("sdxl", "sdxl", (CLIP_L, CLIP_G), 1024, upcast=True),
    Pipeline("ssd-1b", "ssd-1b", (CLIP_L, CLIP_G), 1024, upcast=True),
    Pipeline("sd3-medium", "sd3-medium", (CLIP_L, CLIP_G, T5_XXL), 1024, 16),
    Pipeline("sd3.5-medium", "sd3.5-medium", (CLIP_L, CLIP_G, T5_XXL), 1024, 16),
    Pipeline("sd3.5-large", "sd3.5-large", (CLIP_L, CLIP_G, T5_XXL), 1024, 16),
    Pipeline("flux.1", "flux.1", (CLIP_L, T5_XXL), 1024, 16, guided=False),
    Pipeline("pixart", "pixart", (T5_XXL,), 1024),
    Pipeline("hunyuandit", "hunyuandit", (BERT, MT5_XL), 1024),
    Pipeline("qwen-image", "qwen-image", (QWEN_VL,), 1024, 16),
    Pipeline("amused", "amused", (CLIP_L,), 512, 64, factor=16, trains_fp32=True),
)
ALSO = {
    "stablediffusionxl": "sdxl",
    "sdxlbase10": "sdxl",
    "flux1dev": "flux.1",
    "flux1schnell": "flux.1",
    "flux": "flux.1",
    "sd3": "sd3-medium",
    "sd35large": "sd3.5-large",
    "sd35medium": "sd3.5-medium",
    "stablediffusion3medium": "sd3-medium",
    "stablediffusion35large": "sd3.5-large",
    "stablediffusion35medium": "sd3.5-medium",
    "sd15": "sd-1.5",
    "sd14": "sd-1.5",
    "sd21": "sd-2.1",
    "stablediffusion15": "sd-1.5",
    "stablediffusionv15": "sd-1.5",
    "stablediffusion14": "sd-1.5",
    "stablediffusion21": "sd-2.1",
    "stablediffusionxlbase10": "sdxl",
}
WORKSPACE_BYTES = 128 * MIB
"""cuDNN's and cuBLAS' workspaces, and small states of the scheduler. A guess."""


def find(name: str) -> Pipeline:
    """By its usual name. Raises NotFound with the nearest."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower().split("/")[-1])
    for key, known in sorted(
        {**ALSO, **{re.sub(r"[^a-z0-9]", "", p.name): p.name for p in PIPELINES}}.items(),
        key=lambda pair: -len(pair[0]),
    ):
        if plain.startswith(key):
            return next(p for p in PIPELINES if p.name == known)
    raise not_found(
        "image generator", name, [p.name for p in PIPELINES], "onecard plan diffusion sdxl"
    )


@dataclass(frozen=True)
class Making:
    """How pictures are made."""

    B: int = 1
    height: int = 0
    width: int = 0
    format: str = "fp16"
    """Of the network; the text encoders' is `texts`."""
    texts: tuple[str, ...] = ()
    """One format for each text encoder; empty: as the network's."""
    fused: bool = True
    offload: Literal["none", "model", "sequential"] = "none"
    slicing: bool = False
    """The decoder takes one picture at a time."""
    tiling: bool = False
    """The decoder takes tiles of 64 x 64 latents."""
    tiny_decoder: bool = False
    """TAESD instead of the decoder."""


def _bytes_a_weight(format: str) -> float:
    """Raises KeyError for a format that is none."""
    return formats.PLAIN[format] if format in formats.PLAIN else formats.LINEAR[format]


def run_net(
    p: Pipeline,
    t: Tape,
    B: int,
    h: int,
    w: int,
    fused: bool,
    checkpointing: bool = False,
    adapt: nets.Adapt | None = None,
) -> Tensor:
    """The network once over B latents of pictures of h x w px."""
    h, w = h // p.factor, w // p.factor
    if p.net in nets.UNETS:
        spec = nets.UNETS[p.net]
        return nets.unet(
            t,
            t.tensor(B, p.channels, h, w),
            spec,
            t.tensor(B, nets.TEXT_TOKENS, spec.context),
            fused=fused,
            checkpointing=checkpointing,
            a=adapt,
        )
    dit = nets.DITS[p.net]
    return nets.dit(
        t, t.tensor(B, h * w // 4, 4 * p.channels), dit, checkpointing=checkpointing, a=adapt
    )


def net_params(p: Pipeline) -> int:
    t = Tape(wide=2, weights=2)
    run_net(p, t, 1, 16 * p.factor, 16 * p.factor, True)
    return t.params


def _text_bytes(text: Text, format: str) -> float:
    """A quantized encoder keeps its tables in 16 bits, and T5's `wo` in fp32."""
    fp32 = text.kept_fp32 if format in ("nf4", "nf4-dq", "int8") else 0.0
    each = _bytes_a_weight(format)
    return 1e6 * (
        (text.linear + (text.kept_fp32 - fp32)) * each
        + fp32 * 4
        + text.table * (each if format in formats.PLAIN else 2.0)
    )


def make(p: Pipeline, s: Making) -> list[Term]:
    """The terms of making B pictures, as torch's allocator counts them.

    A format that is not known raises KeyError.
    """
    h, w = s.height or p.size, s.width or p.size
    wide = 4.0 if s.format in ("fp32", "f32") else 2.0
    formats = s.texts or (s.format,) * len(p.texts)
    texts = sum(_text_bytes(text, format) for text, format in zip(p.texts, formats, strict=True))
    n_params = net_params(p)
    net = n_params * _bytes_a_weight(s.format)
    runs = Tape(wide=wide, weights=wide)
    run_net(p, runs, s.B * (2 if p.guided else 1), h, w, s.fused)
    pixels = Tape(wide=4.0 if p.upcast else wide, weights=wide)
    side = (min(h, 512), min(w, 512)) if s.tiling else (h, w)
    n = 1 if s.slicing or s.tiling else s.B
    out = nets.decode(pixels, pixels.tensor(n, p.channels, side[0] // 8, side[1] // 8))
    decoding, vae = (
        pixels.peak + s.B * 3 * h * w * (4.0 if p.upcast else wide) * (n < s.B or s.tiling),
        83.7e6 * (4.0 if p.upcast else wide),
    )
    del out
    if s.tiny_decoder:
        decoding, vae = s.B * 64 * h * w * wide * 3, 2.4e6 * wide
    phases = {
        "text": (texts, 0.0),
        "denoising": (net, float(runs.peak)),
        "decoding": (vae, float(decoding)),
    }
    everything = texts + net + vae
    if s.offload == "none":
        name = max(phases, key=lambda phase: phases[phase][1])
        resident, hump = everything, phases[name][1]
    elif s.offload == "model":
        phases["decoding"] = (
            vae + net,
            float(decoding),
            # the network leaves only after decoding has begun: published figures of SDXL and Qwen-
            # Image
            # show it
        )
        name = max(phases, key=lambda phase: sum(phases[phase]))
        resident, hump = phases[name]
    else:
        name = max(phases, key=lambda phase: phases[phase][1])
        resident, hump = 0.02 * everything, phases[name][1]  # one layer at a time
    encoders = [f"{text.name} in {format}" for text, format in zip(p.texts, formats, strict=True)]
    parts = ", ".join([f"{p.net} {n_params / 1e6:.0f}e6 in {s.format}", *encoders, "decoder"])
    return [
        Term(
            "weights",
            math.ceil(resident),
            {
                "none": parts,
                "model": f"only what is at work: {name}",
                "sequential": "a layer at a time",
            }[s.offload],
        ),
        Term(
            "activations",
            math.ceil(hump),
            f"{name} of {s.B} x {w} x {h} px is the highest"
            + (", in fp32" if p.upcast and name == "decoding" else ""),
        ),
        Term("workspace", WORKSPACE_BYTES, "cuDNN and cuBLAS (a guess)"),
    ]


@dataclass(frozen=True)
class Training:
    """How a network is trained."""

    method: Literal["lora", "full"] = "lora"
    B: int = 1
    height: int = 0
    width: int = 0
    r: int = 16
    format: str = "fp16"
    """Frozen weights; trained ones are in fp32."""
    optimizer: str = "adamw"
    checkpointing: bool = True
    cached: bool = False
    """Latents and text embeddings were made before: neither encoder lies there."""
    foreach: bool = True
    """torch's AdamW makes one more copy of the trained weights while it steps (nanoVLM: 20 B a
    weight at batch 1); 8-bit and fused ones do not."""


def _encoder_bytes(p: Pipeline, s: Training, beside: float) -> float:
    """Weights of the text encoders and of the picture's; none with cached latents."""
    if s.cached:
        return 0.0
    texts = sum(_text_bytes(text, "fp32" if beside == 4 else "bf16") for text in p.texts)
    return texts + VAE_ENCODER_WEIGHTS * (4.0 if p.upcast else beside)


VAE_ENCODER_WEIGHTS = 83.7e6
"""Weights of AutoencoderKL as diffusers counts them."""


def train(p: Pipeline, s: Training, apart: bool = False) -> list[Term]:
    """The terms of a training step's peak, as torch's allocator counts them; `apart`: as it
    reserves them, encoding and training in blocks of their own."""
    h, w = s.height or p.size, s.width or p.size
    full = s.method == "full"
    fp32 = s.format in ("fp32", "f32")
    kept = 4.0 if full or fp32 or p.trains_fp32 else _bytes_a_weight(s.format)
    wide = 4.0 if fp32 else 2.0
    beside = 4.0 if fp32 or p.trains_fp32 else 2.0
    t = Tape(grad=True, wide=wide, weights=4.0 if full or p.trains_fp32 else wide)
    out = run_net(
        p,
        t,
        s.B,
        h,
        w,
        True,
        s.checkpointing and not p.trains_fp32,
        nets.Adapt(s.r, fp32=True) if not full else None,
    )
    loss = t.op((1,), [t.to(out, 4.0)], [out], wide=4.0)
    del out
    forward = t.peak
    t.backward(loss)
    trained = t.trained
    states = OPTIMIZER[s.optimizer][0]
    coder = Tape(wide=beside, weights=beside)
    nets.encode(coder, coder.tensor(s.B, 3, h, w), p.channels)
    encoders = _encoder_bytes(p, s, beside)
    step = trained * 4.0 + (trained * 4.0 if s.optimizer == "adamw" and s.foreach else 0)
    encoding = 0 if s.cached else coder.peak
    hump = max(t.peak, step, encoding)
    phases = {
        t.peak: "the backward pass",
        step: "the optimizer steps",
        encoding: "the pictures are encoded",
    }
    weights = t.params if full else t.params - trained
    reason = f"{p.net} {weights / 1e6:.0f}e6 x {kept:g} B"
    terms = [Term("weights", math.ceil(weights * kept), reason)]
    if not full:
        reason = f"{trained / 1e6:.1f}e6 x 4 B, rank {s.r} on attention"
        terms.append(Term("trained weights", trained * 4, reason))
    reason = f"{s.optimizer}: {states:.2f} B a trained weight"
    terms.append(Term("optimizer", math.ceil(trained * states), reason))
    if encoders:
        terms.append(
            Term(
                "encoders",
                math.ceil(encoders),
                f"{', '.join(text.name for text in p.texts)} and the picture's encoder; none with "
                "cached latents",
            )
        )
    if apart:
        beyond = math.ceil(step + forward + encoding - hump)
        terms.append(Term("fragments", beyond, "blocks of one phase do not fit the others'"))
    return [
        *terms,
        Term(
            "activations and gradients",
            math.ceil(hump),
            f"{s.B} x {w} x {h} px, highest while {phases[hump]}",
        ),
        Term("workspace", WORKSPACE_BYTES, "cuDNN and cuBLAS (a guess)"),
    ]
