"""Metrics with their intervals as a table for the terminal, grouped by unit."""

from collections.abc import Mapping
from typing import Any

from onecard.evaluation.metrics.kinds import kind_of
from onecard.reporting import table


def metric_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """One row a metric: name -> {value, low, high, n}, as Interval.as_dict gives it.

    >>> print(metric_table({"f1": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}}))
    metric  value  95 % interval  items  unit
    ------  -----  -------------  -----  -----
    f1      0.500  0.400 – 0.600      9  share
    """
    cells = []
    for unit, rows in by_unit(metrics).items():
        for name, row in rows.items():
            value, interval = "–", "–"
            if row["value"] is not None:
                value = f"{row['value']:.3f}"
            if row.get("low") is not None and row.get("high") is not None:
                interval = f"{row['low']:.3f} – {row['high']:.3f}"
            cells.append([name, value, interval, str(row["n"]), unit])
    return table(cells, ["metric", "value", "95 % interval", "items", "unit"])


def by_unit(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Unit -> the metrics that have it, in the order they came."""
    groups: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, row in metrics.items():
        groups.setdefault(kind_of(name).unit, {})[name] = row
    return groups
