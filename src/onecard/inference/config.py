"""The settings of a language model, the same in every kind that asks one, and their share of a
plan. Light; knows no engine."""

from typing import Any, Literal

from pydantic import Field

from onecard.config import Settings
from onecard.hub import names
from onecard.hub.names import Model
from onecard.memory import formats, quant_selection, terms
from onecard.memory.devices import Device
from onecard.memory.estimators import llm_inference
from onecard.memory.plan import Term


class EngineSettings(Settings):
    model: str = "smollm2-135m"
    """The language model: a name of `onecard models list`, hf:org/name, a .gguf file, ollama:name
    or run:ID."""
    quant: str = ""
    """Quantization of the weights, as q4_k_m; empty takes the best that the card holds."""
    base_url: str = ""
    """Address of an OpenAI-compatible server (vLLM, LM Studio, llama-server ...); nothing is
    started then."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key for base_url; the key itself is never a
    setting."""
    n_ctx: int = Field(default=4096, ge=256, le=1_048_576)
    """Context window (tokens): prompt and answer together."""
    n_gpu_layers: int = Field(default=-1, ge=-1)
    """Layers on the card; -1 puts there as many as fit."""
    n_threads: int = Field(default=0, ge=0, le=512)
    """CPU threads of the engine; 0 means all cores."""
    n_ubatch: int = Field(default=512, ge=16, le=8192)
    """Tokens of a prompt that are computed at once."""
    kv_type: Literal["f16", "q8_0", "q4_0"] = "f16"
    """Type of the KV cache; q8_0 halves it at little loss."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Randomness of the answer; 0 always takes the likeliest word."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Share of probability that words are drawn from."""
    repeat_penalty: float = Field(default=1.0, ge=1, le=2)
    """Penalty on words already used; 1 is off."""
    max_tokens: int = Field(default=512, ge=1, le=131_072)
    """Longest answer (tokens)."""
    seed: int = Field(default=0, ge=0)
    """Seed of the draw: the same seed gives the same answer."""


def model_of(settings: EngineSettings, device: Device) -> Model | None:
    """The model with its quantization chosen for the card; None when a server holds it.

    Raises NotFound.
    """
    if settings.base_url:
        return None
    model = names.find(settings.model, settings.quant)
    if model.url:
        return None
    if model.source == "catalog" and not model.quant and (counts := model.counts()):
        quant = quant_selection.best_quant(
            counts[0], settings.n_ctx, settings.kv_type, settings.n_ubatch, device, model.quants()
        )
        model = names.find(settings.model, quant)
    return model


def plan_terms(
    settings: EngineSettings, device: Device
) -> tuple[list[Term], dict[str, Any], list[str]]:
    """The language model's parts of a plan on the card, what was chosen, and notes.

    With a card, only the layers that go on it count against it; on a CPU all of it does.
    """
    model = model_of(settings, device)
    if model is None:
        return (
            [],
            {"model": settings.model, "served by": settings.base_url or "Ollama"},
            ["a server holds the model: its memory is not ours to plan"],
        )
    counts = model.counts()
    if counts is None:
        return (
            [],
            {"model": settings.model},
            [
                f"the shape of {settings.model} is known once it is pulled: onecard models pull "
                f"{settings.model}"
            ],
        )
    lm, exact_bytes = counts
    quant = model.quant or "as stored"
    mixture = model.quant if model.quant in formats.MIXTURES else quant_selection.WANTED
    chosen: dict[str, Any] = {"model": settings.model, "quant": quant}
    notes = []
    if lm.max_tokens and settings.n_ctx > lm.max_tokens:
        notes.append(
            f"the model was trained on {lm.max_tokens} tokens; n_ctx {settings.n_ctx} is longer"
        )
    if device.type == "cpu":
        chosen["n_gpu_layers"] = 0
        return (
            llm_inference.llamacpp(
                lm,
                mixture,
                settings.n_ctx,
                k_type=settings.kv_type,
                n_ubatch=settings.n_ubatch,
                device="cpu",
                exact_bytes=exact_bytes,
            ),
            chosen,
            notes,
        )
    held = quant_selection.layers_on_card(
        lm, mixture, settings.n_ctx, settings.kv_type, settings.n_ubatch, device, exact_bytes
    )
    layers = held if settings.n_gpu_layers < 0 else min(settings.n_gpu_layers, lm.L + 1)
    chosen["n_gpu_layers"] = layers
    parts = llm_inference.llamacpp(
        lm,
        mixture,
        settings.n_ctx,
        k_type=settings.kv_type,
        n_ubatch=settings.n_ubatch,
        n_gpu_layers=layers,
        exact_bytes=exact_bytes,
    )
    if layers <= lm.L:
        notes.append(f"{lm.L + 1 - layers} of {lm.L + 1} layers stay on the CPU: slower")
    return (
        [
            *parts,
            Term(
                "CUDA context",
                terms.CUDA_CONTEXT_BYTES,
                "context and cuBLAS workspace (a guess until calibrated)",
            ),
        ],
        chosen,
        notes,
    )
