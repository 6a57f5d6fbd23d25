"""onecard diffusion generate: pictures from a prompt, from another picture, or inside a mask. Each
is a PNG that says how it was made."""

import hashlib
import importlib.metadata
import json
import logging
import re
import secrets
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from onecard import fsio
from onecard.config import public_values
from onecard.datasets.images import decode
from onecard.errors import DataError, SettingsError
from onecard.reporting import Reporter, Result
from onecard.runs.record import Run, fingerprint
from onecard.tasks.diffusion import (
    captions,
    lora_use,
    pipeline,
    places,
    png_metadata,
    prompts,
    samplers,
)
from onecard.tasks.diffusion.configs import GenerateConfig
from onecard.tasks.diffusion.lora_files import LoraFile
from onecard.tasks.diffusion.pipeline import LoadedPipeline, Picture, Sampling, Stopped
from onecard.training import output_dir
from onecard.training.interrupt import graceful_interrupt
from onecard.units import duration

PACKAGES = ("onecard", "diffusers", "transformers", "peft", "torch")
SLUG_CHARS = 40
SAMPLED_BLOCKS, BLOCK = 64, 1 << 16
WHOLE_BYTES = 1 << 30
"""A model up to this size is fingerprinted by all its bytes."""
MASK_RATIO = 0.02
"""A mask may differ from its picture by so much in its ratio of width to height."""


@dataclass(frozen=True)
class Work:
    """A model that is ready, and what it is asked for."""

    config: GenerateConfig
    loaded: LoadedPipeline
    sampling: Sampling
    loras: tuple[LoraFile, ...]
    weights: tuple[float, ...]
    model_fingerprint: str
    pictures: dict[str, str]
    """sha256 of init_image and mask_image."""


def generate(config: GenerateConfig, run: Run) -> Result:
    """Raises OneCardErrors, and KeyboardInterrupt after what was finished is told."""
    start = time.monotonic()
    places.require_writable(config.output_dir)
    config = _seeded(config, run.reporter)
    out = output_dir.resolve(config.output_dir, run)
    work = prepare(config, run.reporter)
    run.data("model", rows=1, sha256=work.model_fingerprint)
    if config.compile:
        run.reporter.line("compiling the denoiser: the first picture is slow")
        # without a C++ compiler the denoiser runs as it is
        torch._dynamo.config.suppress_errors = True
        for name in ("torch._dynamo", "torch._inductor"):
            logging.getLogger(name).setLevel(logging.ERROR)
        work.loaded.denoiser.compile()
    made_in = time.monotonic()
    rows, stopped = _make(work, out, run)
    seconds = time.monotonic() - made_in
    lines = _lines(work, rows, seconds, made_in - start)
    if stopped:
        for line in lines:
            run.reporter.line(line)
        raise KeyboardInterrupt
    flagged = sum(row["flagged"] for row in rows)
    if flagged:
        run.reporter.warn(
            f"the safety checker blackened {flagged} of {len(rows)} pictures; another seed or "
            "prompt, or --no_safety_checker"
        )
    data = {"pictures": rows, "seconds": round(seconds, 3), **_seconds(work)}
    run.artifact("result.json", json.dumps({"pictures": [row["path"] for row in rows]}))
    return Result(data, "\n".join(lines))


def _seeded(config: GenerateConfig, reporter: Reporter) -> GenerateConfig:
    if config.seed >= 0:
        return config
    seed = secrets.randbelow(1 << 32)
    reporter.line(f"seed {seed}")
    return config.model_copy(update={"seed": seed})


