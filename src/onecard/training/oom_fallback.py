"""Work that goes on with smaller settings when memory runs out. The one place that catches an
out-of-memory. Knows no task."""

from collections.abc import Callable, Iterable
from typing import Any

from onecard.config import Config
from onecard.errors import DoesNotFit
from onecard.memory.devices import Device
from onecard.memory.fallbacks import Change, Planner
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.units import gib

MAX_FALLBACKS = 12
"""Changes of one run before it gives up: from a batch of 512 down to 1 takes nine."""


def run(
    work: Callable[[Any, Run], Result],
    config: Config,
    record: Run,
    device: Device,
    planner: Planner,
    changes_of: Callable[[Any], Iterable[Change]],
) -> Result:
    """The work; when memory runs out the next fallback is taken, and the work goes on from its last
    checkpoint. The run keeps what was changed in changes.json.

    Raises DoesNotFit when no fallback is left that saves anything.
    """
    taken: list[dict[str, Any]] = []
    while True:
        try:
            result = work(config, record)
        except Exception as fault:
            # torch's OutOfMemoryError is known by its name, so that torch need not be loaded here
            if type(fault).__name__ not in ("OutOfMemoryError", "MemoryError"):
                raise
            record.measure()
            message = str(fault).splitlines()[0][:200] if str(fault) else type(fault).__name__
            change = _next(config, device, planner, changes_of(config)) if _left(taken) else None
            if change is None:
                largest = planner(config, device).largest()
                raise DoesNotFit(
                    f"memory ran out: {message}",
                    why=f"the plan's largest part is {largest.name}, {gib(largest.bytes)}, and no "
                    "change is left that saves anything",
                    fix=f"onecard explain-oom {record.folder}",
                ) from fault
            config = config.model_copy(update=change[0])
            taken.append({"changes": change[0], "cost": change[1], "after": message})
            record.changed(taken, config, planner(config, device))
        else:
            return (
                Result({**result.data, "memory_changes": taken}, result.text) if taken else result
            )


def _left(taken: list[dict[str, Any]]) -> bool:
    return len(taken) < MAX_FALLBACKS


def _next(
    config: Config, device: Device, planner: Planner, changes: Iterable[Change]
) -> Change | None:
    """The first change that saves anything."""
    before = planner(config, device).total_bytes
    for change, cost in changes:
        if planner(config.model_copy(update=change), device).total_bytes < before:
            return change, cost
    return None
