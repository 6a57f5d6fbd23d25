"""Rows of a data file to look at, and a copy of it with some changed or left out. The user's own
file is never written to. Knows no row's meaning."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onecard import fsio
from onecard.datasets.row_files import BrokenRow, read_rows
from onecard.errors import DataError

MAX_CELL = 20_000
"""Characters of a row that a listing gives."""


def page(path: Path, start: int = 0, limit: int = 50, query: str = "") -> dict[str, Any]:
    """Rows from `start` on (of those that hold `query`): number, place, row or what is wrong.

    Raises NotFound, DataError.
    """
    rows, total, words = [], 0, query.lower()
    for number, (place, row) in enumerate(read_rows(path)):
        shown = _shown(number, place, row)
        if words and words not in json.dumps(shown, ensure_ascii=False).lower():
            continue
        if start <= total < start + limit:
            rows.append(shown)
        total += 1
    return {"path": str(path), "total": total, "start": start, "rows": rows}


def _shown(number: int, place: str, row: Any) -> dict[str, Any]:
    name = Path(place).name
    if isinstance(row, BrokenRow):
        return {"number": number, "place": name, "text": row.raw[:MAX_CELL], "fault": row.reason}
    text = json.dumps(row, ensure_ascii=False, default=lambda value: f"({type(value).__name__})")
    return {"number": number, "place": name, "text": text[:MAX_CELL], "fault": ""}


def edited_copy(path: Path, edits: Mapping[int, str | None]) -> tuple[Path, dict[str, int]]:
    """A JSONL file beside the data with the changed rows, `None` leaving one out; (its path, counts
    of kept, changed and rejected). Broken rows that nobody mended are left out.

    Raises DataError for a text that is no JSON object and for pictures inside Parquet rows.
    """
    mended = {number: _parsed(number, text) for number, text in edits.items() if text is not None}
    lines = []
    counts = {"kept": 0, "changed": 0, "rejected": 0}
    for number, (place, row) in enumerate(read_rows(path)):
        if number in mended:
            counts["changed"] += 1
            lines.append(json.dumps(mended[number], ensure_ascii=False))
        elif number in edits or isinstance(row, BrokenRow):
            counts["rejected"] += 1
        else:
            counts["kept"] += 1
            lines.append(_line(place, row))
    target = _free_name(path)
    fsio.write_text(target, "\n".join(lines) + "\n" if lines else "")
    return target, counts


def _parsed(number: int, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError("it is no JSON object")
    except (ValueError, RecursionError) as fault:
        raise DataError(
            f"row {number + 1} is not valid as it was changed",
            why=str(fault)[:200],
            fix='write a JSON object, as {"question": "...", "answer": "..."}',
        ) from None
    return value


def _line(place: str, row: Any) -> str:
    try:
        return json.dumps(row, ensure_ascii=False)
    except (TypeError, ValueError):
        raise DataError(
            f"{place} cannot be written as JSON",
            why="it holds bytes, as the pictures of a Parquet file",
            fix="change the data with the tool that made it",
        ) from None


def _free_name(path: Path) -> Path:
    """`data.edited.jsonl` of `data.csv`, with a number where that is taken."""
    stem = path.stem.split(".edited")[0]
    for number in range(1, 10_000):
        target = path.with_name(f"{stem}.edited{'' if number == 1 else f'-{number}'}.jsonl")
        if not target.exists():
            return target
    raise DataError(
        f"{path.name} has 10,000 edited copies", why="no name is free", fix="remove some"
    )
