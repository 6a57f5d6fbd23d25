"""A detector's scores told as metrics, rows and lines: boxes, or masks of objects."""

from collections.abc import Hashable, Mapping
from typing import Any

from onecard.evaluation.metrics.detection import DetectionScores
from onecard.evaluation.stats import Interval
from onecard.reporting import table

Groups = Mapping[str, Hashable]


def metrics(
    scores: DetectionScores,
    before: DetectionScores | None,
    groups: Groups,
    threshold: float | None = None,
) -> dict[str, Interval]:
    """With those of the base under `base_`, where there is one. Without a threshold precision,
    recall and F1 are those at the best F1 of these very pictures."""
    values = scores.metrics(groups, threshold)
    if before is not None:
        base = before.metrics(groups)
        values |= {f"base_{name}": base[name] for name in ("map50_95", "map50")}
    for row in scores.per_class(groups):
        values[f"{row['class']}: map50"] = row["ap50"]
        values[f"{row['class']}: map50_95"] = row["ap50_95"]
    return values


def item_rows(
    scores: DetectionScores,
    before: DetectionScores | None,
    groups: Groups,
    threshold: float | None = None,
) -> list[dict[str, Any]]:
    """One row a picture, for `runs compare` and the report."""
    base = {row["id"]: row["f1"] for row in before.items()} if before is not None else {}
    rows = []
    for row in scores.items(threshold):
        figures = {"f1": row["f1"]}
        if base:
            figures["base_f1"] = base[row["id"]]
        counts = {name: row[name] for name in ("right", "wrong", "missed")}
        rows.append({"id": row["id"], "group": str(groups[row["id"]]), "scores": figures, **counts})
    return rows


def render(
    scores: DetectionScores,
    groups: Groups,
    values: Mapping[str, Interval],
    threshold: float | None = None,
) -> list[str]:
    """Lines for a person: the averages, then each class."""
    limit = scores.best_threshold() if threshold is None else threshold
    lines = [
        f"mAP50 {values['map50'].render()}, mAP50-95 {values['map50_95'].render()} on "
        f"{len(scores.truth)} pictures; at confidence {limit:.2f}: precision "
        f"{values['precision'].render(2)}, recall {values['recall'].render(2)}"
    ]
    cells = [
        [row["class"], str(row["n"]), row["ap50"].render(), row["ap50_95"].render()]
        for row in scores.per_class(groups)
    ]
    sizes = [
        f"{name.removeprefix('map50_95_')} {value.render()}"
        for name, value in values.items()
        if name.startswith("map50_95_")
    ]
    lines.append(table(cells, ["class", "objects", "AP50", "AP50-95"]))
    if sizes:
        lines.append("mAP50-95 by size of the objects: " + ", ".join(sizes))
    return lines
