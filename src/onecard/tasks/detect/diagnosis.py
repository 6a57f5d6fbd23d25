"""Why a detector's metric stays at 0: looked for in labels, detections and losses, named by what
was found."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onecard.datasets.images.records import Box, Detection, Picture
from onecard.evaluation.metrics.detection import DetectionScores
from onecard.inference.nms import box_iou

MATCH = 0.1
"""AP at IoU .5 without classes, from which boxes are said to match."""
MISREAD = 0.3
"""The same of labels read in another way: by chance boxes in the middle match in several ways."""
SMALLEST_PX = 4.0
"""Side of a typical object in the network's input below which there is nothing to see."""
RIGHT, CONSISTENT = 0.1, 0.7
"""Shares of the detected objects that have their own class at most, and that go to the most
frequent other name of their class at least, where class numbers are exchanged."""
FLAT = 0.97
"""A loss that fell by less than 3 % did not fall."""

Reading = Callable[[Box, Picture], tuple[float, float, float, float]]
READINGS: dict[str, Reading] = {
    "with x and y exchanged": lambda b, p: (b.y0, b.x0, b.y1, b.x1),
    "as left, top, width and height": lambda b, p: (b.x0, b.y0, b.x0 + b.x1, b.y0 + b.y1),
    "as centre and size": lambda b, p: (
        b.x0 - b.x1 / 2,
        b.y0 - b.y1 / 2,
        b.x0 + b.x1 / 2,
        b.y0 + b.y1 / 2,
    ),
    "upside down": lambda b, p: (b.x0, p.height - b.y1, b.x1, p.height - b.y0),
}
"""Ways in which validation labels may have been written, other than the training labels."""


def diagnose(
    train: Sequence[Picture],
    val: Sequence[Picture],
    detections: Mapping[str, Sequence[Detection]],
    classes: Sequence[str],
    side: int,
    history: Sequence[Mapping[str, float]],
) -> str:
    """The cause in words; empty where none was found. `side`: of the network's input (px)."""
    return (
        _missing_classes(train, val, classes)
        or _tiny(train, side)
        or _classes_shifted(val, detections, classes)
        or _boxes_misread(val, detections, classes)
        or _loss(history)
    )


def _missing_classes(
    train: Sequence[Picture], val: Sequence[Picture], classes: Sequence[str]
) -> str:
    learned = {box.label for picture in train for box in picture.boxes}
    wanted = {box.label for picture in val for box in picture.boxes}
    if wanted and not wanted & learned:
        names = ", ".join(classes[i] for i in sorted(wanted)[:5])
        return f"class map: no training picture shows what validation asks for ({names})"
    return ""


def _tiny(train: Sequence[Picture], side: int) -> str:
    sides = [
        np.sqrt(max(box.area, 0.0)) * side / max(picture.width, picture.height)
        for picture in train
        for box in picture.boxes
    ]
    if sides and float(np.median(sides)) < SMALLEST_PX:
        return (
            f"size: half of the objects are under {np.median(sides):.1f} px at --imgsz {side}; "
            "take a larger --imgsz, or cut the pictures into tiles"
        )
    return ""


def _classless(
    val: Sequence[Picture], detections: Mapping[str, Sequence[Detection]], classes: Sequence[str]
) -> float:
    scores = DetectionScores(val, detections, classes)
    return float(scores.samples("map50_agnostic", np.ones((1, len(val))))[0])


def _classes_shifted(
    val: Sequence[Picture], detections: Mapping[str, Sequence[Detection]], classes: Sequence[str]
) -> str:
    """Nearly every object that is detected is called by another class's name, and by the same one
    each time: a detector that merely confuses classes does not do so."""
    value = _classless(val, detections, classes)
    if not value >= MATCH:
        return ""
    table = _surest_names(val, detections, len(classes))
    pairs = table.sum()
    if pairs == 0 or np.trace(table) > RIGHT * pairs or table.max(1).sum() < CONSISTENT * pairs:
        return ""
    true, predicted = divmod(int(table.argmax()), len(classes))
    return (
        f"class map: the boxes are right (AP at IoU .5 without classes is {value:.2f}) and the "
        f"classes are not: '{classes[true]}' of the validation labels is detected as "
        f"'{classes[predicted]}', which the training labels call it"
    )


def _surest_names(
    val: Sequence[Picture], detections: Mapping[str, Sequence[Detection]], n: int
) -> np.ndarray:
    """Objects by their class (row) and that of the surest detection on them, IoU .5 or more."""
    table = np.zeros((n, n), dtype=np.int64)
    for picture in val:
        rows = sorted(detections.get(picture.name, ()), key=lambda one: -one.score)
        if not rows:
            continue
        boxes = np.array([[one.x0, one.y0, one.x1, one.y1] for one in rows])
        for box in picture.boxes:
            near = box_iou(np.array([box.x0, box.y0, box.x1, box.y1]), boxes) >= 0.5
            if near.any():
                table[box.label, rows[int(near.argmax())].label] += 1
    return table


def _boxes_misread(
    val: Sequence[Picture], detections: Mapping[str, Sequence[Detection]], classes: Sequence[str]
) -> str:
    as_they_are = _classless(val, detections, classes)
    for words, reading in READINGS.items():
        pictures = []
        for picture in val:
            boxes = []
            for box in picture.boxes:
                x0, y0, x1, y1 = reading(box, picture)
                boxes.append(replace(box, x0=x0, y0=y0, x1=x1, y1=y1, polygons=(), runs=()))
            pictures.append(replace(picture, boxes=tuple(boxes)))
        value = _classless(pictures, detections, classes)
        if value >= MISREAD and value > 3 * as_they_are:
            return (
                f"box format: the validation labels match what was learned when they are read "
                f"{words} (AP at IoU .5 without classes {value:.2f})"
            )
    return ""


def _loss(history: Sequence[Mapping[str, float]]) -> str:
    losses = [row["loss"] for row in history if "loss" in row]
    if len(losses) < 2:
        return ""
    first, last = losses[0], losses[-1]
    if last > first / FLAT:
        return f"learning rate: the loss grew from {first:.3g} to {last:.3g}; take a smaller --lr0"
    if last > first * FLAT:
        return (
            f"learning rate: the loss did not fall ({first:.3g} to {last:.3g}); take a larger "
            "--lr0, or pretrained weights"
        )
    return ""
