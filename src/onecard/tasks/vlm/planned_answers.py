"""Plans of the commands that answer with transformers: the width of the weights that fits, and how
many questions at once."""

from typing import Any

from onecard.inference.config import AUTO
from onecard.memory import calibration, formats, terms
from onecard.memory.devices import Device
from onecard.memory.estimators import vlm
from onecard.memory.plan import Plan, Term
from onecard.tasks.vlm import planned_models, planned_pictures
from onecard.tasks.vlm.configs import (
    ASSUMED_TEXT,
    AnswerModelConfig,
    DescribeConfig,
    EvaluateConfig,
    ExtractConfig,
)
from onecard.tasks.vlm.planned_models import Known
from onecard.units import GIB

BAND = 0.0
"""Half-width of the band around a total: not known, four published rows are too few."""
QUANTS = ("bf16", "int8", "nf4")
"""What an empty quant takes on a card, the first that fits."""
LOADABLE = ("bf16", "fp16", "fp32", "f32", "int8", "nf4", "nf4-dq")
"""What transformers loads here."""
CPU_PROGRAM_BYTES = 2 * GIB
"""Python with torch and transformers, and what heap and oneDNN hold beyond the tensors."""
AT_ONCE = (8, 4, 2, 1)
"""Questions that are answered at once where there are many, the most first."""


def plan(config: AnswerModelConfig, reason: str, device: Device) -> Plan:
    """Raises NotFound, DataError, SettingsError. `reason`: why the model was chosen."""
    known = known_of(config)
    quant, tried = _quant_of(config, known, device)
    at_once = _at_once(config, known, quant, device)
    look = look_of(config, known, quant, device, at_once)
    sight = vlm.pictures_of(known.model, look)
    notes = [f"model auto: {config.model}, {reason}"] if reason else []
    notes += tried
    notes += planned_pictures.rows(
        known.model,
        config,
        lambda sized: sum(
            term.bytes
            for term in _answer_terms(known, look_of(sized, known, quant, device, at_once), device)
        ),
    )
    choices: dict[str, Any] = {
        "model": known.name,
        "quant": quant,
        "pictures": len(look.sizes),
        "tokens of the pictures": sight.tokens,
        "questions at once": at_once,
    }
    band = calibration.band(device, "vlm", BAND)
    return Plan(tuple(_answer_terms(known, look, device)), device, choices, tuple(notes), band)


def known_of(config: Any) -> Known:
    run_id = getattr(config, "run_id", "")
    return planned_models.find(f"run:{run_id}" if run_id and config.model == AUTO else config.model)


def look_of(
    config: AnswerModelConfig, known: Known, quant: str, device: Device, at_once: int = 1
) -> vlm.Look:
    """How the engine of transformers answers with these settings."""
    format = formats.choose(quant, LOADABLE, known.name)
    wide = 4.0 if device.type == "cpu" and format not in ("bf16", "fp16") else 0.0
    answer = config.max_new_tokens if isinstance(config, EvaluateConfig) else config.max_tokens
    return vlm.Look(
        "nf4-dq" if format == "nf4" else format,
        at_once,
        tokens=ASSUMED_TEXT,
        answer=answer,
        min_pixels=config.min_pixels,
        max_pixels=config.max_pixels,
        sizes=planned_pictures.sizes_of(config),
        wide=wide,
    )


def _answer_terms(known: Known, look: vlm.Look, device: Device) -> list[Term]:
    parts = vlm.talk(known.model, look)
    if known.adapter_bytes:
        parts.append(Term("adapter", known.adapter_bytes, "beside the model's weights"))
    if device.type != "cpu":
        return [*parts, *terms.cuda_context(device)]
    because = "Python with torch and transformers, heap and oneDNN"
    kept = [term for term in parts if term.name != "workspace"]  # cuBLAS is a card's
    return [*kept, Term("program", CPU_PROGRAM_BYTES, because)]


def _quant_of(config: AnswerModelConfig, known: Known, device: Device) -> tuple[str, list[str]]:
    """(format, what is told of a choice)."""
    if config.quant:
        return formats.choose(config.quant, LOADABLE, known.name), []
    if device.type == "cpu":
        return "fp32", []
    for quant in QUANTS:
        parts = _answer_terms(known, look_of(config, known, quant, device), device)
        if sum(term.bytes for term in parts) <= device.free_bytes:
            break
    if quant == QUANTS[0]:
        return quant, []
    return quant, [f"quant {quant}: {QUANTS[0]} does not fit on {device.name}"]


def _at_once(config: AnswerModelConfig, known: Known, quant: str, device: Device) -> int:
    """Questions of a batch: the most that fit, where there are many to answer."""
    if not isinstance(config, EvaluateConfig | ExtractConfig | DescribeConfig):
        return 1

    def fits(count: int) -> bool:
        look = look_of(config, known, quant, device, count)
        total = sum(term.bytes for term in _answer_terms(known, look, device))
        return total <= device.free_bytes

    return next((count for count in AT_ONCE if fits(count)), 1)
