"""The workloads beside language models: detectors, classifiers, segmenters, image generators,
speech, vision-language and tiny language models.

Each is a Settings class, a plan, and the rungs that make it smaller, smallest loss first. Light: a
tape in plain Python runs the networks.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

from pydantic import Field

from onecard.config import Settings
from onecard.errors import SettingsError
from onecard.memory import calibration, formats
from onecard.memory.architectures import lm
from onecard.memory.devices import Device
from onecard.memory.estimators import diffusion, speech, training, vision, vlm
from onecard.memory.plan import Plan, Term

Change = tuple[dict[str, Any], str]
CNN_SEGMENTS = 0.05
"""Segments that torch holds and does not fill while convolutions train.

A guess, until the card is calibrated.
"""


class VisionSettings(Settings):
    model: str = ""
    """yolov8n, yolo11s, rtmdet-tiny, rt-detr-r50, faster-rcnn-r50, resnet50, vit-base,
    convnext-tiny, unet ..."""
    task: Literal["train", "infer"] = "train"
    """Whether it is trained or answers."""
    imgsz: int = Field(default=640, ge=32, le=8192)
    """Side of an image (px), or its longer side."""
    height: int = Field(default=0, ge=0, le=8192)
    """Its other side (px); 0 for a square."""
    batch: int = Field(default=16, ge=1, le=4096)
    """Images at once."""
    n_classes: int = Field(default=0, ge=0, le=100_000)
    """Classes to tell apart; 0 for the published weights' own (80, 1000, 21)."""
    amp: bool = True
    """16 bits under autocast instead of fp32."""
    optimizer: Literal["sgd-momentum", "adamw", "adamw-8bit", "sgd", "lion"] = "sgd-momentum"
    """What steps."""
    ema: bool = True
    """A moving average of the weights beside them, as YOLO trainers keep it."""
    boxes: int = Field(default=vision.BOXES, ge=1, le=5000)
    """Boxes of the fullest image of a batch, mosaics counted."""
    multi_scale: bool = False
    """Images of changing size, as YOLOX's and PP-YOLOE's recipes take them: the largest counts."""


class DiffusionSettings(Settings):
    model: str = ""
    """sd-1.5, sd-2.1, sdxl, sd3-medium, flux.1, pixart, qwen-image ..."""
    task: Literal["make", "lora", "full"] = "make"
    """Pictures are made, a LoRA or the whole network is trained."""
    batch: int = Field(default=1, ge=1, le=256)
    """Pictures at once."""
    imgsz: int = Field(default=0, ge=0, le=4096)
    """Side of a picture (px); 0 for the model's own."""
    height: int = Field(default=0, ge=0, le=4096)
    """Its other side (px); 0 for a square."""
    format: Literal["fp32", "fp16", "bf16", "fp8", "int8", "nf4", "nf4-dq"] = "fp16"
    """Weights of the network and the text encoders."""
    lora_r: int = Field(default=16, ge=1, le=1024)
    """LoRA's rank, on the attention's projections."""
    optimizer: Literal["adamw", "adamw-8bit", "adafactor", "lion"] = "adamw"
    """What steps."""
    checkpointing: bool = True
    """Keep each block's input only and compute the rest anew."""
    cached: bool = False
    """Latents and text embeddings are made before training: the encoders leave the card."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention kernel; eager keeps score matrices."""
    offload: Literal["none", "model", "sequential"] = "none"
    """What waits in the computer's memory: nothing, the parts not at work, all but one layer."""
    slicing: bool = False
    """The decoder takes one picture at a time."""
    tiling: bool = False
    """The decoder takes tiles of 512 px."""


