"""Figures of vision runs: precision-recall, confusion and reliability as SVG, and a sheet of the
worst pictures as PNG.

Knows the shapes that evaluation/metrics gives, no network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw

from onecard import fsio
from onecard.runs.plots import BLUE, GREY, ORANGE, _svg  # sets the backend without a screen

SHOWN_CLASSES = 12
"""Curves in one figure; with more classes the best and the worst."""
NUMBERED = 20
"""Classes up to which the cells of a confusion matrix have numbers."""
WORST = 16
TILE = 240
"""Side of one picture on a sheet (px)."""
COLOURS = ("#1f6feb", "#d4761a", "#2da44e", "#cf222e", "#8250df", "#bf3989", "#9a6700", "#57606a")


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
    return _svg(figure)


def _area(curve: Mapping[str, Sequence[float]]) -> float:
    recall, precision = np.array(curve["recall"]), np.array(curve["precision"])
    return float((np.diff(recall, prepend=0.0) * precision).sum())


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
    return _svg(figure)


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
    return _svg(figure)


# Sheets


@dataclass(frozen=True)
class SheetRow:
    """One picture of a sheet: what is true on its left, what was predicted on its right."""

    rgb_HWC: np.ndarray
    title: str
    truth: Sequence[Any] = ()
    """Boxes or detections: label, x0 y0 x1 y1, polygons, and a score where there is one."""
    predicted: Sequence[Any] = ()
    truth_HW: np.ndarray | None = None
    """Or a map of class numbers."""
    predicted_HW: np.ndarray | None = None


def worst_sheet(rows: Sequence[SheetRow], path: Path, classes: Sequence[str] = ()) -> Path | None:
    """Write the first 16 rows, truth and prediction side by side, two pairs a line, as PNG; nothing
    without rows. The caller sorts them, the worst first."""
    rows = rows[:WORST]
    if not rows:
        return None
    lines = (len(rows) + 1) // 2
    across = 1 if len(rows) == 1 else 2
    title, gap = 18, 8
    size = (across * (2 * TILE + gap), lines * (TILE + title + gap))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for i, row in enumerate(rows):
        x = (i % 2) * (2 * TILE + gap)
        y = (i // 2) * (TILE + title + gap)
        draw.text((x + 2, y + 3), _fitting(draw, row.title), fill="black")
        sheet.paste(_tile(row.rgb_HWC, row.truth, row.truth_HW, classes), (x, y + title))
        sheet.paste(
            _tile(row.rgb_HWC, row.predicted, row.predicted_HW, classes), (x + TILE, y + title)
        )
    with fsio.atomic_write(path) as draft:
        sheet.save(draft, format="PNG")
    return path


def _fitting(draw: ImageDraw.ImageDraw, text: str) -> str:
    """The end of a text that is too long for two tiles: names differ there."""
    while draw.textlength(text) > 2 * TILE - 4 and len(text) > 4:
        text = "…" + text[max(2, len(text) // 20 + 1) :]
    return text


def _tile(
    rgb: np.ndarray, shapes: Sequence[Any], classes_HW: np.ndarray | None, names: Sequence[str]
) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(rgb))
    scale = min((TILE - 2) / image.width, (TILE - 2) / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size)
    if classes_HW is not None:
        image = _tinted(image, classes_HW)
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        colour = COLOURS[shape.label % len(COLOURS)]
        corners = [v * scale for v in (shape.x0, shape.y0, shape.x1, shape.y1)]
        for outline in shape.polygons:
            points = [v * scale for v in outline]
            if len(points) >= 6:
                draw.line([*points, *points[:2]], fill=colour, width=1)
        if corners[2] < corners[0] or corners[3] < corners[1]:
            continue
        draw.rectangle(corners, outline=colour, width=2)
        text = names[shape.label] if shape.label < len(names) else str(shape.label)
        if (score := getattr(shape, "score", None)) is not None:
            text = f"{text} {score:.2f}"
        spot = (corners[0] + 2, max(0.0, corners[1] - 11))
        draw.rectangle(draw.textbbox(spot, text), fill="white")
        draw.text(spot, text, fill=colour)
    tile = Image.new("RGB", (TILE, TILE), "#eaeef2")
    tile.paste(image, ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return tile


def _tinted(image: Image.Image, classes_HW: np.ndarray) -> Image.Image:
    """The picture under its classes' colours; what is no class (255, -1) stays as it is."""
    small = Image.fromarray(classes_HW.astype(np.int32)).resize(
        image.size, Image.Resampling.NEAREST
    )
    classes = np.asarray(small)
    palette = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS])
    pixels = np.asarray(image).astype(float)
    counted = (classes >= 0) & (classes != 255)
    tint = palette[classes % len(COLOURS)]
    pixels[counted] = 0.55 * pixels[counted] + 0.45 * tint[counted]
    return Image.fromarray(pixels.astype(np.uint8))
