"""Confidence intervals, paired tests, and the verdict better, worse, equal or inconclusive.

What is resampled or counted is a unit: an item, or a group of items that say the same thing (rows
of one document, clips of one speaker, copies of one row). Few units make wide intervals, and below
`MIN_UNITS` no verdict. tests/bench/bench_stats.py measures false positives and coverage.
"""

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from onecard.evaluation.metrics.kinds import Bounds, kind_of

BETTER, WORSE, EQUAL, INCONCLUSIVE = "better", "worse", "equal", "inconclusive"
"""The verdicts. Run folders of onecard 0.1 have "not shown" for "inconclusive", in texts only:
every comparison is computed again from the items."""
MIN_UNITS = 6
"""Five fair coins fall on one side with p = 2/32 = .0625, six with .031: below six units no test
of signs reaches .05."""
ALPHA = 0.05
EXACT_UNITS = 14
"""Up to here all 2^n sign patterns are counted, above `FLIPS` random ones."""
FLIPS = 9_999
NO_BOUNDS: Bounds = (-math.inf, math.inf)


@dataclass(frozen=True)
class Interval:
    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON: None for a limit or value that does not exist."""
        ends = {"value": self.value, "low": self.low, "high": self.high}
        return {k: v if math.isfinite(v) else None for k, v in ends.items()} | {"n": self.n}

    def render(self, digits: int = 3) -> str:
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


# Intervals


def mean_interval(
    values: Sequence[float],
    *,
    bounds: Bounds = NO_BOUNDS,
    groups: Sequence[Hashable] | None = None,
) -> Interval:
    """The mean with its 95 % interval over units; nan without items.

    Values of 0 and 1 only are shares: Clopper-Pearson (1934). Else Student's t with one more unit
    that was not seen (`_mean_limits`).

    >>> mean_interval([1.0] * 13).render(2), mean_interval([2.0, 2.5, 2.7, 3.0]).render(1)
    ('1.00 [0.75, 1.00]', '2.5 [0.3, 4.1]')
    """
    return ratio_interval(values, np.ones(len(values)), bounds=bounds, groups=groups)


def ratio_interval(
    parts: Sequence[float],
    wholes: Sequence[float] | np.ndarray,
    *,
    bounds: Bounds = NO_BOUNDS,
    groups: Sequence[Hashable] | None = None,
) -> Interval:
    """sum(parts) / sum(wholes) with its 95 % interval, as for word errors over words.

    `bounds` are those of a unit's ratio.
    """
    tops, bottoms = _units(parts, wholes, groups)
    if not len(tops) or bottoms.sum() <= 0:
        return Interval(math.nan, math.nan, math.nan, len(parts))
    value, linear = _linearized(tops, bottoms)
    if np.all(np.asarray(wholes) == 1) and _is_binary(parts) and not -math.inf < bounds[0] < 0:
        low, high = _share_limits(value, linear, len(parts))
    else:
        low, high = _mean_limits(linear, bounds)
    return Interval(value, low, high, len(parts))


def t_interval(values: Sequence[float]) -> Interval:
    """The mean with its 95 % t interval, for a few trainings that differ in their seed.

    One value has no interval.

    >>> t_interval([1.0, 2.0, 3.0]).render(2)
    '2.00 [-0.48, 4.48]'
    """
    n, mean = len(values), float(np.mean(values)) if len(values) else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    half = _t_quantile(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def _units(
    parts: Sequence[float],
    wholes: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of numerators and denominators of each group; without groups every item is one."""
    tops, bottoms = np.asarray(parts, dtype=float), np.asarray(wholes, dtype=float)
    if groups is None:
        return tops, bottoms
    codes: dict[Hashable, int] = {}
    index = [codes.setdefault(group, len(codes)) for group in groups]
    return np.bincount(index, tops), np.bincount(index, bottoms)


def _linearized(tops: np.ndarray, bottoms: np.ndarray) -> tuple[float, np.ndarray]:
    """(the ratio of the sums, one value a unit whose mean is the ratio and whose spread is that of
    the ratio), linearised (Cochran 1977, 6.19)."""
    ratio = float(tops.sum() / bottoms.sum())
    return ratio, ratio + (tops - ratio * bottoms) / bottoms.mean()