class SpeechSettings(Settings):
    model: str = ""
    """tiny, base, small, medium, large-v3, large-v3-turbo, distil-large-v3."""
    task: Literal["transcribe", "lora", "full"] = "transcribe"
    """Speech is written down, a LoRA or the whole model is trained."""
    batch: int = Field(default=1, ge=1, le=256)
    """Windows of 30 s at once."""
    format: Literal["fp32", "fp16", "bf16", "int8"] = "fp16"
    """Weights while it transcribes."""
    beam: int = Field(default=5, ge=1, le=50)
    """Hypotheses that are followed."""
    engine: Literal["ctranslate2", "transformers"] = "ctranslate2"
    """What transcribes."""
    tokens: int = Field(default=speech.TOKENS, ge=1, le=448)
    """Tokens of the longest text of a batch in training."""
    lora_r: int = Field(default=32, ge=1, le=1024)
    """LoRA's rank."""
    targets: tuple[str, ...] = ("q", "v")
    """Layers with adapters: q, k, v, o."""
    optimizer: Literal["adamw", "adamw-8bit", "adafactor", "lion"] = "adamw"
    """What steps."""
    amp: bool = True
    """16 bits under autocast."""
    checkpointing: bool = False
    """Keep each layer's input only."""
    frozen_encoder: bool = False
    """Train the decoder only, on the encoder's output that was made before."""


class VlmSettings(Settings):
    model: str = ""
    """llava-1.5-7b, qwen2.5-vl-3b, smolvlm-2.2b, internvl2-2b, gemma-3-4b ..."""
    task: Literal["talk", "lora", "qlora", "full"] = "talk"
    """It answers about an image, or its language model and projector are trained."""
    batch: int = Field(default=1, ge=1, le=256)
    """Samples at once, each with one image."""
    imgsz: int = Field(default=0, ge=0, le=8192)
    """Longer side of an image (px); 0 for the largest that the model takes."""
    height: int = Field(default=0, ge=0, le=8192)
    """Its other side (px); 0 for a square."""
    format: str = ""
    """Weights of the language model; empty: bf16, or nf4-dq for qlora."""
    words: int = Field(default=vlm.TALK_TOKENS, ge=1, le=100_000)
    """Tokens of text beside the image."""
    tower: Literal["frozen", "lora", "full"] = "frozen"
    """What happens to the vision tower in training."""
    lora_r: int = Field(default=16, ge=1, le=1024)
    """LoRA's rank."""
    optimizer: Literal["adamw", "adamw-8bit", "paged-adamw-8bit", "lion"] = "adamw"
    """What steps."""
    checkpointing: bool = True
    """Keep each layer's input only."""
    loss: Literal["upcast", "chunked", "fused"] = "upcast"
    """How cross-entropy is made."""


class TinySettings(Settings):
    n_layer: int = Field(default=6, ge=1, le=200)
    """Layers."""
    n_head: int = Field(default=6, ge=1, le=256)
    """Attention heads."""
    n_kv_head: int = Field(default=0, ge=0, le=256)
    """Heads of keys and values; 0: one for each query head."""
    n_embd: int = Field(default=384, ge=1, le=16384)
    """Width."""
    d_ff: int = Field(default=0, ge=0, le=65536)
    """Width of the feed-forward; 0: 8/3 of n_embd in steps of 8, with two matrices 4 n_embd."""
    mlp: Literal["swiglu", "gelu"] = "swiglu"
    """Three matrices or two."""
    qk_norm: bool = True
    """Queries and keys are normed, as in Qwen3."""
    block_size: int = Field(default=256, ge=1, le=1_000_000)
    """Tokens of a sample."""
    batch: int = Field(default=64, ge=1, le=65536)
    """Samples of a step."""
    vocab_size: int = Field(default=65, ge=2, le=1_000_000)
    """Characters or tokens that it knows."""
    amp: bool = True
    """16 bits under autocast."""
    optimizer: Literal["adamw", "muon", "lion"] = "adamw"
    """What steps."""
    ema: bool = False
    """Keep averaged weights beside the trained ones."""
    accumulation: int = Field(default=1, ge=1, le=65536)
    """Micro-batches of a step."""
    checkpointing: bool = False
    """Keep each layer's input only."""


def _needs_name(name: str, example: str) -> None:
    if not name.strip():
        raise SettingsError("no model is named", why="a plan needs a model's counts", fix=example)


def context(device: Device) -> list[Term]:
    return (
        [] if device.type == "cpu" else [Term("CUDA context", *calibration.context_bytes(device))]
    )


