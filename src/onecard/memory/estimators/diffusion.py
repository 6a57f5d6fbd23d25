"""Memory of image generators: making a picture, and training a LoRA or the whole network. Tapes run
the parts; this file knows the pipelines and their phases.

A pipeline reads the text, takes noise away step by step, and decodes: the peak is the largest of
the three phases beside what lies on the card then.
"""

import math
from dataclasses import dataclass
from typing import Literal

from onecard.memory import formats
from onecard.memory.architectures import denoisers as nets
from onecard.memory.architectures.pipelines import PIPELINES, Pipeline, Text, find
from onecard.memory.estimators.training import OPTIMIZER
from onecard.memory.plan import Term
from onecard.memory.simulator import Tape, Tensor
from onecard.units import MIB

__all__ = ["PIPELINES", "Making", "Pipeline", "Training", "find", "make", "net_params", "train"]


WORKSPACE_BYTES = 128 * MIB
"""cuDNN's and cuBLAS' workspaces, and small states of the scheduler. A guess."""


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
    frames: int = 0
    """Of a film; 0 for the usual length."""
    device: bool = True
    """Whether convolutions are cuDNN's, which copy what comes in."""


def run_net(
    p: Pipeline,
    t: Tape,
    B: int,
    h: int,
    w: int,
    fused: bool,
    checkpointing: bool = False,
    adapt: nets.Adapt | None = None,
    frames: int = 1,
) -> Tensor:
    """The network once over B latents of pictures of h x w px, or films of so many frames."""
    h, w = h // p.factor, w // p.factor
    spec = p.unet or nets.UNETS.get(p.net)
    if spec:
        return nets.unet(
            t,
            t.tensor(B, p.channels, h, w),
            spec,
            t.tensor(B, nets.TEXT_TOKENS, spec.context),
            fused=fused,
            checkpointing=checkpointing,
            a=adapt,
        )
    dit, area = p.dit or nets.DITS[p.net], p.patch**2
    n = h * w // area * latent_frames(p, frames)
    return nets.dit(t, t.tensor(B, n, area * p.channels), dit, checkpointing=checkpointing, a=adapt)


def latent_frames(p: Pipeline, frames: int) -> int:
    """The first frame stands alone, the others are joined."""
    return (frames - 1) // p.skip + 1


def net_params(p: Pipeline) -> int:
    t = Tape(wide=2, weights=2)
    run_net(p, t, 1, 16 * p.factor, 16 * p.factor, True)
    return t.params


def _text_bytes(text: Text, format: str) -> float:
    """A quantized encoder keeps its tables in 16 bits, and T5's `wo` in fp32."""
    fp32 = text.kept_fp32 if format in ("nf4", "nf4-dq", "int8") else 0.0
    each = formats.each(format)
    return 1e6 * (
        (text.linear + (text.kept_fp32 - fp32)) * each
        + fp32 * 4
        + text.table * (each if format in formats.PLAIN else 2.0)
    )


