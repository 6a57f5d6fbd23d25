"""The language model's share of a plan: which file for which device, and its memory terms.

Light: nothing is loaded or downloaded.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from onecard.hub import auto, names
from onecard.hub.names import Model
from onecard.inference.config import AUTO, PROMPT_CACHE_MIB, LlmConfig
from onecard.memory import calibration, formats, quant_selection, throughput
from onecard.memory.architectures.layers import LM
from onecard.memory.devices import Device
from onecard.memory.estimators import llm_inference
from onecard.memory.plan import Term


@dataclass(frozen=True)
class Share:
    """Terms of the language model, what was chosen, and notes."""

    terms: list[Term] = field(default_factory=list)
    choices: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def resolve_auto(
    config: LlmConfig, device: Device, check_hub: bool = False
) -> tuple[LlmConfig, str]:
    """(the config with a named model, why that one); unchanged for a config that names one."""
    if config.model != AUTO or config.base_url:
        return config, ""
    name, reason = auto.choose(device, config.n_ctx, config.kv_type, config.n_ubatch, check_hub)
    return config.model_copy(update={"model": name}), reason


def model_of(config: LlmConfig, device: Device) -> Model | None:
    """The model with its quantization chosen for the device; None when a server holds it.

    Raises NotFound.
    """
    if config.base_url:
        return None
    config, _ = resolve_auto(config, device)
    model = names.find(config.model, config.quant)
    if model.url:
        return None
    if model.source == "catalog" and not model.quant and (counts := model.counts()):
        quant = quant_selection.best_quant(
            counts, config.n_ctx, config.kv_type, config.n_ubatch, device, model.quants()
        )
        model = names.find(config.model, quant)
    return model


def share(config: LlmConfig, device: Device) -> Share:
    """With a GPU only the layers on it count against it; on a CPU all of the model does.

    Raises NotFound.
    """
    config, reason = resolve_auto(config, device)
    model = model_of(config, device)
    if model is None:
        served_by = config.base_url or "Ollama"
        note = "a server holds the model: its memory is not ours to plan"
        return Share([], {"model": config.model, "served by": served_by}, [note])
    notes = [f"model auto: {config.model}, {reason}"] if reason else []
    counts = model.counts()
    if counts is None:
        notes.append(
            f"the size of {config.model} is known once it is pulled: onecard models pull "
            f"{config.model}"
        )
        return Share([], {"model": config.model}, notes)
    lm = counts
    if lm.max_tokens and config.n_ctx > lm.max_tokens:
        notes.append(
            f"the model was trained on {lm.max_tokens} tokens; n_ctx {config.n_ctx} is longer"
        )
    mixture = model.quant if model.quant in formats.MIXTURES else quant_selection.WANTED
    if lm.file:
        mixture = ""  # the file's own types decide, not what its name says
    notes.append(
        f"prompts of earlier conversations may take {PROMPT_CACHE_MIB} MiB of the computer's memory"
    )
    stored = lm.stored if lm.file else model.quant or "as stored"
    planned = Share([], {"model": config.model, "quant": stored}, notes)
    if device.type == "cpu":
        return _on_cpu(planned, config, lm, mixture)
    return _on_gpu(planned, config, lm, mixture, device)


def _on_cpu(planned: Share, config: LlmConfig, lm: LM, mixture: str) -> Share:
    terms = llm_inference.llamacpp(
        lm,
        mixture,
        config.n_ctx,
        k_type=config.kv_type,
        n_ubatch=config.n_ubatch,
        device="cpu",
    )
    return replace(planned, terms=terms, choices={**planned.choices, "n_gpu_layers": 0})


def _on_gpu(planned: Share, config: LlmConfig, lm: LM, mixture: str, device: Device) -> Share:
    layers = quant_selection.layers_on_card(
        lm, mixture, config.n_ctx, config.kv_type, config.n_ubatch, device
    )
    if config.n_gpu_layers >= 0:
        layers = min(config.n_gpu_layers, lm.L + 1)
    terms = llm_inference.llamacpp(
        lm,
        mixture,
        config.n_ctx,
        k_type=config.kv_type,
        n_ubatch=config.n_ubatch,
        place=llm_inference.Placement(layers),
    )
    choices: dict[str, Any] = {**planned.choices, "n_gpu_layers": layers}
    place = llm_inference.Placement(layers)
    read = throughput.active_bytes(lm, formats.gguf(lm, mixture), place)
    rate = throughput.decode_tokens_per_s(lm, read, device, 1, config.kv_type)
    if rate:
        choices["tokens/s, about"] = round(rate, 1)
    notes = planned.notes
    if layers <= lm.L:
        behind = lm.L + 1 - layers
        notes = [*notes, f"{behind} of {lm.L + 1} layers stay on the CPU: slower"]
    terms = [*terms, Term("CUDA context", *calibration.context_bytes(device))]
    return Share(terms, choices, notes)
