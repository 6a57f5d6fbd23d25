"""Memory of chat: the language model's weights, KV cache and buffers. Pure arithmetic."""

from collections.abc import Iterator
from typing import Any

from onecard.config import Config
from onecard.errors import SettingsError
from onecard.hub import names
from onecard.inference.config import AUTO, LlmConfig
from onecard.inference.planning import resolve_auto, share
from onecard.memory import calibration, formats, terms, throughput
from onecard.memory.architectures.lm import LM, USUAL
from onecard.memory.devices import Device
from onecard.memory.estimators import llm_inference
from onecard.memory.fallbacks import Change, FitRow, halve
from onecard.memory.plan import Plan, Term
from onecard.memory.quant_selection import BEST_FIRST, WANTED
from onecard.tasks.chat.configs import PlanConfig

BAND = {"llama.cpp": 0.04, "transformers": 0.11, "vllm": 0.11}
"""Half-width of the band around a total: nine of ten published rows stay below its upper end
(tests/validation). llama.cpp makes its buffers at the start, other engines as they answer."""


def plan(config: Config, device: Device) -> Plan:
    """Weights, KV cache and buffers of the model on the device. Raises NotFound, SettingsError."""
    if isinstance(config, PlanConfig):
        return _plan_engine(config, device)
    assert isinstance(config, LlmConfig)
    planned = share(config, device)
    band = calibration.band(device, "llm-infer", BAND["llama.cpp"])
    return Plan(tuple(planned.terms), device, planned.choices, tuple(planned.notes), band)


def _plan_engine(config: PlanConfig, device: Device) -> Plan:
    config, reason = resolve_auto(config, device)  # type: ignore[assignment]
    lm, exact_bytes = _counts(config.model)
    notes = [f"model auto: {config.model}, {reason}"] if reason else []
    if lm.max_tokens and config.n_ctx > lm.max_tokens:
        notes.append(
            f"the model was trained on {lm.max_tokens} tokens; n_ctx {config.n_ctx} is longer"
        )
    weight_bytes = 0
    if config.engine == "llama.cpp":
        parts, weight_bytes = _llamacpp(config, lm, exact_bytes, device)
    else:
        parts = _other_engine(config, lm, device)
    rates = {
        "tokens/s, first": throughput.decode_tokens_per_s(
            lm, parts, device, 1, config.kv_type, weight_bytes
        ),
        f"tokens/s at {config.n_ctx}": throughput.decode_tokens_per_s(
            lm, parts, device, config.n_ctx, config.kv_type, weight_bytes
        ),
        "prompt tokens/s": throughput.prompt_tokens_per_s(lm, device),
    }
    choices: dict[str, Any] = {"model": lm.name, "weights": f"{lm.n_params / 1e9:.2f}e9"}
    choices |= {name: round(rate, 1) for name, rate in rates.items() if rate}
    band = calibration.band(device, "llm-infer", BAND[config.engine])
    return Plan((*parts, *terms.cuda_context(device)), device, choices, tuple(notes), band)


def _counts(name: str) -> tuple[LM, int]:
    """The model's counts, and the bytes of its weights where a file's header gives them."""
    if not name.strip():
        raise SettingsError(
            "no model is named",
            why="a plan needs a model's counts",
            fix="onecard plan llm-infer llama-3.1-8b",
        )
    return names.counts(name)


def _llamacpp(
    config: PlanConfig, lm: LM, exact_bytes: int, device: Device
) -> tuple[list[Term], int]:
    """(terms, bytes of the weights that each token reads)."""
    quant = known_format(
        config.quant, WANTED, config.quant.lower() in formats.MIXTURES, formats.MIXTURES
    )
    on_cpu = device.type == "cpu"
    parts = llm_inference.llamacpp(
        lm,
        quant,
        config.n_ctx * config.n_parallel,
        k_type=config.kv_type,
        n_ubatch=config.n_ubatch,
        n_parallel=config.n_parallel,
        n_gpu_layers=-1 if on_cpu else config.n_gpu_layers,
        experts_on_cpu=config.cpu_moe and not on_cpu,
        build="now" if config.flash_attn else "fa-off",
        device=device.type,
        exact_bytes=exact_bytes,
    )
    weights = formats.gguf(lm, quant)
    return parts, weights.total - weights.embedding * (not lm.tied)


def _other_engine(config: PlanConfig, lm: LM, device: Device) -> list[Term]:
    format = config.quant.lower()
    good = formats.known(format) and format not in formats.GGUF_ONLY
    format = known_format(format, "bf16", good, [*formats.PLAIN, *formats.LINEAR, "exl2-N"])
    if config.engine == "transformers":
        return llm_inference.transformers(
            lm, format, 1, config.n_ctx - 1, B=config.n_parallel, kv_type=config.kv_type
        )
    return llm_inference.vllm(
        lm,
        format,
        config.n_ctx * config.n_parallel,
        device.total_bytes,
        utilization=config.gpu_memory_utilization,
    )


def known_format(name: str, default: str, good: bool, known: Any) -> str:
    """The format of the weights, `default` for none. Raises SettingsError."""
    if not name:
        return default
    if not good:
        raise SettingsError(
            f"the format '{name}' is not known here",
            why=f"known are: {', '.join(known)}",
            fix="--quant with one of these",
        )
    return name.lower()


def fallbacks(config: Config) -> Iterator[Change]:
    """Smallest loss first; what leaves the mathematics equal says so."""
    assert isinstance(config, LlmConfig)
    if isinstance(config, PlanConfig) and not config.flash_attn:
        yield {"flash_attn": True}, "the same mathematics, faster"
    if config.kv_type == "f16":
        yield {"kv_type": "q8_0"}, "hardly measurable in perplexity"
    good = BEST_FIRST[: BEST_FIRST.index(WANTED) + 1]
    if config.quant in good:
        for quant in good[good.index(config.quant) + 1 :]:
            yield {"quant": quant}, "a little quality: see the table of llama.cpp's quantize"
    lm = None if config.model == AUTO else names.find_counts(config.model)
    if lm and lm.experts and isinstance(config, PlanConfig) and not config.cpu_moe:
        yield {"cpu_moe": True}, "experts answer from the computer's memory: slower"
    n_ctx = config.n_ctx
    while n_ctx > 2048:
        n_ctx //= 2
        yield {"n_ctx": n_ctx}, f"the conversation is cut at {n_ctx} tokens"
    if lm and config.n_gpu_layers < 0:
        for layers in range(lm.L, -1, -1):
            behind = lm.L + 1 - layers
            cost = f"{behind} of {lm.L + 1} layers stay on the CPU: much slower"
            yield {"n_gpu_layers": layers}, cost
    elif not lm:
        yield from halve("n_ctx", 2048, 512, "the conversation is cut earlier")


def fit_rows() -> tuple[FitRow, ...]:
    """What `onecard fit` shows of chat."""
    return (
        FitRow(
            "llm-infer",
            "chat, Q4_K_M",
            PlanConfig(quant="q4_k_m", n_ctx=8192),
            USUAL,
            "n_ctx",
            (8192, 16384, 32768, 65536, 131072),
        ),
    )