def _decoding(p: Pipeline, s: Making, h: int, w: int, frames: int) -> tuple[float, float]:
    """(peak while latents become pixels, bytes of the decoder)."""
    wide = 4.0 if p.upcast or s.format in ("fp32", "f32") else 2.0
    pixels = Tape(wide=wide, weights=wide, device=s.device)
    side = (min(h, 512), min(w, 512)) if s.tiling else (h, w)
    pieces = s.slicing or s.tiling
    n = 1 if pieces else s.B
    at_once = min(p.decoder.frames or frames, frames)
    scale = p.decoder.coarse * 2 ** (len(p.decoder.widths) - 1)
    latents = pixels.tensor(n * at_once, p.channels, side[0] // scale, side[1] // scale)
    out = nets.decode(pixels, latents, p.decoder.widths)
    whole = s.B * frames * 3 * h * w * wide * (n < s.B or bool(s.tiling) or at_once < frames)
    del out, latents
    if s.tiny_decoder or p.decoder.tiny:
        return s.B * 64 * h * w * wide * 3, 2.4e6 * wide
    return pixels.peak + whole, p.decoder.weights * wide


def _denoising(p: Pipeline, s: Making, h: int, w: int, frames: int, wide: float) -> float:
    runs = Tape(wide=wide, weights=wide, device=s.device)
    run_net(p, runs, s.B * (2 if p.guided else 1), h, w, s.fused, frames=frames)
    return float(runs.peak)


def hump(p: Pipeline, s: Making) -> int:
    """Peak beyond the weights of denoising and decoding, the larger one (bytes)."""
    h, w = s.height or p.size, s.width or p.wide or p.size
    wide = 4.0 if s.format in ("fp32", "f32") else 2.0
    frames = s.frames or p.frames
    decoding, _ = _decoding(p, s, h, w, frames)
    return math.ceil(max(_denoising(p, s, h, w, frames, wide), decoding))


def make(p: Pipeline, s: Making) -> list[Term]:
    """The terms of making B pictures, as torch's allocator counts them.

    A format that is not known raises KeyError: `formats.choose` comes before.
    """
    h, w = s.height or p.size, s.width or p.wide or p.size
    frames = s.frames or p.frames
    wide = 4.0 if s.format in ("fp32", "f32") else 2.0
    # a GGUF file holds the denoiser alone
    usual = "bf16" if s.format in formats.GGUF_ONLY - set(formats.LINEAR) else s.format
    chosen = s.texts or (usual,) * len(p.texts)
    texts = sum(_text_bytes(text, format) for text, format in zip(p.texts, chosen, strict=True))
    n_params = net_params(p)
    net = n_params * formats.each(s.format)
    denoising = _denoising(p, s, h, w, frames, wide)
    decoding, vae = _decoding(p, s, h, w, frames)
    phases = {
        "text": (texts, 0.0),
        "denoising": (net, denoising),
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
    encoders = [f"{text.name} in {format}" for text, format in zip(p.texts, chosen, strict=True)]
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
            f"{name} of {s.B} x {w} x {h} px{f' x {frames} frames' * (frames > 1)} is the highest"
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
    samples: bool = False
    """A picture is made between steps: the decoder comes beside the network."""
    tiling: bool = False
    """It is decoded in tiles."""
    text_adapters: bool = False
    """The text encoders learn too, and stay."""
    device: bool = True
    """Whether convolutions are cuDNN's, which copy what comes in."""


TEXT_TOKENS = 77
TEXT_ACTIVATIONS = 34
"""Values that a layer of a text encoder keeps for its backward pass, per token and width: as a
transformer's layer with its attention fused (Korthikanti et al. 2022, section 4.1: 34 sbh bytes in
16 bits)."""


def _encoder_bytes(p: Pipeline, s: Training, beside: float) -> float:
    """Weights of the text encoders and of the picture's; with cached latents only of those that
    learn."""
    texts = sum(_text_bytes(text, "fp32" if beside == 4 else "bf16") for text in p.texts)
    if s.cached:
        return texts if s.text_adapters else 0.0
    return texts + VAE_ENCODER_WEIGHTS * (4.0 if p.upcast else beside)


def _text_training(p: Pipeline, s: Training) -> tuple[int, float]:
    """(trained weights of the text encoders, bytes kept for their backward pass)."""
    if not s.text_adapters:
        return 0, 0.0
    weights = sum(4 * 2 * text.width * s.r * text.layers for text in p.texts)
    kept = sum(TEXT_ACTIVATIONS * text.width * text.layers for text in p.texts)
    return weights, float(kept * TEXT_TOKENS * s.B)


def _sampling(p: Pipeline, s: Training, h: int, w: int) -> float:
    """Peak beyond the weights that lie there while one picture is made between two steps."""
    if not s.samples:
        return 0.0
    wide = 4.0 if s.format in ("fp32", "f32") else 2.0
    making = Making(1, h, w, "fp32" if wide == 4 else "bf16", tiling=s.tiling, device=s.device)
    decoding, vae = _decoding(p, making, h, w, 1)
    return max(_denoising(p, making, h, w, 1, wide), decoding + (vae if s.cached else 0.0))


VAE_ENCODER_WEIGHTS = 83.7e6
"""Weights of AutoencoderKL as diffusers counts them."""


def train(p: Pipeline, s: Training, apart: bool = False) -> list[Term]:
    """The terms of a training step's peak, as torch's allocator counts them; `apart`: as it
    reserves them, encoding and training in blocks of their own."""
    h, w = s.height or p.size, s.width or p.size
    full = s.method == "full"
    fp32 = s.format in ("fp32", "f32")
    kept = 4.0 if full or fp32 or p.trains_fp32 else formats.each(s.format)
    wide = 4.0 if fp32 else 2.0
    beside = 4.0 if fp32 or p.trains_fp32 else 2.0
    kept_wide = 4.0 if full or p.trains_fp32 else wide
    t = Tape(grad=True, wide=wide, weights=kept_wide, device=s.device)
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
    network, (text_weights, text_kept) = t.trained, _text_training(p, s)
    trained = network + text_weights
    states = OPTIMIZER[s.optimizer][0]
    coder = Tape(wide=beside, weights=beside)
    nets.encode(coder, coder.tensor(s.B, 3, h, w), p.channels)
    encoders = _encoder_bytes(p, s, beside)
    step = trained * 4.0 + (trained * 4.0 if s.optimizer == "adamw" and s.foreach else 0)
    encoding = 0 if s.cached else coder.peak
    backward, sampling = t.peak + text_kept + text_weights * 4.0, _sampling(p, s, h, w)
    hump = max(backward, step, encoding, sampling)
    phases = {
        backward: "the backward pass",
        step: "the optimizer steps",
        encoding: "the pictures are encoded",
        sampling: "a sample is made",
    }
    weights = t.params if full else t.params - network
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
        beyond = max(0, math.ceil(step + forward + encoding - hump))
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
