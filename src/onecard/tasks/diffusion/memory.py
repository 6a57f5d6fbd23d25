"""Memory of diffusion: pictures generated, or a LoRA trained. Pure arithmetic."""

import re
from collections.abc import Iterator
from pathlib import Path

from onecard.config import Config
from onecard.errors import NotFound, SettingsError
from onecard.hub import pipeline_facts
from onecard.memory import calibration, formats, terms
from onecard.memory.architectures import pipeline_folder, pipelines
from onecard.memory.devices import Device
from onecard.memory.estimators import diffusion
from onecard.memory.fallbacks import CHECKPOINTING, EIGHT_BIT, SAME, Change, FitRow, fit, halve
from onecard.memory.plan import Plan, Term
from onecard.tasks.diffusion import again_settings, training_facts
from onecard.tasks.diffusion.configs import (
    AgainConfig,
    CheckConfig,
    EvaluateConfig,
    GenerateConfig,
    PipelineConfig,
    PlanGenerateConfig,
    PlanTrainConfig,
    TrainConfig,
)

BAND = {"generate": 0.31, "train": 0.39}
"""Half-width of the band around a total: nine of ten published rows lie inside when their source is
left out of the fit (tests/bench/bench_sources.py); offloading is the widest."""
READING = Term("program", 800 << 20, "Python with torch and OpenCV, and four decoded pictures")
"""What reading pictures takes, on the computer: no model is loaded."""
REPO = re.compile(r"(hf:)?[\w.-]+/[\w.-]+")
"""Of the hub."""
LARGE, SMALL = "sdxl", "sd-1.5"
"""Models of `--model auto`."""
USUAL = ("sd-1.5", "sdxl", "sd3.5-medium", "z-image-turbo", "flux.1", "qwen-image")


def plan(config: Config, device: Device) -> Plan:
    """Raises NotFound for an unknown pipeline, SettingsError for no name."""
    if isinstance(config, CheckConfig):
        return Plan((READING,) if device.type == "cpu" else (), device)
    if isinstance(config, AgainConfig):
        if not config.picture:  # nothing is named yet; the command refuses it
            return Plan((READING,) if device.type == "cpu" else (), device)
        config = again_settings.read(config)[0]
    if isinstance(config, EvaluateConfig):
        if not config.run_id:
            return Plan((READING,) if device.type == "cpu" else (), device)
        config = training_facts.as_generation(config)
    config, _ = resolve_auto(config, device)
    assert isinstance(config, PipelineConfig)
    pipeline = find(config.model)
    height, width = config.height or config.imgsz, config.imgsz
    generates = isinstance(config, GenerateConfig)
    takes = formats.DIFFUSED if generates else formats.TRAINED
    format = formats.choose(config.quant, takes, pipeline.name)
    if device.type == "cpu" and format in ("fp16", "bf16"):
        format = "fp32"  # 16 bits are slower there, and diffusers has no kernels for some layers
    if isinstance(config, GenerateConfig):
        parts = diffusion.make(
            pipeline,
            diffusion.Making(
                _at_once(config, device),
                height,
                width,
                format,
                _texts(config, pipeline),
                fused=config.attn_implementation == "sdpa",
                offload=config.offload,
                slicing=config.vae_slicing,
                tiling=config.vae_tiling,
                tiny_decoder=config.tiny_vae,
                frames=config.num_frames,
            ),
        )
    else:
        assert isinstance(config, TrainConfig)
        if pipeline.frames > 1:
            raise SettingsError(
                f"a LoRA of {pipeline.name} cannot be planned",
                why="a step over films keeps what no formula here counts",
                fix="onecard plan diffusion plans its films; a LoRA of a picture's model: z-image",
            )
        parts = diffusion.train(
            pipeline,
            diffusion.Training(
                config.method,
                config.train_batch_size,
                height,
                width,
                config.rank,
                format,
                config.optim,
                config.gradient_checkpointing,
                config.cache_latents,
                samples=bool(config.validation_steps),
                tiling=config.vae_tiling,
                text_adapters=config.train_text_encoder,
            ),
            apart=device.type != "cpu",
        )
    parts = [*parts, *terms.cuda_context(device)]
    choices = {"model": pipeline.name, "size": f"{width or pipeline.wide or pipeline.size} px"}
    usual = BAND["generate" if isinstance(config, GenerateConfig) else "train"]
    band = calibration.band(device, "diffusion", usual)
    return Plan(tuple(parts), device, choices, (), band)


def resolve_auto(config: Config, device: Device, check_hub: bool = False) -> tuple[Config, str]:
    """(the config with a named model, why that one): the larger of two that fits."""
    if not isinstance(config, PipelineConfig) or config.model != "auto":
        return config, ""
    large = config.model_copy(update={"model": LARGE})
    quick = [row for row in switches(large) if row[0].get("offload") != "sequential"]
    if device.type != "cpu" and fit(large, device, plan, quick, closely=True).plan.fits:
        return large, f"it fits on {device.name}"
    why = "SDXL does not fit" if device.type != "cpu" else "a CPU takes minutes for SDXL's pictures"
    return config.model_copy(update={"model": SMALL}), why