def prepare(config: GenerateConfig, reporter: Reporter, *, download: bool = True) -> Work:
    """Everything up to the first picture: inputs are looked at before the model is loaded. Raises
    OneCardErrors."""
    if not config.prompt.strip():
        raise SettingsError(
            "there is no prompt",
            why="pictures are made of what it says",
            fix='onecard diffusion generate "a red apple" --model sd-1.5',
        )
    for name in ("prompt", "negative_prompt"):
        captions.require_text(name, getattr(config, name))
    if config.num_frames:
        raise SettingsError(
            "films are only planned",
            why=f"num_frames is {config.num_frames}; what is made here is single pictures",
            fix="leave out --num_frames",
        )
    choices = lora_use.parse(config.lora)
    image, mask, pictures = _inputs(config, reporter)
    mode: pipeline.Mode = "text"
    if image is not None:
        mode = "inpaint" if mask is not None else "image"
    loaded = pipeline.load(
        config.model,
        quant=config.quant,
        mode=mode,
        offload=config.offload,
        vae_slicing=config.vae_slicing,
        vae_tiling=config.vae_tiling,
        tiny_vae=config.tiny_vae,
        text_encoder_quant=config.text_encoder_quant,
        safety_checker=config.safety_checker,
        attn_implementation=config.attn_implementation,
        download=download,
        reporter=reporter,
    )
    samplers.choose(loaded.pipe, config.scheduler)
    sampling = pipeline.usual(loaded, _sampling(config, image, mask))
    _require_steps(sampling)
    loras = lora_use.put_on(loaded, choices, config.prompt, reporter)
    _tell_prompts(config, loaded, sampling, reporter)
    return Work(
        config,
        loaded,
        sampling,
        tuple(loras),
        tuple(choice.weight for choice in choices),
        model_fingerprint(loaded.folder),
        pictures,
    )


def _sampling(
    config: GenerateConfig, image: Image.Image | None, mask: Image.Image | None
) -> Sampling:
    width, height = config.imgsz, config.height
    if image is not None and width and not height:
        height = round(width * image.height / image.width / 8) * 8
    return Sampling(
        config.negative_prompt,
        config.num_inference_steps,
        config.guidance_scale,
        width,
        height,
        image,
        mask,
        config.strength,
    )


def _require_steps(sampling: Sampling) -> None:
    steps = sampling.num_inference_steps
    if sampling.init_image is not None and int(steps * sampling.strength) < 1:
        raise SettingsError(
            "no step of the sampler is left",
            why=f"strength {sampling.strength:g} of {steps} steps is less than one",
            fix=f"--strength {min(1.0, 1.5 / steps):.2g}, or more --num_inference_steps",
        )


def _tell_prompts(
    config: GenerateConfig, loaded: LoadedPipeline, sampling: Sampling, reporter: Reporter
) -> None:
    texts = {"the prompt": config.prompt, "the negative prompt": config.negative_prompt}
    for name, text in texts.items():
        if note := prompts.describe(loaded.pipe, loaded.family, text, name):
            reporter.line(note)
    if not config.negative_prompt:
        return
    if loaded.family == "flux" or sampling.guidance_scale <= 1:
        why = f"guidance_scale is {sampling.guidance_scale:g}"
        if loaded.family == "flux":
            why = "FLUX.1 was distilled to do without guidance"
        reporter.warn(f"the negative prompt has no effect: {why}")


# Pictures to start from


def _inputs(
    config: GenerateConfig, reporter: Reporter
) -> tuple[Image.Image | None, Image.Image | None, dict[str, str]]:
    if not config.init_image:
        if config.mask_image:
            raise SettingsError(
                "a mask without a picture",
                why="mask_image says where init_image is painted anew",
                fix="--init_image PICTURE",
            )
        return None, None, {}
    path = Path(config.init_image).expanduser()
    image = Image.fromarray(decode.read_rgb(path))
    pictures = {"init_image": fingerprint(path)}
    if not config.mask_image:
        return image, None, pictures
    path = Path(config.mask_image).expanduser()
    mask = _mask(path, image, reporter)
    return image, mask, {**pictures, "mask_image": fingerprint(path)}


