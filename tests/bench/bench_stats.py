"""False positives, coverage and power of the comparison, beside the percentile bootstrap.

    python tests/bench/bench_stats.py [--rounds 4000]       about 20 minutes
    writes bench-results/stats.json and the table of docs/concepts/proof.md on standard output

False positives: how often "better or worse" is said where the true mean difference is 0. Coverage:
how often the 95 % interval of the mean holds it. Power: how often a true difference of half a
standard deviation is found. "before" is what stood here until 0.2: a percentile bootstrap interval
that excludes 0. The distributions in `CHECKED` were not looked at when the interval was made.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np

from onecard.evaluation import stats
from onecard.reporting import table

SIZES = (3, 5, 8, 13, 24, 50, 100, 1000)
RANDOM = np.random.default_rng(0)
CLUSTER = 4
"""Items of a group, in the clustered data."""


def tied(n):
    return np.where(RANDOM.random(n) < 0.3, RANDOM.choice([-0.5, -0.25, 0.25, 0.5], n), 0.0)


def flips(n):
    return RANDOM.choice([-1.0, 0.0, 1.0], n, p=[0.2, 0.6, 0.2])


def share(n):
    return (RANDOM.random(n) < 0.9).astype(float)


def clustered(n):
    """`CLUSTER` items a group, correlation .5; the last group may be smaller."""
    n_groups = math.ceil(n / CLUSTER)
    shared = np.repeat(RANDOM.normal(size=n_groups), CLUSTER)[:n]
    return shared + RANDOM.normal(size=n)


DISTRIBUTIONS = {
    "normal": (RANDOM.standard_normal, 0.0, stats.NO_BOUNDS),
    "skewed (log-normal)": (lambda n: RANDOM.lognormal(size=n), math.exp(0.5), stats.NO_BOUNDS),
    "skewed (exponential)": (RANDOM.standard_exponential, 1.0, stats.NO_BOUNDS),
    "heavy-tailed (t, 3)": (lambda n: RANDOM.standard_t(3, n), 0.0, stats.NO_BOUNDS),
    "tied": (tied, 0.0, (-1.0, 1.0)),
    "binary pairs": (flips, 0.0, (-1.0, 1.0)),
    "share of .9": (share, 0.9, (0.0, 1.0)),
    "clustered": (clustered, 0.0, stats.NO_BOUNDS),
}
CHECKED = {
    "Laplace": (lambda n: RANDOM.laplace(size=n), 0.0, stats.NO_BOUNDS),
    "gamma (.5)": (lambda n: RANDOM.gamma(0.5, size=n), 0.5, stats.NO_BOUNDS),
    "scores near 1 (beta)": (lambda n: RANDOM.beta(6, 0.8, n), 6 / 6.8, (0.0, 1.0)),
    "two kinds (70 to 30)": (
        lambda n: np.where(RANDOM.random(n) < 0.7, RANDOM.normal(0, 1, n), RANDOM.normal(4, 1, n)),
        1.2,
        stats.NO_BOUNDS,
    ),
}


def groups_of(name, n):
    if name != "clustered":
        return None
    return [i // CLUSTER for i in range(n)]


def verdict(name, values, mean, shift, bounds):
    """Ours, of differences whose mean is moved to `shift`."""
    ids = [str(i) for i in range(len(values))]
    groups = groups_of(name, len(values))
    if name == "share of .9":
        return ""
    new = dict(zip(ids, (values - mean + shift).tolist(), strict=True))
    old = dict.fromkeys(ids, 0.0)
    if name == "binary pairs":
        old = {i: float(d < 0) for i, d in new.items()}
        new = {i: float(d > 0) for i, d in new.items()}
    reach = bounds[1] - bounds[0]
    result = stats.compare(
        old,
        new,
        bounds=(0.0, reach / 2) if math.isfinite(reach) else bounds,
        groups=dict(zip(ids, groups, strict=True)) if groups else None,
    )
    return result.verdict


def percentile(values):
    """The interval that stood here before, with fewer resamples: it is simulated often."""
    n = len(values)
    means = values[RANDOM.integers(0, n, (400, n))].mean(1)
    return np.percentile(means, [2.5, 97.5])


def measure(name, n, rounds):
    draw, mean, bounds = (DISTRIBUTIONS | CHECKED)[name]
    counts = dict.fromkeys(
        ("false", "covered", "found", "old false", "old covered", "old found"), 0
    )
    spread = 0.5 * float(np.std(draw(100_000)))
    testable = name != "share of .9"
    for i in range(rounds):
        values = draw(n)
        interval = stats.mean_interval(values.tolist(), bounds=bounds, groups=groups_of(name, n))
        # one group has no interval, which claims nothing
        counts["covered"] += math.isnan(interval.low) or interval.low <= mean <= interval.high
        counts["false"] += verdict(name, values, mean, 0.0, bounds) in ("better", "worse")
        moves = testable and name not in ("binary pairs", "tied")
        if moves:
            counts["found"] += verdict(name, values, mean, spread, bounds) == "better"
        if i < rounds // 4:  # it is slow, and needs no third digit
            low, high = percentile(values)
            counts["old covered"] += low <= mean <= high
            counts["old false"] += testable and not low <= mean <= high
            counts["old found"] += moves and low > mean - spread
    return {
        key: count / (rounds // 4 if key.startswith("old") else rounds)
        for key, count in counts.items()
    } | {"testable": testable, "moves": moves}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=4000)
    rounds = parser.parse_args().rounds
    results = {}
    for name in DISTRIBUTIONS | CHECKED:
        results[name] = {
            n: measure(name, n, max(200, rounds if n < 500 else rounds // 4)) for n in SIZES
        }
        print(name, flush=True)
    for title, key, other, need in (
        ("false positives", "false", "old false", "testable"),
        ("coverage", "covered", "old covered", ""),
        ("power, half a standard deviation", "found", "old found", "moves"),
    ):
        cells = [
            [name, *(f"{row[key]:.1%} ({row[other]:.0%})" for row in rows.values())]
            for name, rows in results.items()
            if not need or rows[3][need]
        ]
        print(f"\n{title}, in brackets before")
        print(table(cells, ["data", *map(str, SIZES)]))
    path = Path(__file__).parents[2] / "bench-results" / "stats.json"
    path.write_text(json.dumps({"rounds": rounds, "results": results}, indent=1))


if __name__ == "__main__":
    main()
