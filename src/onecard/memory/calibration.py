"""What this card's own runs teach: the bytes of its context, of segments held and not full, of
Python and its libraries, and how far plans were off. Knows runs as rows of numbers only.

One file, calibration.json in the cache folder, a part for each card by its name. Without it the
published guesses stand.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from onecard import fsio, paths
from onecard.memory.devices import Device
from onecard.units import MIB

CUDA_CONTEXT_BYTES = 500 * MIB
"""Context plus cuBLAS workspace of one process. A guess between published 300 and 700 MiB, until it
is calibrated."""
FEWEST = 5
"""Runs of one kind from which a band is learned."""
NARROWEST = 0.02


def learn(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Card -> what its runs show. A row: card, kind, planned_bytes, and of allocated_bytes,
    reserved_bytes, device_bytes, peak_rss_bytes what was measured.

    A context is what the driver shows beyond torch's segments; on a CPU the program itself is what
    lies beyond the plan. Medians, so that one odd run changes little.
    """
    out: dict[str, dict[str, Any]] = {}
    for device in sorted({str(row["card"]) for row in rows}):
        own = [row for row in rows if row["card"] == device]
        learned: dict[str, Any] = {"runs": len(own)}
        contexts = [
            row["device_bytes"] - row["reserved_bytes"]
            for row in own
            if row.get("device_bytes", 0) > row.get("reserved_bytes", 0) > 0
        ]
        shares = [
            row["reserved_bytes"] / row["allocated_bytes"] - 1
            for row in own
            if row.get("allocated_bytes") and row.get("reserved_bytes")
        ]
        if contexts:
            learned["context_bytes"] = round(statistics.median(contexts))
        if shares:
            learned["segments"] = round(statistics.median(shares), 4)
        on_cpu = [
            row
            for row in own
            if not row.get("device_bytes")
            and row.get("peak_rss_bytes")
            and row.get("planned_bytes")
        ]
        if on_cpu:
            learned["program_bytes"] = max(
                round(
                    statistics.median(
                        [row["peak_rss_bytes"] - row["planned_bytes"] for row in on_cpu]
                    )
                ),
                0,
            )
        learned["bands"] = {
            kind: band
            for kind in sorted({str(row["kind"]) for row in own})
            if (band := _band([row for row in own if row["kind"] == kind], learned)) is not None
        }
        out[device] = learned
    return out


def _band(rows: Sequence[Mapping[str, Any]], learned: Mapping[str, Any]) -> float | None:
    """The share that 9 of 10 runs of a kind stayed within, once the constants are known; None for
    too few runs."""
    errors: list[float] = []
    for row in rows:
        measured = row.get("device_bytes") or row.get("peak_rss_bytes") or 0
        beyond = 0 if row.get("device_bytes") else learned.get("program_bytes", 0)
        if measured and row.get("planned_bytes"):
            errors.append(abs((row["planned_bytes"] + beyond) / measured - 1))
    if len(errors) < FEWEST:
        return None
    return round(max(sorted(errors)[min(int(len(errors) * 0.9), len(errors) - 1)], NARROWEST), 4)


def file() -> Path:
    return paths.home() / "calibration.json"


def save(learned: Mapping[str, Any]) -> None:
    fsio.write_text(file(), json.dumps(learned, indent=2) + "\n")
    _read.cache_clear()


@cache
def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return values if isinstance(values, dict) else {}
    except (OSError, ValueError):  # none yet, or spoilt: the guesses stand
        return {}


def of(device: Device) -> dict[str, Any]:
    """What is known of this card; empty where no run has taught anything."""
    values = _read(file()).get(device.name, {})
    return values if isinstance(values, dict) else {}


def context_bytes(device: Device) -> tuple[int, str]:
    """(bytes of the CUDA context, why)."""
    known = of(device)
    if isinstance(known.get("context_bytes"), int):
        return known["context_bytes"], f"learned from {known.get('runs', 0)} runs on this card"
    return CUDA_CONTEXT_BYTES, "context and cuBLAS workspace (a guess until calibrated)"


def segments(device: Device, usual: float) -> float:
    """Share of the allocator's peak that is held and not full."""
    known = of(device).get("segments")
    return float(known) if isinstance(known, int | float) else usual


def band(device: Device, kind: str, usual: float) -> float:
    """Half-width of the band of a kind's plans."""
    known = of(device).get("bands", {})
    value = known.get(kind) if isinstance(known, dict) else None
    return float(value) if isinstance(value, int | float) else usual
