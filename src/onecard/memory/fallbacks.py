"""Changes settings in the order of least loss until a plan fits. Knows configs and plans, no task.

A task's memory.py yields its fallbacks, smallest loss first; one that saves nothing is passed over.
The same list serves `onecard plan --fit` and a run that is out of memory.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from onecard.memory import number_types
from onecard.memory.devices import Device
from onecard.memory.plan import Plan
from onecard.units import size

Change = tuple[dict[str, Any], str]
"""(settings to change, what that costs)."""
Planner = Callable[[Any, Device], Plan]

SAME = "the same mathematics: the effective batch stays; somewhat slower"
CHECKPOINTING = "the same mathematics, about a third slower"
EIGHT_BIT = "equal within noise in published runs (Dettmers 2022)"


@dataclass(frozen=True)
class Fallback:
    """One change of the settings that was taken."""

    changes: dict[str, Any]
    saved_bytes: int
    cost: str

    def render(self) -> str:
        changes = ", ".join(f"{name}={value}" for name, value in self.changes.items())
        return f"{changes}: saves {size(self.saved_bytes)}; {self.cost}"

    def as_dict(self) -> dict[str, Any]:
        return {"changes": self.changes, "saved_bytes": self.saved_bytes, "cost": self.cost}


@dataclass(frozen=True)
class FitRow:
    """One row of `onecard fit`: the largest of `models` that fits in one of `formats`, in the best
    of these, then the largest of `values`.

    Larger models in 4 bits are better than smaller ones in more (Dettmers and Zettlemoyer 2023,
    arXiv 2212.09720); below 4 bits that ends, so that formats end there.
    """

    plan: str
    """Short name of the plan."""
    summary: str
    config: Any
    models: tuple[str, ...]
    """Usual models, smallest first."""
    knob: str
    values: tuple[int, ...]
    formats: Callable[[Any], Iterable[dict[str, Any]]] = lambda config: ({},)
    """Changes of a config with its model named, the best quality first."""


@dataclass(frozen=True)
class Fitted:
    """The settings that fit, their plan, and the fallbacks taken."""

    config: Any
    plan: Plan
    fallbacks: list[Fallback] = field(default_factory=list)


def fit(
    config: Any,
    device: Device,
    planner: Planner,
    changes: Iterable[Change],
    only: frozenset[str] = frozenset(),
    *,
    closely: bool = False,
) -> Fitted:
    """Settings that fit with room for the band; the last plan says so when nothing fits.

    `only`: the settings that the planner reads, when it is a trace that takes seconds. `closely`:
    without room for the band, as a run that can change more when memory runs out.
    """
    applied: list[Fallback] = []
    start, plan = config, planner(config, device)
    for change, cost in number_types.priced(changes, device):
        if _enough(plan, device, closely):
            break
        if only and not change.keys() & only:
            continue
        candidate = config.model_copy(update=change)
        smaller = planner(candidate, device)
        if smaller.total_bytes >= plan.total_bytes:
            continue
        saved = plan.total_bytes - smaller.total_bytes
        if applied and applied[-1].changes.keys() == change.keys():
            # the same setting turned further: one fallback, with all that it saves
            applied[-1] = Fallback(change, applied[-1].saved_bytes + saved, cost)
        else:
            applied.append(Fallback(change, saved, cost))
        config, plan = candidate, smaller
    return _without_needless(start, Fitted(config, plan, applied), device, planner, closely)


def _enough(plan: Plan, device: Device, closely: bool) -> bool:
    return plan.fits if closely else plan.high_bytes <= device.free_bytes


def _without_needless(
    start: Any, fitted: Fitted, device: Device, planner: Planner, closely: bool
) -> Fitted:
    """The same without the changes that a later one made needless, the earliest tried first."""
    kept = list(fitted.fallbacks)
    if not _enough(fitted.plan, device, closely):
        return fitted
    for change in fitted.fallbacks[:-1]:
        rest = [other for other in kept if other is not change]
        candidate = start
        for other in rest:
            candidate = candidate.model_copy(update=other.changes)
        plan = planner(candidate, device)
        if _enough(plan, device, closely):
            kept, fitted = rest, Fitted(candidate, plan, rest)
    return fitted


def next_changes(
    config: Any, device: Device, planner: Planner, changes: Iterable[Change], most: int = 3
) -> list[Fallback]:
    """The first changes that save anything, each alone: what to try after an out-of-memory."""
    base = planner(config, device).total_bytes
    out: list[Fallback] = []
    for change, cost in number_types.priced(changes, device):
        saved = base - planner(config.model_copy(update=change), device).total_bytes
        if saved > 0 and all(change.keys() != row.changes.keys() for row in out):
            out.append(Fallback(change, saved, cost))
    return out[:most]


def largest(row: FitRow, device: Device, planner: Planner) -> dict[str, Any]:
    """The largest of a row's models that fits with its band, in the best format, and its largest
    context or batch; with the command that plans it."""

    def fits(config: Any) -> bool:
        return planner(config, device).high_bytes <= device.free_bytes

    facts = {"workload": row.plan, "summary": row.summary}
    candidates = (
        (config.model_copy(update=change), change)
        for config in (row.config.model_copy(update={"model": m}) for m in reversed(row.models))
        for change in row.formats(config)
    )
    best_fit = next(((config, change) for config, change in candidates if fits(config)), None)
    if best_fit is None:
        return facts | {"model": "", "bytes": 0, "what": "none of the usual models"}
    best, change = best_fit
    larger = (value for value in reversed(row.values) if value >= getattr(best, row.knob))
    value = next(
        (value for value in larger if fits(best.model_copy(update={row.knob: value}))),
        getattr(best, row.knob),
    )
    chosen = best.model_copy(update={row.knob: value})
    plan = planner(chosen, device)
    settings = chosen.model_dump(mode="json", exclude_defaults=True)
    settings.pop("model", None)
    return facts | {
        "model": chosen.model,
        "format": ", ".join(f"{name} {value}" for name, value in change.items()),
        "bytes": plan.total_bytes,
        "what": f"{row.knob} {value}",
        "tokens_per_s": plan.choices.get("tokens/s, first"),
        "command": command_line(row.plan, chosen.model, settings),
        "values": {"model": chosen.model, **settings},
        "settings": chosen.model_dump(mode="json"),
    }


def command_line(plan: str, model: str, settings: dict[str, Any]) -> str:
    """The command that plans these settings.

    >>> command_line("llm-infer", "qwen3-14b", {"n_ctx": 8192, "cpu_moe": True, "swa_full": False})
    'onecard plan llm-infer qwen3-14b --n_ctx 8192 --cpu_moe --no-swa_full'
    """
    words = ["onecard", "plan", plan, model]
    for name, value in settings.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, list):
            words.append(f"--{name} {','.join(map(str, value))}")
        else:
            words.append(f"--{name} {value}")
    return " ".join(words)


def halve(name: str, value: int, least: int, cost: str) -> Iterator[Change]:
    """The setting at a half, a quarter ... down to `least`."""
    while value // 2 >= least:
        value //= 2
        yield {name: value}, cost


def halve_batch(
    config: Any,
    batch: str = "per_device_train_batch_size",
    accumulation: str = "gradient_accumulation_steps",
    cost: str = SAME,
) -> Iterator[Change]:
    """Smaller micro-batches; more accumulation keeps the effective batch."""
    size_, steps = getattr(config, batch), getattr(config, accumulation)
    effective = size_ * steps
    while size_ > 1:
        size_ //= 2
        yield {batch: size_, accumulation: -(-effective // size_)}, cost
