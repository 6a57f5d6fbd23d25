"""Memory of rag: the language model on the device, embedder and index in the computer's memory."""

from collections.abc import Iterator

from onecard.config import Config
from onecard.inference import planning
from onecard.inference.config import LlmConfig
from onecard.memory import calibration
from onecard.memory.devices import Device
from onecard.memory.fallbacks import Change
from onecard.memory.plan import Plan, Term
from onecard.memory.terms import flat_index
from onecard.tasks.rag.configs import EmbedderConfig
from onecard.units import MIB

BAND = 0.06
"""As llama.cpp's: the language model is the only part on a GPU."""
E5_BYTES = 290 * MIB
"""Peak resident memory of the embedded embedder with its tokenizer while it works, measured
(tests/bench/bench_embedder.py)."""
TYPICAL_CHUNKS = 20_000
"""A large notebook or a mid-sized code base; `onecard rag index` tells the true number."""


def plan(config: Config, device: Device) -> Plan:
    """On a GPU only the language model counts: embedder and index run on the CPU."""
    index = Term(
        "index", flat_index(TYPICAL_CHUNKS, 384), f"{TYPICAL_CHUNKS} passages x 384 x fp32"
    )
    embedder = []
    if isinstance(config, EmbedderConfig) and config.embedding_model == "e5-small":
        reason = "multilingual-e5-small in int8, with its tokenizer and a batch"
        embedder = [Term("embedder", E5_BYTES, reason)]
    if not isinstance(config, LlmConfig):  # index and search ask no language model
        terms = (*embedder, index) if device.type == "cpu" else ()
        return Plan(terms, device)
    planned = planning.share(config, device)
    band = calibration.band(device, "rag", BAND)
    if device.type == "cpu":
        terms = (*planned.terms, *embedder, index)
        return Plan(terms, device, planned.choices, tuple(planned.notes), band)
    beside = (sum(term.bytes for term in embedder) + index.bytes) // MIB
    note = f"embedder and index take about {beside} MiB of the computer's own memory"
    notes = (*planned.notes, note)
    return Plan(tuple(planned.terms), device, planned.choices, notes, band)


def resolve_auto(config: Config, device: Device, check_hub: bool = False) -> tuple[Config, str]:
    """(the config with a named language model, why that one)."""
    if not isinstance(config, LlmConfig):
        return config, ""
    return planning.resolve_auto(config, device, check_hub)


def fallbacks(config: Config) -> Iterator[Change]:
    """Smallest loss first."""
    if not isinstance(config, LlmConfig):
        return
    if config.kv_type == "f16":
        yield {"kv_type": "q8_0"}, "hardly measurable in perplexity"
    n_ctx = config.n_ctx
    while n_ctx > 2048:
        n_ctx //= 2
        yield {"n_ctx": n_ctx}, "fewer passages and a shorter answer fit"
