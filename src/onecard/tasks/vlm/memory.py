"""Memory of vlm: an answer about pictures, or a training step. Pure arithmetic."""

from collections.abc import Iterator
from typing import Any

from onecard.config import Config
from onecard.errors import SettingsError
from onecard.hub import network
from onecard.inference.config import AUTO
from onecard.memory import calibration, formats, terms
from onecard.memory.architectures.vlm import VLM, pictures
from onecard.memory.devices import Device
from onecard.memory.estimators import training, vlm, vlm_training
from onecard.memory.fallbacks import (
    CHECKPOINTING,
    EIGHT_BIT,
    Change,
    FitRow,
    halve,
    halve_batch,
)
from onecard.memory.plan import Plan, Term
from onecard.tasks.vlm import (
    planned_answers,
    planned_gguf,
    planned_models,
    planned_pictures,
    planned_training,
)
from onecard.tasks.vlm.configs import (
    AnswerModelConfig,
    PlanConfig,
    ProjectorConfig,
    TrainConfig,
    TrainPlanConfig,
    VisionTrainConfig,
    VlmConfig,
)
from onecard.tasks.vlm.engines import kind_of
from onecard.tasks.vlm.planned_answers import BAND
from onecard.tasks.vlm.planned_models import Known

USUAL = (
    "smolvlm2-256m",
    "smolvlm2-500m",
    "smolvlm2-2.2b",
    "qwen3-vl-4b",
    "qwen3-vl-8b",
    "gemma-3-12b",
)
BEST_FIRST = (
    "qwen3-vl-8b",
    "qwen3-vl-4b",
    "qwen3-vl-2b",
    "smolvlm2-2.2b",
    "smolvlm2-500m",
    "smolvlm2-256m",
)
"""Models of `--model auto`: by their published scores on MMMU, DocVQA and OCRBench."""


def plan(config: Config, device: Device) -> Plan:
    """Nothing for the commands that load no model, or whose model a server holds.

    Raises NotFound for an unknown model, SettingsError, DataError.
    """
    if isinstance(config, PlanConfig):
        if config.mmproj or config.engine == "llama.cpp":
            return planned_gguf.what_if(config, device, calibration.band(device, "vlm", BAND))
        return _what_if(config, device)
    if isinstance(config, TrainPlanConfig):
        return _what_if(config, device)
    if isinstance(config, AnswerModelConfig) and kind_of(config) == "server":
        note = "a server holds the model: its memory is not ours to plan"
        return Plan((), device, {"model": config.model, "served by": config.base_url}, (note,))
    if isinstance(config, AnswerModelConfig) and kind_of(config) == "llama.cpp":
        return planned_gguf.answering(config, device, calibration.band(device, "vlm", BAND))
    config, reason = resolve_auto(config, device)
    if isinstance(config, VisionTrainConfig):
        return planned_training.plan(config, reason, device)
    if isinstance(config, AnswerModelConfig):
        return planned_answers.plan(config, reason, device)
    return Plan((), device)


# What-if


def _what_if(config: PlanConfig | TrainPlanConfig, device: Device) -> Plan:
    known = find(config.model)
    m = known.model
    parts = _what_if_terms(m, config, device)
    sizes = planned_pictures.sizes_of(config)
    choices = {
        "model": known.name,
        "tokens of a picture": pictures(m, sizes, *planned_pictures.limits(config)).tokens,
    }
    rows = planned_pictures.rows(
        m, config, lambda sized: sum(term.bytes for term in _what_if_terms(m, sized, device))
    )
    band = calibration.band(device, "vlm", BAND)
    return Plan(tuple(parts), device, choices, rows, band)


def _what_if_terms(m: VLM, config: PlanConfig | TrainPlanConfig, device: Device) -> list[Term]:
    context = terms.cuda_context(device)
    if isinstance(config, PlanConfig):
        return [*vlm.talk(m, _what_if_look(m, config)), *context]
    step = _what_if_step(config)
    if config.loss != "onecard":
        return [*vlm.tune(m, step), *context]
    fragments = training.fragments(m.words, planned_training.with_tokens(m, step))
    kept = [fragments] if device.type == "cuda" else []
    return [*vlm_training.step(m, step), *kept, *context]


