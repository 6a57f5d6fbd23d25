"""onecard detect export: the detector as ONNX, int8, OpenVINO or TensorRT, each scored in its own
precision beside torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from onecard.datasets.images.records import Picture
from onecard.evaluation import stats
from onecard.evaluation.metrics.detection import DetectionScores, compare_detectors
from onecard.evaluation.stats import Comparison, Interval
from onecard.export import picture_export
from onecard.inference import picture_use
from onecard.inference.picture_sessions import Predictor
from onecard.reporting import Reporter, Result
from onecard.runs.record import Run
from onecard.tasks.detect import learner, model, scoring
from onecard.tasks.detect.configs import ExportConfig

MARGIN = 0.002
"""mAP and F1 that do not matter."""


class DetectScorer:
    """Implements export.picture_forms.Scorer."""

    metric = "map50_95"
    least_score = learner.LEAST_SCORE

    def __init__(self, confidence: float, reporter: Reporter) -> None:
        self.confidence, self.reporter = confidence, reporter

    def score(
        self, predictor: Predictor, pictures: Sequence[Picture], label: str
    ) -> DetectionScores:
        classes = predictor.card.classes
        return scoring.score(predictor, pictures, classes, self.reporter, label)

    def figures(self, scores: DetectionScores) -> dict[str, Interval]:
        values = scores.metrics(threshold=self.confidence)
        return {name: values[name] for name in ("map50_95", "map50", "f1", "ece")}

    def compare(self, torch: DetectionScores, form: DetectionScores) -> dict[str, Comparison]:
        """mAP, and F1 at the model's own threshold: where scores collapse mAP may hold, as it only
        looks at their order."""
        rows = [{row["id"]: row["f1"] for row in s.items(self.confidence)} for s in (torch, form)]
        groups = {picture.name: picture.group or picture.name for picture in torch.truth}
        return {
            "map50_95": compare_detectors(torch, form, margin=MARGIN),
            "f1": stats.compare_metric("f1", *rows, groups=groups, margin=MARGIN),
        }

    def predict(self, predictor: Predictor, pictures: Sequence[np.ndarray]) -> Any:
        return predictor.detect(pictures)


def export(config: ExportConfig, run: Run) -> Result:
    """Raises OneCardErrors; DataError where a form is worse beyond noise."""
    _, card = picture_use.require_model(config, "detect")
    confidence = config.confidence or card.thresholds.get("confidence", 0.25)
    scorer = DetectScorer(confidence, run.reporter)
    nms = config.nms == "inside" and card.nms
    return picture_export.export(config, run, "detect", model.load, scorer, nms=nms)
