"""Holds the plan against published measurements: a CSV row is planned as a user would give it, like
is compared with like. Knows no row by name.

Allocated, reserved and nvidia-smi are three predictions: the allocator's peak, with its segments,
with the context.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from validation import rows_lm, rows_nets
from validation.rows import Cannot, Row, read

from onecard.errors import OneCardError
from onecard.reporting import Result, table
from onecard.units import size

PLANNERS: dict[str, Callable[[Row], int]] = {
    "llm-infer": rows_lm.plan,
    "lora": rows_lm.plan,
    "qlora": rows_lm.plan,
    "full-ft": rows_lm.plan,
} | rows_nets.PLANNERS


def bench(path: Path) -> Result:
    """Every row with its planned and measured bytes, then each workload's errors."""
    rows = [_judged(row) for row in read(path)]
    counted = [row for row in rows if row["tier"] in "AB"]
    groups: dict[str, Callable[[dict[str, Any]], bool]] = {
        "allocated and log": lambda r: r["kind"] in ("allocated", "log"),
        "reserved, nvidia-smi, claimed": lambda r: r["kind"] not in ("allocated", "log"),
        "all": lambda r: True,
    }
    groups |= {
        f"{name}": (lambda r, name=name: r["workload"] == name)  # type: ignore[misc]
        for name in sorted({row["workload"] for row in rows})
    }
    summary = {
        name: _summary([row for row in counted if keep(row)]) for name, keep in groups.items()
    }
    cells = [
        [
            r["id"],
            r["kind"],
            r["component"],
            size(r["planned_bytes"]) if r["planned_bytes"] else "cannot",
            size(r["measured_bytes"]),
            f"{r['error']:+.1%}" if r["error"] is not None else r["cannot"],
        ]
        for r in rows
    ]
    shown = [
        [
            name,
            str(s["count"]),
            f"{s['planned_share']:.0%}",
            *(f"{s[k]:.1%}" if s[k] is not None else "–" for k in ("median", "p90", "under_5")),
        ]
        for name, s in summary.items()
    ]
    text = (
        table(cells, ["id", "kind", "component", "planned", "measured", "error"])
        + "\n\n"
        + table(
            shown,
            [
                "tiers A and B",
                "rows",
                "planned",
                "median error",
                "90 % within",
                "under by more than 5 %",
            ],
        )
    )
    return Result({"rows": rows, "summary": summary}, text)


def _judged(row: Row) -> dict[str, Any]:
    out: dict[str, Any] = {
        "id": row["id"],
        "workload": row["workload"],
        "tier": row.tier,
        "kind": row["kind"],
        "component": row["component"],
        "planned_bytes": None,
        "measured_bytes": None,
        "error": None,
        "cannot": "",
    }
    try:
        out["measured_bytes"] = row.measured_bytes
        planned = predict(row)
        out |= {"planned_bytes": planned, "error": planned / row.measured_bytes - 1}
    except Cannot as fault:
        out["cannot"] = str(fault)
    except OneCardError as fault:
        out["cannot"] = f"{fault.what}: {fault.why}"
    out["measured_bytes"] = out["measured_bytes"] or 0
    return out


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    errors = sorted(abs(row["error"]) for row in rows if row["error"] is not None)
    under = sum(row["error"] < -0.05 for row in rows if row["error"] is not None)
    if not errors:
        return {
            "count": len(rows),
            "planned_share": 0.0,
            "median": None,
            "p90": None,
            "under_5": None,
        }
    return {
        "count": len(rows),
        "planned_share": len(errors) / len(rows),
        "median": statistics.median(errors),
        "p90": errors[min(int(len(errors) * 0.9), len(errors) - 1)],
        "under_5": under / len(errors),
    }


def predict(row: Row) -> int:
    """The planned bytes of what the row measured. Raises Cannot, NotFound."""
    if row["workload"] not in PLANNERS:
        raise Cannot(f"the workload {row['workload']} is not planned")
    return PLANNERS[row["workload"]](row)