def _what_if_look(m: VLM, config: PlanConfig) -> vlm.Look:
    return vlm.Look(
        formats.choose(config.quant or "bf16", formats.LOADED, m.name),
        config.batch_size,
        config.imgsz,
        config.height or config.imgsz,
        config.text_tokens,
        config.max_new_tokens,
        config.logits_to_keep == 0 or m.old_code,
        config.attn_implementation == "sdpa",
        config.num_images,
        config.min_pixels,
        config.max_pixels,
    )


def _what_if_step(config: TrainPlanConfig) -> vlm.Training:
    own = config.loss == "onecard"
    method = "qlora" if config.load_in_4bit else config.method
    recipe = training.Recipe(
        method,
        "nf4-dq" if config.load_in_4bit else "bf16",
        config.per_device_train_batch_size,
        1,
        config.lora_r,
        optimizer=config.optim,
        checkpointing=config.gradient_checkpointing,
        loss="frozen" if config.loss == "onecard" else config.loss,
        mixed=config.fp32_master_weights or (own and method == "full"),
        keeps_logits=False,
        accumulation=2 if own else 1,
    )
    return vlm.Training(
        recipe,
        config.text_tokens,
        config.imgsz,
        config.height or config.imgsz,
        config.min_pixels,
        config.max_pixels,
        config.vision_tower,
        images=config.num_images,
    )


# Choices


def resolve_auto(config: Config, device: Device, check_hub: bool = False) -> tuple[Any, str]:
    """(the config with a named model, why that one): the best that fits the device, offline of
    those on this machine; on a CPU the smallest."""
    if getattr(config, "model", "") != AUTO or getattr(config, "run_id", ""):
        return config, ""
    if isinstance(config, AnswerModelConfig) and kind_of(config) != "transformers":
        return config, ""
    smallest = BEST_FIRST[-1]
    if device.type == "cpu":
        return config.model_copy(update={"model": smallest}), "the smallest: there is no GPU"
    offline = network.offline() or (check_hub and not network.hub_reachable())
    for name in BEST_FIRST:
        if offline and not planned_models.is_here(name):
            continue
        named = config.model_copy(update={"model": name})
        if plan(named, device).fits:
            where = " of those on this machine (the hub is out of reach)" if offline else ""
            return named, f"the best that fits {device.name}{where}"
    why = "the hub is out of reach and no better one lies here" if offline else "no larger one fits"
    return config.model_copy(update={"model": smallest}), f"the smallest: {why}"


def find(name: str) -> Known:
    """Raises NotFound, DataError, SettingsError for no name."""
    return planned_models.find(name)


# Fitting


def switches(config: Config) -> Iterator[Change]:
    """What a run changes by itself where it does not fit: the same mathematics, and smaller
    pictures for an answer, down to the smallest of the table."""
    if isinstance(config, AnswerModelConfig):
        yield from _smaller_pictures(config)
    elif isinstance(config, VisionTrainConfig):
        names = {"gradient_checkpointing", "per_device_train_batch_size"}
        yield from (row for row in fallbacks(config) if row[0].keys() & names)


def _smaller_pictures(config: Any) -> Iterator[Change]:
    kind = kind_of(config) if isinstance(config, AnswerModelConfig) else "transformers"
    if kind != "transformers" or config.model == AUTO:
        return
    m, sizes = _model_of(config), planned_pictures.sizes_of(config)
    for most in planned_pictures.smaller_limits(m, sizes, config.max_pixels):
        change: dict[str, Any] = {"max_pixels": most}
        if config.min_pixels > most:
            change["min_pixels"] = most
        yield change, planned_pictures.cost(m, sizes, config, most)


def _model_of(config: Any) -> VLM:
    if isinstance(config, VisionTrainConfig):
        return planned_training.trained(config).model
    return planned_answers.known_of(config).model


def fallbacks(config: Config) -> Iterator[Change]:
    """Smallest loss first."""
    if isinstance(config, VisionTrainConfig):
        yield from _own_training_fallbacks(config)
    elif isinstance(config, AnswerModelConfig):
        if kind_of(config) == "transformers":
            for format in ("int8", "nf4"):
                if config.quant not in ("", format, "nf4", "nf4-dq"):
                    yield {"quant": format}, "a little quality"
        yield from _smaller_pictures(config)
    elif isinstance(config, VlmConfig):
        yield from _what_if_fallbacks(config)