def _is_binary(values: Sequence[float] | np.ndarray) -> bool:
    array = np.asarray(values)
    return bool(np.all((array == 0) | (array == 1)))


def _t_quantile(degrees: int, share: float = 1 - ALPHA / 2) -> float:
    return float(special.stdtrit(degrees, share))


def _share_limits(share: float, units: np.ndarray, n: int) -> tuple[float, float]:
    """Clopper-Pearson; for groups with the effective number of items of Korn & Graubard (1998)."""
    n_units = len(units)
    effective = float(n)
    if n_units < n:
        variance = float(units.var(ddof=1)) / n_units if n_units > 1 else 0.0
        effective = float(n_units)
        if variance > 0:
            penalty = (_t_quantile(n - 1) / _t_quantile(n_units - 1)) ** 2
            effective = max(1.0, min(float(n), share * (1 - share) / variance * penalty))
    hits = share * effective
    low = special.betaincinv(hits, effective - hits + 1, ALPHA / 2) if hits > 0 else 0.0
    high = 1.0
    if hits < effective:
        high = special.betaincinv(hits + 1, effective - hits, 1 - ALPHA / 2)
    return float(low), float(high)


def _mean_limits(units: np.ndarray, bounds: Bounds, alpha: float = ALPHA) -> tuple[float, float]:
    """Student's t of the units and of one more that was not seen.

    A small sample of a skewed quantity often lacks its tail, and t is then too short on the side of
    the tail: 83 % instead of 95 % for 8 log-normal values. The unit that is added lies beyond the
    farthest one, the more so the more skewed and the fewer the units are. Where nearly all values
    are equal their spread says nothing, and it lies at the bound.
    """
    n = len(units)
    low_bound, high_bound = bounds
    if n < 2:
        if np.isinf(low_bound) or np.isinf(high_bound):
            return math.nan, math.nan
        return bounds
    mean, spread = float(units.mean()), float(units.std(ddof=1))
    skewness = float(((units - mean) ** 3).mean()) / spread**3 if spread > 0 else 0.0
    n_apart = int((np.abs(units - np.median(units)) > 1e-12).sum())
    quantile = _t_quantile(n - 1, 1 - alpha / 2)
    limits = []
    for side, bound in ((-1, low_bound), (1, high_bound)):
        room = max(0.0, side * (bound - mean))
        farthest = float((side * (units - mean)).max())
        # 0.5, 2 and 4: the least for which coverage is >= 94 % from 13 units (bench_stats);
        # 60 / n^2: fewer units do not show how skewed they are
        times = max(0.5 + 2 * side * skewness, 0.0)
        distance = min(times * farthest, 4 * spread) + 60 / n**2 * farthest
        distance = min(distance, room)
        if n_apart < MIN_UNITS and not np.isinf(room):
            distance = room
        sample = np.append(units, mean + side * distance)
        limit = sample.mean() + side * quantile * sample.std(ddof=1) / math.sqrt(n + 1)
        limits.append(float(min(max(limit, low_bound), high_bound)))
    return limits[0], limits[1]


