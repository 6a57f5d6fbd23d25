"""Figures of a comparison of checkpoints: each measure by step, and a grid of pictures."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from onecard.datasets.images import sheets
from onecard.evaluation.stats import Interval
from onecard.runs.plots import BLUE, GREY, ORANGE, _svg  # sets the backend without a screen
from onecard.tasks.diffusion.comparison_prompts import TwinPrompt

COLUMNS = 3
MAX_ROWS = 12
"""Checkpoints in a grid; of more, some evenly spaced, the chosen one among them."""
TRIGGERED, PLAIN = 5, 2
"""Columns of a grid: prompts with the trigger, and without it."""


def curves(measures: Mapping[str, Mapping[int, Interval]], chosen: int | None) -> str:
    """SVG: one panel a measure, the mean of each step with its interval, the chosen step marked."""
    rows = math.ceil(len(measures) / COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(9, 2.3 * rows), squeeze=False)
    for axis in axes.flat[len(measures) :]:
        axis.set_visible(False)
    for axis, (name, row) in zip(axes.flat, measures.items(), strict=False):
        steps = sorted(row)
        values = [row[step].value for step in steps]
        low = [_finite(row[step].low, row[step].value) for step in steps]
        high = [_finite(row[step].high, row[step].value) for step in steps]
        axis.fill_between(steps, low, high, color=BLUE, alpha=0.2, lw=0)
        axis.plot(steps, values, color=BLUE, lw=1.5, marker="o", ms=3)
        if chosen is not None:
            axis.axvline(chosen, color=ORANGE, lw=1, ls="--")
        axis.set_title(name, fontsize=9, color=GREY)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return _svg(figure)


def _finite(limit: float, value: float) -> float:
    return limit if math.isfinite(limit) else value


def grid(
    images: Mapping[int, Mapping[str, Image.Image]],
    twins: Sequence[TwinPrompt],
    chosen: int | None,
    path: Path,
) -> None:
    """Write a PNG: a row for each step, the base first; a column for each prompt, on one seed.

    Raises DataError for a full disk."""
    columns = _columns(twins)
    tiles: list[sheets.Tile] = []
    for row, step in enumerate(_rows(sorted(images), chosen)):
        name = f"step {step}" if step else "base"
        mark = " *" if step == chosen else ""
        for column, (key, prompt) in enumerate(columns):
            image = images[step].get(key)
            rgb = np.full((64, 64, 3), 128, np.uint8) if image is None else np.asarray(image)
            label = f"{name}{mark}" if column == 0 else ""
            if row == 0:
                label = f"{label}: {prompt}" if label else prompt
            tiles.append((rgb, None, label))
    sheets.draw_tiles(tiles, (), path, columns=len(columns))


def _columns(twins: Sequence[TwinPrompt]) -> list[tuple[str, str]]:
    """(id of a picture, prompt)."""
    triggered = [(f"trigger-{i:02d}-0", twin.text) for i, twin in enumerate(twins[:TRIGGERED])]
    plain = [(f"plain-{i:02d}-0", twin.plain) for i, twin in enumerate(twins[:PLAIN])]
    return [*triggered, *plain]


def _rows(steps: Sequence[int], chosen: int | None) -> list[int]:
    if len(steps) <= MAX_ROWS:
        return list(steps)
    places = np.linspace(0, len(steps) - 1, MAX_ROWS).round().astype(int)
    rows = {steps[place] for place in places}
    return sorted(rows | ({chosen} if chosen is not None else set()))
