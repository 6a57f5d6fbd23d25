"""How long a network takes for one batch, alone and with the work before and after it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onecard.errors import SettingsError

WARM_UP = 3
LEAST = 5
"""Runs at least, however long they take."""


@dataclass(frozen=True)
class Latency:
    """Of one batch, in ms."""

    median_ms: float
    p95_ms: float
    n: int
    """Runs that were timed."""
    batch: int = 1

    @property
    def per_s(self) -> float:
        """Pictures a second at the median."""
        return 1000 * self.batch / self.median_ms if self.median_ms else 0.0

    def as_dict(self) -> dict[str, float]:
        return asdict(self) | {"pictures_per_s": self.per_s}


def measure(
    run: Callable[[Any], Any],
    batch: Any,
    *,
    seconds: float = 2.0,
    repeats: int = 0,
    warm_up: int = WARM_UP,
) -> Latency:
    """Time `run(batch)` again and again: `repeats` times, or for `seconds` and at least 5 times.

    `batch` is an array or a list of pictures; for the whole way pass `Predictor.detect` and a list
    of pictures. `run` must have finished when it returns: a CUDA run copies its result. The first
    runs fill caches and are not counted. Raises SettingsError for an empty batch.
    """
    if not len(batch):
        raise SettingsError("nothing to time", why="the batch is empty", fix="give a picture")
    for _ in range(warm_up):
        run(batch)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < repeats or (
        not repeats and (len(times) < LEAST or time.perf_counter() < end)
    ):
        start = time.perf_counter()
        run(batch)
        times.append((time.perf_counter() - start) * 1000)
    median, p95 = np.percentile(times, [50, 95])
    return Latency(float(median), float(p95), len(times), len(batch))


def table(forms: Mapping[str, Latency]) -> str:
    """A Markdown table of several forms of a model, the first one as the measure.

    >>> print(table({"torch": Latency(20, 22, 9), "onnx": Latency(10, 11, 9)}))
    | form | batch | median ms | p95 ms | pictures/s | speed |
    |---|---:|---:|---:|---:|---:|
    | torch | 1 | 20.0 | 22.0 | 50.0 | 1.00x |
    | onnx | 1 | 10.0 | 11.0 | 100.0 | 2.00x |
    """
    rows = ["| form | batch | median ms | p95 ms | pictures/s | speed |", "|---|" + "---:|" * 5]
    first = next(iter(forms.values())).per_s if forms else 0.0
    for name, one in forms.items():
        speed = f"{one.per_s / first:.2f}x" if first else "-"
        cells = [name, str(one.batch), f"{one.median_ms:.1f}", f"{one.p95_ms:.1f}"]
        rows.append("| " + " | ".join([*cells, f"{one.per_s:.1f}", speed]) + " |")
    return "\n".join(rows)
