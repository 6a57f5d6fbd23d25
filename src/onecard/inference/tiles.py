"""Detection in large pictures by overlapping tiles and the whole picture once (Akyon et al. 2022,
SAHI). numpy alone.

An object at a tile's edge is seen in parts. Where it is smaller than the overlap, another tile sees
it whole; of a larger one, the whole picture's box stays, or its parts are joined.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onecard.datasets.images.records import Detection
from onecard.inference.nms import box_iou

Rgb = NDArray[np.uint8]
Window = tuple[int, int, int, int]
"""x0 y0 x1 y1 in the picture (px)."""
Detect = Callable[[Sequence[Rgb]], list[list[Detection]]]
SAME_IOU = 0.5
"""Overlap from which boxes of two views are one object."""
INSIDE = 0.7
"""Share of a cut box inside a whole one of its class from which it is a part of it."""
EDGE_SHARE = 0.01
"""A box that ends so near to a tile's edge (share of the tile, at least 2 px) is cut by it."""
ALONG = 0.5
"""Overlap, along the edge, of two parts of one object."""

MOST, MOST_PARTS = 5000, 1000
"""Of a class, boxes and parts that are merged at most, the surest: each is compared with all."""


@dataclass(frozen=True)
class _Seen:
    """A detection in the picture's pixels and the view that it comes from."""

    box: Detection
    view: int
    window: Window
    cut: tuple[bool, bool, bool, bool] = (False, False, False, False)
    """At the left, top, right, bottom edge of its tile."""


def windows(width: int, height: int, tile: int, overlap: float) -> list[Window]:
    """Tiles of `tile` px that cover the picture, neighbours sharing `overlap` at least; all of one
    size where the picture allows it.

    >>> windows(250, 100, 100, 0.2)
    [(0, 0, 100, 100), (75, 0, 175, 100), (150, 0, 250, 100)]
    """
    columns = _starts(width, tile, overlap)
    rows = _starts(height, tile, overlap)
    return [(x, y, min(x + tile, width), min(y + tile, height)) for y in rows for x in columns]


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    if length <= tile:
        return [0]
    step = max(1, int(tile * (1 - overlap)))
    count = -(-(length - tile) // step) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def detect(
    run: Detect, rgb_HWC: Rgb, tile: int, overlap: float = 0.2, batch: int = 1
) -> list[Detection]:
    """The objects of one picture, the surest first.

    `run` sees the whole picture and then `batch` tiles at a time, which are views of it: memory
    does not grow with the number of tiles. A picture no larger than a tile is taken whole.
    """
    height, width = rgb_HWC.shape[:2]
    whole = run([rgb_HWC])[0]
    if tile <= 0 or max(height, width) <= tile:
        return whole
    views = [_Seen(box, 0, (0, 0, width, height)) for box in whole]
    places = windows(width, height, tile, overlap)
    for start in range(0, len(places), max(1, batch)):
        some = places[start : start + max(1, batch)]
        answers = run([np.ascontiguousarray(rgb_HWC[y0:y1, x0:x1]) for x0, y0, x1, y1 in some])
        for i, (window, boxes) in enumerate(zip(some, answers, strict=True), start + 1):
            views += [_placed(box, i, window, (width, height)) for box in boxes]
    return merge(views)


def _placed(box: Detection, view: int, window: Window, size: tuple[int, int]) -> _Seen:
    left, top, right, bottom = window
    near_x = max(2.0, EDGE_SHARE * (right - left))
    near_y = max(2.0, EDGE_SHARE * (bottom - top))
    cut = (
        left > 0 and box.x0 <= near_x,
        top > 0 and box.y0 <= near_y,
        right < size[0] and box.x1 >= right - left - near_x,
        bottom < size[1] and box.y1 >= bottom - top - near_y,
    )
    outlines = tuple(
        tuple(value + (left, top)[i % 2] for i, value in enumerate(points))
        for points in box.polygons
    )
    moved = replace(
        box,
        x0=box.x0 + left,
        y0=box.y0 + top,
        x1=box.x1 + left,
        y1=box.y1 + top,
        polygons=outlines,
    )
    return _Seen(moved, view, window, cut)


def merge(views: Sequence[_Seen]) -> list[Detection]:
    """Each object once, class by class."""
    kept: list[Detection] = []
    for label in sorted({row.box.label for row in views}):
        kept += _merge_class([row for row in views if row.box.label == label])
    return sorted(kept, key=lambda box: -box.score)


def _merge_class(rows: list[_Seen]) -> list[Detection]:
    rows = sorted(rows, key=lambda row: -row.box.score)
    whole = _suppressed([row for row in rows if not any(row.cut)][:MOST])
    boxes_N4 = _corners(whole)
    cut = [row for row in rows if any(row.cut)][:MOST]
    parts = [row for row in cut if _share_inside(row.box, boxes_N4).max() < INSIDE]
    objects = [row.box for row in whole]
    # the largest first: what is left of an object lies inside what was joined of it
    joined = sorted(_joined(parts[:MOST_PARTS]), key=_area, reverse=True)
    for row, corners_4 in zip(joined, _corners(joined), strict=True):
        near = box_iou(corners_4, boxes_N4).max(initial=0.0) > SAME_IOU
        if not near and _share_inside(row.box, boxes_N4).max() < INSIDE:
            objects.append(row.box)
            boxes_N4 = np.concatenate([boxes_N4, corners_4[None]])
    return objects


