"""Two runs side by side: settings that differ, scores with a paired test, the items that flipped.

Knows no task.
"""

from typing import Any

from onecard.evaluation import stats
from onecard.evaluation.metrics.kinds import kind_of
from onecard.reporting import Result, table
from onecard.runs.store import RunRecord


def compare(old: RunRecord, new: RunRecord) -> Result:
    """Every metric that both runs have; paired on the items where both kept them."""
    settings = {
        k: (old.settings().get(k), new.settings().get(k))
        for k in sorted({*old.settings(), *new.settings()})
    }
    changed = {k: pair for k, pair in settings.items() if pair[0] != pair[1]}
    before, after = old.items(), new.items()
    rows, data = [], {}
    for name in [m for m in old.metrics if m in new.metrics]:
        was, now = old.metrics[name]["value"], new.metrics[name]["value"]
        pairs_old, pairs_new = _values(before, name), _values(after, name)
        data[name] = {"old": was, "new": now}
        verdict = "no items in common: not tested"
        if pairs_old.keys() & pairs_new.keys():
            result = stats.compare_metric(name, pairs_old, pairs_new, groups=_groups(before))
            verdict, data[name]["test"] = result.render(), result.as_dict()
        rows.append([name, _number(was), _number(now), kind_of(name).unit, verdict])
    lines = [f"old: {old.id}", f"new: {new.id}"]
    lines += [f"  {k}: {a} -> {b}" for k, (a, b) in changed.items()]
    drawn = table(rows, ["metric", "old", "new", "unit", "new against old"])
    lines += ["", drawn if rows else "the two runs share no metric"]
    if old.data_differs(new):
        lines.append(
            "\nnote: the data differ (data.json): the scores are of different questions or "
            "documents"
        )
    facts = {"old": old.id, "new": new.id, "settings": changed, "metrics": data}
    return Result(facts, "\n".join(lines), (drawn,))


def regressions(new: RunRecord, others: list[RunRecord]) -> list[str]:
    """One line a metric that fell beyond noise against the last run of the same questions; empty
    when none did."""
    for old in others:
        if old.id == new.id or old.task != new.task or old.command != new.command:
            continue
        if old.status != "done" or not old.metrics or old.data_differs(new):
            continue
        data = compare(old, new).data["metrics"]
        return [
            f"{name} fell against {old.id}: {_number(row['old'])} -> {_number(row['new'])} "
            f"(p={row['test']['p_value']:.3f}, {len(row['test']['lost'])} items lost)"
            for name, row in data.items()
            if kind_of(name).unit not in ("seconds", "1/s")
            and row.get("test", {}).get("verdict") == stats.WORSE
        ]
    return []


def _values(items: dict[str, dict[str, Any]], metric: str) -> dict[str, float]:
    return {
        i: float(row["scores"][metric])
        for i, row in items.items()
        if row.get("scores", {}).get(metric) is not None
    }


def _groups(items: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Id -> group, where the run kept one (rows of one document, clips of one speaker)."""
    return {i: str(row["group"]) for i, row in items.items() if row.get("group")}


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"