def _segments(parts: list[Term], device: Device) -> list[Term]:
    return (
        []
        if device.type == "cpu"
        else [
            Term(
                "fragments",
                round(
                    calibration.segments(device, CNN_SEGMENTS)
                    * sum(part.bytes for part in parts if "activations" in part.name)
                ),
                "segments held and not full",
            )
        ]
    )


def plan_vision(task: str) -> Callable[[VisionSettings, Device], Plan]:
    def plan(s: VisionSettings, device: Device) -> Plan:
        _needs_name(
            s.model,
            f"onecard plan {task} "
            f"{'yolov8n' if task == 'detect' else 'resnet50' if task == 'classify' else 'yolov8n-seg'}",
        )
        net = vision.find(s.model, s.n_classes)
        if net.task != task and not (task == "detect" and net.task == "pose"):
            raise SettingsError(
                f"{s.model} does not {task}",
                why=f"its head is made to {net.task}",
                fix=f"onecard plan {net.task if net.task != 'pose' else 'detect'} {s.model}",
            )
        width, height = s.imgsz, s.height or s.imgsz
        if s.task == "infer":
            parts = vision.answer(
                net, s.batch, height, width, 2.0 if s.amp and device.type != "cpu" else 4.0
            )
        else:
            parts = vision.step(
                net,
                vision.Recipe(
                    s.batch,
                    height,
                    width,
                    s.amp,
                    s.optimizer,
                    s.ema,
                    boxes=s.boxes,
                    multi_scale=s.multi_scale,
                ),
            )
        return Plan(
            (*parts, *_segments(parts, device), *context(device)),
            device,
            {"model": net.name},
            (),
            calibration.band(device, task, BAND[task]),
        )

    return plan


def plan_diffusion(s: DiffusionSettings, device: Device) -> Plan:
    _needs_name(s.model, "onecard plan diffusion sdxl")
    pipeline = diffusion.find(s.model)
    height, width = s.height or s.imgsz, s.imgsz
    if s.task == "make":
        parts = diffusion.make(
            pipeline,
            diffusion.Making(
                s.batch,
                height,
                width,
                s.format,
                fused=s.attention == "sdpa",
                offload=s.offload,
                slicing=s.slicing,
                tiling=s.tiling,
            ),
        )
    else:
        parts = diffusion.train(
            pipeline,
            diffusion.Training(
                s.task,
                s.batch,
                height,
                width,
                s.lora_r,
                s.format,
                s.optimizer,
                s.checkpointing,
                s.cached,
            ),
        )
    return Plan(
        (*parts, *_segments(parts, device), *context(device)),
        device,
        {"model": pipeline.name, "size": f"{width or pipeline.size} px"},
        (),
        calibration.band(device, "diffusion", BAND["diffusion"]),
    )


def plan_speech(s: SpeechSettings, device: Device) -> Plan:
    _needs_name(s.model, "onecard plan asr large-v3-turbo")
    name, model = speech.find(s.model)
    if s.task == "transcribe":
        parts = speech.transcribe(model, s.format, s.batch, s.beam, s.engine, device.type)
    else:
        if wrong := [target for target in s.targets if target not in ("q", "k", "v", "o")]:
            raise SettingsError(
                f"'{wrong[0]}' is no layer to adapt",
                why="layers are: q, k, v, o",
                fix="--targets q --targets v",
            )
        parts = speech.train(
            model,
            speech.Training(
                s.task,
                s.batch,
                s.tokens,
                s.lora_r,
                tuple(s.targets),
                s.amp,
                "fp32",
                s.optimizer,
                s.checkpointing,
                s.frozen_encoder,
                foreach=device.type != "cpu",
            ),
            device.type != "cpu",
        )
        parts += _segments(parts, device)
    return Plan(
        (*parts, *context(device)),
        device,
        {"model": name},
        (),
        calibration.band(device, "asr", BAND["asr"]),
    )


