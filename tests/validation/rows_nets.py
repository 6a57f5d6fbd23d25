"""How a row of a detector, an image generator, a speech model or a vision-language model is
planned, with the defaults of the trainer or pipeline that it comes from."""

import re
from collections.abc import Callable

from validation.rows import Cannot, Row, format_of

from onecard.memory import calibration
from onecard.memory.estimators import diffusion, speech, training, vision, vlm
from onecard.memory.plan import Term
from onecard.units import MIB

SEGMENTS = 1.1
"""Reserved by torch for what a network of convolutions allocates.

A guess: blocks of a few sizes are used again and again.
"""


def _sum(parts: list[Term]) -> int:
    return sum(part.bytes for part in parts)


def _size(row: Row) -> tuple[int, int]:
    """(width, height) in px; a single number is a square, two are the longest sides that an image
    is scaled to, padded to 32."""
    sides = [int(n) for n in re.findall(r"\d+", row["image_size"])]
    if not sides:
        return 0, 0
    width, height = sides[0], sides[1] if len(sides) > 1 else sides[0]
    return -(-width // 32) * 32, -(-height // 32) * 32


def detect(row: Row) -> int:
    """YOLO trainers work in 16 bits with averaged weights unless a row says fp32; mmdetection's
    work in fp32."""
    width, height = _size(row)
    said, source = row.said, row["source"].lower()
    recipe_defaults = "mmyolo" in source or "mmyolo" in row["gpu"].lower()
    net = vision.find(re.sub(r"\s*(-FPN|caffe|pytorch|-P5)\b", "", row["model"]))
    amp = (
        "amp" in said and "absent" not in said
        if ("amp" in said or "fp32" in said)
        else net.match != "iou"
    )
    s = vision.Recipe(
        B=_images(row),
        height=height or 640,
        width=width or 640,
        amp=amp,
        optimizer=_optimizer(row, "sgd-momentum"),
        ema=net.ema,
        buckets="gpus" in said,
        multi_scale=recipe_defaults,
    )
    total = _sum(vision.step(net, s))
    return (
        round(total * SEGMENTS)
        if row["kind"] == "reserved"
        else total + (calibration.CUDA_CONTEXT_BYTES if row["kind"] == "nvidia-smi" else 0)
    )


def _images(row: Row) -> int:
    """Of a batch; a data set may have fewer than were asked for."""
    found = re.search(r"only (\d+) images", f"{row.said};{row['source'].lower()}")
    return int(found[1]) if found else row.number("batch", 16)


def _optimizer(row: Row, usual: str) -> str:
    name = row["optimizer"].lower()
    return (
        "adamw-8bit"
        if "8-bit" in name or "8bit" in name
        else "adafactor"
        if "adafactor" in name
        else "adamw"
        if "adam" in name
        else "sgd-momentum"
        if "sgd" in name
        else usual
    )


def make(row: Row) -> int:
    """A pipeline's pictures; what a row lists as switched on counts, and fused attention only where
    it is named or nothing else is said of an old pipeline."""
    pipeline = diffusion.find(row["model"])
    width, height = _size(row)
    said, asked = row["other_config"].lower(), row["weights_format"]
    form = format_of(re.split(r"[,;(]", asked)[0]) if asked else "fp16"
    texts: tuple[str, ...] = ()
    flags = re.search(r"te ([01](?:/[01])+)", asked.lower())
    if flags:
        texts = tuple(form if flag == "1" else "fp16" for flag in flags[1].split("/"))
    elif "transformer+t5" in said:
        texts = tuple(form if text.name.startswith("T5") else "bf16" for text in pipeline.texts)
    elif form not in ("fp16", "bf16", "fp32", "f16") and "text" not in said:
        texts = (form,) * len(pipeline.texts)
    if texts and len(texts) != len(pipeline.texts):
        raise Cannot(
            f"{row['model']} has {len(pipeline.texts)} text encoders, the row tells of {len(texts)}"
        )
    s = diffusion.Making(
        B=row.number("batch", 1),
        height=height,
        width=width,
        format=form,
        texts=texts,
        fused=not (
            (
                row["attention"]
                and "sdpa" not in said
                and "compile" not in said
                and "offload" not in said
            )
            or "eager" in said
        ),
        offload="sequential" if "sequential" in said else "model" if "offload" in said else "none",
        slicing="vae slicing" in said,
        tiling="vae tiling" in said,
        tiny_decoder="taesd" in said,
    )
    return _sum(diffusion.make(pipeline, s)) + (
        calibration.CUDA_CONTEXT_BYTES if row["kind"] == "nvidia-smi" else 0
    )


def tune_picture(row: Row) -> int:
    """Training scripts' figures are the driver's: blocks of encoding and training lie side by side,
    and the context."""
    pipeline = diffusion.find(row["model"].removesuffix(" LoRA"))
    width, height = _size(row)
    full = "full" in row["targets"].lower() or "full" in row.said
    asked = row["weights_format"]
    s = diffusion.Training(
        "full" if full else "lora",
        row.number("batch", 1),
        height,
        width,
        row.number("lora_rank", 16),
        format_of(asked) if asked else "fp16",
        _optimizer(row, "adamw"),
        checkpointing=row["grad_ckpt"].lower() != "false",
        cached="cached" in row.said,
    )
    allocated = row["kind"] == "allocated"
    return _sum(diffusion.train(pipeline, s, apart=not allocated)) + (
        0 if allocated or row["kind"] == "reserved" else calibration.CUDA_CONTEXT_BYTES
    )


def transcribe(row: Row) -> int:
    _, model = speech.find(row["model"])
    said = f"{row.said};{row['source'].lower()};{row['model'].lower()}"
    form = row["weights_format"].lower() or "fp16"
    if form not in speech.WEIGHT:
        raise Cannot(f"the format '{row['weights_format']}' is not known")
    engine = (
        "ctranslate2"
        if (
            "faster-whisper" in said
            and not re.search(r"implementation=|openai/whisper|;transformers", said)
        )
        or "ctranslate2" in said
        else "transformers"
    )
    beam = re.search(r"beam\D{0,6}(\d+)", said)
    batch = re.search(r"batch\D{0,8}(\d+)", said)
    device = "cpu" if "cpu" in row["gpu"].lower() else "cuda"
    n = row.number("batch") or (int(batch[1]) if batch else 1)
    beam_size = int(beam[1]) if beam else 5
    terms = speech.transcribe(model, form, n, beam_size, engine, device)  # type: ignore[arg-type]
    context = calibration.CUDA_CONTEXT_BYTES
    return _sum(terms) + (context if row["kind"] != "allocated" and device == "cuda" else 0)


def tune_speech(row: Row) -> int:
    _, model = speech.find(row["model"])
    full = "full" in row["targets"].lower() or not row["lora_rank"]
    s = speech.Training(
        "full" if full else "lora",
        row.number("batch", 8),
        row.number("seq_or_ctx", speech.TOKENS),
        row.number("lora_rank", 32),
        checkpointing=row["grad_ckpt"].lower() == "true",
        optimizer=_optimizer(row, "adamw"),
    )
    return _sum(speech.train(model, s)) + (
        calibration.CUDA_CONTEXT_BYTES if row["kind"] == "nvidia-smi" else 0
    )


def look(row: Row) -> int:
    _, model = vlm.find(row["model"])
    width, height = _size(row)
    form = format_of(row["weights_format"] or "bf16")
    text = "text" in row["seq_or_ctx"].lower() or re.search(r"\d+ in", row["seq_or_ctx"].lower())
    tokens = row.number("seq_or_ctx", vlm.TALK_TOKENS)
    parts = vlm.talk(
        model,
        vlm.Look(
            form,
            row.number("batch", 1),
            width,
            height,
            tokens,
            all_logits=model.old_code,
            fused="eager" not in row["attention"].lower(),
            image=not text,
        ),
    )
    return _sum(parts) + (calibration.CUDA_CONTEXT_BYTES if row["kind"] == "nvidia-smi" else 0)


def tune_vlm(row: Row) -> int:
    _, model = vlm.find(row["model"])
    width, height = _size(row)
    full = not row["lora_rank"]
    form = format_of(row["weights_format"] or "bf16")
    method = "full" if full else "qlora" if form.startswith("nf4") else "lora"
    recipe = training.Recipe(
        method,  # type: ignore[arg-type]
        form,
        row.number("batch", 1),
        1,
        row.number("lora_rank", 16),
        optimizer=_optimizer(row, "adamw"),
        checkpointing=row["grad_ckpt"].lower() == "true",
        mixed=full,
        keeps_logits=False,
    )
    return _sum(
        vlm.tune(
            model,
            vlm.Training(
                recipe,
                row.number("seq_or_ctx", vlm.TALK_TOKENS),
                width,
                height,
                tower="full" if full else "frozen",
            ),
        )
    ) + (64 * MIB if row["kind"] != "allocated" else 0)


PLANNERS: dict[str, Callable[[Row], int]] = {
    "detect-train": detect,
    "diffusion-infer": make,
    "diffusion-lora": tune_picture,
    "whisper-infer": transcribe,
    "whisper-train": tune_speech,
    "whisper-lora": tune_speech,
    "vlm-infer": look,
    "vlm-train": tune_vlm,
    "vlm-lora": tune_vlm,
    "vlm-full": tune_vlm,
}
