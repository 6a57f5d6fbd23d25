"""COCO's matching of detections to labels, and the average precision of any sample of the pictures.

pycocotools matches (`COCOeval.evaluateImg`); `average_precision` accumulates its matches as
`COCOeval.accumulate` does, with a weight for each picture. With all weights 1 both give the same
figure to 1e-9 (tests/unit/test_vision_metrics.py).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as rle
from pycocotools.cocoeval import COCOeval

from onecard.datasets.images.records import Box, Detection, Picture

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
PER_CLASS = 100
"""Detections of one class in one picture that count, the best first, as COCO's maxDets."""
SIZES = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""COCO's areas (px^2): of the outline where there is one, else of the rectangle."""
CELLS = 4_000_000
"""Resampled weights at a time; bounds the memory."""


@dataclass(frozen=True)
class Matches:
    """The detections of one class in all pictures, the surest first (N), at T IoU thresholds."""

    scores: np.ndarray
    pictures: np.ndarray
    """Number of the picture of each detection."""
    true_TN: np.ndarray
    """Whether it matches a label that counts."""
    ignored_TN: np.ndarray
    """Whether it counts neither for nor against: it lies on a crowd or is of another size."""
    n_truth_I: np.ndarray
    """Labels that count, in each picture."""


def shape_rle(shape: Box | Detection, height: int, width: int) -> Any:
    """The compressed mask of an object; of its rectangle where it has neither pixels nor outline.

    >>> int(rle.area(shape_rle(Box(0, 0, 0, 3, 2), 10, 10)))
    6
    """
    runs = shape.runs if isinstance(shape, Box) else ()
    if runs:
        counts = {"counts": list(runs), "size": [height, width]}
        return rle.frPyObjects(counts, height, width)
    outlines = [list(outline) for outline in shape.polygons if len(outline) >= 6]
    if not outlines:
        x0, y0, x1, y1 = shape.x0, shape.y0, shape.x1, shape.y1
        outlines = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    return rle.merge(rle.frPyObjects(outlines, height, width))


def _label(shape: Box | Detection) -> int:
    return shape.label  # the library's order, which decides between equal scores