def plan_vlm(s: VlmSettings, device: Device) -> Plan:
    _needs_name(s.model, "onecard plan vlm qwen2.5-vl-3b")
    name, model = vlm.find(s.model)
    form = s.format.lower() or ("nf4-dq" if s.task == "qlora" else "bf16")
    if form not in formats.PLAIN and form not in formats.LINEAR:
        raise SettingsError(
            f"the format '{s.format}' is not known here",
            why=f"known are: {', '.join([*formats.PLAIN, *formats.LINEAR])}",
            fix="--format with one of these",
        )
    width, height = s.imgsz, s.height or s.imgsz
    _, _, seen = vlm.tiles_of(model, width, height)
    if s.task == "talk":
        parts = vlm.talk(model, form, s.batch, width, height, s.words, model.old_code)
    else:
        recipe = training.Recipe(
            s.task,
            form,
            s.batch,
            1,
            s.lora_r,
            optimizer=s.optimizer,
            checkpointing=s.checkpointing,
            loss=s.loss,
            keeps_logits=False,
        )
        parts = vlm.tune(model, vlm.Training(recipe, s.words, width, height, s.tower))
    return Plan(
        (*parts, *context(device)),
        device,
        {"model": name, "tokens of an image": seen},
        (),
        calibration.band(device, "vlm", BAND["vlm"]),
    )


def plan_tiny(s: TinySettings, device: Device) -> Plan:
    groups, gated = s.n_kv_head or s.n_head, s.mlp == "swiglu"
    lm.share_heads(s.n_embd, s.n_head, groups)
    model = lm.LM(
        "tiny",
        s.vocab_size,
        s.n_embd,
        s.d_ff or lm.feed_width(s.n_embd, gated),
        s.n_layer,
        s.n_head,
        groups,
        s.n_embd // s.n_head,
        tied=True,
        gated=gated,
        qk_norm=s.qk_norm,
    )
    recipe = training.Recipe(
        "full",
        "bf16" if s.amp else "fp32",
        s.batch,
        s.block_size,
        optimizer=s.optimizer,
        checkpointing=s.checkpointing,
        mixed=s.amp,
        compute_fp32=not s.amp,
        keeps_logits=False,
        accumulation=s.accumulation,
    )
    parts = training.step(model, recipe)
    if s.ema:
        parts.append(
            Term("averaged weights", 4 * model.n_params, f"{model.n_params / 1e6:.2f}e6 x 4 B")
        )
    return Plan(
        (
            *parts,
            *([] if device.type == "cpu" else [training.fragments(model, recipe)]),
            *context(device),
        ),
        device,
        {"weights": f"{model.n_params / 1e6:.2f}e6"},
        (),
        calibration.band(device, "tinylm", BAND["tinylm"]),
    )


BAND = {
    "detect": 0.1,
    "classify": 0.1,
    "segment": 0.1,
    "diffusion": 0.3,
    "asr": 0.12,
    "vlm": 0.12,
    "tinylm": 0.12,
}
"""Half-width of the band around a total. Nine of ten published rows stay below its upper end where
there are some: detectors (plan-bench: 5 %) and pictures (30 %, offloading is the widest).
Four rows of vision-language models are too few; the others were measured on a CPU only (within 7
%), and a card's segments come on top."""


def _halves(name: str, value: int, least: int, cost: str) -> Iterator[Change]:
    while value // 2 >= least:
        value //= 2
        yield {name: value}, cost


def _eight_bit(optimizer: str) -> Iterator[Change]:
    if optimizer == "adamw":
        yield {"optimizer": "adamw-8bit"}, "equal within noise in published runs (Dettmers 2022)"


SAME = "more accumulation keeps the effective batch; batch norm sees fewer images"


def vision_rungs(s: VisionSettings) -> Iterator[Change]:
    if not s.amp:
        yield {"amp": True}, "equal within noise in published runs, faster"
    yield from _halves("batch", s.batch, 1, SAME if s.task == "train" else "slower")
    yield from _eight_bit(s.optimizer)
    if s.ema and s.task == "train":
        yield {"ema": False}, "without averaged weights: usually a few tenths of a point of mAP"
    yield from _halves("imgsz", s.imgsz, 160, "small things are lost")


