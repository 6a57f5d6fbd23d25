"""Boxes, outlines and runs of pixels: checked against the picture, cut to it, and painted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onecard.datasets.images.records import Box

MIN_BOX_PX = 0.5
"""A narrower box covers no pixel's centre for certain."""
ROUNDING_PX = 1.5
"""Corners so far outside come from rounding: they are cut without a word."""
MAX_POINTS = 100_000

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Fit:
    """A label that was checked against its picture: `box`, or why there is none."""

    box: Box | None
    fault: str = ""
    cut: bool = False
    """It reached beyond the picture."""
    turned: bool = False
    """Its corners stood in the other order."""


def fit_box(box: Box, size: tuple[int, int]) -> Fit:
    """A plain box cut to a picture of (width, height)."""
    corners = (box.x0, box.y0, box.x1, box.y1)
    if not all(map(math.isfinite, corners)):
        return Fit(None, "a coordinate is not a number")
    width, height = size
    x0, x1 = sorted((box.x0, box.x1))
    y0, y1 = sorted((box.y0, box.y1))
    if x1 - x0 <= 0 or y1 - y0 <= 0:
        return Fit(None, f"the box has no area: {_shown(corners)}")
    if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
        return Fit(None, f"the box {_shown(corners)} lies outside the picture of {width}x{height}")
    inner = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    over = max(abs(a - b) for a, b in zip((x0, y0, x1, y1), inner, strict=True))
    if inner[2] - inner[0] < MIN_BOX_PX or inner[3] - inner[1] < MIN_BOX_PX:
        return Fit(None, f"less than half a pixel of the box {_shown(corners)} is in the picture")
    fitted = replace(box, x0=inner[0], y0=inner[1], x1=inner[2], y1=inner[3])
    return Fit(fitted, cut=over > ROUNDING_PX, turned=(x0, y0) != (box.x0, box.y0))


def fit_polygons(
    label: int, polygons: Sequence[Sequence[float]], size: tuple[int, int], crowd: bool = False
) -> Fit:
    """An object by its outlines (x y x y ... in pixels), cut to the picture; its box encloses them.
    Outlines without area are left out where another has some."""
    width, height = size
    outlines, over = [], 0.0
    for points in polygons:
        if len(points) > 2 * MAX_POINTS:
            return Fit(None, f"an outline has more than {MAX_POINTS:,} points")
        if not all(map(math.isfinite, points)):
            return Fit(None, "a coordinate is not a number")
        if len(points) % 2:
            return Fit(None, f"an outline has {len(points)} numbers, an odd count")
        xy = np.asarray(points, np.float64).reshape(-1, 2)
        cut = np.clip(xy, 0, (width, height))
        if len(xy) >= 3 and polygon_area(cut) > 0:
            over = max(over, float(np.abs(xy - cut).max()))
            outlines.append(tuple(float(value) for value in cut.ravel()))
    if not outlines:
        return Fit(None, "the outline has no area in the picture")
    xs = [value for points in outlines for value in points[::2]]
    ys = [value for points in outlines for value in points[1::2]]
    box = Box(label, min(xs), min(ys), max(xs), max(ys), crowd, tuple(outlines))
    fit = fit_box(box, size)
    return Fit(fit.box, fit.fault, over > ROUNDING_PX)


def fit_runs(label: int, runs: Sequence[int], size: tuple[int, int], crowd: bool = False) -> Fit:
    """An object by runs of its pixels; see Box.runs."""
    width, height = size
    if any(run < 0 for run in runs) or sum(runs) != width * height:
        why = f"the runs cover {sum(runs):,} pixels, the picture has {width}x{height}"
        return Fit(None, why)
    rows, columns = np.nonzero(runs_mask(runs, width, height))
    if not len(rows):
        return Fit(None, "no pixel of the object is painted")
    box = Box(
        label,
        float(columns.min()),
        float(rows.min()),
        float(columns.max() + 1),
        float(rows.max() + 1),
        crowd,
        runs=tuple(runs),
    )
    return Fit(box)