def _at_once(config: GenerateConfig, device: Device) -> int:
    """Pictures of a batch."""
    usual = 1 if device.type == "cpu" else config.num_images
    return min(config.batch_size or usual, config.num_images)


def _texts(config: GenerateConfig, pipeline: diffusion.Pipeline) -> tuple[str, ...]:
    """One format for each text encoder. Raises SettingsError."""
    takes, flag = formats.LOADED, "--text_encoder_quant"
    quants = tuple(
        formats.choose(name, takes, f"a text encoder of {pipeline.name}", flag)
        for name in config.text_encoder_quant
    )
    if quants and len(quants) != len(pipeline.texts):
        names = ", ".join(text.name for text in pipeline.texts)
        raise SettingsError(
            f"text_encoder_quant names {len(quants)} formats, {pipeline.name} has "
            f"{len(pipeline.texts)} text encoders",
            why=f"they are: {names}",
            fix="--text_encoder_quant with one format for each of them",
        )
    return quants


def find(name: str) -> diffusion.Pipeline:
    """Raises NotFound, SettingsError for no name."""
    if not name.strip():
        raise SettingsError(
            "no model is named",
            why="a plan needs a model's counts",
            fix="onecard plan diffusion sdxl",
        )
    if pipeline_folder.is_named(name):
        return pipeline_folder.read(Path(name).expanduser())
    try:
        return diffusion.find(name)
    except NotFound:
        repo = name.removeprefix("hf:")
        if "://" in name:
            raise NotFound(
                f"{name} is an address",
                why="models are read from a folder, a file or the hub",
                fix="download it first, or give its name on the hub: owner/name",
            ) from None
        if not REPO.fullmatch(name) and ("/" in name or name.startswith((".", "~"))):
            return pipeline_folder.read(Path(name).expanduser())
        if not REPO.fullmatch(name) or pipelines.why_not(name):
            raise
    return pipeline_folder.read(pipeline_facts.configs(repo))


def switches(config: Config) -> Iterator[Change]:
    """Changes that a run takes by itself where it does not fit: they make the same pictures."""
    names = {"attn_implementation", "vae_slicing", "vae_tiling", "offload"}
    return (row for row in fallbacks(config) if row[0].keys() <= names)


def fallbacks(config: Config) -> Iterator[Change]:
    """Smallest loss first."""
    if isinstance(config, AgainConfig):
        return  # other settings would make another picture
    if isinstance(config, GenerateConfig):
        yield from _generation_fallbacks(config)
    elif isinstance(config, TrainConfig):
        if not config.gradient_checkpointing:
            yield {"gradient_checkpointing": True}, CHECKPOINTING
        if not config.cache_latents:
            cost = "the same mathematics, faster; no augmentation of the pictures"
            yield {"cache_latents": True}, cost
        if config.validation_steps and not config.vae_tiling:
            yield {"vae_tiling": True}, "seams may show between tiles of the sample grids"
        batch, parts = config.train_batch_size, config.gradient_accumulation_steps
        while batch > 1:
            batch, parts = batch // 2, parts * 2
            change = {"train_batch_size": batch, "gradient_accumulation_steps": parts}
            yield change, SAME
        if config.optim == "adamw":
            yield {"optim": "adamw-8bit"}, EIGHT_BIT
        if config.method == "lora" and config.quant not in ("nf4", "nf4-dq"):
            yield {"quant": "nf4"}, "a little quality; QLoRA as for language models"
    assert isinstance(config, PipelineConfig)
    side = config.imgsz or find(config.model).size
    yield from halve("imgsz", side, 256, "smaller pictures")


def _generation_fallbacks(config: GenerateConfig) -> Iterator[Change]:
    if config.attn_implementation == "eager":
        yield {"attn_implementation": "sdpa"}, "the same mathematics, faster"
    if not config.vae_slicing and config.num_images > 1:
        yield {"vae_slicing": True}, "the same pictures, hardly slower"
    if config.quant == "fp32":
        yield {"quant": "fp16"}, "no visible difference"
    if config.offload == "none":
        yield {"offload": "model"}, "the same pictures, some seconds slower each"
    if not config.vae_tiling:
        yield {"vae_tiling": True}, "seams may show between tiles"
    if config.quant not in ("nf4", "nf4-dq"):
        yield {"quant": "nf4"}, "small differences in detail"
    at_once = min(config.batch_size or config.num_images, config.num_images)
    yield from halve("batch_size", at_once, 1, "fewer pictures at once")
    if config.offload != "sequential":
        yield {"offload": "sequential"}, "the same pictures, many times slower"


def fit_rows() -> tuple[FitRow, ...]:
    """What `onecard fit` shows of diffusion."""
    generation = PlanGenerateConfig(offload="model", vae_slicing=True)
    training = PlanTrainConfig(optim="adamw-8bit")
    batches = (1, 2, 4, 8, 16)
    return (
        FitRow("diffusion", "pictures, parts offloaded", generation, USUAL, "num_images", batches),
        FitRow("diffusion-lora", "LoRA of a style", training, USUAL, "train_batch_size", batches),
    )


TRACER, TRACE_MODULE = "diffusion", "fake_tensor_diffusion"
"""memory/fake_tensor_diffusion.py's check for `onecard plan --trace`."""
