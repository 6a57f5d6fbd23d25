"""Planned against measured peaks of past runs. Knows the folder's files, no task."""

from typing import Any

from onecard import paths
from onecard.errors import NotFound
from onecard.memory import calibration
from onecard.reporting import Result, table
from onecard.runs import store
from onecard.runs.record import read_json
from onecard.units import size


def rows() -> list[dict[str, Any]]:
    """Every finished run that kept both: the driver's figure on a GPU, else resident memory."""
    out = []
    for run in store.recent(1000):
        memory = read_json(run.folder / "memory.json")
        plan = read_json(run.folder / "plan.json")
        peak = memory.get("device_bytes") or memory.get("peak_rss_bytes", 0)
        if run.status != "done" or not memory.get("planned_bytes") or not peak:
            continue
        figures = {key: value for key, value in memory.items() if key.endswith("_bytes")}
        out.append(
            {
                "id": run.id,
                "kind": run.task,
                "verb": run.command,
                "card": str((plan.get("device") or plan.get("card") or {}).get("name", "")),
                **figures,
                "measured_bytes": peak,
                "error": memory["planned_bytes"] / peak - 1,
            }
        )
    return out


def check() -> Result:
    """The table of `onecard plan --check`."""
    measured = rows()
    if not measured:
        return Result({"rows": []}, f"no run in {paths.runs()} kept both figures yet")
    cells = [
        [
            row["id"],
            row["kind"],
            row["verb"],
            row["card"],
            size(row["planned_bytes"]),
            size(row["measured_bytes"]),
            f"{row['error']:+.0%}",
        ]
        for row in measured
    ]
    head = ["run", "task", "command", "device", "planned", "measured", "error"]
    note = (
        "measured on a CPU: resident memory of the largest process, Python and its libraries "
        "included; onecard plan --calibrate learns them"
    )
    return Result({"rows": measured}, f"{table(cells, head)}\n{note}")


def calibrate() -> Result:
    """Learn each device's own constants from its runs; later plans use them and their band narrows.

    Raises NotFound without runs.
    """
    measured = rows()
    if not measured:
        raise NotFound(
            "there is no run to learn from",
            why=f"no finished run in {paths.runs()} kept planned and measured bytes",
            fix="run something first: onecard rag index FOLDER",
        )
    learned = calibration.learn(measured)
    calibration.save(learned)
    cells = []
    for device, facts in learned.items():
        sizes = [
            size(facts[key]) if key in facts else "–" for key in ("context_bytes", "program_bytes")
        ]
        segments = f"{facts['segments']:.1%}" if "segments" in facts else "–"
        bands = ", ".join(f"{task} ±{band:.0%}" for task, band in facts["bands"].items())
        bands = bands or f"from {calibration.FEWEST} runs of a task on"
        cells.append([device, str(facts["runs"]), *sizes, segments, bands])
    head = ["device", "runs", "context", "program", "segments", "bands"]
    note = f"kept in {calibration.file()}; later plans use it"
    data = {"cards": learned, "file": str(calibration.file())}
    return Result(data, f"{table(cells, head)}\n{note}")