def diffusion_rungs(s: DiffusionSettings) -> Iterator[Change]:
    if s.attention == "eager":
        yield {"attention": "sdpa"}, "the same mathematics, faster"
    if s.task == "make":
        if not s.slicing and s.batch > 1:
            yield {"slicing": True}, "the same pictures, hardly slower"
        if s.format == "fp32":
            yield {"format": "fp16"}, "no difference to be seen"
        if s.offload == "none":
            yield {"offload": "model"}, "the same pictures, some seconds slower each"
        if not s.tiling:
            yield {"tiling": True}, "seams may show between tiles"
        yield {"format": "nf4"}, "small differences in detail"
        yield from _halves("batch", s.batch, 1, "fewer pictures at once")
        if s.offload != "sequential":
            yield {"offload": "sequential"}, "the same pictures, many times slower"
    else:
        if not s.checkpointing:
            yield {"checkpointing": True}, "the same mathematics, about a third slower"
        if not s.cached:
            yield {"cached": True}, "the same mathematics, faster; no augmentation of the pictures"
        yield from _halves("batch", s.batch, 1, "more accumulation keeps the effective batch")
        yield from _eight_bit(s.optimizer)
        if s.task == "lora" and s.format not in ("nf4", "nf4-dq"):
            yield {"format": "nf4"}, "a little quality; QLoRA as for language models"
    side = s.imgsz or diffusion.find(s.model).size
    yield from _halves("imgsz", side, 256, "smaller pictures")


def speech_rungs(s: SpeechSettings) -> Iterator[Change]:
    if s.task == "transcribe":
        yield from _halves("batch", s.batch, 1, "slower, the same words")
        if s.format != "int8":
            yield (
                {"format": "int8"},
                "word errors rise by some tenths of a point at most in published runs",
            )
        yield from _halves("beam", s.beam, 1, "a few more errors")
        return
    if not s.amp:
        yield {"amp": True}, "equal within noise in published runs, faster"
    if not s.checkpointing:
        yield {"checkpointing": True}, "the same mathematics, about a third slower"
    yield from _halves("batch", s.batch, 1, "more accumulation keeps the effective batch")
    yield from _eight_bit(s.optimizer)
    if not s.frozen_encoder:
        yield {"frozen_encoder": True}, "only the words are learned, not the sounds: much faster"
    if s.task == "full":
        yield {"task": "lora"}, "a LoRA instead of all weights"


def vlm_rungs(s: VlmSettings) -> Iterator[Change]:
    if s.task == "talk":
        for form in ("int8", "nf4-dq"):
            if s.format not in (form, "nf4-dq"):
                yield {"format": form}, "a little quality"
    else:
        if s.loss != "fused":
            yield {"loss": "fused"}, "the same mathematics, no slower (Liger kernel)"
        if not s.checkpointing:
            yield {"checkpointing": True}, "the same mathematics, about a third slower"
        yield from _halves("batch", s.batch, 1, "more accumulation keeps the effective batch")
        yield from _eight_bit(s.optimizer)
        if s.tower == "full":
            yield {"tower": "lora"}, "the vision tower learns less"
        if s.tower != "frozen":
            yield {"tower": "frozen"}, "the vision tower does not learn"
        if s.task == "lora":
            yield (
                {"task": "qlora", "format": "nf4-dq"},
                "equal to 16 bits in published runs (Dettmers 2023)",
            )
    yield from _halves(
        "imgsz",
        s.imgsz or 1280,
        8 * vlm.TOWERS[vlm.find(s.model)[1].tower].patch,
        "small things in the image are lost",
    )


def tiny_rungs(s: TinySettings) -> Iterator[Change]:
    if not s.amp:
        yield {"amp": True}, "equal within noise, faster"
    if not s.checkpointing:
        yield {"checkpointing": True}, "the same mathematics, about a third slower"
    yield from _halves("batch", s.batch, 1, "more accumulation keeps the effective batch")
    yield from _halves("block_size", s.block_size, 16, "shorter memory")
