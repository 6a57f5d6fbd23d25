"""Figures of vision runs: precision-recall, confusion and reliability as SVG, and a sheet of the
worst pictures as PNG.

Knows the shapes that evaluation/metrics gives, no network.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from onecard.datasets.images.records import Box, Detection
from onecard.datasets.images.sheets import Tile, draw_tiles
from onecard.runs.plots import BLUE, GREY, ORANGE, _svg  # sets the backend without a screen

SHOWN_CLASSES = 12
"""Curves in one figure; with more classes the best and the worst."""
NUMBERED = 20
"""Classes up to which the cells of a confusion matrix have numbers."""
WORST = 16


def precision_recall(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """One curve a class, from DetectionScores.curves()["pr"]; empty text without classes. Of many
    classes those with the largest and the smallest area."""
    if not curves:
        return ""
    areas = {name: _area(curve) for name, curve in curves.items()}
    order = sorted(curves, key=lambda name: -areas[name])
    if len(order) > SHOWN_CLASSES:
        order = order[: SHOWN_CLASSES // 2] + order[-SHOWN_CLASSES // 2 :]
    figure, axis = plt.subplots(figsize=(7, 3.6))
    for name in order:
        recall = [0.0, *curves[name]["recall"]]
        precision = [*list(curves[name]["precision"])[:1], *curves[name]["precision"]]
        axis.plot(recall, precision or [0.0], lw=1.5, label=_plain(name))
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
    axis.set_title("IoU .5", fontsize=9, color=GREY)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    return _with_text(figure)


def _area(curve: Mapping[str, Sequence[float]]) -> float:
    recall, precision = np.array(curve["recall"]), np.array(curve["precision"])
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def _with_text(figure: Any) -> str:
    """Class names as text: a browser has the letters that matplotlib's font lacks."""
    with plt.rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        return _svg(figure)


def _plain(name: str) -> str:
    """matplotlib reads $...$ as a formula, and leaves a label out that begins with _."""
    name = name if len(name) <= 24 else name[:23] + "…"
    return ("\u200b" if name.startswith("_") else "") + name.replace("$", r"\$")


def confusion(table: np.ndarray, classes: Sequence[str]) -> str:
    """Shares of each true class (row) by predicted class (column); a last row and column beyond the
    classes is the background. Numbers are counts; empty text without any."""
    table = np.asarray(table)
    if not table.size or not table.sum():
        return ""
    names = [_plain(name) for name in classes]
    names += ["background"] * (len(table) - len(names))
    n = len(names)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    side = min(9.0, 2.2 + 0.42 * n)
    figure, axis = plt.subplots(figsize=(side + 1, side))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if n <= NUMBERED:
        for i in range(n):
            for j in range(n):
                if table[i, j]:
                    colour = "white" if shares[i, j] > 0.6 else "black"
                    axis.text(
                        j, i, f"{table[i, j]:,}", ha="center", va="center", fontsize=7, color=colour
                    )
    size = 8 if n <= NUMBERED else max(3, 160 // n)
    axis.set_xticks(range(n), names, rotation=90, fontsize=size)
    axis.set_yticks(range(n), names, fontsize=size)
    axis.set(xlabel="predicted", ylabel="true")
    return _with_text(figure)


def reliability(rows: Sequence[Mapping[str, Any]]) -> str:
    """Confidence against the share that is right, from calibration_error.reliability; empty text
    without rows."""
    if not rows:
        return ""
    confidence = [row["confidence"] for row in rows]
    accuracy = [row["accuracy"] for row in rows]
    figure, axis = plt.subplots(figsize=(4, 4))
    axis.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
    axis.plot(confidence, accuracy, color=BLUE, marker="o", ms=4)
    for x, y in zip(confidence, accuracy, strict=True):
        axis.plot([x, x], [x, y], color=ORANGE, lw=1)
    axis.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    return _with_text(figure)


# Sheets


@dataclass(frozen=True)
class SheetRow:
    """One picture of a sheet: what is true on its left, what was predicted on its right."""

    rgb_HWC: np.ndarray
    title: str
    truth: Sequence[Box | Detection] | int | None = None
    """Objects, or the class of the whole picture."""
    predicted: Sequence[Box | Detection] | int | None = None
    truth_HW: np.ndarray | None = None
    """Or class numbers of pixels; below 0 is none."""
    predicted_HW: np.ndarray | None = None


def worst_sheet(rows: Sequence[SheetRow], path: Path, classes: Sequence[str] = ()) -> Path | None:
    """Write the first 16 rows, truth and prediction side by side, two pairs a line, as PNG; nothing
    without rows. The caller sorts them, the worst first."""
    tiles: list[Tile] = []
    for row in rows[:WORST]:
        truth = row.truth if row.truth_HW is None else row.truth_HW
        predicted = row.predicted if row.predicted_HW is None else row.predicted_HW
        tiles += [(row.rgb_HWC, truth, row.title), (row.rgb_HWC, predicted, "predicted")]
    if not tiles:
        return None
    return draw_tiles(tiles, classes, path, columns=min(4, len(tiles)))