# Paired comparison


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same items; `delta` is the mean of new minus old."""

    delta: Interval
    verdict: str
    """BETTER, WORSE, EQUAL or INCONCLUSIVE."""
    p_value: float
    """Two-sided."""
    test: str
    won: tuple[str, ...] = ()
    """Ids of the items on which the new system is better."""
    lost: tuple[str, ...] = ()
    n_units: int = 0
    """Items, or groups of them, that are independent."""
    margin: float = 0.0
    """The smallest difference that matters; 0 where every difference does."""
    detectable: float = math.nan
    """The difference that this set shows in 8 of 10 cases."""

    def render(self) -> str:
        flips, note = "", ""
        if self.won or self.lost:
            flips = f"; {len(self.won)} items gained, {len(self.lost)} lost"
        if self.verdict == EQUAL:
            note = f"; the difference is within ±{self.margin:g}"
        elif self.verdict == INCONCLUSIVE:
            note = self._why_inconclusive()
        return (
            f"{self.verdict}: {self.delta.value:+.3f} [{self.delta.low:+.3f}, "
            f"{self.delta.high:+.3f}], p={self.p_value:.3f} ({self.test}){flips}{note}"
        )

    def _why_inconclusive(self) -> str:
        if self.n_units < MIN_UNITS:
            return (
                f"; {self._units()} cannot show a difference ({MIN_UNITS} different ones are the "
                "least)"
            )
        if self.p_value <= ALPHA and abs(self.delta.value) < self.margin:
            return f"; a difference below {self.margin:g} does not count"
        if math.isnan(self.detectable):
            return ""
        return f"; {self._units()} show a difference of {self.detectable:.2g} or more"

    def _units(self) -> str:
        """What was counted: items, or groups (one document's rows, one speaker's clips, copies)."""
        kind = "item" if self.n_units >= self.delta.n else "group"
        return f"{self.n_units} {kind}{'s' * (self.n_units != 1)}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "delta": self.delta.as_dict(),
            "verdict": self.verdict,
            "p_value": self.p_value,
            "test": self.test,
            "won": list(self.won),
            "lost": list(self.lost),
            "n_units": self.n_units,
            "margin": self.margin,
            "detectable": None if math.isnan(self.detectable) else self.detectable,
        }


def compare(
    old: Mapping[str, float],
    new: Mapping[str, float],
    *,
    higher_is_better: bool = True,
    bounds: Bounds = NO_BOUNDS,
    groups: Mapping[str, Hashable] | None = None,
    margin: float = 0.0,
) -> Comparison:
    """Paired on the ids that both have; scores that are not finite count for neither.

    Better or worse: at least `MIN_UNITS` units, the whole interval on one side of zero, p <= .05,
    and a difference of `margin` or more. Equal: the 90 % interval lies within the margin, which is
    two one-sided tests at 5 % (Schuirmann 1987). `bounds` are those of a score; `groups` gives an
    id's group, an id without one is its own.
    """
    ids = sorted(
        i for i in old.keys() & new.keys() if math.isfinite(old[i]) and math.isfinite(new[i])
    )
    if not ids:
        nothing = Interval(math.nan, math.nan, math.nan, 0)
        return Comparison(nothing, INCONCLUSIVE, 1.0, "no test")
    before, after = np.array([old[i] for i in ids]), np.array([new[i] for i in ids])
    binary = _is_binary(before) and _is_binary(after)
    difference = after - before
    tops, bottoms = _units(
        difference, np.ones(len(ids)), [groups.get(i, i) for i in ids] if groups else None
    )
    reach = 1.0 if binary else bounds[1] - bounds[0]
    value, linear = _linearized(tops, bottoms)
    low, high = _mean_limits(linear, (-reach, reach))
    sign = 1 if higher_is_better else -1
    won = tuple(i for i, d in zip(ids, difference, strict=True) if d * sign > 0)
    lost = tuple(i for i, d in zip(ids, difference, strict=True) if d * sign < 0)
    if binary and len(tops) == len(ids):
        p_value, test = mcnemar(len(won), len(lost)), "McNemar, exact"
    else:
        p_value, test = sign_flips(tops)
    verdict, n_units = INCONCLUSIVE, len(tops)
    if n_units >= MIN_UNITS:
        inner = _mean_limits(linear, (-reach, reach), alpha=2 * ALPHA)
        if margin and -margin < inner[0] and inner[1] < margin:
            verdict = EQUAL
        elif (low > 0 or high < 0) and p_value <= ALPHA and abs(value) >= margin:
            verdict = BETTER if value * sign > 0 else WORSE
    return Comparison(
        Interval(value, low, high, len(ids)),
        verdict,
        p_value,
        test,
        won,
        lost,
        n_units,
        margin,
        max(_detectable(value, low, high), MIN_UNITS / n_units * binary, margin),
    )


def compare_seeds(differences: Sequence[float], *, higher_is_better: bool = True) -> Comparison:
    """New minus old of trainings that share a seed each: Student's paired t test, which takes the
    differences between seeds as normal and so needs only two of them."""
    delta = t_interval(differences)
    half = delta.high - delta.value
    p_value = 1.0
    if half > 0:
        t = delta.value / (half / _t_quantile(delta.n - 1))
        p_value = 2 * float(special.stdtr(delta.n - 1, -abs(t)))
    elif half == 0 and delta.value:
        p_value = 0.0
    verdict = INCONCLUSIVE
    if p_value <= ALPHA:
        verdict = BETTER if (delta.value > 0) == higher_is_better else WORSE
    return Comparison(
        delta,
        verdict,
        p_value,
        "paired t over seeds",
        n_units=max(delta.n, MIN_UNITS),
        detectable=half * (1.96 + 0.84) / 1.96,
    )


def _detectable(value: float, low: float, high: float) -> float:
    """The difference found with a power of 80 %: 2.80 standard errors where the interval is 1.96
    (Bloom 1995)."""
    return max(value - low, high - value) * (1.96 + 0.84) / 1.96


def sign_flips(units: np.ndarray) -> tuple[float, str]:
    """Two-sided p of the mean of paired differences, and the name of the test: were neither system
    better, the sign of each difference would be a coin (Fisher 1935, 21). Exact up to `EXACT_UNITS`
    units, above with `FLIPS` seeded patterns.

    >>> sign_flips(np.array([0.1, 0.2, 0.3, 0.1, 0.4, 0.2]))
    (0.03125, 'sign flips, exact')
    """
    units = units[units != 0]
    if not len(units):
        return 1.0, "sign flips, exact"
    observed = abs(units.sum()) * (1 - 1e-9)
    if len(units) <= EXACT_UNITS:
        patterns = np.arange(2 ** (len(units) - 1))  # the other half mirrors them
        signs = (patterns[:, None] >> np.arange(len(units)) & 1) * 2.0 - 1
        return float((np.abs(signs @ units) >= observed).mean()), "sign flips, exact"
    random, as_large = np.random.default_rng(0), 0
    step = max(1, 4_000_000 // len(units))
    for start in range(0, FLIPS, step):
        shape = (min(step, FLIPS - start), len(units))
        signs = random.integers(0, 2, shape, dtype=np.int8) * 2.0 - 1
        as_large += int((np.abs(signs @ units) >= observed).sum())
    return (as_large + 1) / (FLIPS + 1), "sign flips"


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p of McNemar's test: each flipped item is a fair coin (McNemar 1947).

    >>> mcnemar(0, 0), round(mcnemar(9, 1), 4)
    (1.0, 0.0215)
    """
    n, k = gained + lost, min(gained, lost)
    return min(1.0, 2 * float(special.bdtr(k, n, 0.5))) if n else 1.0


