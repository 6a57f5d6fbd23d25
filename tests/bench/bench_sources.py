"""Leave one source out: every fitted constant is fitted again without one source's rows, and that
source is predicted. The error on rows nobody has seen is nearer to this than to the error on rows
that the constants were fitted to.

    python tests/bench/bench_sources.py [FILE.csv]

GROUPS lists the constants, with what they would be without any measurement (counted from the code
of the libraries, or a round guess): each fit starts there, and stays there where the rows that are
left say nothing. Every other number of the plans is counted, not fitted.
"""

import json
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from onecard.api import measurements
from onecard.errors import OneCardError
from onecard.memory import calibration, devices, terms
from onecard.memory.estimators import diffusion, llm_inference, training, vision
from onecard.units import MIB

MEASURED = Path(__file__).parents[1] / "validation" / "measurements.csv"
GROUPS = {
    "training, allocated": [
        (training, "UPCAST_COPIES", 3.0),
        (training, "FP32_COPIES", 4.0),
        (training, "PLAIN_COPIES", 2.0),
        (training, "SCORE_COPIES", 7.0),
        (training, "CHUNKED_COPIES", 0.5),
    ],
    "training, beyond": [
        (training, "FRAGMENTS_EAGER", 1.0),
        (training, "FRAGMENTS_FUSED", 1.0),
        (training, "FRAGMENTS_LOSS", 0.05),
        (training, "FREE_BYTES", 20 * MIB),
        (calibration, "CUDA_CONTEXT_BYTES", 400 * MIB),
    ],
    "answers": [
        (llm_inference, "GATHER_BYTES", 32 * MIB),
        (calibration, "CUDA_CONTEXT_BYTES", 400 * MIB),
        (devices, "DESKTOP_BYTES", 300 * MIB),
    ],
    "pictures": [
        (diffusion, "WORKSPACE_BYTES", 64 * MIB),
        (calibration, "CUDA_CONTEXT_BYTES", 400 * MIB),
    ],
    "vision": [
        (vision, "WORKSPACE_BYTES", 32 * MIB),
        (vision, "PER_IMAGE_COPIES", 7.0),
        (vision, "MASK_COPIES", 4.0),
        (terms, "CNN_SEGMENTS", 0.1),
    ],
}


def group_of(row):
    """The group whose constants a row depends on; none for what is only counted."""
    task = row["task"]
    if task == "finetune":
        exact = row["kind"] == "allocated"
        return "training, allocated" if exact else "training, beyond"
    if task in ("detect", "segment", "classify"):
        return "vision"
    if task == "diffusion":
        return "pictures"
    return "answers" if '"transformers"' in row["settings"] or row["kind"] != "log" else ""


def source_of(row):
    """One name for all rows that one project or page published."""
    text = row["source"].lower()
    for name in ("fitcheck", "torchtune", "oobabooga", "ultralytics"):
        if name in text:
            return name
    repository = re.search(r"\b[\w.-]+/[\w.-]+", text)
    if "hf blog" in text:
        return " ".join(text.split()[:3])
    if "diffusers docs" in text:
        return "diffusers docs"
    index = re.search(r"index id (\d+)", text)
    return index[0] if index else repository[0] if repository else text[:40]


def predicted(row):
    try:
        return measurements.predict(row)[0]
    except OneCardError:
        return 0


def set_all(constants, factors):
    for (module, name, prior), factor in zip(constants, factors, strict=True):
        setattr(module, name, prior * factor)


def fit(constants, rows):
    """The factors on the constants' priors that suit the rows best: robust least squares of the
    logarithms, with a weak pull towards the prior."""

    def residuals(factors):
        set_all(constants, factors)
        errors = [np.log(predicted(row) / row.measured_bytes) for row in rows]
        return np.concatenate([np.clip(errors, -0.5, 0.5), 0.01 * (factors - 1)])

    start = np.ones(len(constants))
    if not rows:
        return start
    return least_squares(
        residuals,
        start,
        bounds=(0.2, 5),
        loss="soft_l1",
        f_scale=0.03,
        diff_step=0.05,
        max_nfev=12,
    ).x


def figures(errors):
    sizes = sorted(abs(e) for e in errors)
    return {
        "rows": len(sizes),
        "median": statistics.median(sizes),
        "p90": sizes[min(int(len(sizes) * 0.9), len(sizes) - 1)],
        "under_5": sum(e < -0.05 for e in errors) / len(sizes),
        "band": sorted(abs(1 / (1 + e) - 1) for e in errors)[
            min(int(len(sizes) * 0.9), len(sizes) - 1)
        ],
    }


def leave_out(rows, group):
    """row id -> error, each source predicted with constants that never saw it."""
    constants = GROUPS[group]
    shipped = [getattr(module, name) for module, name, _ in constants]
    errors, fitted = {}, {}
    for source in sorted({source_of(row) for row in rows}):
        factors = fit(constants, [row for row in rows if source_of(row) != source])
        set_all(constants, factors)
        own = [row for row in rows if source_of(row) == source]
        errors |= {row["id"]: predicted(row) / row.measured_bytes - 1 for row in own}
        fitted[source] = {
            name: round(float(prior * factor), 4)
            for (_, name, prior), factor in zip(constants, factors, strict=True)
        }
        print(f"{group}: without {source}: {fitted[source]}", flush=True)
    for (module, name, _), value in zip(constants, shipped, strict=True):
        setattr(module, name, value)
    return errors, fitted


def main():
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else MEASURED
    rows = [row for row in measurements.read(file) if row["tier"] != "C" and predicted(row)]
    errors, fitted = {}, {}
    shipped = {row["id"]: predicted(row) / row.measured_bytes - 1 for row in rows}
    for group in GROUPS:
        own = [row for row in rows if group_of(row) == group]
        found, fitted[group] = leave_out(own, group)
        errors |= found
    for row in rows:  # nothing of these is fitted
        errors.setdefault(row["id"], shipped[row["id"]])
    wholes = {row["id"] for row in rows if row["component"] in ("peak", "total")}
    exact = {row["id"] for row in rows if row["kind"] in measurements.EXACT}
    parts = defaultdict(list)
    for row in rows:
        parts[f"source {source_of(row)}"].append(row["id"])
        parts["exact kinds" if row["id"] in exact else "other kinds"].append(row["id"])
        parts["all"].append(row["id"])
        if row["id"] in wholes:
            engine = re.search(r'"engine": "(\w+)"', row["settings"])
            command = row["command"] + (f" {engine[1]}" if engine else "")
            parts[f"peaks and totals of {command}"].append(row["id"])
    out = {}
    head = "rows | number | median | 90 % | low by > 5 % | shipped: median, 90 % | band needed"
    print(f"\n| {head} |\n|---|---|---|---|---|---|---|")
    for name, ids in sorted(parts.items()):
        left, here = figures([errors[i] for i in ids]), figures([shipped[i] for i in ids])
        out[name] = {"left_out": left, "shipped": here}
        print(
            f"| {name} | {left['rows']} | {left['median']:.1%} | {left['p90']:.1%} | "
            f"{left['under_5']:.0%} | {here['median']:.1%} / {here['p90']:.1%} | "
            f"{left['band']:.1%} |"
        )
    path = Path("bench-results") / "sources.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"figures": out, "constants": fitted}, indent=1) + "\n")
    print(f"\n{path}")


if __name__ == "__main__":
    main()