def _mask(path: Path, image: Image.Image, reporter: Reporter) -> Image.Image:
    """Black and white, of the picture's size. Raises DataError for another shape, or all black."""
    raw = decode.read_mask_image(path)
    if raw.mode.startswith("I"):
        values = np.asarray(raw)
        raw = Image.fromarray((values / max(int(values.max()), 1) * 255).astype(np.uint8))
    mask = raw.convert("L").point(lambda value: 255 if value >= 128 else 0)
    ratio = (mask.width / mask.height) / (image.width / image.height)
    if abs(ratio - 1) > MASK_RATIO:
        raise DataError(
            f"the mask {path.name} does not lie on the picture",
            why=f"it is {mask.width} x {mask.height} px, the picture {image.width} x "
            f"{image.height}: their shapes differ",
            fix="a mask of the picture's own size: white where it is painted anew",
        )
    if mask.size != image.size:
        reporter.line(f"the mask is scaled from {mask.width} x {mask.height} px to the picture's")
        mask = mask.resize(image.size, Image.Resampling.NEAREST)
    if mask.getbbox() is None:
        raise DataError(
            f"the mask {path.name} is black everywhere",
            why="only what is white is painted anew",
            fix="white where the picture is to change; invert it where it is the other way round",
        )
    return mask


# Making and keeping


def _make(work: Work, out: Path, run: Run) -> tuple[list[dict[str, Any]], bool]:
    """Rows of the pictures that were written, and whether it was stopped."""
    config = work.config
    n = config.num_images
    seeds = [(config.seed + i) % (1 << 63) for i in range(n)]
    steps = work.sampling.num_inference_steps
    if work.sampling.init_image is not None:
        steps = max(1, int(steps * work.sampling.strength))
    rows: list[dict[str, Any]] = []
    with run.reporter.progress("steps", n * steps) as bar, graceful_interrupt() as interrupt:
        pictures = pipeline.batches(
            work.loaded,
            [config.prompt] * n,
            seeds,
            work.sampling,
            batch_size=config.batch_size,
            on_step=lambda count: bar.step(count, note=f"{len(rows)} of {n} pictures"),
            stop=lambda: interrupt.requested,
        )
        try:
            for batch in pictures:
                rows += [_keep(work, picture, out, run) for picture in batch]
                run.log(len(rows), **_seconds(work))
        except Stopped:
            return rows, True
        return rows, interrupt.requested and len(rows) < n


def _seconds(work: Work) -> dict[str, float]:
    """Of each phase, of all pictures so far."""
    return {f"{phase}_s": round(value, 3) for phase, value in work.loaded.timings.items()}


def _keep(work: Work, picture: Picture, out: Path, run: Run) -> dict[str, Any]:
    own = bool(run.folder) and not work.config.output_dir
    path = free_name(out, slug(work.config.prompt), picture.seed, overwrite=own)
    write(path, picture.image, record_of(work, picture))
    return {"path": str(path), "seed": picture.seed, "flagged": picture.flagged}


def slug(text: str) -> str:
    """The start of a prompt as a file's name.

    >>> slug("A red apple, on a table!")
    'a-red-apple-on-a-table'
    """
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-_")[:SLUG_CHARS].strip("-") or "picture"


def free_name(out: Path, start: str, seed: int, *, overwrite: bool) -> Path:
    path = out / f"{start}-{seed}.png"
    number = 2
    while path.exists() and not overwrite:
        path = out / f"{start}-{seed}-{number}.png"
        number += 1
    return path


def write(path: Path, image: Image.Image, record: dict[str, Any]) -> None:
    """Whole or not at all. Raises DataError where it cannot be written."""
    with fsio.atomic_write(path) as draft:
        image.save(draft, format="PNG", pnginfo=png_metadata.build(record))


