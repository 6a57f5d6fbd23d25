"""Charts and sheets of a scored vision model in its run folder: curves, confusion, calibration, and
the worst pictures with truth and prediction side by side."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from onecard.datasets.images.decode import read_rgb
from onecard.datasets.images.records import Picture
from onecard.evaluation.metrics.classification import ClassificationScores
from onecard.evaluation.metrics.detection import DetectionScores
from onecard.evaluation.metrics.segmentation import SegmentationScores
from onecard.runs import picture_plots
from onecard.runs.picture_plots import SheetRow
from onecard.runs.record import Run

WORST = 16
"""Pictures on the sheet."""
SHEET = "worst.png"


def _charts(run: Run, charts: Mapping[str, str]) -> None:
    for name, chart in charts.items():
        if chart:
            run.artifact(name, chart)


def detection(scores: DetectionScores, run: Run) -> None:
    """Precision over recall, confusion, calibration; pictures by their F1."""
    if not run.folder:
        return
    curves = scores.curves()
    run.artifact("curves.json", json.dumps(curves))
    names = [*scores.classes, "background"]
    _charts(
        run,
        {
            "precision_recall.svg": picture_plots.precision_recall(curves["pr"]),
            "confusion.svg": picture_plots.confusion(scores.confusion(), names),
            "reliability.svg": picture_plots.reliability(curves["reliability"]),
        },
    )
    pictures = {picture.name: picture for picture in scores.truth}
    limit = scores.best_threshold()
    worst = sorted(scores.items(), key=lambda row: (row["f1"], -row["missed"] - row["wrong"]))
    rows = []
    for row in worst[:WORST]:
        picture = pictures[row["id"]]
        shown = [one for one in scores.detections[picture.name] if one.score >= limit]
        caption = f"{picture.name} F1 {row['f1']:.2f}"
        rows.append(SheetRow(read_rgb(picture.path), caption, picture.boxes, shown))
    picture_plots.worst_sheet(rows, run.artifacts / SHEET, scores.classes)


def items(rows: Sequence[dict[str, Any]], pictures: Sequence[Picture], run: Run) -> None:
    """Record the items, each with the file of its picture (`images`), so that it can be shown."""
    paths = {picture.name: str(picture.path.absolute()) for picture in pictures}
    run.items([{**row, "images": [paths[row["id"]]]} for row in rows])


def classification(scores: ClassificationScores, pictures: Sequence[Picture], run: Run) -> None:
    """Confusion and calibration; pictures that are most surely wrong."""
    if not run.folder:
        return
    curves = scores.curves()
    run.artifact("curves.json", json.dumps(curves))
    _charts(
        run,
        {
            "confusion.svg": picture_plots.confusion(scores.confusion(), scores.classes),
            "reliability.svg": picture_plots.reliability(curves["reliability"]),
        },
    )
    by_name = {picture.name: picture for picture in pictures}
    wrong = [row for row in scores.items() if not row["correct"]]
    wrong.sort(key=lambda row: -row["confidence"])
    rows = [
        SheetRow(
            read_rgb(by_name[row["id"]].path),
            f"{row['label']}, told {row['predicted']} {row['confidence']:.0%}: {row['id']}",
        )
        for row in wrong[:WORST]
    ]
    picture_plots.worst_sheet(rows, run.artifacts / SHEET, scores.classes)


def segmentation(
    scores: SegmentationScores,
    pictures: Sequence[Picture],
    read_mask: Callable[[Picture], np.ndarray],
    predict: Callable[[Any], np.ndarray],
    run: Run,
) -> None:
    """Confusion of pixels; pictures by their mean IoU. `predict`: RGB to HW of class numbers."""
    if not run.folder:
        return
    table = scores.confusion()
    _charts(run, {"confusion.svg": picture_plots.confusion(table, scores.classes)})
    by_name = {picture.name: picture for picture in pictures}
    worst = sorted(scores.items(), key=lambda row: row["iou"])
    rows = []
    for item in worst[:WORST]:
        picture = by_name[item["id"]]
        rgb = read_rgb(picture.path)
        caption = f"{picture.name} IoU {item['iou']:.2f}"
        row = SheetRow(rgb, caption, truth_HW=read_mask(picture), predicted_HW=predict(rgb))
        rows.append(row)
    picture_plots.worst_sheet(rows, run.artifacts / SHEET, scores.classes)
