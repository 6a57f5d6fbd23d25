"""Whether more labels would help: the same training on a part of the labels, scored on the same
held-out items."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from onecard.datasets.splits import hash_rank
from onecard.evaluation.stats import BETTER, EQUAL, WORSE, Comparison

SHARES = (0.25, 0.5)
"""Beside the whole."""
LEAST = 2
"""Items of the smallest part."""
T = TypeVar("T")


def part_of(items: Sequence[T], share: float, seed: int) -> list[T]:
    """A share of the items, by group: a smaller part lies within a larger one.

    Items have `name` and `group`; whole groups are taken until the share is reached.
    """
    groups: dict[str, list[T]] = {}
    for item in items:
        key = getattr(item, "group", "") or str(getattr(item, "name", ""))
        groups.setdefault(key, []).append(item)
    wanted = max(LEAST, math.ceil(len(items) * share))
    out: list[T] = []
    for key in sorted(groups, key=lambda name: hash_rank(seed, name)):
        if len(out) >= wanted:
            break
        out += groups[key]
    return out


def verdict(metric: str, points: Mapping[float, Mapping[str, Any]], last: Comparison) -> list[str]:
    """The curve in words. `last`: the whole against a half."""
    lines = [
        f"{share:4.0%} of the labels: {metric} {row['value']:.3f} "
        f"[{_number(row['low'])}, {_number(row['high'])}]"
        for share, row in points.items()
    ]
    if last.verdict == BETTER:
        words = "more labels would probably help: the second half of them still did"
    elif last.verdict == WORSE:
        words = "more labels of this kind would not help: half of them gave more"
    elif last.verdict == EQUAL:
        words = "more labels would hardly help: half of them gave as much"
    else:
        words = "whether more labels would help does not show: these pictures are too few to tell"
    return [*lines, f"{words} ({last.render()})"]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
