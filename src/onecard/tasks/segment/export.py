"""onecard segment export: the segmenter as ONNX, int8, OpenVINO or TensorRT, each scored in its own
precision beside torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from onecard.datasets.images.records import Picture
from onecard.evaluation import stats
from onecard.evaluation.metrics.detection import DetectionScores, compare_detectors
from onecard.evaluation.metrics.segmentation import SegmentationScores
from onecard.evaluation.stats import Comparison, Interval
from onecard.export import picture_export
from onecard.inference import picture_use
from onecard.inference.picture_model import ModelCard
from onecard.inference.picture_sessions import Predictor
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.segment import instances, learner, model
from onecard.tasks.segment.configs import ExportConfig
from onecard.training import checked_set
from onecard.training.checked_set import CheckedSet

MARGIN = 0.002
"""IoU, mAP and F1 that do not matter."""


class PixelScorer:
    """Implements export.picture_forms.Scorer for a class of every pixel."""

    metric = "mean_iou"

    def __init__(self, data: CheckedSet) -> None:
        self.data = data

    def score(
        self, predictor: Predictor, pictures: Sequence[Picture], label: str
    ) -> SegmentationScores:
        return learner.score(predictor, pictures, self.data.dataset)

    def figures(self, scores: SegmentationScores) -> dict[str, Interval]:
        values = scores.metrics()
        return {name: values[name] for name in ("mean_iou", "mean_dice", "pixel_accuracy")}

    def compare(self, torch: SegmentationScores, form: SegmentationScores) -> dict[str, Comparison]:
        rows = [
            dict(zip(s.names, map(float, s.iou_items()[1]), strict=True)) for s in (torch, form)
        ]
        return {"mean_iou": stats.compare_metric("mean_iou", *rows, margin=MARGIN)}

    def predict(self, predictor: Predictor, pictures: Sequence[np.ndarray]) -> Any:
        return predictor.segment(pictures)


class InstanceScorer:
    """Implements export.picture_forms.Scorer for outlines of objects."""

    metric = "map50_95"
    least_score = instances.LEAST_SCORE

    def __init__(self, card: ModelCard, confidence: float) -> None:
        self.card, self.confidence = card, confidence

    def score(
        self, predictor: Predictor, pictures: Sequence[Picture], label: str
    ) -> DetectionScores:
        return instances.score(predictor, pictures, self.card.classes)

    def figures(self, scores: DetectionScores) -> dict[str, Interval]:
        values = scores.metrics(threshold=self.confidence)
        return {name: values[name] for name in ("map50_95", "map50", "f1", "ece")}

    def compare(self, torch: DetectionScores, form: DetectionScores) -> dict[str, Comparison]:
        rows = [{row["id"]: row["f1"] for row in s.items(self.confidence)} for s in (torch, form)]
        return {
            "map50_95": compare_detectors(torch, form, margin=MARGIN),
            "f1": stats.compare_metric("f1", *rows, margin=MARGIN),
        }

    def predict(self, predictor: Predictor, pictures: Sequence[np.ndarray]) -> Any:
        return predictor.segment(pictures)


def export(config: ExportConfig, run: Run) -> Result:
    """Raises OneCardErrors; DataError where a form is worse beyond noise."""
    _, card = picture_use.require_model(config, "segment")
    scorer: PixelScorer | InstanceScorer
    if card.instances:
        confidence = config.confidence or card.thresholds.get("confidence", 0.25)
        scorer = InstanceScorer(card, confidence)
    else:
        scorer = PixelScorer(checked_set.load_for_scoring(config, card, "segment", run))
    return picture_export.export(config, run, "segment", model.load, scorer)
