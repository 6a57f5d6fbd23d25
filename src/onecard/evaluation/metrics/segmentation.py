"""Metrics of maps with one class a pixel: IoU and Dice, sums over the pixels of all pictures.

Pictures are added one by one: of each only its counts are kept.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from onecard.errors import DataError
from onecard.evaluation.metrics.vision import linearized_mean, units_of
from onecard.evaluation.stats import Interval, mean_interval, ratio_interval

SHARE = (0.0, 1.0)


class SegmentationScores:
    """Pixels of each class in truth and prediction, by picture.

    `background` is the number of the class that says "nothing": it is counted apart, and the means
    are over the other classes. Means are over the classes that the truth has.
    """

    def __init__(self, classes: Sequence[str], background: int | None = None) -> None:
        self.classes, self.background = tuple(classes), background
        self.names: list[str] = []
        self._both: list[np.ndarray] = []
        self._truth: list[np.ndarray] = []
        self._predicted: list[np.ndarray] = []
        self._confusion = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)

    def add(self, name: str, truth_HW: np.ndarray, predicted_HW: np.ndarray) -> None:
        """One picture's class numbers; pixels whose truth is no class (-1, 255) are not counted.

        Raises DataError where the sizes differ or the prediction is no class.
        """
        if truth_HW.shape != predicted_HW.shape:
            raise DataError(
                f"{name}: truth and prediction have different sizes",
                why=f"{truth_HW.shape} and {predicted_HW.shape}",
                fix="bring the prediction back to the picture's size",
            )
        n = len(self.classes)
        counted = (truth_HW >= 0) & (truth_HW < n)
        truth = truth_HW[counted].astype(np.int64)
        predicted = predicted_HW[counted].astype(np.int64)
        if predicted.size and (predicted.min() < 0 or predicted.max() >= n):
            raise DataError(
                f"{name}: the prediction is no class",
                why=f"it holds {predicted.min()}..{predicted.max()}, there are {n} classes",
                fix="score a model with its own class map",
            )
        table = np.bincount(truth * n + predicted, minlength=n * n).reshape(n, n)
        self.names.append(name)
        self._confusion += table
        self._both.append(np.diag(table).copy())
        self._truth.append(table.sum(1))
        self._predicted.append(table.sum(0))

    def confusion(self) -> np.ndarray:
        """Pixels by true (row) and predicted class (column)."""
        return self._confusion.copy()

    def _counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """both_NC, union_NC, sum_NC: pixels where truth and prediction are the class, where one of
        them is, and the sum of the two."""
        shape = (-1, len(self.classes))
        both, truth, predicted = (
            np.array(rows, dtype=np.int64).reshape(shape)
            for rows in (self._both, self._truth, self._predicted)
        )
        return both, truth + predicted - both, truth + predicted

    def counted_classes(self) -> np.ndarray:
        """Whether a class counts in the means: the truth has it, and it is not the background."""
        counted = self._confusion.sum(1) > 0
        if self.background is not None:
            counted[self.background] = False
        return np.asarray(counted)

    def iou_items(self) -> tuple[float, np.ndarray]:
        """(mean IoU, one value a picture for `stats.compare`)."""
        both, union, _ = self._counts()
        return linearized_mean(both, union, self.counted_classes())

    def metrics(self, groups: Mapping[str, Hashable] | None = None) -> dict[str, Interval]:
        """mean_iou and mean_dice over the counted classes, pixel accuracy, IoU of the
        background."""
        units = list(units_of(self.names, groups)[0])
        both, union, total = self._counts()
        counted = self.counted_classes()
        out = {}
        for name, parts, wholes in (("mean_iou", both, union), ("mean_dice", 2 * both, total)):
            value, values = linearized_mean(parts, wholes, counted)
            out[name] = Interval(value, value, value, len(self.names))
            if counted.any():
                out[name] = mean_interval(list(values), bounds=SHARE, groups=units)
        pixels = np.array([rows.sum() for rows in self._truth], dtype=float)
        out["pixel_accuracy"] = ratio_interval(
            list(both.sum(1).astype(float)), pixels, bounds=SHARE, groups=units
        )
        if self.background is not None:
            out["background_iou"] = self._ratio(both, union, self.background, units)
        return out

    @staticmethod
    def _ratio(
        parts_NC: np.ndarray, wholes_NC: np.ndarray, c: int, units: Sequence[Hashable]
    ) -> Interval:
        parts = parts_NC[:, c].astype(float)
        return ratio_interval(list(parts), wholes_NC[:, c], bounds=SHARE, groups=units)

    def per_class(self, groups: Mapping[str, Hashable] | None = None) -> list[dict[str, Any]]:
        """IoU and Dice of each class, its pixels in the truth, whether it counts in the means."""
        units = list(units_of(self.names, groups)[0])
        both, union, total = self._counts()
        counted = self.counted_classes()
        return [
            {
                "class": name,
                "pixels": int(self._confusion[c].sum()),
                "counted": bool(counted[c]),
                "iou": self._ratio(both, union, c, units),
                "dice": self._ratio(2 * both, total, c, units),
            }
            for c, name in enumerate(self.classes)
        ]

    def items(self) -> list[dict[str, Any]]:
        """One row a picture; `iou` is the mean over its own counted classes, in truth or
        prediction; 1 where neither has one."""
        both, union, _ = self._counts()
        counted = self.counted_classes()
        rows = []
        for i, name in enumerate(self.names):
            own = counted & (union[i] > 0)
            value = float((both[i, own] / union[i, own]).mean()) if own.any() else 1.0
            rows.append({"id": name, "iou": value, "pixels": int(self._truth[i].sum())})
        return rows
