"""A segmenter's scores told as metrics, rows and lines: classes of pixels. Outlines of objects are
scored as a detector's (evaluation/detection_report.py)."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from onecard.datasets.images import masks
from onecard.datasets.images.records import ImageDataset, Picture
from onecard.evaluation import stats
from onecard.evaluation.metrics.segmentation import SegmentationScores
from onecard.evaluation.stats import Comparison, Interval
from onecard.reporting import table
from onecard.tasks.segment import learner

Groups = Mapping[str, Hashable]


def majority(
    train: Sequence[Picture], pictures: Sequence[Picture], dataset: ImageDataset
) -> SegmentationScores:
    """What one gets without looking: every pixel has the most frequent class of the training that
    is no background."""
    classes = masks.pixel_classes(dataset)
    counts = np.zeros(len(classes))
    for picture in train:
        labels = masks.pixel_labels(picture, dataset)
        counts += np.bincount(labels[labels >= 0].reshape(-1), minlength=len(classes))
    background = learner.background_of(classes)
    if background is not None and len(classes) > 1:
        counts[background] = -1
    scores = SegmentationScores(classes, background)
    for picture in pictures:
        labels = masks.pixel_labels(picture, dataset)
        scores.add(picture.name, labels, np.full_like(labels, int(counts.argmax())))
    return scores


def compare(old: SegmentationScores, new: SegmentationScores, groups: Groups) -> Comparison:
    """Mean IoU of two segmenters on the same pictures."""
    rows = [dict(zip(s.names, map(float, s.iou_items()[1]), strict=True)) for s in (old, new)]
    return stats.compare_metric("mean_iou", rows[0], rows[1], groups=groups)


def metrics(
    scores: SegmentationScores, before: SegmentationScores | None, groups: Groups
) -> dict[str, Interval]:
    values = scores.metrics(groups)
    if before is not None:
        base = before.metrics(groups)
        values |= {f"base_{name}": base[name] for name in ("mean_iou", "mean_dice")}
    for row in scores.per_class(groups):
        values[f"{row['class']}: iou"] = row["iou"]
        values[f"{row['class']}: dice"] = row["dice"]
    return values


def item_rows(
    scores: SegmentationScores, before: SegmentationScores | None, groups: Groups
) -> list[dict[str, Any]]:
    """One row a picture, for `runs compare` and the report."""
    base = {row["id"]: row["iou"] for row in before.items()} if before is not None else {}
    rows = []
    for row in scores.items():
        figures = {"iou": row["iou"]}
        if base:
            figures["base_iou"] = base[row["id"]]
        rows.append({"id": row["id"], "group": str(groups[row["id"]]), "scores": figures})
    return rows


def render(scores: SegmentationScores, groups: Groups, values: Mapping[str, Interval]) -> list[str]:
    """Lines for a person: the means, then each class."""
    lines = [
        f"mean Dice {values['mean_dice'].render()}, mean IoU {values['mean_iou'].render()} over "
        f"the classes that are no background, pixel accuracy {values['pixel_accuracy'].render()} "
        f"on {len(scores.names)} pictures"
    ]
    cells = [
        [row["class"], f"{row['pixels']:,}", row["iou"].render(), row["dice"].render()]
        for row in scores.per_class(groups)
    ]
    return [*lines, table(cells, ["class", "pixels", "IoU", "Dice"])]
