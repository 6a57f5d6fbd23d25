"""Draws a run's figures as SVG text with matplotlib.

Knows the shapes of scores.json and events.jsonl, no kind.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = (
    "onecard"  # else the ids in the file are random and no two reports are equal
)
import matplotlib.pyplot as plt  # noqa: E402  (the backend must be set first)

from onecard.units import GIB, size  # noqa: E402

BLUE, ORANGE, GREY = "#1f6feb", "#d4761a", "#8c959f"


def _svg(figure: Any) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = out.getvalue()
    return text[text.index("<svg") :]


def scores(unit: str, metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Metrics of one unit as points with their intervals; nothing where none has an interval."""
    rows = [
        (name, row)
        for name, row in metrics.items()
        if row.get("value") is not None
        and row.get("low") is not None
        and row.get("high") is not None
    ]
    if not rows:
        return ""
    figure, axis = plt.subplots(figsize=(7, 0.6 + 0.32 * len(rows)))
    for i, (_, row) in enumerate(reversed(rows)):
        axis.plot(
            [row["low"], row["high"]], [i, i], color=BLUE, lw=3, alpha=0.35, solid_capstyle="round"
        )
        axis.plot(row["value"], i, "o", color=BLUE)
        axis.annotate(
            f"{row['value']:.3g}",
            (row["value"], i),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axis.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
    axis.set(xlabel=unit, ylim=(-0.6, len(rows) - 0.2))
    if unit == "share":
        axis.set_xlim(-0.02, 1.05)
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right", "left"]].set_visible(False)
    return _svg(figure)


def curves(events: Sequence[dict[str, Any]]) -> list[str]:
    """One small figure for each value that was logged at two steps or more."""
    names = sorted({name for row in events for name in row} - {"step", "time_s"})
    drawn = []
    for name in names:
        points = [
            (row["step"], row[name])
            for row in events
            if isinstance(row.get(name), int | float) and math.isfinite(row[name])
        ]
        if len(points) < 2:
            continue
        figure, axis = plt.subplots(figsize=(7, 2.4))
        axis.plot(
            *zip(*points, strict=True), color=BLUE, lw=1.5, marker="." if len(points) < 40 else ""
        )
        axis.set(xlabel="step", ylabel=name)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        drawn.append(_svg(figure))
    return drawn


def memory(terms: Sequence[dict[str, Any]], peak_bytes: int) -> str:
    """The plan's parts stacked in one bar, the measured peak under it."""
    figure, axis = plt.subplots(figsize=(7, 1.6))
    left, shades = 0.0, [BLUE, "#54aeff", "#80ccff", "#b6e3ff", GREY]
    for i, term in enumerate(terms):
        width = term["bytes"] / GIB
        axis.barh(
            1,
            width,
            left=left,
            color=shades[i % len(shades)],
            label=f"{term['name']} {size(term['bytes'])}",
            edgecolor="white",
        )
        left += width
    if peak_bytes:
        axis.barh(0, peak_bytes / GIB, color=ORANGE, label=f"measured peak {size(peak_bytes)}")
    axis.set_yticks([0, 1], ["measured", "planned"])
    axis.set_xlabel("GiB")
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.35), ncols=3, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return _svg(figure)


def lines(
    series: dict[str, Sequence[tuple[float, float]]],
    x: str,
    y: str,
    log_x: bool = False,
    zoom: bool = False,
) -> str:
    """Named curves in one figure: the growth of a measure, an ablation.

    `zoom` lets the axis begin where the curves do, not at 0.
    """
    figure, axis = plt.subplots(figsize=(7, 3.2))
    for name, points in series.items():
        axis.plot(*zip(*points, strict=True), marker="o", ms=4, label=name)
    if log_x:
        axis.set_xscale("log")
    axis.set(xlabel=x, ylabel=y)
    if not zoom:
        axis.set_ylim(0, None)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    return _svg(figure)
