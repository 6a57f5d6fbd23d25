"""A pipeline of diffusers, loaded with the memory switches of a plan, and pictures sampled from it.

Picture i has the seed `seed + i` and a random generator of its own, so that its noise does not
depend on how many are made with it.
"""

import inspect
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
import transformers
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting, DiffusionPipeline
from PIL import Image

from onecard.errors import DataError, SettingsError
from onecard.reporting import Reporter
from onecard.tasks.diffusion import memory_switches, pipeline_sources, prompts
from onecard.tasks.diffusion.memory_switches import Switch
from onecard.tasks.diffusion.pipeline_sources import Source

Mode = Literal["text", "image", "inpaint"]
FAMILIES = {
    "StableDiffusionPipeline": "sd",
    "StableDiffusionImg2ImgPipeline": "sd",
    "StableDiffusionInpaintPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusionXLImg2ImgPipeline": "sdxl",
    "StableDiffusionXLInpaintPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
    "Flux2Pipeline": "flux2",
    "Flux2KleinPipeline": "flux2",
    "ZImagePipeline": "z-image",
    "QwenImagePipeline": "qwen-image",
    "LatentConsistencyModelPipeline": "sd",
}
"""Class of a pipeline -> family; others are named after their class."""
FAST = {"turbo": 4, "lightning": 4, "schnell": 4, "hyper": 8, "lcm": 4, "klein": 4}
"""Words in the names of models that were distilled to a few steps without guidance."""
FAST_STEPS = {"z-image": 9}
"""Families that take more."""
DENOISERS = ("unet", "transformer")


@dataclass
class LoadedPipeline:
    pipe: Any
    family: str
    """sd, sdxl, sd3, flux, ..."""
    name: str
    """As the user named it."""
    folder: Path
    """Or the single file."""
    mode: Mode
    device: torch.device
    dtype: torch.dtype
    """That it computes in."""
    switches: tuple[Switch, ...]
    """Memory switches that are on."""
    has_safety_checker: bool = False
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds of all pictures so far: text, denoising, decoding; and of the loading."""

    @property
    def denoiser(self) -> Any:
        return next(net for name in DENOISERS if (net := getattr(self.pipe, name, None)))

    @property
    def side(self) -> int:
        """The usual side of a picture (px)."""
        size = getattr(self.denoiser.config, "sample_size", None)
        return int(size) * self.factor if isinstance(size, int) else 1024

    @property
    def factor(self) -> int:
        """Pixels of a latent's side."""
        return int(getattr(self.pipe, "vae_scale_factor", 8))

    @property
    def multiple(self) -> int:
        """A side of a picture is a multiple of it (px)."""
        return self.factor if hasattr(self.pipe, "unet") else 2 * self.factor


@dataclass(frozen=True)
class Picture:
    image: Image.Image
    seed: int
    batch: tuple[int, ...]
    """Seeds of the pictures that were made at once with it."""
    flagged: bool = False
    """Blackened by the model's safety checker."""


def load(
    name: str,
    *,
    quant: str = "fp16",
    mode: Mode = "text",
    offload: str = "none",
    vae_slicing: bool = False,
    vae_tiling: bool = False,
    tiny_vae: bool = False,
    text_encoder_quant: Sequence[str] = (),
    safety_checker: bool = True,
    attn_implementation: str = "sdpa",
    download: bool = True,
    reporter: Reporter | None = None,
) -> LoadedPipeline:
    """Raises SettingsError, NotFound, DataError, and MissingExtra for a quantization whose library
    is missing."""
    reporter = reporter or Reporter()
    silence()
    start = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted = memory_switches.formats_of(quant, text_encoder_quant, device, reporter)
    source = pipeline_sources.resolve(
        name, download=download, half=wanted.dtype != torch.float32, reporter=reporter
    )
    pipe = _open(source, wanted, safety_checker)
    family = FAMILIES.get(type(pipe).__name__, type(pipe).__name__.removesuffix("Pipeline"))
    pipe = _in_mode(pipe, mode, name)
    pipe.set_progress_bar_config(disable=True)
    loaded = LoadedPipeline(
        pipe,
        family,
        name,
        source.path,
        mode,
        device,
        wanted.dtype,
        (),
        has_safety_checker=getattr(pipe, "safety_checker", None) is not None,
    )
    _require_pictures(loaded)
    options = memory_switches.Options(
        offload, vae_slicing, vae_tiling, tiny_vae, attn_implementation
    )
    loaded.switches = memory_switches.take(pipe, family, wanted, options, device, reporter)
    loaded.timings["loading"] = time.monotonic() - start
    return loaded