def holm(comparisons: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """The same comparisons, judged together: with p adjusted for their number (Holm 1979).

    A better or worse whose adjusted p is above .05 becomes inconclusive.
    """
    order = sorted(comparisons, key=lambda name: comparisons[name].p_value)
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(order):
        one = comparisons[name]
        largest = max(largest, min(1.0, one.p_value * (len(order) - rank)))
        verdict = one.verdict
        if verdict in (BETTER, WORSE) and largest > ALPHA:
            verdict = INCONCLUSIVE
        test = f"{one.test}, Holm over {len(order)}" if len(order) > 1 else one.test
        adjusted[name] = dataclasses.replace(one, verdict=verdict, p_value=largest, test=test)
    return {name: adjusted[name] for name in comparisons}


# By the metric's name


def metric_interval(
    metric: str, values: Sequence[float], groups: Sequence[Hashable] | None = None
) -> Interval:
    """`mean_interval` within the values that the metric can have."""
    return mean_interval(values, bounds=kind_of(metric).bounds, groups=groups)


def compare_metric(
    metric: str,
    old: Mapping[str, float],
    new: Mapping[str, float],
    *,
    groups: Mapping[str, Hashable] | None = None,
    margin: float | None = None,
) -> Comparison:
    """`compare` with the metric's direction, bounds and, unless given, margin."""
    kind = kind_of(metric)
    return compare(
        old,
        new,
        higher_is_better=not kind.lower_is_better,
        bounds=kind.bounds,
        groups=groups,
        margin=kind.margin if margin is None else margin,
    )


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