def _own_training_fallbacks(config: VisionTrainConfig) -> Iterator[Change]:
    if isinstance(config, ProjectorConfig) and not config.vision_model:
        return
    if not config.gradient_checkpointing:
        yield {"gradient_checkpointing": True}, CHECKPOINTING
    yield from halve_batch(config)
    if config.optim == "adamw":
        yield {"optim": "adamw-8bit"}, f"{EIGHT_BIT}; its states start anew"
    four_bit = {"load_in_4bit": True, "load_in_8bit": False}
    whole = isinstance(config, TrainConfig) and config.language_model == "full"
    if not config.bf16 and not (config.load_in_4bit or config.load_in_8bit):
        yield {"bf16": True}, "equal within noise in published runs, faster on a GPU"
    if not whole and not config.load_in_4bit:
        yield four_bit, "frozen weights in 4 bits: a little quality (QLoRA, Dettmers 2023)"
    if isinstance(config, TrainConfig) and config.vision_tower == "full":
        yield {"vision_tower": "lora"}, "the vision tower learns less"
    yield from _smaller_pictures(config)


def _what_if_fallbacks(config: VlmConfig) -> Iterator[Change]:
    if isinstance(config, PlanConfig):
        if config.mmproj or config.engine == "llama.cpp":
            if config.kv_type == "f16":
                yield {"kv_type": "q8_0"}, "hardly measurable in perplexity"
            yield from halve("max_new_tokens", config.max_new_tokens, 128, "shorter answers")
            return
        for format in ("int8", "nf4-dq"):
            if config.quant not in (format, "nf4-dq"):
                yield {"quant": format}, "a little quality"
    elif isinstance(config, TrainPlanConfig):
        yield from _what_if_training_fallbacks(config)
    patch = find(config.model).model.tower.patch
    yield from halve("imgsz", config.imgsz or 1280, 8 * patch, "small things are lost")


def _what_if_training_fallbacks(config: TrainPlanConfig) -> Iterator[Change]:
    if config.loss not in ("fused", "onecard"):
        yield {"loss": "fused"}, "the same mathematics, no slower (Liger kernel)"
    if not config.gradient_checkpointing:
        yield {"gradient_checkpointing": True}, CHECKPOINTING
    batch = config.per_device_train_batch_size
    yield from halve("per_device_train_batch_size", batch, 1, "accumulation keeps the batch")
    if config.optim == "adamw":
        yield {"optim": "adamw-8bit"}, EIGHT_BIT
    if config.vision_tower == "full":
        yield {"vision_tower": "lora"}, "the vision tower learns less"
    if config.vision_tower != "frozen":
        yield {"vision_tower": "frozen"}, "the vision tower does not learn"
    if config.method == "lora" and not config.load_in_4bit:
        yield {"load_in_4bit": True}, "equal to 16 bits in published runs (Dettmers 2023)"


def fit_rows() -> tuple[FitRow, ...]:
    """What `onecard fit` shows of vlm."""
    batches = (1, 2, 4, 8, 16)
    own = TrainPlanConfig(load_in_4bit=True, loss="onecard", optim="paged-adamw-8bit", imgsz=672)
    return (
        FitRow("vlm", "answers about pictures", PlanConfig(), USUAL, "batch_size", batches),
        FitRow(
            "vlm-qlora",
            "vision-language model, QLoRA",
            own,
            USUAL,
            "per_device_train_batch_size",
            batches,
        ),
    )


# The truth check

TRACE_MODULE = "fake_tensor_vlm"


def TRACER(config: Config) -> tuple[VLM, vlm.Look | vlm.Training]:
    """What memory/fake_tensor_vlm.py runs for `onecard plan --trace`.

    Raises SettingsError for what is not run by transformers.
    """
    card = Device("a card", 1 << 50, 1 << 50, real=False)
    if isinstance(config, TrainPlanConfig):
        return find(config.model).model, _what_if_step(config)
    if isinstance(config, VisionTrainConfig):
        return planned_training.trained(config).model, planned_training.step_of(config, card)
    if isinstance(config, PlanConfig) and not config.mmproj and config.engine != "llama.cpp":
        m = find(config.model).model
        return m, _what_if_look(m, config)
    if isinstance(config, AnswerModelConfig) and kind_of(config) == "transformers":
        known = planned_answers.known_of(config)
        quant = config.quant or "bf16"
        return known.model, planned_answers.look_of(config, known, quant, card)
    raise SettingsError(
        "these settings cannot be traced",
        why="a trace runs the classes of transformers",
        fix="leave --mmproj and --engine out, or plan without --trace",
    )
