"""How sharp the sharpest edges of a picture are; a soft background behind them does not count."""

from collections.abc import Sequence
from statistics import median

import cv2
import numpy as np
from numpy.typing import NDArray

WINDOW = 9
"""Side of the window that a step is compared with (px)."""
MIN_CONTRAST = 24.0
"""Grey levels within a window below which it shows no edge."""
MIN_EDGES = 50
"""Windows with an edge; with fewer of them nothing can be said."""
SMOOTHING = 0.6
"""Standard deviation of a Gauss filter (px) that takes grain and JPEG's blocks away."""
BLURRED = 1 / 3
"""An edge that takes three pixels or more."""
RELATIVE = 0.6
"""Of the median of a set: what is softer than that stands out in it."""
MIN_SET = 5

Rgb = NDArray[np.uint8]


def sharpness(rgb_HWC: Rgb) -> float | None:
    """The share of an edge that one pixel takes, in (0, 1]: 1 for a step from black to white, .3
    for an edge blurred over three pixels. None for a picture without edges.

    The steepest step within each window is divided by its contrast, and of all windows with an
    edge the .9 quantile counts: the variance of the Laplacian is 40 times greater for a pattern
    than for a face, sharp as both may be, and greater for a blurred picture with grain than for a
    sharp one without. The picture must have the size that it is learned in.
    """
    plain = cv2.cvtColor(np.ascontiguousarray(rgb_HWC), cv2.COLOR_RGB2GRAY)
    grey = cv2.GaussianBlur(plain.astype(np.float32), (0, 0), SMOOTHING)
    across = np.abs(np.diff(grey, axis=1, prepend=grey[:, :1]))
    down = np.abs(np.diff(grey, axis=0, prepend=grey[:1]))
    window = np.ones((WINDOW, WINDOW), np.uint8)
    contrast = cv2.dilate(grey, window) - cv2.erode(grey, window)
    steepest = cv2.dilate(np.maximum(across, down), window)
    edges = contrast >= max(MIN_CONTRAST, float(np.median(contrast)))
    if int(edges.sum()) < MIN_EDGES:
        return None
    return float(np.quantile(steepest[edges] / contrast[edges], 0.9))


def blurred(values: Sequence[float | None]) -> list[int]:
    """Numbers of the pictures that are blurred: by themselves, or beside the rest of their set."""
    known = [value for value in values if value is not None]
    limit = BLURRED
    if len(known) >= MIN_SET:
        limit = max(limit, RELATIVE * median(known))
    return [i for i, value in enumerate(values) if value is not None and value < limit]
