"""Metrics with their intervals as a table for the terminal."""

from collections.abc import Mapping
from typing import Any

from onecard.reporting import table


def metric_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """One row a metric: name -> {value, low, high, n}, as Interval.as_dict gives it.

    >>> print(metric_table({"f1": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}}))
    metric  value  95 % interval  items
    ------  -----  -------------  -----
    f1      0.500  0.400 – 0.600      9
    """
    cells = [
        [name, f"{row['value']:.3f}", f"{row['low']:.3f} – {row['high']:.3f}", str(row["n"])]
        for name, row in metrics.items()
    ]
    return table(cells, ["metric", "value", "95 % interval", "items"])
