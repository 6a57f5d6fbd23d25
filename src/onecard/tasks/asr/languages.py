"""Which language is spoken where, from the odds of each region."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onecard.tasks.asr.audio import RATE_HZ
from onecard.tasks.asr.speech import Region

SWITCH = 0.02
"""Probability that the next region is in another language: a short one, whose language the sound
hardly tells, follows its neighbours."""
MIN_ODDS = 1e-4


@dataclass(frozen=True)
class Run:
    """Regions in a row that are in one language."""

    language: str
    regions: tuple[Region, ...]
    probability: float = 1.0
    """Mean over its regions."""

    @property
    def samples(self) -> int:
        return sum(row["end"] - row["start"] for row in self.regions)


def runs(regions: Sequence[Region], odds: Sequence[Mapping[str, float]]) -> list[Run]:
    """The most probable sequence of languages (Viterbi), as runs.

    `odds`: for each region, language -> probability; longer regions tell more.
    """
    names = sorted({name for row in odds for name in row})
    lengths = np.array([min((row["end"] - row["start"]) / RATE_HZ, 3.0) for row in regions])
    values = np.array([[max(row.get(name, 0.0), MIN_ODDS) for name in names] for row in odds])
    scores = np.log(values) * lengths[:, None]
    best, back = scores[0], []
    for row in scores[1:]:
        switched = best.max() + np.log(SWITCH)
        back.append(np.where(best >= switched, np.arange(len(names)), int(best.argmax())))
        best = np.maximum(best, switched) + row
    path = [int(best.argmax())]
    for step in reversed(back):
        path.append(int(step[path[-1]]))
    path.reverse()
    stretches: list[Run] = []
    start = 0
    for i in range(1, len(path) + 1):
        if i == len(path) or path[i] != path[start]:
            mean = float(np.mean([values[j, path[start]] for j in range(start, i)]))
            stretches.append(Run(names[path[start]], tuple(regions[start:i]), mean))
            start = i
    return stretches


def most_spoken(runs: Sequence[Run]) -> tuple[str, float]:
    """(language, mean probability of its runs)."""
    totals: dict[str, int] = {}
    for run in runs:
        totals[run.language] = totals.get(run.language, 0) + run.samples
    language = max(totals, key=lambda name: totals[name])
    own = [run for run in runs if run.language == language]
    share = sum(run.probability * run.samples for run in own) / max(totals[language], 1)
    return language, share