def turned_box(box: Box, orientation: int, size: tuple[int, int]) -> Box:
    """A label on a stored picture of `size`, on the upright one; by EXIF orientation, 5 to 8."""

    def turn(x: float, y: float) -> tuple[float, float]:
        x = size[0] - x if orientation in (7, 8) else x
        y = size[1] - y if orientation in (6, 7) else y
        return y, x

    (x0, y0), (x1, y1) = turn(box.x0, box.y0), turn(box.x1, box.y1)
    pairs = [zip(points[::2], points[1::2], strict=True) for points in box.polygons]
    polygons = tuple(tuple(n for pair in each for n in turn(*pair)) for each in pairs)
    runs = box.runs
    if runs:
        mask = runs_mask(runs, *size)
        mask = mask[:, ::-1] if orientation in (7, 8) else mask
        runs = mask_runs((mask[::-1] if orientation in (6, 7) else mask).T)
    left, right, top, bottom = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
    return replace(box, x0=left, y0=top, x1=right, y1=bottom, polygons=polygons, runs=runs)


def polygon_area(xy: NDArray[np.float64]) -> float:
    """Of N x 2 corners, by the shoelace formula.

    >>> polygon_area(np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 3.0]]))
    3.0
    """
    x, y = xy[:, 0], xy[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def runs_mask(runs: Sequence[int], width: int, height: int) -> Mask:
    """HxW of runs down the columns."""
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape((width, height)).T


def mask_runs(mask: Mask) -> tuple[int, ...]:
    """Runs down the columns of an HxW mask.

    >>> mask_runs(np.array([[True, False], [True, True]]))
    (0, 2, 1, 1)
    """
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    lengths = np.diff([0, *edges.tolist(), len(flat)]).tolist()
    return tuple([0, *lengths] if len(flat) and flat[0] else lengths)


def coco_counts(text: str) -> list[int]:
    """Runs of COCO's compressed RLE: numbers in groups of five bits from letter 48 on, from the
    third run as the difference to the one before the last (pycocotools, maskApi.c, rleFrString).

    Raises ValueError.

    >>> coco_counts("02")
    [0, 2]
    """
    runs: list[int] = []
    at = 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            if at >= len(text) or shift > 60:
                raise ValueError("the runs break off")
            bits = ord(text[at]) - 48
            if not 0 <= bits < 64:
                raise ValueError(f"{text[at]!r} stands in the runs")
            value |= (bits & 0x1F) << shift
            more = bool(bits & 0x20)
            at, shift = at + 1, shift + 5
            if not more and bits & 0x10:
                value |= -1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs


def rotated_corners(
    x: float, y: float, width: float, height: float, degrees: float
) -> list[tuple[float, float]]:
    """Corners of a rectangle that is turned clockwise about its top left corner, as Label Studio
    has it."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)]
    return [(x + dx * cos - dy * sin, y + dx * sin + dy * cos) for dx, dy in corners]


def object_mask(box: Box, width: int, height: int) -> Mask:
    """HxW of one object: its runs, its outlines (the union of them), else its rectangle."""
    if box.runs:
        return runs_mask(box.runs, width, height)
    if not box.polygons:
        mask = np.zeros((height, width), np.bool_)
        left, top = math.floor(box.x0 + 0.5), math.floor(box.y0 + 0.5)
        mask[top : math.ceil(box.y1 - 0.5), left : math.ceil(box.x1 - 0.5)] = True
        return mask
    mask = np.zeros((height, width), np.bool_)
    for points in box.polygons:
        mask |= _filled(np.asarray(points, np.float64).reshape(-1, 2), width, height)
    return mask


def _filled(xy: NDArray[np.float64], width: int, height: int) -> Mask:
    """Pixels whose centre lies inside an outline, by the even-odd rule: each edge turns inside to
    outside for all centres to its right."""
    start, end = xy, np.roll(xy, -1, axis=0)
    low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    first = np.clip(np.ceil(low - 0.5), 0, height).astype(np.int64)
    counts = np.clip(np.ceil(high - 0.5), 0, height).astype(np.int64) - first
    edge = np.repeat(np.arange(len(xy)), counts)
    ranks = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = first[edge] + ranks
    slope = (end[edge, 0] - start[edge, 0]) / (end[edge, 1] - start[edge, 1])
    x = start[edge, 0] + (rows + 0.5 - start[edge, 1]) * slope
    columns = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    turns = np.zeros((height, width + 1), np.int32)
    np.add.at(turns, (rows, columns), 1)
    return np.asarray(np.cumsum(turns, axis=1)[:, :width] % 2 == 1)


def _shown(corners: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in corners)
