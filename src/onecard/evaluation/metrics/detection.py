"""Metrics of a detector, or of instance masks: COCO's average precision with intervals, F1 over
score thresholds, confusion, calibration, and two detectors on the same pictures.

Knows the records of datasets/images, no network.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from pycocotools import mask as rle
from scipy import special

from onecard.datasets.images.records import Detection, Picture
from onecard.errors import DataError, not_found
from onecard.evaluation.calibration_error import calibration_error, reliability
from onecard.evaluation.metrics.average_precision import (
    IOUS,
    SIZES,
    Matcher,
    Matches,
    average_precision,
    shape_rle,
)
from onecard.evaluation.metrics.vision import (
    class_mean,
    resampled_interval,
    resampled_weights,
    units_of,
)
from onecard.evaluation.stats import (
    ALPHA,
    BETTER,
    EQUAL,
    INCONCLUSIVE,
    MIN_UNITS,
    WORSE,
    Comparison,
    Interval,
    ratio_interval,
)

SHARE = (0.0, 1.0)
POINTS = 200
"""Of a curve at most."""
LEAST_SCORE = 0.05
"""Detections below it count for no calibration: there are hundreds in every picture, all wrong."""
MIDDLE = 0.25
"""The threshold where no detection is right."""


class DetectionScores:
    """Labels and detections of the same pictures; a picture without detections has none.

    Detections with a number that is not finite are left out and counted in `n_dropped`.
    Raises DataError for a detection of an unknown picture or class.
    """

    def __init__(
        self,
        truth: Sequence[Picture],
        detections: Mapping[str, Sequence[Detection]],
        classes: Sequence[str],
        *,
        masks: bool = False,
    ) -> None:
        self.truth, self.classes, self.masks = list(truth), tuple(classes), masks
        self.names = [picture.name for picture in self.truth]
        self.n_dropped = 0
        self._averages: dict[tuple[str, int], np.ndarray] = {}
        unknown = detections.keys() - set(self.names)
        if unknown or len(set(self.names)) < len(self.names):
            raise DataError(
                "pictures and detections do not fit",
                why=f"{min(unknown)} has detections and is no picture of this set"
                if unknown
                else "two pictures have one name",
                fix="score the pictures that were detected in, each once",
            )
        self.detections = {name: self._usable(detections.get(name, ())) for name in self.names}
        labels = {box.label for picture in self.truth for box in picture.boxes}
        labels |= {one.label for rows in self.detections.values() for one in rows}
        if any(label not in range(len(self.classes)) for label in labels):
            raise DataError(
                "a label is the number of no class",
                why=f"numbers {min(labels)}..{max(labels)}, {len(self.classes)} classes",
                fix="score a model with the class map that it was trained with",
            )

    def _usable(self, rows: Sequence[Detection]) -> list[Detection]:
        usable = [
            one
            for one in rows
            if all(math.isfinite(v) for v in (one.score, one.x0, one.y0, one.x1, one.y1))
        ]
        self.n_dropped += len(rows) - len(usable)
        return usable

    # Average precision

    @cached_property
    def _matcher(self) -> Matcher:
        return Matcher(self.truth, self.detections, masks=self.masks)

    @cached_property
    def _matches(self) -> dict[str, list[Matches]]:
        """By size, then class."""
        return {
            size: [self._matcher.matches(c, size) for c in range(len(self.classes))]
            for size in SIZES
        }

    @cached_property
    def _classless(self) -> Matches:
        matcher = Matcher(
            self.truth, self.detections, masks=self.masks, classless=True, ious=np.array([0.5])
        )
        return matcher.matches(0)

    def averages(self, weights_BI: np.ndarray, size: str = "all") -> np.ndarray:
        """AP_BKT of each sample, class and IoU threshold .5, .55 ... .95; nan without labels."""
        key = (size, hash(np.ascontiguousarray(weights_BI).tobytes()))
        if key not in self._averages:
            per_class = [average_precision(m, weights_BI) for m in self._matches[size]]
            none = np.zeros((len(weights_BI), 0, len(IOUS)))
            self._averages[key] = np.stack(per_class, 1) if per_class else none
        return self._averages[key]

    def samples(self, metric: str, weights_BI: np.ndarray) -> np.ndarray:
        """A metric of each sample: map50_95, map50, map75, map50_95_small, map50_agnostic ..."""
        if metric not in METRICS:
            raise not_found("metric", metric, METRICS)
        return METRICS[metric](self, weights_BI)

    def _units(self, groups: Mapping[str, Hashable] | None) -> np.ndarray:
        """By `groups`, else by what the pictures say."""
        if groups is None:
            groups = {picture.name: picture.group for picture in self.truth if picture.group}
        return units_of(self.names, groups)[0]

    def _interval(self, samples_B: np.ndarray, units_I: np.ndarray) -> Interval:
        """Of a metric whose first sample is the set itself."""
        n_units = int(units_I.max()) + 1 if len(units_I) else 0
        return resampled_interval(float(samples_B[0]), samples_B[1:], n_units, len(self.names))

    def _weights(self, units_I: np.ndarray) -> np.ndarray:
        """The set itself, then its samples."""
        ones = np.ones((1, len(self.names)), dtype=np.int32)
        return np.concatenate([ones, resampled_weights(units_I)])

    def metrics(
        self, groups: Mapping[str, Hashable] | None = None, threshold: float | None = None
    ) -> dict[str, Interval]:
        """COCO's averages, then precision, recall and F1 at IoU .5 and the threshold, and the
        calibration error. Without a threshold that of the best F1 on these very pictures, which
        flatters: choose it on others. Sizes without labels are left out."""
        units = self._units(groups)
        weights = self._weights(units)
        samples = {name: self.samples(name, weights) for name in METRICS}
        out = {name: self._interval(values, units) for name, values in samples.items()}
        sizes = [f"map50_95_{size}" for size in SIZES]
        out = {k: v for k, v in out.items() if k not in sizes or math.isfinite(v.value)}
        return out | self.operating_point(threshold, groups) | {"ece": self.calibration(groups)}

    def per_class(self, groups: Mapping[str, Hashable] | None = None) -> list[dict[str, Any]]:
        """AP at .5 and .5-.95 of each class with the number of its labels."""
        units = self._units(groups)
        averages = self.averages(self._weights(units))
        return [
            {
                "class": name,
                "n": int(self._matches["all"][c].n_truth_I.sum()),
                "ap50": self._interval(averages[:, c, 0], units),
                "ap50_95": self._interval(averages[:, c].mean(1), units),
            }
            for c, name in enumerate(self.classes)
        ]

    # At one score threshold, IoU .5

    @cached_property
    def _judged(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(scores, whether right at IoU .5, picture) of all detections that count, the surest
        first."""
        parts = []
        for m in self._matches["all"]:
            kept = ~m.ignored_TN[0]
            parts.append((m.scores[kept], m.true_TN[0, kept], m.pictures[kept]))
        if not parts:
            return np.zeros(0), np.zeros(0, dtype=bool), np.zeros(0, dtype=int)
        scores, true, pictures = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.argsort(-scores, kind="stable")
        return scores[order], true[order], pictures[order]

    @cached_property
    def _labels_I(self) -> np.ndarray:
        zeros = np.zeros(len(self.truth), dtype=np.int64)
        return np.asarray(sum((m.n_truth_I for m in self._matches["all"]), zeros))

    def over_thresholds(self) -> dict[str, np.ndarray]:
        """precision, recall and F1 of all detections with `threshold` or more, from the highest
        threshold on. A threshold lies between two scores."""
        scores, true, _ = self._judged
        last = np.flatnonzero(np.diff(scores, append=-np.inf))  # of equal scores
        right, number = np.cumsum(true)[last], last + 1
        n_labels = int(self._labels_I.sum())
        below = np.append(scores[last][1:], scores[-1:])
        return {
            "threshold": (scores[last] + below) / 2,
            "precision": right / np.maximum(number, 1),
            "recall": right / max(n_labels, 1),
            "f1": 2 * right / np.maximum(number + n_labels, 1),
        }

    def best_threshold(self) -> float:
        """Of the best F1; .25 where no detection is right."""
        curve = self.over_thresholds()
        if not len(curve["f1"]) or curve["f1"].max() <= 0:
            return MIDDLE
        return float(curve["threshold"][int(curve["f1"].argmax())])

    def _counts(self, threshold: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Right, wrong and missed in each picture."""
        limit = self.best_threshold() if threshold is None else threshold
        scores, true, pictures = self._judged
        kept, n = scores >= limit, len(self.truth)
        right = np.bincount(pictures[kept & true], minlength=n)
        wrong = np.bincount(pictures[kept & ~true], minlength=n)
        return right, wrong, self._labels_I - right

    def operating_point(
        self, threshold: float | None = None, groups: Mapping[str, Hashable] | None = None
    ) -> dict[str, Interval]:
        """precision, recall and F1 over all classes' objects."""
        right, wrong, missed = (part.astype(float) for part in self._counts(threshold))
        units = list(self._units(groups))
        return {
            name: ratio_interval(list(parts), wholes, bounds=SHARE, groups=units)
            for name, parts, wholes in (
                ("precision", right, right + wrong),
                ("recall", right, right + missed),
                ("f1", 2 * right, 2 * right + wrong + missed),
            )
        }

    def items(self, threshold: float | None = None) -> list[dict[str, Any]]:
        """One row a picture; `f1` is 1 where there is nothing and nothing was detected."""
        rows = []
        for name, right, wrong, missed in zip(self.names, *self._counts(threshold), strict=True):
            whole = 2 * right + wrong + missed
            row = {"id": name, "f1": float(2 * right / whole) if whole else 1.0}
            rows.append(row | {"right": int(right), "wrong": int(wrong), "missed": int(missed)})
        return rows

    def curves(self) -> dict[str, Any]:
        """`pr`: precision and recall of each class at IoU .5; `f1`: over thresholds; `reliability`:
        score against precision. At most 200 points each."""
        pr = {}
        for name, m in zip(self.classes, self._matches["all"], strict=True):
            kept, n_labels = ~m.ignored_TN[0], int(m.n_truth_I.sum())
            if n_labels:
                right = np.cumsum(m.true_TN[0, kept])
                precision = right / np.arange(1, len(right) + 1)
                pr[name] = _thinned({"recall": right / n_labels, "precision": precision})
        scores, true, _ = self._judged
        sure = scores >= LEAST_SCORE
        return {
            "pr": pr,
            "f1": _thinned(self.over_thresholds()),
            "reliability": reliability(scores[sure], true[sure]),
        }

    def calibration(self, groups: Mapping[str, Hashable] | None = None) -> Interval:
        """Expected distance of score from precision at IoU .5, of scores of .05 and more."""
        scores, true, pictures = self._judged
        sure = scores >= LEAST_SCORE
        units = self._units(groups)[pictures[sure]]
        return calibration_error(scores[sure], true[sure], groups=list(units))

    def confusion(self, threshold: float | None = None) -> np.ndarray:
        """Objects by true (row) and detected class (column) at IoU .5; the last row and column are
        the background: detected where nothing is, and missed.

        Pairs of one class come first, the surest detection before the others, then what is left by
        IoU. A detection that is left on a crowd of its class does not count.
        """
        limit = self.best_threshold() if threshold is None else threshold
        size = len(self.classes) + 1
        table = np.zeros((size, size), dtype=np.int64)
        for picture in self.truth:
            rows = [one for one in self.detections[picture.name] if one.score >= limit]
            rows.sort(key=lambda one: -one.score)
            for true, predicted in self._pairs(picture, rows):
                table[true, predicted] += 1
        return table

    def _pairs(self, picture: Picture, rows: Sequence[Detection]) -> list[tuple[int, int]]:
        nothing = len(self.classes)
        ious = self._ious(picture, rows)
        crowd = np.array([box.crowd for box in picture.boxes], dtype=bool)
        true = np.array([box.label for box in picture.boxes], dtype=int)
        free, pairs, left = ~crowd, [], []
        for d, one in enumerate(rows):
            usable = np.where(free & (true == one.label), ious[d], 0.0)
            if len(usable) and usable.max() >= 0.5:
                free[int(usable.argmax())] = False
                pairs.append((one.label, one.label))
            else:
                left.append(d)
        near = [(ious[d, g], d, g) for d in left for g in np.flatnonzero(free & (ious[d] >= 0.5))]
        for _, d, g in sorted(near, key=lambda row: -row[0]):
            if d in left and free[g]:
                left.remove(d)
                free[g] = False
                pairs.append((int(true[g]), rows[d].label))
        pairs += [(int(true[g]), nothing) for g in np.flatnonzero(free)]
        for d in left:
            if not (crowd & (true == rows[d].label) & (ious[d] >= 0.5)).any():
                pairs.append((nothing, rows[d].label))
        return pairs

    def _ious(self, picture: Picture, rows: Sequence[Detection]) -> np.ndarray:
        """ious_DG, to a crowd the share of the detection that lies on it."""
        if not rows or not picture.boxes:
            return np.zeros((len(rows), len(picture.boxes)))
        sides = []
        for shapes in (rows, picture.boxes):
            if self.masks:
                size = (picture.height, picture.width)
                sides.append([shape_rle(one, *size) for one in shapes])
            else:
                sides.append([[o.x0, o.y0, o.x1 - o.x0, o.y1 - o.y0] for o in shapes])
        return np.asarray(rle.iou(*sides, [int(box.crowd) for box in picture.boxes]))


METRICS: dict[str, Callable[[DetectionScores, np.ndarray], np.ndarray]] = {
    "map50_95": lambda scores, w: class_mean(scores.averages(w).mean(2)),
    "map50": lambda scores, w: class_mean(scores.averages(w)[:, :, 0]),
    "map75": lambda scores, w: class_mean(scores.averages(w)[:, :, 5]),
    "map50_95_small": lambda scores, w: class_mean(scores.averages(w, "small").mean(2)),
    "map50_95_medium": lambda scores, w: class_mean(scores.averages(w, "medium").mean(2)),
    "map50_95_large": lambda scores, w: class_mean(scores.averages(w, "large").mean(2)),
    "map50_agnostic": lambda scores, w: average_precision(scores._classless, w)[:, 0],
}


def _thinned(curve: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    n = len(next(iter(curve.values())))
    kept = np.unique(np.linspace(0, max(0, n - 1), min(n, POINTS)).round().astype(int))
    return {name: [round(float(values[i]), 5) for i in kept] for name, values in curve.items()}


def compare_detectors(
    old: DetectionScores,
    new: DetectionScores,
    groups: Mapping[str, Hashable] | None = None,
    *,
    metric: str = "map50_95",
    margin: float = 0.0,
) -> Comparison:
    """Two detectors on the same labelled pictures: both are resampled together, and the difference
    is judged as `stats.compare` judges means. `won` and `lost` go by a picture's F1 at each
    detector's best threshold. Raises DataError where pictures or labels differ."""
    if [(p.name, p.boxes) for p in old.truth] != [(p.name, p.boxes) for p in new.truth]:
        raise DataError(
            "two detectors were scored on different pictures or labels",
            why="a paired comparison needs the same ones in the same order",
            fix="score both on one data set",
        )
    units = old._units(groups)
    weights = old._weights(units)
    delta_B = new.samples(metric, weights) - old.samples(metric, weights)
    value, n_units = float(delta_B[0]), len(set(units.tolist()))
    n = len(old.names)
    if not math.isfinite(value):
        nothing = Interval(math.nan, math.nan, math.nan, n)
        return Comparison(nothing, INCONCLUSIVE, 1.0, "no test", n_units=n_units)
    outer, inner = (
        resampled_interval(
            value, delta_B[1:], n_units, n, bounds=(-1.0, 1.0), unseen=False, alpha=alpha
        )
        for alpha in (ALPHA, 2 * ALPHA)
    )
    p_value = _two_sided(value, delta_B[1:], n_units)
    verdict = INCONCLUSIVE
    if n_units >= MIN_UNITS:
        if margin and -margin < inner.low and inner.high < margin:
            verdict = EQUAL
        elif (outer.low > 0 or outer.high < 0) and p_value <= ALPHA and abs(value) >= margin:
            verdict = BETTER if value > 0 else WORSE
    f1 = {row["id"]: row["f1"] for row in old.items()}
    change = {row["id"]: row["f1"] - f1[row["id"]] for row in new.items()}
    half = max(value - outer.low, outer.high - value)
    return Comparison(
        outer,
        verdict,
        p_value,
        "bootstrap of the pictures",
        tuple(name for name, step in change.items() if step > 0),
        tuple(name for name, step in change.items() if step < 0),
        n_units,
        margin,
        max(half * (1.96 + 0.84) / 1.96, margin),
    )


def _two_sided(value: float, samples_B: np.ndarray, n_units: int) -> float:
    """p of a difference of 0, by Student's t with the bootstrap's standard error."""
    samples = samples_B[np.isfinite(samples_B)]
    if n_units < 2 or len(samples) < 2 or not value:
        return 1.0
    error = float(samples.std(ddof=1)) * math.sqrt(n_units / (n_units - 1))
    if not error:
        return 1.0
    return 2 * float(special.stdtr(n_units - 1, -abs(value) / error))
