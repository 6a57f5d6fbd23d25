"""Rows of JSONL and CSV files, with a check of required fields."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onecard.datasets.encoding import decode
from onecard.errors import DataError, NotFound


def jsonl(
    path: Path, need: Sequence[str] = (), check: Callable[[dict[str, Any]], str] | None = None
) -> list[dict[str, Any]]:
    """One JSON object a line; blank lines are skipped.

    `need` names fields that must not be empty; `check` returns what is wrong with a row, or "".
    Raises NotFound, DataError with file:line.
    """
    rows = []
    # not splitlines: U+2028 may stand in a JSON string
    for number, line in enumerate(_read(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as fault:
            raise DataError(
                f"{path}:{number} is not JSON",
                why=f"{fault}: {line[:60]!r}",
                fix="each line must be one JSON object",
            ) from None
        if not isinstance(row, dict):
            raise DataError(
                f"{path}:{number} is not a JSON object",
                why=f"it is {line[:60]!r}",
                fix='write {"field": value, ...}',
            )
        _require(row, need, path, number)
        if check and (problem := check(row)):
            raise DataError(f"{path}:{number} is not valid", why=problem, fix="correct that line")
        rows.append(row)
    return _not_empty(rows, path)


def table(path: Path, need: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Rows of a CSV or TSV file with a header. Raises NotFound, DataError with file:line."""
    reader = csv.DictReader(
        io.StringIO(_read(path)), delimiter="\t" if path.suffix == ".tsv" else ","
    )
    rows = []
    try:
        for row in reader:
            _require(row, need, path, reader.line_num)
            rows.append({key: value for key, value in row.items() if key})
    except csv.Error as fault:
        raise broken_csv(path, reader.line_num, fault) from None
    return _not_empty(rows, path)


def _read(path: Path) -> str:
    if not path.is_file():
        raise NotFound(
            f"there is no file {path}",
            why="nothing lies at that path" if not path.exists() else "it is a folder",
            fix="check the path",
        )
    return decode(path.read_bytes(), path)[0]


def _require(row: dict[str, Any], need: Sequence[str], path: Path, number: int) -> None:
    missing = [name for name in need if row.get(name) in (None, "")]
    if missing:
        raise DataError(
            f"{path}:{number} lacks {', '.join(missing)}",
            why=f"it has {', '.join(map(str, row)) or 'nothing'}",
            fix=f"each row needs {', '.join(need)}",
        )


def _not_empty(rows: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    if not rows:
        raise DataError(
            f"{path} is empty", why="it has no row", fix="give a file with at least one row"
        )
    return rows


def broken_csv(path: Path, line: int, fault: csv.Error) -> DataError:
    """The refusal of a CSV file whose quotes do not end."""
    return DataError(
        f"{path}:{line} is not CSV",
        why=str(fault),
        fix="correct the quotes of that line, or save it again as CSV",
    )
