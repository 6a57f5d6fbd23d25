"""From a detector's numbers to objects: candidates, non-maximum suppression, masks and outlines.
numpy alone, OpenCV for outlines."""

import cv2
import numpy as np

from onecard.inference.picture_io import Placement

LIMIT = 300
"""Objects in one picture at most."""
CANDIDATES = 10_000
"""Boxes that are thinned out at most, the surest first."""
LEAST_AREA = 1.0
"""Outlines of fewer px^2 are left out."""


def candidates(
    scores_NC: np.ndarray, threshold: float, limit: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, class, score) of the pairs of box and class at the threshold or above, the surest
    first. A box can be of several classes, as in COCO's evaluation. What is not finite is left
    out."""
    with np.errstate(invalid="ignore"):
        rows, labels = np.nonzero(np.isfinite(scores_NC) & (scores_NC >= threshold))
    scores = scores_NC[rows, labels]
    if len(scores) > limit:
        kept = np.argpartition(-scores, limit)[:limit]
        rows, labels, scores = rows[kept], labels[kept], scores[kept]
    order = np.argsort(-scores, kind="stable")
    return rows[order], labels[order], scores[order]


def box_iou(box_4: np.ndarray, boxes_N4: np.ndarray) -> np.ndarray:
    """Of one box with many; 0 for empty ones."""
    corner = np.maximum(box_4[:2], boxes_N4[:, :2])
    far = np.minimum(box_4[2:], boxes_N4[:, 2:])
    both = np.clip(far - corner, 0, None).prod(1)
    areas = np.clip(boxes_N4[:, 2:] - boxes_N4[:, :2], 0, None).prod(1)
    union = np.clip(box_4[2:] - box_4[:2], 0, None).prod() + areas - both
    return np.asarray(np.divide(both, union, out=np.zeros_like(both), where=union > 0))


def nms(
    boxes_N4: np.ndarray,
    scores_N: np.ndarray,
    labels_N: np.ndarray,
    iou: float,
    limit: int = LIMIT,
) -> np.ndarray:
    """Rows that stay, the surest first: each box removes those of its own class that overlap it by
    more than `iou`.

    >>> boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9]], dtype=float)
    >>> nms(boxes, np.array([0.9, 0.8, 0.7]), np.array([0, 0, 1]), 0.5).tolist()
    [0, 2]
    """
    left = np.argsort(-scores_N, kind="stable")
    boxes = np.asarray(boxes_N4, dtype=np.float64)
    kept: list[int] = []
    while len(left) and len(kept) < limit:
        first, left = int(left[0]), left[1:]
        kept.append(first)
        rivals = labels_N[left] == labels_N[first]
        if rivals.any():
            overlap = np.zeros(len(left))
            overlap[rivals] = box_iou(boxes[first], boxes[left[rivals]])
            left = left[overlap <= iou]
    return np.array(kept, dtype=int)


def instance_outlines(
    coefficients_M: np.ndarray,
    prototypes_MHW: np.ndarray,
    box_4: np.ndarray,
    placement: Placement,
) -> tuple[tuple[float, ...], ...]:
    """Outlines, in the picture, of one object whose mask is a sum of prototypes (Bolya et al. 2019,
    YOLACT), cut at its box (in the picture)."""
    x0, y0 = np.floor(box_4[:2]).astype(int)
    x1, y1 = np.ceil(box_4[2:]).astype(int)
    x1, y1 = min(x1, placement.width), min(y1, placement.height)
    if x1 <= x0 or y1 <= y0:
        return ()
    logits_HW = np.tensordot(coefficients_M, prototypes_MHW, axes=1)
    region = (int(x0), int(y0), int(x1), int(y1))
    mask = placement.map_to_picture(logits_HW, region) > 0  # a probability above .5
    return outlines(mask, int(x0), int(y0))


def outlines(mask_HW: np.ndarray, left: int = 0, top: int = 0) -> tuple[tuple[float, ...], ...]:
    """Outlines of a mask along the edges of its pixels, x y x y ...; holes are filled.

    OpenCV's contours run through the middles of pixels and lose half a pixel on every side: of a
    mask that is enlarged twice they give the edges.

    >>> mask = np.zeros((6, 8), bool)
    >>> mask[1:4, 2:7] = True
    >>> sorted(zip(outlines(mask)[0][::2], outlines(mask)[0][1::2]))
    [(2.0, 1.0), (2.0, 4.0), (7.0, 1.0), (7.0, 4.0)]
    """
    twice = np.ascontiguousarray(mask_HW, dtype=np.uint8).repeat(2, 0).repeat(2, 1)
    contours, _ = cv2.findContours(twice, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    parts = []
    for contour in contours:
        points = (contour.reshape(-1, 2) + 1) // 2
        if len(points) >= 3 and cv2.contourArea(points.astype(np.float32)) >= LEAST_AREA:
            moved = points + np.array([left, top])
            parts.append(tuple(float(v) for v in moved.reshape(-1)))
    return tuple(parts)
