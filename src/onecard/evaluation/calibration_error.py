"""Whether a confidence of .8 is right in 8 of 10 cases: expected calibration error, Brier score and
the points of a reliability diagram."""

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from onecard.evaluation.stats import Interval, mean_interval

BINS = 15


def _bins(confidence_N: np.ndarray, n_bins: int) -> np.ndarray:
    """Number of each item's bin; bins hold equally many items, equal confidences share one."""
    order = np.argsort(confidence_N, kind="stable")
    rank = np.empty(len(order), dtype=int)
    rank[order] = np.arange(len(order))
    bins = rank * n_bins // max(1, len(order))
    values, inverse = np.unique(confidence_N, return_inverse=True)
    lowest = np.full(len(values), n_bins)
    np.minimum.at(lowest, inverse, bins)
    return lowest[inverse]


def calibration_error(
    confidence: Sequence[float] | np.ndarray,
    correct: Sequence[bool] | np.ndarray,
    *,
    n_bins: int = BINS,
    groups: Sequence[Hashable] | None = None,
) -> Interval:
    """Mean distance of confidence from accuracy, over bins of equal mass (Nguyen & O'Connor 2015).

    The interval takes bins and the signs of their gaps as fixed: the error is then a mean over
    items. Of few items the value itself is too high: a perfect model with n items in a bin has gaps
    of about .4 / sqrt(n).
    """
    confidence_N = np.asarray(confidence, dtype=float)
    gap_N = confidence_N - np.asarray(correct, dtype=float)
    if not len(gap_N):
        return Interval(math.nan, math.nan, math.nan, 0)
    bins = _bins(confidence_N, n_bins)
    signs = np.where(np.bincount(bins, gap_N, n_bins) < 0, -1.0, 1.0)
    interval = mean_interval(list(signs[bins] * gap_N), bounds=(-1.0, 1.0), groups=groups)
    ends = (interval.value, interval.low, interval.high)
    value, low, high = (max(0.0, end) for end in ends)
    return Interval(value, low, high, interval.n)


def reliability(
    confidence: Sequence[float] | np.ndarray,
    correct: Sequence[bool] | np.ndarray,
    n_bins: int = BINS,
) -> list[dict[str, Any]]:
    """The bins: mean confidence, share that is right, number of items."""
    confidence_N = np.asarray(confidence, dtype=float)
    correct_N = np.asarray(correct, dtype=float)
    bins = _bins(confidence_N, n_bins)
    rows = []
    for number in np.unique(bins):
        inside = bins == number
        row = {"confidence": confidence_N[inside].mean(), "accuracy": correct_N[inside].mean()}
        rows.append({key: float(value) for key, value in row.items()} | {"n": int(inside.sum())})
    return rows


def brier(probabilities_NC: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Squared distance of the probabilities from the truth, an item; 0 to 2 (Brier 1950)."""
    truth = np.eye(probabilities_NC.shape[1])[labels_N]
    return np.asarray(((probabilities_NC - truth) ** 2).sum(1))


def negative_log_likelihood(probabilities_NC: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """-ln of the right class's probability, an item (nats); at most 16.1, for 1e-7."""
    right = probabilities_NC[np.arange(len(labels_N)), labels_N]
    return np.asarray(-np.log(np.clip(right, 1e-7, 1.0)))
