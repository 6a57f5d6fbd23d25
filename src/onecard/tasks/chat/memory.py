"""Memory of chat: the language model's weights, KV cache and buffers. Pure arithmetic."""

from collections.abc import Iterator
from typing import Any

from onecard.config import Config
from onecard.errors import SettingsError
from onecard.hub import names
from onecard.inference.config import AUTO, LlmConfig
from onecard.inference.planning import resolve_auto, share
from onecard.memory import calibration, formats, terms, throughput
from onecard.memory import peers as memory_peers
from onecard.memory.architectures.layers import LM
from onecard.memory.architectures.lm import USUAL
from onecard.memory.devices import Device
from onecard.memory.estimators import llm_inference
from onecard.memory.estimators.llm_inference import LLAMACPP
from onecard.memory.fallbacks import Change, FitRow, halve
from onecard.memory.peers import PeerEstimate
from onecard.memory.plan import Plan, Term
from onecard.memory.quant_selection import BEST_FIRST, WANTED, gguf_format
from onecard.tasks.chat.configs import PlanConfig

CACHE_TYPES = {
    "llama.cpp": ("f16", "bf16", "f32", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"),
    "transformers": ("f16", "bf16", "f32", "int8", "int4"),
    "vllm": ("f16", "bf16", "fp8"),
}
"""Types of the KV cache by engine: llama.cpp's common/arg.cpp, transformers' QuantizedCache, vLLM's
kv_cache_dtype."""
BAND = {"embedded": 0.06, "llama.cpp": 0.06, "transformers": 0.12, "vllm": 0.0}
"""Half-width of the band around a total: nine of ten published rows lie inside when their source is
left out of the fit (tests/bench/bench_sources.py); 0 where fewer than five are known. llama.cpp
makes its buffers at the start, other engines as they answer."""


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
    lm = _counts(config.model)
    _check_cache(config)
    notes = [f"model auto: {config.model}, {reason}"] if reason else []
    if lm.max_tokens and config.n_ctx > lm.max_tokens:
        notes.append(
            f"the model was trained on {lm.max_tokens} tokens; n_ctx {config.n_ctx} is longer"
        )
    if config.engine in LLAMACPP:
        parts, read = _llamacpp(config, lm, device)
        notes += _flags(config, lm)
    else:
        parts = _other_engine(config, lm, device)
        if config.engine == "vllm":
            notes.append(_vllm_flags(config))
        share = lm.active_params / (lm.linear_params + lm.embedding_params)
        read = (parts[0].bytes * share, 0.0)
    rates = {
        "tokens/s, first": throughput.decode_tokens_per_s(lm, read, device, 1, config.kv_type),
        f"tokens/s at {config.n_ctx}": throughput.decode_tokens_per_s(
            lm, read, device, config.n_ctx, config.kv_type
        ),
        "prompt tokens/s": throughput.prompt_tokens_per_s(lm, device),
    }
    choices: dict[str, Any] = {"model": lm.name, "weights": f"{lm.n_params / 1e9:.2f}e9"}
    choices |= {name: round(rate, 1) for name, rate in rates.items() if rate}
    band = calibration.band(device, "llm-infer", BAND[config.engine])
    return Plan((*parts, *terms.cuda_context(device)), device, choices, tuple(notes), band)


def _counts(name: str) -> LM:
    """The model's counts, with the bytes of its weights where a file's header gives them."""
    if not name.strip():
        raise SettingsError(
            "no model is named",
            why="a plan needs a model's counts",
            fix="onecard plan llm-infer llama-3.1-8b",
        )
    return names.counts(name)


def _check_cache(config: PlanConfig) -> None:
    """Raises SettingsError for a type that the engine's cache does not have."""
    known = CACHE_TYPES["llama.cpp" if config.engine in LLAMACPP else config.engine]
    for kind in (config.kv_type, config.v_type):
        if kind and kind not in known:
            raise SettingsError(
                f"the cache of {config.engine} has no type {kind}",
                why=f"it has: {', '.join(known)}",
                fix="--kv_type with one of these",
            )


def placement(config: PlanConfig, lm: LM) -> llm_inference.Placement:
    """Which layers and experts lie on the card."""
    return llm_inference.Placement(
        config.n_gpu_layers, lm.L if config.cpu_moe else config.n_cpu_moe
    )


def _llamacpp(config: PlanConfig, lm: LM, device: Device) -> tuple[list[Term], tuple[float, float]]:
    """(terms, bytes of the weights that each token reads on the card and off it)."""
    quant = gguf_format(lm, config.quant)
    place = llm_inference.WHOLE if device.type == "cpu" else placement(config, lm)
    build = llm_inference.build_of(config.build, config.flash_attn)
    if config.engine == "embedded" and config.flash_attn:
        build = "embedded"
    parts = llm_inference.llamacpp(
        lm,
        quant,
        config.n_ctx * config.n_parallel,
        k_type=config.kv_type,
        v_type=config.v_type,
        n_ubatch=config.n_ubatch,
        n_parallel=config.n_parallel,
        place=place,
        whole_window=config.swa_full,
        build=build,
        device=device.type,
    )
    return parts, throughput.active_bytes(lm, formats.gguf(lm, quant), place)


def _flags(config: PlanConfig, lm: LM) -> list[str]:
    """What llama-server and Ollama are told to do the same."""
    place = placement(config, lm)
    if place.n_gpu_layers < 0 and not place.n_cpu_moe:
        return []
    words = [f"-c {config.n_ctx * config.n_parallel}", f"-ub {config.n_ubatch}"]
    if config.kv_type != "f16":
        words.append(f"-ctk {config.kv_type} -ctv {config.v_type or config.kv_type}")
    if config.n_parallel > 1:
        words.append(f"-np {config.n_parallel}")
    if place.n_gpu_layers >= 0:
        words.append(f"-ngl {place.n_gpu_layers}")
    if place.n_cpu_moe:
        words.append(f"--n-cpu-moe {min(place.n_cpu_moe, lm.L)}")
    notes = [f"the same in llama.cpp: llama-server -m FILE {' '.join(words)}"]
    if place.n_cpu_moe:
        notes.append("Ollama and vLLM cannot keep the experts of some layers off the card")
    else:
        notes.append(f"the same in Ollama: PARAMETER num_gpu {place.n_gpu_layers} in the Modelfile")
    return notes


def _vllm_flags(config: PlanConfig) -> str:
    words = [f"vllm serve {config.model} --max-model-len {config.n_ctx}"]
    words.append(f"--max-num-seqs {config.n_parallel}")
    words.append(f"--gpu-memory-utilization {config.gpu_memory_utilization:g}")
    if config.kv_type == "fp8":
        words.append("--kv-cache-dtype fp8")
    return f"the same in vLLM: {' '.join(words)}"


def _other_engine(config: PlanConfig, lm: LM, device: Device) -> list[Term]:
    if lm.file:
        raise SettingsError(
            f"{config.engine} does not read a GGUF file as it lies",
            why="its weights would be unpacked first",
            fix="--engine llama.cpp, or the name of the model",
        )
    name = config.quant or lm.stored or "bf16"
    format = formats.choose(name, (*formats.LOADED, formats.EXL), config.engine)
    if config.engine == "transformers":
        prompt = min(config.prompt_tokens, config.n_ctx)
        return llm_inference.transformers(
            lm,
            format,
            prompt,
            config.n_ctx - prompt,
            B=config.n_parallel,
            kv_type=config.kv_type,
            old_cache=config.legacy_cache,
            all_logits=config.logits_to_keep == 0,
        )
    return llm_inference.vllm(
        lm,
        format,
        config.n_ctx * config.n_parallel,
        device.total_bytes,
        utilization=config.gpu_memory_utilization,
        kv_type=config.kv_type,
    )


def peers(config: Config, device: Device) -> list[PeerEstimate]:
    """What others' formulas say of the same model, format and context."""
    if not isinstance(config, PlanConfig) or config.engine not in LLAMACPP:
        return []
    lm = _counts(config.model)
    total = formats.gguf(lm, gguf_format(lm, config.quant)).total
    n_ctx = config.n_ctx * config.n_parallel
    return [
        memory_peers.oobabooga(lm, total, n_ctx, config.kv_type, config.n_gpu_layers),
        memory_peers.accelerate_inference(lm, total),
    ]


def fallbacks(config: Config) -> Iterator[Change]:
    """Smallest loss first; what leaves the mathematics equal says so."""
    assert isinstance(config, LlmConfig)
    what_if = config if isinstance(config, PlanConfig) else None
    if what_if and what_if.engine not in LLAMACPP:
        yield from halve("n_ctx", config.n_ctx, 2048, "the conversation is cut earlier")
        return
    if what_if and not what_if.flash_attn:
        yield {"flash_attn": True}, "the same mathematics, faster"
    if config.kv_type == "f16":
        yield {"kv_type": "q8_0"}, "hardly measurable in perplexity"
    lm = None if config.model == AUTO else names.find_counts(config.model)
    good = BEST_FIRST[: BEST_FIRST.index(WANTED) + 1]
    if config.quant in good and not (lm and lm.file):
        for quant in good[good.index(config.quant) + 1 :]:
            yield {"quant": quant}, "a little quality: see the table of llama.cpp's quantize"
    if lm and lm.expert_params and what_if and not what_if.cpu_moe:
        for layers in range(what_if.n_cpu_moe + 1, lm.L + 1):
            cost = f"experts of {layers} of {lm.L} layers answer from the computer's memory: slower"
            yield {"n_cpu_moe": layers}, cost
    yield from halve("n_ctx", config.n_ctx, 2048, "the conversation is cut earlier")
    if lm and config.n_gpu_layers < 0:
        for layers in range(lm.L, -1, -1):
            behind = lm.L + 1 - layers
            cost = f"{behind} of {lm.L + 1} layers stay on the CPU: much slower"
            yield {"n_gpu_layers": layers}, cost
    elif not lm:
        yield from halve("n_ctx", 2048, 512, "the conversation is cut earlier")


def _formats(config: PlanConfig) -> Iterator[dict[str, Any]]:
    """Best quality first, down to 4 bits; then with experts in the computer's memory, a layer more
    each time."""
    lm = names.counts(config.model)
    good = BEST_FIRST[: BEST_FIRST.index(WANTED) + 1]
    if lm.stored in formats.MIXTURES:
        good = (lm.stored,)
    yield from ({"quant": quant} for quant in good)
    if lm.expert_params:
        yield from ({"quant": good[-1], "n_cpu_moe": n} for n in range(1, lm.L + 1))


def fit_rows() -> tuple[FitRow, ...]:
    """What `onecard fit` shows of chat."""
    return (
        FitRow(
            "llm-infer",
            "chat",
            PlanConfig(n_ctx=8192),
            USUAL,
            "n_ctx",
            (8192, 16384, 32768, 65536, 131072),
            _formats,
        ),
    )
