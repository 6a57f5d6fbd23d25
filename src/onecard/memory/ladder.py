"""Turns knobs in the order of least loss until a plan fits, and finds the largest model that a card holds. Knows settings and plans, no file.

Each rung says what it changes, what it saves and what it costs; a rung that saves nothing is passed over.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from onecard.memory import lm
from onecard.memory.card import Card
from onecard.memory.fit import BEST_FIRST
from onecard.memory.plan import Plan
from onecard.memory.workloads import InferSettings, TuneSettings, Workload, get
from onecard.units import size

Change = tuple[dict[str, Any], str]


@dataclass(frozen=True)
class Rung:
    """One change of the settings that was taken."""

    changes: dict[str, Any]
    saved_bytes: int
    cost: str

    def words(self) -> str:
        return f"{', '.join(f'{name}={value}' for name, value in self.changes.items())}: saves {size(self.saved_bytes)}; {self.cost}"


def _tune_rungs(s: TuneSettings) -> Iterator[Change]:
    """DESIGN 6's order: what leaves the mathematics equal comes first."""
    if s.loss != "fused":
        yield {"loss": "fused"}, "the same mathematics, no slower (Liger kernel)"
    if s.attention == "eager":
        yield {"attention": "sdpa"}, "the same mathematics, faster"
    if s.rest_fp32:
        yield {"rest_fp32": False}, "embeddings and norms in 16 bits: the loss is equal within noise when they are not trained"
    if not s.checkpointing:
        yield {"checkpointing": True}, "the same mathematics, about a third slower"
    batch = s.batch
    while batch > 1:
        batch //= 2
        yield {"batch": batch}, "more accumulation keeps the effective batch and the mathematics; somewhat slower"
    if s.optimizer in ("adamw", "paged-adamw"):
        yield {"optimizer": "adamw-8bit"}, "equal within noise in published runs (Dettmers 2022)"
    if s.optimizer != "paged-adamw-8bit":
        yield {"optimizer": "paged-adamw-8bit"}, "its states move to the computer's memory: a step slower when the card is full"


def _shorter(s: TuneSettings) -> Iterator[Change]:
    seq = s.seq
    while seq > 256:
        seq //= 2
        yield {"seq": seq}, f"samples longer than {seq} tokens are cut or left out"


def _infer_rungs(s: InferSettings) -> Iterator[Change]:
    if not s.flash_attention:
        yield {"flash_attention": True}, "the same mathematics, faster"
    if s.kv_type == "f16":
        yield {"kv_type": "q8_0"}, "hardly measurable in perplexity"
    known = [quant for quant in BEST_FIRST if quant in BEST_FIRST[: BEST_FIRST.index("q4_k_m") + 1]]
    for quant in known[known.index(s.format) + 1 if s.format in known else len(known) :]:
        yield {"format": quant}, "a little quality: see the table of llama.cpp's quantize"
    model = lm.named(s.model)
    if model and model.experts and not s.experts_on_cpu:
        yield {"experts_on_cpu": True}, "experts answer from the computer's memory: slower"
    n_ctx = s.n_ctx
    while n_ctx > 2048:
        n_ctx //= 2
        yield {"n_ctx": n_ctx}, f"the talk is cut at {n_ctx} tokens"
    if model and s.n_gpu_layers < 0:
        for layers in range(model.L, -1, -1):
            yield {"n_gpu_layers": layers}, f"{model.L + 1 - layers} of {model.L + 1} layers stay on the CPU: much slower"


def fit(name: str, settings: Any, card: Card) -> tuple[Any, Plan, list[Rung]]:
    """The settings that fit with room for the band, their plan, and the rungs taken; the last plan says so when nothing fits."""
    workload: Workload = get(name)
    rungs: list[Rung] = []
    plan = workload.plan(settings, card)
    ladder: Callable[[Any], Iterator[Change]] = _infer_rungs if isinstance(settings, InferSettings) else lambda s: (c for part in (_tune_rungs(s), _shorter(s)) for c in part)
    for changes, cost in ladder(settings):
        if plan.high_bytes <= card.free_bytes:
            break
        tried = settings.model_copy(update=changes)
        smaller = workload.plan(tried, card)
        if smaller.total_bytes >= plan.total_bytes:
            continue
        last = rungs[-1] if rungs else None
        saved = plan.total_bytes - smaller.total_bytes
        if last and last.changes.keys() == changes.keys():  # a knob turned further: one rung, with all that it saves
            rungs[-1] = Rung(changes, last.saved_bytes + saved, cost)
        else:
            rungs.append(Rung(changes, saved, cost))
        settings, plan = tried, smaller
    return settings, plan, rungs


def next_changes(name: str, settings: Any, card: Card, most: int = 3) -> list[Rung]:
    """The first rungs that save anything, each alone from the settings as they are: what to try after an out-of-memory."""
    workload = get(name)
    base = workload.plan(settings, card).total_bytes
    rungs = _infer_rungs(settings) if isinstance(settings, InferSettings) else (c for part in (_tune_rungs(settings), _shorter(settings)) for c in part)
    out: list[Rung] = []
    for changes, cost in rungs:
        saved = base - workload.plan(settings.model_copy(update=changes), card).total_bytes
        if saved > 0 and all(changes.keys() != rung.changes.keys() for rung in out):
            out.append(Rung(changes, saved, cost))
    return out[:most]


USUAL = ("smollm2-135m", "qwen3-0.6b", "llama-3.2-1b", "qwen3-1.7b", "llama-3.2-3b", "qwen3-4b", "llama-3.1-8b", "gemma-3-12b", "qwen3-14b", "gemma-3-27b", "qwen3-32b", "llama-3.3-70b")
"""What `onecard fit` tries, smallest first: the models that people use."""


def largest(card: Card) -> list[dict[str, Any]]:
    """For each workload the largest of the usual models that fits comfortably, and for it the longest context or sample."""
    rows = []
    for name, base, knob, values in (("llm-infer", InferSettings(format="q4_k_m", n_ctx=8192), "n_ctx", (8192, 16384, 32768, 65536, 131072)),
                                     ("qlora", TuneSettings(seq=2048, loss="fused", optimizer="paged-adamw-8bit"), "seq", (2048, 4096, 8192, 16384, 32768)),
                                     ("lora", TuneSettings(seq=2048, loss="fused", optimizer="paged-adamw-8bit"), "seq", (2048, 4096, 8192, 16384, 32768)),
                                     ("full", TuneSettings(seq=2048, loss="fused", optimizer="adamw-8bit"), "seq", (2048, 4096, 8192, 16384, 32768))):
        workload = get(name)

        def comfortable(settings: Any, plan: Callable[[Any, Card], Plan] = workload.plan) -> bool:
            return plan(settings, card).high_bytes <= card.free_bytes

        held = [model for model in USUAL if comfortable(base.model_copy(update={"model": model}))]
        if not held:
            rows.append({"workload": name, "model": "", "bytes": 0, "what": "none of the usual models"})
            continue
        best = base.model_copy(update={"model": held[-1]})
        longest = max((value for value in values if comfortable(best.model_copy(update={knob: value}))), default=values[0])
        chosen = best.model_copy(update={knob: longest})
        rows.append({"workload": name, "model": held[-1], "bytes": workload.plan(chosen, card).total_bytes, "what": f"{knob} {longest}", "settings": chosen.model_dump(mode="json")})
    return rows
