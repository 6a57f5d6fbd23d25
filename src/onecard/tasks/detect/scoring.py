"""A detector's score on labelled pictures, told as rows, lines and pictures."""

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch

from onecard.datasets.images.checked_set import CheckedSet
from onecard.datasets.images.decode import read_rgb
from onecard.datasets.images.records import Detection, Picture
from onecard.evaluation.metrics.detection import DetectionScores
from onecard.evaluation.stats import Interval
from onecard.inference.picture_model import ModelCard
from onecard.inference.picture_sessions import Predictor
from onecard.reporting import Reporter, table
from onecard.runs import picture_plots
from onecard.runs.record import Run
from onecard.tasks.detect import learner, model, networks
from onecard.tasks.detect.permissive import MODELS
from onecard.training import yolo_trainer
from onecard.training.config import VisionTrainConfig
from onecard.training.picture_torch import runner
from onecard.training.yolo_names import is_yolo

WORST = 16
"""Pictures shown with truth and detections side by side."""
Groups = Mapping[str, Hashable]


def score(
    predictor: Predictor,
    pictures: Sequence[Picture],
    classes: Sequence[str],
    reporter: Reporter,
    label: str,
    batch: int = 1,
) -> DetectionScores:
    """Detections of all pictures against their labels."""
    detections: dict[str, list[Detection]] = {}
    with reporter.progress(label, len(pictures)) as bar:
        for start in range(0, len(pictures), batch):
            part = pictures[start : start + batch]
            detections |= learner.detect_all(predictor, part, batch)
            bar.step(len(part))
    return DetectionScores(pictures, detections, classes)


def metrics(
    scores: DetectionScores, before: DetectionScores | None, groups: Groups
) -> dict[str, Interval]:
    """With those of the base under `base_`, where there is one."""
    values = scores.metrics(groups)
    if before is not None:
        base = before.metrics(groups)
        values |= {f"base_{name}": base[name] for name in ("map50_95", "map50")}
    for row in scores.per_class(groups):
        values[f"{row['class']}: map50"] = row["ap50"]
        values[f"{row['class']}: map50_95"] = row["ap50_95"]
    return values


def item_rows(
    scores: DetectionScores, before: DetectionScores | None, groups: Groups
) -> list[dict[str, Any]]:
    """One row a picture, for `runs compare` and the report."""
    base = {row["id"]: row["f1"] for row in before.items()} if before is not None else {}
    rows = []
    for row in scores.items():
        figures = {"f1": row["f1"]}
        if base:
            figures["base_f1"] = base[row["id"]]
        counts = {name: row[name] for name in ("right", "wrong", "missed")}
        rows.append({"id": row["id"], "group": str(groups[row["id"]]), "scores": figures, **counts})
    return rows


def render(scores: DetectionScores, groups: Groups, values: Mapping[str, Interval]) -> list[str]:
    """Lines for a person: the averages, then each class."""
    lines = [
        f"mAP50 {values['map50'].render()}, mAP50-95 {values['map50_95'].render()} on "
        f"{len(scores.truth)} pictures; at confidence {scores.best_threshold():.2f}: precision "
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


def write_pictures(scores: DetectionScores, data: CheckedSet, run: Run) -> None:
    """PR curve, confusion matrix, reliability diagram, and the worst pictures."""
    if not run.folder:
        return
    curves = scores.curves()
    run.artifact("curves.json", json.dumps(curves))
    names = [*scores.classes, "background"]
    charts = {
        "precision_recall.svg": picture_plots.precision_recall(curves["pr"]),
        "confusion.svg": picture_plots.confusion(scores.confusion(), names),
        "reliability.svg": picture_plots.reliability(curves["reliability"]),
    }
    for name, chart in charts.items():
        if chart:
            run.artifact(name, chart)
    worst = sorted(scores.items(), key=lambda row: (row["f1"], -row["missed"] - row["wrong"]))
    pictures = {picture.name: picture for picture in scores.truth}
    limit = scores.best_threshold()
    rows = []
    for row in worst[:WORST]:
        picture = pictures[row["id"]]
        shown = [one for one in scores.detections[picture.name] if one.score >= limit]
        rows.append(
            (read_rgb(picture.path), picture.boxes, shown, f"{picture.name} F1 {row['f1']:.2f}")
        )
    if rows:
        picture_plots.worst_sheet(rows, scores.classes, run.artifacts / "worst.png")


def published_detections(
    name: str, data: CheckedSet, run: Run, config: VisionTrainConfig
) -> dict[str, list[Detection]]:
    """What a published detector (COCO's classes) finds of the user's own, by their names; empty
    where no name is the same or no weights can be had."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if is_yolo(name):
        weights = yolo_trainer.load_weights(name, run.reporter)
        if weights is None:
            return {}
        net: Any = yolo_trainer.YoloNetwork(weights, instances=False)
        names = {int(key): str(word) for key, word in weights.names.items()}
    else:
        net, names = networks.published(name)
        if net is None:
            return {}
    own = {word.casefold(): number for number, word in enumerate(data.classes)}
    places = {
        number: own[word.casefold()] for number, word in names.items() if word.casefold() in own
    }
    if not places:
        run.reporter.line("the first weights know none of these classes: their mAP is 0")
        return {}
    side = (config.height or config.imgsz, config.imgsz)
    words = tuple(names[number] for number in range(len(names)))
    card = (
        model.card_of(name, words, *side, net, "")
        if is_yolo(name) or name in MODELS
        else ModelCard("detect", name, words, *side)
    )
    predictor = Predictor(card, runner(net.to(device).eval(), device))
    rows = learner.detect_all(predictor, data.val)
    return {
        key: [
            Detection(places[one.label], one.score, one.x0, one.y0, one.x1, one.y1)
            for one in detections
            if one.label in places
        ]
        for key, detections in rows.items()
    }
