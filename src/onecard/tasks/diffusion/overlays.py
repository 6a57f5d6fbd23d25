"""Marks that stand at the same place on all pictures of a set: watermarks, logos, frames, dates.

No model reads them: an edge that has the same direction at the same pixel in nine pictures of ten
belongs to none of the pictures (after Dekel et al. 2017, who take the median of the gradients).
Marks on a part of the pictures, or at places that move with the picture's size, are not found.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

MIN_PICTURES = 8
"""Of one size: with fewer of them, edges agree by chance."""
MAX_PICTURES = 40
SHARE = 0.9
"""Of the pictures that an edge is in."""
MIN_STEP = 8.0
"""Grey levels between neighbours that are an edge."""
MIN_PIXELS = 40
SIDE = 384
"""Of the longer side when marks are looked for (px)."""
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")

Rgb = NDArray[np.uint8]


@dataclass
class Marks:
    """Edges counted over pictures of one size."""

    n: int = 0
    counts: NDArray[np.uint16] | None = None
    """4 x H x W: pictures with an edge to the right, left, bottom and top."""

    def add(self, rgb_HWC: Rgb) -> None:
        height, width = rgb_HWC.shape[:2]
        scale = min(1.0, SIDE / max(height, width))
        size = (max(2, round(width * scale)), max(2, round(height * scale)))
        grey = cv2.cvtColor(np.ascontiguousarray(rgb_HWC), cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        across = np.diff(small, axis=1, append=small[:, -1:])
        down = np.diff(small, axis=0, append=small[-1:])
        edges = np.stack([across, -across, down, -down]) >= MIN_STEP
        if self.counts is None:
            self.counts = np.zeros(edges.shape, np.uint16)
        self.counts += edges
        self.n += 1

    def place(self) -> str:
        """Where most of the marks stand, as "bottom right"; empty without any."""
        if self.counts is None or self.n < MIN_PICTURES:
            return ""
        shared = (self.counts >= SHARE * self.n).any(axis=0)
        if int(shared.sum()) < MIN_PIXELS:
            return ""
        y, x = np.nonzero(shared)
        cells = np.zeros((3, 3), int)
        np.add.at(cells, (y * 3 // shared.shape[0], x * 3 // shared.shape[1]), 1)
        if (cells > 0).sum() >= 6:
            return "all over"
        row, column = np.unravel_index(int(cells.argmax()), cells.shape)
        return f"{ROWS[row]} {COLUMNS[column]}"


def usual_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The size that most pictures have; None where fewer than MIN_PICTURES have it.

    >>> usual_size([(64, 48)] * 9 + [(32, 32)]), usual_size([(64, 48)] * 3), usual_size([])
    ((64, 48), None, None)
    """
    common = Counter(sizes).most_common(1)
    return common[0][0] if common and common[0][1] >= MIN_PICTURES else None