def _area(row: _Seen) -> float:
    return (row.box.x1 - row.box.x0) * (row.box.y1 - row.box.y0)


def _corners(rows: Sequence[_Seen]) -> NDArray[np.float64]:
    corners = [(row.box.x0, row.box.y0, row.box.x1, row.box.y1) for row in rows]
    return np.array(corners, np.float64).reshape(-1, 4)


def _suppressed(rows: Sequence[_Seen]) -> list[_Seen]:
    """The surest of each object. Boxes of one view stand side by side: the network's own
    suppression let them both through."""
    order = sorted(rows, key=lambda row: -row.box.score)
    boxes_N4 = _corners(order)
    views = np.array([row.view for row in order], int)
    dropped = np.zeros(len(order), bool)
    for i in range(len(order)):
        if not dropped[i]:
            rest = slice(i + 1, None)
            same = box_iou(boxes_N4[i], boxes_N4[rest]) > SAME_IOU
            dropped[rest] |= same & (views[rest] != views[i])
    return [row for row, gone in zip(order, dropped, strict=True) if not gone]


def _share_inside(box: Detection, boxes_N4: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the box's area inside each of the others; at least one number."""
    corners = np.array([box.x0, box.y0, box.x1, box.y1])
    near = np.maximum(corners[:2], boxes_N4[:, :2])
    far = np.minimum(corners[2:], boxes_N4[:, 2:])
    area = max(1e-9, (box.x1 - box.x0) * (box.y1 - box.y0))
    return np.concatenate([[0.0], np.clip(far - near, 0, None).prod(1) / area])


def _joined(parts: list[_Seen]) -> list[_Seen]:
    """Parts of one object as one box; a part alone stays as it is, for its object is there."""
    group = list(range(len(parts)))

    def root(i: int) -> int:
        while group[i] != i:
            group[i] = group[group[i]]
            i = group[i]
        return i

    for i, j in _pairs(parts):
        group[root(i)] = root(j)
    members: dict[int, list[_Seen]] = {}
    for i, row in enumerate(parts):
        members.setdefault(root(i), []).append(row)
    return [_union(rows) for rows in members.values()]


def _pairs(parts: list[_Seen]) -> Iterator[tuple[int, int]]:
    """Numbers of parts that belong together.

    `second` is what `first`'s tile cut off at its right or bottom edge; or both are cut at the same
    edges by tiles that overlap, and see the same part.
    """
    boxes, cuts = _corners(parts), np.array([row.cut for row in parts], bool).reshape(-1, 4)
    views = np.array([row.view for row in parts], int)
    for i, first in enumerate(parts):
        box = boxes[i]
        across, down = _overlap(box, boxes, 0), _overlap(box, boxes, 1)
        slack = 2 * max(2.0, EDGE_SHARE * (first.window[2] - first.window[0]))
        right = (box[0] <= boxes[:, 0]) & (boxes[:, 0] <= box[2] + slack) & (down >= ALONG)
        below = (box[1] <= boxes[:, 1]) & (boxes[:, 1] <= box[3] + slack) & (across >= ALONG)
        same = (cuts == cuts[i]).all(1) & (across >= ALONG) & (down >= ALONG)
        follows = (first.cut[2] & cuts[:, 0] & right) | (first.cut[3] & cuts[:, 1] & below) | same
        for j in np.flatnonzero(follows & (views != first.view)):
            yield i, int(j)


def _overlap(
    box_4: NDArray[np.float64], boxes_N4: NDArray[np.float64], axis: int
) -> NDArray[np.float64]:
    """Of the sides along one axis, as a share of both together."""
    inner = np.minimum(box_4[axis + 2], boxes_N4[:, axis + 2])
    inner = inner - np.maximum(box_4[axis], boxes_N4[:, axis])
    outer = np.maximum(box_4[axis + 2], boxes_N4[:, axis + 2])
    outer = outer - np.minimum(box_4[axis], boxes_N4[:, axis])
    return np.asarray(np.clip(inner, 0, None) / np.maximum(outer, 1e-9))


def _union(rows: list[_Seen]) -> _Seen:
    best = max(rows, key=lambda row: row.box.score)
    box = replace(
        best.box,
        x0=min(row.box.x0 for row in rows),
        y0=min(row.box.y0 for row in rows),
        x1=max(row.box.x1 for row in rows),
        y1=max(row.box.y1 for row in rows),
        polygons=tuple(points for row in rows for points in row.box.polygons),
    )
    return replace(best, box=box)