def record_of(work: Work, picture: Picture) -> dict[str, Any]:
    """All that makes the same picture again."""
    sampling = work.sampling
    settings = public_values(work.config) | {
        "seed": picture.seed,
        "num_images": 1,
        "imgsz": sampling.width,
        "height": sampling.height,
        "num_inference_steps": sampling.num_inference_steps,
        "guidance_scale": sampling.guidance_scale,
        "lora": [
            f"{_shown(file.path)}:{weight:g}"
            for file, weight in zip(work.loras, work.weights, strict=True)
        ],
        "model": _shown_name(work.config.model),
        "init_image": _shown_name(work.config.init_image),
        "mask_image": _shown_name(work.config.mask_image),
    }
    settings.pop("output_dir", None)
    return {
        "settings": settings,
        "model": {"name": _shown_name(work.config.model), "fingerprint": work.model_fingerprint},
        "loras": [
            {"file": file.path.name, "sha256": file.sha256, "weight": weight}
            for file, weight in zip(work.loras, work.weights, strict=True)
        ],
        "pictures": work.pictures,
        "batch": list(picture.batch),
        "size": list(picture.image.size),
        "sampler": type(work.loaded.pipe.scheduler).__name__.removesuffix("Scheduler"),
        "device": work.loaded.device.type,
        "threads": torch.get_num_threads(),
        "packages": versions(),
    }


def versions() -> dict[str, str]:
    out = {}
    for name in PACKAGES:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return out


def _shown_name(name: str) -> str:
    """A name of a model as it is; a path as `_shown`."""
    return _shown(Path(name)) if name and Path(name).expanduser().exists() else name


def _shown(path: Path) -> str:
    """An absolute path with ~ for the home: a picture that is passed on does not name its maker."""
    whole = path.expanduser().absolute()
    return (
        f"~/{whole.relative_to(Path.home())}" if whole.is_relative_to(Path.home()) else str(whole)
    )


def model_fingerprint(path: Path) -> str:
    """sha256 of a model's files with their names; of models beyond 1 GiB of 64 blocks of each file,
    which is told by the word `sampled`."""
    if path.is_file():
        files = [path]
    else:
        names = sorted(path.rglob("*"))
        files = [
            file
            for file in names
            if file.is_file() and file.suffix in (".safetensors", ".json", ".txt")
        ]
    total = sum(file.stat().st_size for file in files)
    if total <= WHOLE_BYTES:
        rows = [f"{file.relative_to(path.parent).name} {fingerprint(file)}" for file in files]
    else:
        rows = [f"{file.name} {_sampled(file)}" for file in files]
    digest = _sha256("\n".join(rows))
    return digest if total <= WHOLE_BYTES else f"sampled:{digest}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _sampled(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        for i in range(SAMPLED_BLOCKS):
            stream.seek(max(size - BLOCK, 0) * i // (SAMPLED_BLOCKS - 1))
            digest.update(stream.read(BLOCK))
    return digest.hexdigest()


def _lines(
    work: Work, rows: Sequence[dict[str, Any]], seconds: float, preparing: float
) -> list[str]:
    sampling, loaded = work.sampling, work.loaded
    n = max(len(rows), 1)
    timings = [
        f"{phase} {loaded.timings[phase] / n:.2f} s"
        for phase in ("denoising", "decoding")
        if phase in loaded.timings
    ]
    sampler = type(loaded.pipe.scheduler).__name__.removesuffix("Scheduler")
    lines = [
        f"{len(rows)} of {work.config.num_images} pictures of {sampling.width} x "
        f"{sampling.height} px in {duration(seconds)} (each: {', '.join(timings)}), ready in "
        f"{duration(preparing)}",
        f"{sampler}, {sampling.num_inference_steps} steps, guidance "
        f"{sampling.guidance_scale:g}, seeds from {work.config.seed}",
    ]
    lines += [switch.render(loaded.timings, len(rows)) for switch in loaded.switches]
    if loaded.has_safety_checker:
        lines.append("safety checker: on (--no_safety_checker turns it off)")
    lines += [f"wrote {row['path']}" for row in rows]
    if rows:
        lines.append(f"the same again: onecard diffusion again {shlex.quote(rows[0]['path'])}")
    return lines