class Matcher:
    """Matches of all pictures, by class and size."""

    def __init__(
        self,
        truth: Sequence[Picture],
        detections: Mapping[str, Sequence[Detection]],
        *,
        masks: bool = False,
        classless: bool = False,
        ious: np.ndarray = IOUS,
    ) -> None:
        """`masks` compares outlines instead of rectangles; `classless` any class with any."""
        self.n_pictures, self.classless, self.ious = len(truth), classless, ious
        self._coco = COCOeval(iouType="segm" if masks else "bbox")
        self._coco.params.iouThrs = ious
        self._coco.params.maxDets = [PER_CLASS]
        self._coco._gts, self._coco._dts = defaultdict(list), defaultdict(list)
        n_labels = n_detections = 0
        for i, picture in enumerate(truth):
            for box in sorted(picture.boxes, key=_label):
                n_labels += 1  # ids begin at 1: the library takes 0 for "no match"
                row = self._row(n_labels, picture, box, masks)
                row["iscrowd"] = row["ignore"] = int(box.crowd)
                self._coco._gts[i, 0 if classless else box.label].append(row)
            for detection in sorted(detections.get(picture.name, ()), key=_label):
                n_detections += 1
                row = self._row(n_detections, picture, detection, masks)
                row["score"] = detection.score
                self._coco._dts[i, 0 if classless else detection.label].append(row)
        self._coco.ious = {}

    @staticmethod
    def _row(number: int, picture: Picture, shape: Box | Detection, masks: bool) -> dict[str, Any]:
        width, height = shape.x1 - shape.x0, shape.y1 - shape.y0
        row: dict[str, Any] = {"id": number, "bbox": [shape.x0, shape.y0, width, height]}
        row["area"] = width * height
        painted = isinstance(shape, Box) and (shape.polygons or shape.runs)
        if masks or painted:
            mask = shape_rle(shape, picture.height, picture.width)
            row["segmentation"], row["area"] = mask, float(rle.area(mask))
        return row

    def matches(self, label: int, size: str = "all") -> Matches:
        """Of one class; of all together (`label` 0) where the matcher is classless."""
        limits = SIZES[size]
        n_truth_I = np.zeros(self.n_pictures, dtype=np.int64)
        parts: list[tuple[np.ndarray, ...]] = []
        for i in range(self.n_pictures):
            labels = self._coco._gts.get((i, label), [])
            detected = self._coco._dts.get((i, label), [])
            if labels:
                scores, true_TD, ignored_TD, n_truth_I[i] = self._match(i, label, limits)
            elif detected:  # nothing to match: what the library would do, without its loops
                detected = sorted(detected, key=lambda row: -row["score"])[:PER_CLASS]
                scores = np.array([row["score"] for row in detected])
                areas = np.array([row["area"] for row in detected])
                outside = (areas < limits[0]) | (areas > limits[1])
                ignored_TD = np.repeat(outside[None], len(self.ious), 0)
                true_TD = np.zeros_like(ignored_TD)
            else:
                continue
            parts.append((scores, np.full(len(scores), i), true_TD, ignored_TD))
        if not parts:
            empty_TN = np.zeros((len(self.ious), 0), dtype=bool)
            return Matches(np.zeros(0), np.zeros(0, int), empty_TN, empty_TN, n_truth_I)
        scores, pictures, true_TN, ignored_TN = (
            np.concatenate(part, axis=-1) for part in zip(*parts, strict=True)
        )
        order = np.argsort(-scores, kind="mergesort")
        return Matches(
            scores[order], pictures[order], true_TN[:, order], ignored_TN[:, order], n_truth_I
        )

    def _match(
        self, i: int, label: int, limits: tuple[float, float]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """(scores, true_TD, ignored_TD, labels that count) of one picture, by the library."""
        if (i, label) not in self._coco.ious:
            self._coco.ious[i, label] = self._coco.computeIoU(i, label)
        row = self._coco.evaluateImg(i, label, limits, PER_CLASS)
        ignored = row["dtIgnore"].astype(bool)
        true = (row["dtMatches"] > 0) & ~ignored
        return np.array(row["dtScores"]), true, ignored, int((row["gtIgnore"] == 0).sum())


def average_precision(matches: Matches, weights_BI: np.ndarray) -> np.ndarray:
    """AP_BT: precision at COCO's 101 recalls of B samples that hold each picture as often as its
    weight says. nan where a sample holds no label.

    Precision is best at a true detection, so only those are looked at: a recall r gets the best
    precision of the detections from the first whose recall is r or more.
    """
    n_samples, n_ious = len(weights_BI), len(matches.true_TN)
    hits_N = matches.true_TN.any(0)
    n_needed = int(np.flatnonzero(hits_N)[-1]) + 1 if hits_N.any() else 0
    kept = np.flatnonzero(~matches.ignored_TN[:, :n_needed].all(0))
    step = max(1, CELLS // max(1, len(kept)))
    out = np.full((n_samples, n_ious), np.nan)
    for start in range(0, n_samples, step):
        weights = np.asarray(weights_BI[start : start + step], dtype=np.int32)
        n_truth = weights @ matches.n_truth_I
        weights_BN = np.take(weights, matches.pictures[kept], axis=1)
        totals_BN = np.cumsum(weights_BN, axis=1, dtype=np.int32)
        rows = n_truth > 0
        for t in range(n_ious):
            hits = np.flatnonzero(matches.true_TN[t, kept])
            ap = np.zeros(len(weights))
            if len(hits):
                left_out = np.flatnonzero(matches.ignored_TN[t, kept])
                counted = totals_BN[:, hits]
                if len(left_out):
                    lost = np.cumsum(weights_BN[:, left_out], axis=1, dtype=np.int32)
                    lost = np.pad(lost, ((0, 0), (1, 0)))
                    counted = counted - lost[:, np.searchsorted(left_out, hits)]
                true = np.cumsum(weights_BN[:, hits], axis=1, dtype=np.int32)
                ap = _interpolated(true, counted, np.maximum(n_truth, 1))
            out[start : start + step, t][rows] = ap[rows]
    return out


def _interpolated(true_BP: np.ndarray, counted_BP: np.ndarray, n_truth_B: np.ndarray) -> np.ndarray:
    precision = true_BP / (counted_BP + np.spacing(1))
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(RECALLS, true_BP / n_truth_B[:, None], side="right")
    return np.asarray((best * np.diff(reached, axis=1, prepend=0)).sum(1) / len(RECALLS))
