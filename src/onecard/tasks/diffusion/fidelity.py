"""Scores of generated pictures from their features: likeness, prompts followed, variety, drift,
copies. Each picture's score stands under its id, so that checkpoints are compared in pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
"""N x D, each row of length 1."""
NEAREST_SHARE = 0.95
"""Quantile of the training pictures' likeness to their nearest other one, above which a generated
picture counts as a copy: one training picture in twenty is so near another."""


@dataclass(frozen=True)
class Shots:
    """Features of a checkpoint's pictures, prompt by prompt."""

    features: Features
    prompts: Sequence[int]
    """Number of each picture's prompt."""
    ids: Sequence[str]
    """The same for each checkpoint: prompt and seed."""


def fidelity(shots: Shots, training: Features) -> dict[str, float]:
    """Mean cosine to all training pictures (DINO and CLIP-I score of Ruiz et al. 2023)."""
    return _named(shots, (shots.features @ training.T).mean(axis=1))


def own_likeness(training: Features) -> float | None:
    """Mean cosine of the training pictures to each other: what fidelity could reach without a copy.
    None for a single one."""
    if len(training) < 2:
        return None
    total = float((training @ training.T).sum()) - len(training)
    return total / (len(training) * (len(training) - 1))


def memorisation(shots: Shots, training: Features) -> tuple[dict[str, float], dict[str, float]]:
    """(cosine to the nearest training picture, 1 where that is nearer than training pictures are to
    each other); the second is empty with fewer than three of them."""
    nearest = (shots.features @ training.T).max(axis=1)
    limit = copy_limit(training)
    copies = {} if limit is None else _named(shots, (nearest > limit).astype(np.float64))
    return _named(shots, nearest), copies


def copy_limit(training: Features) -> float | None:
    """The likeness from which a picture is a copy; None for fewer than three training pictures."""
    if len(training) < 3:
        return None
    likeness = training @ training.T
    np.fill_diagonal(likeness, -1)
    return float(np.quantile(likeness.max(axis=1), NEAREST_SHARE))


def diversity(shots: Shots) -> dict[str, float]:
    """Mean distance (1 - cosine) to the other pictures of the same prompt."""
    scores: dict[str, float] = {}
    for rows in _by_prompt(shots.prompts).values():
        if len(rows) > 1:
            part = shots.features[rows]
            likeness = (part @ part.T).sum(axis=1) - 1
            for i, row in enumerate(rows):
                scores[shots.ids[row]] = float(1 - likeness[i] / (len(rows) - 1))
    return scores


def drift(shots: Shots, base: Shots) -> dict[str, float]:
    """Distance (1 - cosine) of each picture to the base's of the same prompt and seed."""
    place = {each: i for i, each in enumerate(base.ids)}
    pairs = [(each, i, place[each]) for i, each in enumerate(shots.ids) if each in place]
    rows = {each: float(1 - shots.features[i] @ base.features[j]) for each, i, j in pairs}
    return {each: max(0.0, value) for each, value in rows.items()}  # equal ones by rounding


def prompt_fidelity(shots: Shots, references: Shots) -> dict[str, float]:
    """Whether a picture still shows what its prompt adds: the share of the other prompts whose
    reference pictures are less like it than those of its own. Chance is .5.

    `references`: pictures of the base for the same prompts without the trigger. What all pictures
    of one side share, the style that was learned, is taken off both sides first. Empty for a single
    prompt.
    """
    numbers = sorted(set(references.prompts))
    if len(numbers) < 2:
        return {}
    centred = _centred(references.features)
    means = np.stack([centred[_by_prompt(references.prompts)[n]].mean(axis=0) for n in numbers])
    likeness = _centred(shots.features) @ _unit(means).T
    scores: dict[str, float] = {}
    for i, each in enumerate(shots.ids):
        own = numbers.index(shots.prompts[i])
        others = np.delete(likeness[i], own)
        ties = (others == likeness[i, own]).mean() / 2
        scores[each] = float((others < likeness[i, own]).mean() + ties)
    return scores


def text_fidelity(shots: Shots, texts: Features) -> dict[str, float]:
    """Cosine of each picture to its prompt without the trigger (CLIP-T). `texts`: a row for each
    prompt's number."""
    rows = texts[np.asarray(shots.prompts)]
    return _named(shots, (shots.features * rows).sum(axis=1))


def _centred(features: Features) -> Features:
    return _unit(features - features.mean(axis=0))


def _unit(features: Features) -> Features:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, 1e-12), np.float32)


def _by_prompt(prompts: Sequence[int]) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = {}
    for i, number in enumerate(prompts):
        rows.setdefault(number, []).append(i)
    return rows


def _named(shots: Shots, values: NDArray[np.floating]) -> dict[str, float]:
    return {each: float(value) for each, value in zip(shots.ids, values, strict=True)}


def groups(shots: Shots) -> Mapping[str, int]:
    """Id -> number of its prompt."""
    return dict(zip(shots.ids, shots.prompts, strict=True))
