"""Outlines of objects: what a YOLO-seg needs of the labels, and how it is scored."""

from collections.abc import Sequence
from dataclasses import replace

from onecard.datasets.images.decode import read_rgb
from onecard.datasets.images.records import Detection, Picture
from onecard.errors import DataError
from onecard.evaluation.metrics.detection import DetectionScores
from onecard.inference.picture_model import ModelCard
from onecard.inference.picture_sessions import Predictor
from onecard.training.checked_set import CheckedSet

LEAST_SCORE = 0.001
"""Of objects that count for average precision."""
BATCH = 4
"""Pictures read at once while scoring."""


def require_outlines(data: CheckedSet, model: str) -> None:
    """Raises DataError for labels without outlines of single objects."""
    if any(box.polygons or box.runs for picture in data.train for box in picture.boxes):
        return
    raise DataError(
        f"{model} needs outlines of objects",
        why=f"these labels ({data.dataset.form}) have a class for every pixel and no objects",
        fix="--model unet-lite0 learns from masks; or label outlines (YOLO, COCO, Label Studio)",
    )


def score(
    predictor: Predictor, pictures: Sequence[Picture], classes: Sequence[str]
) -> DetectionScores:
    """Masks of all objects against their labels."""
    detections: dict[str, list[Detection]] = {}
    for start in range(0, len(pictures), BATCH):
        part = pictures[start : start + BATCH]
        rows = predictor.detect([read_rgb(picture.path) for picture in part])
        detections.update({picture.name: row for picture, row in zip(part, rows, strict=True)})
    return DetectionScores(pictures, detections, classes, masks=True)


def with_threshold(card: ModelCard, predictor: Predictor, data: CheckedSet) -> ModelCard:
    """The card with the threshold of the best F1 on the validation pictures."""
    scores = score(predictor, data.val, data.classes)
    return replace(card, thresholds={**card.thresholds, "confidence": scores.best_threshold()})
