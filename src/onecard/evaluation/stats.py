"""Confidence intervals, paired tests, and the verdict better, worse or inconclusive.

Resampling is seeded: the same items give the same interval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 10_000
"""Bootstrap samples: the Monte Carlo error of a 2.5 % quantile is then below 0.2 percentage points
of coverage (Efron & Tibshirani 1993, ch. 13)."""
BETTER, WORSE, INCONCLUSIVE = "better", "worse", "inconclusive"
"""The verdicts. Run folders of onecard 0.1 have "not shown" for "inconclusive", in texts only:
every comparison is computed again from the items."""
MAX_EXACT_FLIPS = 1000
"""Above this many flipped items McNemar's test takes the normal approximation with continuity
correction: binomials of that size overflow a float, and the two agree to 1e-4."""


@dataclass(frozen=True)
class Interval:
    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, Any]:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}

    def render(self, digits: int = 3) -> str:
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def mean_interval(values: Sequence[float], *, seed: int = 0) -> Interval:
    """The mean with its 95 % percentile bootstrap interval over items; nan without items.

    >>> mean_interval([1.0, 1.0, 1.0]).render(1)
    '1.0 [1.0, 1.0]'
    """
    return ratio_interval(values, np.ones(len(values)), seed=seed)


def ratio_interval(
    parts: Sequence[float], wholes: Sequence[float] | np.ndarray, *, seed: int = 0
) -> Interval:
    """sum(parts) / sum(wholes) with its 95 % bootstrap interval, as for word errors over words.

    Numerator and denominator of an item are resampled together.
    """
    numerators, denominators = np.asarray(parts, dtype=float), np.asarray(wholes, dtype=float)
    n = len(numerators)
    if not n or denominators.sum() == 0:
        return Interval(math.nan, math.nan, math.nan, n)
    tops, bottoms = _resampled_sums(np.stack([numerators, denominators]), seed)
    low, high = np.percentile(tops / np.maximum(bottoms, 1e-12), [2.5, 97.5])
    return Interval(float(numerators.sum() / denominators.sum()), float(low), float(high), n)


def _resampled_sums(rows: np.ndarray, seed: int) -> np.ndarray:
    """Sums of `rows` (M, N) over resampled items, (M, RESAMPLES); memory stays below 64 MB."""
    n = rows.shape[1]
    random = np.random.default_rng(seed)
    out = np.empty((rows.shape[0], RESAMPLES))
    step = max(1, 4_000_000 // n)
    for start in range(0, RESAMPLES, step):
        stop = min(start + step, RESAMPLES)
        picks = random.integers(0, n, size=(stop - start, n))
        out[:, start:stop] = rows[:, picks].sum(axis=2)
    return out


T975 = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
    2.120,
    2.110,
    2.101,
    2.093,
    2.086,
)
"""97.5 % quantile of Student's t with 1 to 20 degrees of freedom."""


def t_interval(values: Sequence[float]) -> Interval:
    """The mean with its 95 % t interval, for a few trainings that differ in their seed.

    A bootstrap over so few values is far too narrow. One value has no interval.

    >>> t_interval([1.0, 2.0, 3.0]).render(2)
    '2.00 [-0.48, 4.48]'
    """
    n, mean = len(values), float(np.mean(values)) if len(values) else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    quantile = T975[n - 2] if n - 2 < len(T975) else 1.96
    half = quantile * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same items; `delta` is the mean of new minus old."""

    delta: Interval
    verdict: str
    """BETTER, WORSE or INCONCLUSIVE."""
    p_value: float
    """Two-sided: McNemar's exact test for scores of 0 or 1, else the paired bootstrap."""
    test: str
    won: tuple[str, ...] = ()
    """Ids of the items on which the new system is better."""
    lost: tuple[str, ...] = ()

    def render(self) -> str:
        flips = ""
        if self.won or self.lost:
            flips = f"; {len(self.won)} items gained, {len(self.lost)} lost"
        return (
            f"{self.verdict}: {self.delta.value:+.3f} [{self.delta.low:+.3f}, "
            f"{self.delta.high:+.3f}], p={self.p_value:.3f} ({self.test}){flips}"
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "delta": self.delta.as_dict(),
            "verdict": self.verdict,
            "p_value": self.p_value,
            "test": self.test,
            "won": list(self.won),
            "lost": list(self.lost),
        }


def compare(
    old: dict[str, float], new: dict[str, float], *, higher_is_better: bool = True, seed: int = 0
) -> Comparison:
    """Paired on the ids that both have.

    The verdict is better or worse when the whole interval lies on one side of zero and p <= .05.
    """
    ids = sorted(old.keys() & new.keys())
    before, after = np.array([old[i] for i in ids]), np.array([new[i] for i in ids])
    if not ids:
        return Comparison(
            Interval(math.nan, math.nan, math.nan, 0), INCONCLUSIVE, 1.0, "no common items"
        )
    difference = after - before
    delta = mean_interval(difference.tolist(), seed=seed)
    sign = 1 if higher_is_better else -1
    won = tuple(i for i, d in zip(ids, difference, strict=True) if d * sign > 0)
    lost = tuple(i for i, d in zip(ids, difference, strict=True) if d * sign < 0)
    if set(np.unique(before)) | set(np.unique(after)) <= {0.0, 1.0}:
        p_value, test = mcnemar(len(won), len(lost)), "McNemar, exact"
    else:
        sums = _resampled_sums(difference[None, :], seed)[0]
        tail = min((sums <= 0).mean(), (sums >= 0).mean())
        p_value, test = min(1.0, 2 * float(tail) + 2 / RESAMPLES), "paired bootstrap"
    verdict = INCONCLUSIVE
    if (delta.low > 0 or delta.high < 0) and p_value <= 0.05:
        verdict = BETTER if delta.value * sign > 0 else WORSE
    return Comparison(delta, verdict, p_value, test, won, lost)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p of McNemar's test: each flipped item is a fair coin (McNemar 1947).

    >>> mcnemar(0, 0), round(mcnemar(9, 1), 4)
    (1.0, 0.0215)
    """
    n, k = gained + lost, min(gained, lost)
    if n == 0:
        return 1.0
    if n > MAX_EXACT_FLIPS:
        z: float = max(abs(gained - lost) - 1, 0) / math.sqrt(2 * n)
        return math.erfc(z)
    return min(1.0, float(2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n))


def cohen_kappa(one: Sequence[int], other: Sequence[int]) -> float:
    """Agreement of two raters beyond chance (Cohen 1960); nan when neither ever varies.

    >>> cohen_kappa([1, 1, 0, 0], [1, 0, 0, 0])
    0.5
    """
    n = len(one)
    if not n:
        return math.nan
    same = sum(a == b for a, b in zip(one, other, strict=True)) / n
    chance = sum(list(one).count(c) * list(other).count(c) for c in {*one, *other}) / n**2
    return math.nan if chance == 1 else (same - chance) / (1 - chance)
