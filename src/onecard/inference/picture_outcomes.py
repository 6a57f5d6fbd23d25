"""What a network says of one picture, whatever its task, and the row of it that is written.

Tasks choose the function that answers: `objects`, `classes` or `pixels`. numpy and OpenCV.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from onecard.datasets.images.records import Detection
from onecard.inference import tiles
from onecard.inference.nms import outlines
from onecard.inference.picture_sessions import Predictor

Rgb = NDArray[np.uint8]
BACKGROUND = ("background", "_background_", "bg", "unlabeled", "void")
"""Names of a class that is no object."""
LEAST_REGION = 16
"""Regions of fewer px of one class are specks: they are in the mask, not among the outlines."""
MOST_REGIONS = 2000
"""Outlines of one picture at most, the largest."""


@dataclass(frozen=True)
class Outcome:
    """One of the three is set."""

    width: int
    height: int
    objects: tuple[Detection, ...] | None = None
    """Boxes or outlines, the surest first."""
    probabilities: NDArray[np.float32] | None = None
    """Of each class, for the whole picture."""
    classes: NDArray[np.integer] | None = None
    """HxW, the class of each pixel."""
    sureness: NDArray[np.float32] | None = None
    """HxW, probability of each pixel's class."""

    @property
    def least_sure(self) -> float | None:
        """Score of the least sure object; of the likeliest class; mean over the pixels. None where
        nothing was found."""
        if self.objects is not None:
            return min((box.score for box in self.objects), default=None)
        if self.probabilities is not None:
            return float(self.probabilities.max(initial=0.0))
        return None if self.sureness is None else float(self.sureness.mean())


Answer = Callable[[Sequence[Rgb]], list[Outcome]]


def objects(predictor: Predictor, tile: int = 0, overlap: float = 0.2, batch: int = 1) -> Answer:
    """Boxes or instances; in pictures larger than `tile` px by tiles, where it is not 0."""

    def answer(pictures: Sequence[Rgb]) -> list[Outcome]:
        if tile:
            rows = [tiles.detect(predictor.detect, rgb, tile, overlap, batch) for rgb in pictures]
        else:
            rows = predictor.detect(pictures)
        return [
            Outcome(rgb.shape[1], rgb.shape[0], objects=tuple(boxes))
            for rgb, boxes in zip(pictures, rows, strict=True)
        ]

    return answer


def classes(predictor: Predictor) -> Answer:
    """One class for the whole picture."""

    def answer(pictures: Sequence[Rgb]) -> list[Outcome]:
        return [
            Outcome(rgb.shape[1], rgb.shape[0], probabilities=np.asarray(row, np.float32))
            for rgb, row in zip(pictures, predictor.classify(pictures), strict=True)
        ]

    return answer


def pixels(predictor: Predictor) -> Answer:
    """A class for each pixel; outlines where the network gives instances."""
    if predictor.card.instances:
        return objects(predictor)

    def answer(pictures: Sequence[Rgb]) -> list[Outcome]:
        return [
            Outcome(rgb.shape[1], rgb.shape[0], classes=labels, sureness=sure)
            for rgb, (labels, sure) in zip(pictures, predictor.maps(pictures), strict=True)
        ]

    return answer


# Rows


def is_background(name: str) -> bool:
    return name.strip().casefold() in BACKGROUND


def regions(outcome: Outcome, names: Sequence[str]) -> tuple[Detection, ...]:
    """The objects; of a map the connected regions of each class but the background, with outlines
    and the mean sureness of their pixels, the surest first. Holes are filled."""
    if outcome.objects is not None:
        return outcome.objects
    if outcome.classes is None:
        return ()
    rows = []
    for label in map(int, np.unique(outcome.classes)):
        if label < len(names) and not is_background(names[label]):
            rows += _regions_of(outcome, label)
    rows = sorted(rows, key=lambda box: (box.x1 - box.x0) * (box.y1 - box.y0), reverse=True)
    return tuple(sorted(rows[:MOST_REGIONS], key=lambda box: -box.score))


def _regions_of(outcome: Outcome, label: int) -> list[Detection]:
    inside = np.ascontiguousarray(outcome.classes == label, np.uint8)
    _, numbers, facts, _ = cv2.connectedComponentsWithStats(inside, connectivity=4)
    rows = []
    largest = np.argsort(-facts[1:, cv2.CC_STAT_AREA], kind="stable")[:MOST_REGIONS] + 1
    for number in largest:
        x, y, wide, high, area = (int(v) for v in facts[number])
        if area < LEAST_REGION:
            break
        part = numbers[y : y + high, x : x + wide] == number
        sure = 1.0
        if outcome.sureness is not None:
            sure = float(outcome.sureness[y : y + high, x : x + wide][part].mean())
        polygons = outlines(part, x, y)
        if polygons:
            box = (float(x), float(y), float(x + wide), float(y + high))
            rows.append(Detection(label, min(max(sure, 0.0), 1.0), *box, polygons))
    return rows


def to_row(
    outcome: Outcome, names: Sequence[str], top: int = 5, with_regions: bool = True
) -> dict[str, Any]:
    """The outcome as JSON: sizes and boxes in pixels of the upright picture."""
    row: dict[str, Any] = {"width": outcome.width, "height": outcome.height}
    if outcome.probabilities is not None:
        order = np.argsort(-outcome.probabilities, kind="stable")[:top]
        row["classes"] = [
            {
                "class": names[i],
                "label": int(i),
                "score": round(float(outcome.probabilities[i]), 5),
            }
            for i in order
        ]
        return row
    if outcome.classes is not None:
        counts = np.bincount(outcome.classes.ravel().astype(np.int64), minlength=len(names))
        row["pixels"] = {names[i]: int(n) for i, n in enumerate(counts[: len(names)]) if n}
    if outcome.objects is not None or with_regions:
        row["objects"] = [_object_row(box, names) for box in regions(outcome, names)]
    if outcome.least_sure is not None:
        row["least_sure"] = round(outcome.least_sure, 5)
    return row


def _object_row(box: Detection, names: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "class": names[box.label],
        "label": box.label,
        "score": round(box.score, 5),
        "box": [round(v, 2) for v in (box.x0, box.y0, box.x1, box.y1)],
    }
    if box.polygons:
        row["outlines"] = [[round(v, 2) for v in points] for points in box.polygons]
    return row


def boxes_of(row: Mapping[str, Any]) -> tuple[Detection, ...]:
    """The objects of a written row."""
    boxes = []
    for each in row.get("objects", ()):
        x0, y0, x1, y1 = (float(v) for v in each["box"])
        polygons = tuple(tuple(map(float, points)) for points in each.get("outlines", ()))
        label, score = int(each["label"]), float(each["score"])
        boxes.append(Detection(label, score, x0, y0, x1, y1, polygons))
    return tuple(boxes)


def from_row(row: Mapping[str, Any], names: Sequence[str]) -> Outcome | None:
    """The outcome of a written row, as far as it can be drawn; None for a map of pixels."""
    width, height = int(row["width"]), int(row["height"])
    if "classes" in row:
        probabilities = np.zeros(len(names), np.float32)
        for each in row["classes"]:
            probabilities[int(each["label"])] = float(each["score"])
        return Outcome(width, height, probabilities=probabilities)
    if "pixels" in row or "objects" not in row:
        return None
    return Outcome(width, height, objects=boxes_of(row))
