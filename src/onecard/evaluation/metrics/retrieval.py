"""Metrics of a ranking against judged items."""

import math
from collections.abc import Sequence

import numpy as np


def recall_at(ranked: Sequence[str], relevant: set[str], k: int) -> float:
    """Share of the relevant items among the first k; nan when nothing is relevant.

    >>> recall_at(["a", "b", "c"], {"b", "z"}, 2)
    0.5
    """
    return len(set(ranked[:k]) & relevant) / len(relevant) if relevant else math.nan


def reciprocal_rank(ranked: Sequence[str], relevant: set[str]) -> float:
    """1 / rank of the first relevant item, 0 when there is none."""
    return next((1 / rank for rank, item in enumerate(ranked, 1) if item in relevant), 0.0)


def ndcg_at(ranked: Sequence[str], gains: dict[str, float], k: int = 10) -> float:
    """Normalized discounted cumulative gain; nan when no gain is positive.

    Linear gain as in trec_eval's ndcg_cut (Järvelin & Kekäläinen 2002).

    >>> round(ndcg_at(["x", "a"], {"a": 1.0}, 10), 3)
    0.631
    """

    def dcg(values: Sequence[float]) -> float:
        return float(sum(gain / np.log2(rank + 1) for rank, gain in enumerate(values, 1)))

    best = dcg(sorted((g for g in gains.values() if g > 0), reverse=True)[:k])
    return dcg([max(gains.get(item, 0.0), 0.0) for item in ranked[:k]]) / best if best else math.nan
