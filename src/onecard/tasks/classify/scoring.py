"""A classifier's score on labelled pictures, told as rows and lines."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from onecard.datasets.images.records import Picture
from onecard.evaluation import stats
from onecard.evaluation.metrics.classification import ClassificationScores
from onecard.evaluation.stats import Comparison, Interval
from onecard.reporting import table

Groups = Mapping[str, Hashable]


def majority(
    train: Sequence[Picture], pictures: Sequence[Picture], classes: Sequence[str]
) -> ClassificationScores:
    """What one gets without looking: every picture has the most frequent class of the training."""
    counts = np.bincount([picture.label for picture in train], minlength=len(classes))
    row = counts / counts.sum()
    probabilities = np.repeat(row[None], len(pictures), axis=0)
    names = [picture.name for picture in pictures]
    labels = [picture.label for picture in pictures]
    return ClassificationScores(names, labels, probabilities, classes)


def compare(
    old: ClassificationScores, new: ClassificationScores, groups: Groups
) -> dict[str, Comparison]:
    """Accuracy and macro-F1 of two classifiers on the same pictures, judged together."""
    rows = {
        "accuracy": (old.correct_N.astype(float), new.correct_N.astype(float)),
        "macro_f1": (old.f1_items()[1], new.f1_items()[1]),
    }
    return stats.holm(
        {
            name: stats.compare_metric(
                name,
                dict(zip(old.names, map(float, before), strict=True)),
                dict(zip(new.names, map(float, after), strict=True)),
                groups=groups,
            )
            for name, (before, after) in rows.items()
        }
    )


def metrics(
    scores: ClassificationScores, before: ClassificationScores | None, groups: Groups
) -> dict[str, Interval]:
    values = scores.metrics(groups)
    if before is not None:
        base = before.metrics(groups)
        values |= {f"base_{name}": base[name] for name in ("accuracy", "macro_f1")}
    for row in scores.per_class(groups):
        values[f"{row['class']}: f1"] = row["f1"]
    return values


def item_rows(
    scores: ClassificationScores, before: ClassificationScores | None, groups: Groups
) -> list[dict[str, Any]]:
    """One row a picture, for `runs compare` and the report."""
    base = dict(zip(before.names, before.correct_N, strict=True)) if before is not None else {}
    rows = []
    for row in scores.items():
        figures = {"accuracy": row["correct"]}
        if base:
            figures["base_accuracy"] = float(base[row["id"]])
        told = {name: row[name] for name in ("label", "predicted", "confidence")}
        rows.append({"id": row["id"], "group": str(groups[row["id"]]), "scores": figures, **told})
    return rows


def render(
    scores: ClassificationScores, groups: Groups, values: Mapping[str, Interval]
) -> list[str]:
    """Lines for a person: the averages, then each class."""
    lines = [
        f"accuracy {values['accuracy'].render()}, macro-F1 {values['macro_f1'].render()}, "
        f"calibration error {values['ece'].render()} on {len(scores.names)} pictures"
    ]
    cells = [
        [row["class"], str(row["n"]), *(row[k].render(2) for k in ("precision", "recall", "f1"))]
        for row in scores.per_class(groups)
    ]
    return [*lines, table(cells, ["class", "pictures", "precision", "recall", "F1"])]
