"""onecard classify export: the classifier as ONNX, int8, OpenVINO or TensorRT, each scored in its
own precision beside torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from onecard.datasets.images.records import Picture
from onecard.evaluation import stats
from onecard.evaluation.metrics.classification import ClassificationScores
from onecard.evaluation.stats import Comparison, Interval
from onecard.export import picture_export
from onecard.inference.picture_sessions import Predictor
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.classify import learner, model
from onecard.tasks.classify.configs import ExportConfig

MARGIN = 0.001
"""Accuracy that does not matter."""
LOSS_MARGIN = 0.02
"""Nats of the negative log-likelihood that do not matter."""


class ClassifyScorer:
    """Implements export.picture_forms.Scorer."""

    metric = "accuracy"

    def score(
        self, predictor: Predictor, pictures: Sequence[Picture], label: str
    ) -> ClassificationScores:
        return learner.score(predictor, pictures, predictor.card.classes)

    def figures(self, scores: ClassificationScores) -> dict[str, Interval]:
        values = scores.metrics()
        return {name: values[name] for name in ("accuracy", "macro_f1", "ece", "nll")}

    def compare(
        self, torch: ClassificationScores, form: ClassificationScores
    ) -> dict[str, Comparison]:
        """Accuracy, and what the probabilities are worth: they may collapse where the likeliest
        class holds."""
        right = [dict(zip(s.names, map(float, s.correct_N), strict=True)) for s in (torch, form)]
        losses = [dict(zip(s.names, map(float, s.losses_N), strict=True)) for s in (torch, form)]
        return {
            "accuracy": stats.compare_metric("accuracy", *right, margin=MARGIN),
            "nll": stats.compare_metric("nll", *losses, margin=LOSS_MARGIN),
        }

    def predict(self, predictor: Predictor, pictures: Sequence[np.ndarray]) -> Any:
        return predictor.classify(pictures)


def export(config: ExportConfig, run: Run) -> Result:
    """Raises OneCardErrors; DataError where a form is worse beyond noise."""
    return picture_export.export(config, run, "classify", model.load, ClassifyScorer())
