"""Metrics of a classifier of pictures: accuracy, macro-F1, calibration, confusion.

Knows names, labels and probabilities, no network.
"""

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from onecard.errors import DataError
from onecard.evaluation.calibration_error import (
    brier,
    calibration_error,
    negative_log_likelihood,
    reliability,
)
from onecard.evaluation.metrics.vision import linearized_mean, units_of
from onecard.evaluation.stats import Interval, mean_interval, ratio_interval

LARGEST_LOSS = 16.2  # -ln 1e-7


class ClassificationScores:
    """Labels and probabilities of N pictures."""

    def __init__(
        self,
        names: Sequence[str],
        labels: Sequence[int] | np.ndarray,
        probabilities_NC: np.ndarray,
        classes: Sequence[str],
    ) -> None:
        """Raises DataError where the shapes do not fit, a label is no class or a value is not
        finite."""
        self.names, self.classes = tuple(names), tuple(classes)
        self.labels_N = np.asarray(labels, dtype=int).reshape(-1)
        self.probabilities_NC = np.asarray(probabilities_NC, dtype=float)
        shape = (len(self.names), len(self.classes))
        if self.probabilities_NC.shape != shape or len(self.labels_N) != shape[0]:
            raise DataError(
                "labels and probabilities do not fit",
                why=f"{shape[0]} names, {len(self.labels_N)} labels, {shape[1]} classes and "
                f"probabilities of shape {self.probabilities_NC.shape}",
                fix="give each picture one label and each class one probability",
            )
        if not np.isfinite(self.probabilities_NC).all():
            raise DataError(
                "the model gives numbers that are not finite",
                why="its weights or its half precision overflow",
                fix="train with a smaller learning rate, or run it in full precision",
            )
        if shape[0] and (self.labels_N.min() < 0 or self.labels_N.max() >= shape[1]):
            raise DataError(
                "a label is the number of no class",
                why=f"labels lie in {self.labels_N.min()}..{self.labels_N.max()}, "
                f"there are {shape[1]} classes",
                fix="score labelled pictures with the class map of their model",
            )

    @cached_property
    def predicted_N(self) -> np.ndarray:
        if not len(self.classes):
            return np.zeros(0, dtype=int)
        return np.asarray(self.probabilities_NC.argmax(1))

    @property
    def confidence_N(self) -> np.ndarray:
        return np.asarray(self.probabilities_NC.max(1, initial=0.0))

    @property
    def correct_N(self) -> np.ndarray:
        return np.asarray(self.predicted_N == self.labels_N)

    @property
    def losses_N(self) -> np.ndarray:
        """Negative log-likelihood of each picture's own class (nats)."""
        return np.asarray(negative_log_likelihood(self.probabilities_NC, self.labels_N))

    def confusion(self) -> np.ndarray:
        """Pictures by true (row) and predicted class (column)."""
        size = len(self.classes)
        return np.bincount(self.labels_N * size + self.predicted_N, minlength=size * size).reshape(
            size, size
        )

    def f1_items(self) -> tuple[float, np.ndarray]:
        """(macro-F1 over the classes that the truth has, one value a picture for
        `stats.compare`)."""
        true_NC = np.eye(len(self.classes), dtype=int)[self.labels_N]
        predicted_NC = np.eye(len(self.classes), dtype=int)[self.predicted_N]
        return linearized_mean(
            2 * true_NC * predicted_NC, true_NC + predicted_NC, true_NC.any(axis=0)
        )

    def metrics(self, groups: Mapping[str, Hashable] | None = None) -> dict[str, Interval]:
        """accuracy, balanced accuracy, macro-F1, ECE (15 bins of equal mass), Brier score, NLL.

        Balanced accuracy and macro-F1 are over the classes that the truth has.
        """
        units = list(units_of(self.names, groups)[0])
        share = (0.0, 1.0)
        correct = self.correct_N.astype(float)
        true_NC = np.eye(len(self.classes), dtype=int)[self.labels_N]
        recalls = linearized_mean(true_NC * correct[:, None], true_NC, true_NC.any(axis=0))[1]
        f1 = self.f1_items()[1]
        squares = brier(self.probabilities_NC, self.labels_N)
        losses = self.losses_N
        loss_bounds = (0.0, LARGEST_LOSS)
        return {
            "accuracy": mean_interval(list(correct), bounds=share, groups=units),
            "balanced_accuracy": mean_interval(list(recalls), bounds=share, groups=units),
            "macro_f1": mean_interval(list(f1), bounds=share, groups=units),
            "ece": calibration_error(self.confidence_N, correct, groups=units),
            "brier": mean_interval(list(squares), bounds=(0.0, 2.0), groups=units),
            "nll": mean_interval(list(losses), bounds=loss_bounds, groups=units),
        }

    def per_class(self, groups: Mapping[str, Hashable] | None = None) -> list[dict[str, Any]]:
        """precision, recall and F1 of each class, with the number of its pictures."""
        units = list(units_of(self.names, groups)[0])
        rows = []
        for c, name in enumerate(self.classes):
            true = (self.labels_N == c).astype(float)
            predicted = (self.predicted_N == c).astype(float)
            both = true * predicted
            row: dict[str, Any] = {"class": name, "n": int(true.sum())}
            for key, parts, wholes in (
                ("precision", both, predicted),
                ("recall", both, true),
                ("f1", 2 * both, true + predicted),
            ):
                row[key] = ratio_interval(list(parts), wholes, bounds=(0.0, 1.0), groups=units)
            rows.append(row)
        return rows

    def items(self) -> list[dict[str, Any]]:
        """One row a picture; `correct` is its score."""
        return [
            {
                "id": name,
                "label": self.classes[label],
                "predicted": self.classes[predicted],
                "confidence": float(confidence),
                "correct": float(label == predicted),
            }
            for name, label, predicted, confidence in zip(
                self.names, self.labels_N, self.predicted_N, self.confidence_N, strict=True
            )
        ]

    def curves(self) -> dict[str, Any]:
        return {"reliability": reliability(self.confidence_N, self.correct_N)}