def silence() -> None:
    """diffusers' and transformers' bars and notes: what a user should know is told by us."""
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # of a second LoRA on a network, and of diffusers' own use of torch.jit
    warnings.filterwarnings("ignore", module="peft")
    warnings.filterwarnings("ignore", category=FutureWarning)
    # of a picture without numbers, which is refused
    warnings.filterwarnings("ignore", "invalid value encountered in cast", RuntimeWarning)


def _open(source: Source, wanted: memory_switches.Formats, safety_checker: bool) -> Any:
    options: dict[str, Any] = {"dtype": wanted.dtype}
    if source.path.is_file():
        return _open_single(source.path, options)
    index = pipeline_sources.read_index(source.path)
    if quantization := memory_switches.quantization(wanted, index):
        options["quantization_config"] = quantization
    if not safety_checker and "safety_checker" in index:
        options |= {"safety_checker": None, "requires_safety_checker": False}
    kind: Any = DiffusionPipeline
    try:
        return kind.from_pretrained(
            source.path,
            use_safetensors=True,
            variant=source.variant,
            local_files_only=True,
            **options,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as fault:
        raise _unopened(source.path, fault) from fault
    except Exception as fault:
        # safetensors' and tokenizers' own classes name no file
        if type(fault).__name__ in ("OutOfMemoryError", "MemoryError"):
            raise
        raise _unopened(source.path, fault) from fault


def _unopened(path: Path, fault: Exception) -> DataError:
    lines = str(fault).strip().splitlines() or [type(fault).__name__]
    return DataError(
        f"{path} cannot be opened as a pipeline",
        why=lines[0][:200],
        fix="copy or download it again; a newer diffusers where its class is new",
    )


def _open_single(path: Path, options: Mapping[str, Any]) -> Any:
    """A file of all weights. Its classes are guessed from its keys; configs and vocabulary are
    those of the base on the hub."""
    try:
        return DiffusionPipeline.from_single_file(str(path), **options)
    except Exception as fault:
        lines = str(fault).strip().splitlines() or [type(fault).__name__]
        raise DataError(
            f"{path} cannot be opened",
            why="a single file holds neither configs nor vocabulary, and those of its base are "
            f"not on this machine: {lines[0][:150]}",
            fix="go online once, or save it as a folder with diffusers' save_pretrained",
        ) from fault


def _in_mode(pipe: Any, mode: Mode, name: str) -> Any:
    if mode == "text":
        return pipe
    auto = AutoPipelineForImage2Image if mode == "image" else AutoPipelineForInpainting
    try:
        return auto.from_pipe(pipe)
    except ValueError:
        flag = "--init_image" if mode == "image" else "--mask_image"
        raise SettingsError(
            f"{name} cannot start from a picture",
            why=f"diffusers has no such pipeline for {type(pipe).__name__}",
            fix=f"leave out {flag}, or --model sd-1.5, sdxl, sd3.5-medium or flux.1",
        ) from None


def _require_pictures(loaded: LoadedPipeline) -> None:
    """Raises SettingsError for a pipeline of films, and for an inpainting model without a mask."""
    call = inspect.signature(loaded.pipe.__call__).parameters
    if "prompt" not in call or "num_frames" in call or not hasattr(loaded.pipe, "vae"):
        raise SettingsError(
            f"{loaded.name} makes no pictures from text",
            why=f"it is a {type(loaded.pipe).__name__}",
            fix="--model sd-1.5, sdxl, sd3.5-medium, flux.1 or z-image-turbo",
        )
    unet = getattr(loaded.pipe, "unet", None)
    if unet is not None and unet.config.in_channels == 9 and loaded.mode != "inpaint":
        raise SettingsError(
            f"{loaded.name} only paints into pictures",
            why="its UNet has nine input channels: noise, a picture and a mask",
            fix="--init_image PICTURE --mask_image MASK, or another model",
        )


# Sampling


class Stopped(Exception):
    """The sampling was asked to stop; the pictures of this batch are lost."""


@dataclass(frozen=True)
class Sampling:
    """How pictures are made; zeros and -1 stand for the model's usual values."""

    negative_prompt: str = ""
    num_inference_steps: int = 0
    guidance_scale: float = -1.0
    width: int = 0
    height: int = 0
    init_image: Image.Image | None = None
    mask_image: Image.Image | None = None
    strength: float = 0.8


def usual(loaded: LoadedPipeline, sampling: Sampling) -> Sampling:
    """With every value in its place. Raises SettingsError for a side that does not fit."""
    call = inspect.signature(loaded.pipe.__call__).parameters
    words = set(re.split(r"[^a-z0-9]+", Path(loaded.name).name.lower()))
    fast = min((FAST[word] for word in words & FAST.keys()), default=0)
    steps, scale = sampling.num_inference_steps, sampling.guidance_scale
    if not steps and fast:
        steps = FAST_STEPS.get(loaded.family, fast)
    elif not steps:
        steps = int(call["num_inference_steps"].default)
    if scale < 0:
        default = call["guidance_scale"].default if "guidance_scale" in call else None
        scale = 0.0 if fast else float(default or 1.0)
    width = sampling.width or sampling.height or loaded.side
    height = sampling.height or width
    if sampling.init_image is not None and not (sampling.width or sampling.height):
        width, height = (
            max(side - side % loaded.multiple, loaded.multiple) for side in sampling.init_image.size
        )
    for name, side in (("imgsz", width), ("height", height)):
        if side % loaded.multiple:
            low = side - side % loaded.multiple
            raise SettingsError(
                f"a picture of {width} x {height} px cannot be made",
                why=f"{name} {side} is no multiple of {loaded.multiple}",
                fix=f"--{name} {low or loaded.multiple} or {low + loaded.multiple}",
            )
    return replace(
        sampling, num_inference_steps=steps, guidance_scale=scale, width=width, height=height
    )


def sample(
    loaded: LoadedPipeline,
    prompt: str | Sequence[str],
    *,
    n: int = 1,
    seed: int = 0,
    seeds: Sequence[int] = (),
    batch_size: int = 0,
    on_batch: Callable[[Sequence[Picture]], None] | None = None,
    stop: Callable[[], bool] | None = None,
    **options: Any,
) -> list[Image.Image]:
    """Pictures of one prompt, or of one prompt each. `seeds`: in place of seed, seed + 1 ...;
    `options`: of Sampling; `batch_size`: see `batches`. Raises SettingsError, Stopped."""
    count = n if isinstance(prompt, str) else len(prompt)
    texts = [prompt] * count if isinstance(prompt, str) else list(prompt)
    numbers = list(seeds) or [seed + i for i in range(count)]
    images = []
    for pictures in batches(
        loaded, texts, numbers, Sampling(**options), batch_size=batch_size, stop=stop
    ):
        if on_batch:
            on_batch(pictures)
        images += [picture.image for picture in pictures]
    return images


def batches(
    loaded: LoadedPipeline,
    texts: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    batch_size: int = 0,
    on_step: Callable[[int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Iterator[list[Picture]]:
    """Pictures, batch by batch.

    `batch_size` 0: one on a CPU, where more at once is hardly faster and rounds otherwise; all on a
    GPU. `on_step` is called with the pictures at work after each step of the sampler.
    Raises SettingsError, Stopped when `stop` says so.
    """
    sampling = usual(loaded, sampling)
    size = batch_size or (1 if loaded.device.type == "cpu" else len(texts))
    guided = sampling.guidance_scale > 1
    embeds: dict[str, prompts.Embeddings] = {}
    if loaded.family in prompts.CHUNKED_FAMILIES:
        start = time.monotonic()
        for text in dict.fromkeys(texts):
            embeds[text] = prompts.embed(
                loaded.pipe, loaded.family, text, sampling.negative_prompt, guided
            )
        _add(loaded, "text", time.monotonic() - start)
    for rows in _grouped(texts, embeds, size):
        these = [texts[i] for i in rows]
        yield _batch(loaded, these, [seeds[i] for i in rows], sampling, embeds, on_step, stop)


def _grouped(
    texts: Sequence[str], embeds: Mapping[str, prompts.Embeddings], size: int
) -> Iterator[list[int]]:
    """Numbers of the pictures of each batch: at most `size`, their prompts of equal length."""
    rows: list[int] = []
    for i, text in enumerate(texts):
        other = rows and embeds and embeds[text].n_chunks != embeds[texts[rows[0]]].n_chunks
        if rows and (len(rows) == size or other):
            yield rows
            rows = []
        rows.append(i)
    if rows:
        yield rows


def _add(loaded: LoadedPipeline, phase: str, seconds: float) -> None:
    loaded.timings[phase] = loaded.timings.get(phase, 0.0) + seconds


@torch.no_grad()
def _batch(
    loaded: LoadedPipeline,
    texts: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling,
    embeds: Mapping[str, prompts.Embeddings],
    on_step: Callable[[int], None] | None,
    stop: Callable[[], bool] | None,
) -> list[Picture]:
    marks = [time.monotonic()]
    latents: list[torch.Tensor] = []

    def after_step(pipe: Any, step: int, when: Any, values: dict[str, Any]) -> dict[str, Any]:
        marks.append(time.monotonic())
        if stop and stop():
            raise Stopped
        if on_step:
            on_step(len(texts))
        latents[:] = [values["latents"]] if "latents" in values else []
        return values

    arguments = _arguments(loaded, texts, sampling, embeds)
    # on the CPU, so that a seed gives the same noise on every device
    arguments["generator"] = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    known = inspect.signature(loaded.pipe.__call__).parameters
    if "callback_on_step_end" in known:
        arguments["callback_on_step_end"] = after_step
    try:
        answer = loaded.pipe(**{name: value for name, value in arguments.items() if name in known})
    except (ValueError, TypeError) as fault:
        raise SettingsError(
            f"{loaded.name} refuses these settings",
            why=(str(fault).strip() or "?").splitlines()[0][:300],
            fix="leave out the settings that it names; plain text to a picture needs none",
        ) from fault
    end = time.monotonic()
    _add(loaded, "denoising", marks[-1] - marks[0])
    _add(loaded, "decoding", end - marks[-1])
    if not all(bool(each.isfinite().all()) for each in latents):  # it would be a black picture
        raise DataError(
            f"{loaded.name} gives no numbers for this picture",
            why="its latents are NaN or infinite after the last step of the sampler",
            fix="--quant bf16 or fp32, a smaller weight of the LoRAs, or another sampler; where "
            "nothing helps the model's file is damaged",
        )
    flags = getattr(answer, "nsfw_content_detected", None) or [False] * len(seeds)
    return [
        Picture(image, seed, tuple(seeds), bool(flag))
        for image, seed, flag in zip(answer.images, seeds, flags, strict=True)
    ]


def _arguments(
    loaded: LoadedPipeline,
    texts: Sequence[str],
    sampling: Sampling,
    embeds: Mapping[str, prompts.Embeddings],
) -> dict[str, Any]:
    n = len(texts)
    arguments: dict[str, Any] = {
        "num_inference_steps": sampling.num_inference_steps,
        "guidance_scale": sampling.guidance_scale,
        "width": sampling.width,
        "height": sampling.height,
    }
    if embeds:
        values = [embeds[text].values for text in texts]
        arguments |= {name: torch.cat([row[name] for row in values]) for name in values[0]}
    else:
        arguments["prompt"] = list(texts)
        if sampling.negative_prompt:
            arguments["negative_prompt"] = [sampling.negative_prompt] * n
    if sampling.init_image is not None:
        size = (sampling.width, sampling.height)
        picture = sampling.init_image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        arguments |= {"image": [picture] * n, "strength": sampling.strength}
        if sampling.mask_image is not None:
            mask = sampling.mask_image.convert("L").resize(size, Image.Resampling.NEAREST)
            arguments["mask_image"] = [mask] * n
    return arguments


@torch.no_grad()
def first_latents(loaded: LoadedPipeline, prompt: str, seed: int = 0) -> torch.Tensor:
    """Latents of a small picture after one step of the sampler, on fixed noise, in fp32."""
    side = 8 * loaded.factor
    grey = Image.new("RGB", (side, side), (128, 128, 128))
    picture = None if loaded.mode == "text" else grey
    mask = Image.new("L", grey.size, 255) if loaded.mode == "inpaint" else None
    sampling = Sampling("", 1, 1.0, side, side, picture, mask, 1.0)
    embeds = {}
    if loaded.family in prompts.CHUNKED_FAMILIES:
        embeds = {prompt: prompts.embed(loaded.pipe, loaded.family, prompt, "", guided=False)}
    arguments = _arguments(loaded, [prompt], sampling, embeds)
    known = inspect.signature(loaded.pipe.__call__).parameters
    answer = loaded.pipe(
        **{name: value for name, value in arguments.items() if name in known},
        generator=[torch.Generator("cpu").manual_seed(seed)],
        output_type="latent",
    )
    latents: torch.Tensor = answer.images
    return latents.float().cpu()
