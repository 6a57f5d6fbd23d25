"""The table of measurements against the prose that it was made from (../shared/truth)."""

import csv
from pathlib import Path

MEASURED = Path(__file__).parents[1] / "validation" / "measurements.csv"


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_every_published_row_is_in_the_table_with_its_source(shared):
    prose, table = rows(shared / "truth" / "vram_open.csv"), rows(MEASURED)
    assert prose.keys() == table.keys()
    for name, row in prose.items():
        made = table[name]
        assert (made["source"], made["unit"]) == (row["source"], row["unit"])
        changed = (made["measured_value"], made["kind"]) != (row["measured_value"], row["kind"])
        assert not changed or made["note"], f"{name}: a changed figure says why"
        assert made["tier"] != "C" or made["note"], f"{name}: tier C says why"
