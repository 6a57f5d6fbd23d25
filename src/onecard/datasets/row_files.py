"""Rows of JSONL, JSON, CSV, TSV and Parquet files with the place of each. Knows no row's meaning.

A line that cannot be read costs itself: it comes as a BrokenRow.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onecard.datasets.encoding import decode
from onecard.datasets.readers.tables import MAX_CELL, find_separator
from onecard.errors import DataError, MissingExtra, NotFound, unreadable_file

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
MAX_RAW = 2000
"""Characters of a broken row that are kept to be shown."""
BATCH = 64
"""Rows of a Parquet file that are in memory at once: each may hold pictures."""

Place = str
"""file:line, or file[number]."""


@dataclass(frozen=True)
class BrokenRow:
    reason: str
    raw: str = ""


def read_rows(path: Path) -> Iterator[tuple[Place, Any]]:
    """(place, row or BrokenRow) of a file. A JSON file that is one object comes as one row.

    Raises NotFound, DataError for a file that cannot be read at all, MissingExtra.
    """
    if not path.is_file():
        raise NotFound(
            f"there is no file {path}",
            why="it is a folder" if path.is_dir() else "nothing lies at that path",
            fix=f"give a file that ends in {', '.join(SUFFIXES)}",
        )
    match path.suffix.lower():
        case ".parquet":
            yield from _parquet_rows(path)
        case ".csv" | ".tsv":
            yield from _table_rows(path)
        case ".json":
            yield from _json_rows(path)
        case _:
            yield from _line_rows(path, _text(path))


def _text(path: Path) -> str:
    try:
        return decode(path.read_bytes(), path)[0]
    except OSError as fault:
        raise unreadable_file(path, fault) from None


def _line_rows(path: Path, text: str) -> Iterator[tuple[Place, Any]]:
    # not splitlines: U+2028 may stand in a JSON string
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as fault:
            row = BrokenRow(f"not JSON: {fault}"[:300], line[:MAX_RAW])
        yield f"{path}:{number}", row


def _json_rows(path: Path) -> Iterator[tuple[Place, Any]]:
    """Items of a list; JSON lines under the name .json too."""
    text = _text(path)
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as fault:
        if text.lstrip()[:1] == "[" or "\n" not in text.strip():
            raise DataError(
                f"{path} is not JSON",
                why=str(fault)[:300],
                fix="save it again; as .jsonl, one object a line, a broken line costs only itself",
            ) from None
        yield from _line_rows(path, text)
        return
    if not isinstance(whole, list):
        yield str(path), whole
        return
    for number, row in enumerate(whole, 1):
        yield f"{path}[{number}]", row


def _table_rows(path: Path) -> Iterator[tuple[Place, Any]]:
    text = _text(path)
    separator = "\t" if path.suffix.lower() == ".tsv" else find_separator(text)
    csv.field_size_limit(MAX_CELL << 7)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    header: list[str] = []
    line = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as fault:
            yield f"{path}:{reader.line_num}", BrokenRow(f"not CSV: {fault}")
            return
        place, line = f"{path}:{line}", reader.line_num + 1
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = [cell.strip() for cell in cells]
        elif len(cells) != len(header):
            reason = (
                f"{len(cells)} cells under {len(header)} columns: a text with {separator!r} in it "
                "needs quotation marks"
            )
            yield place, BrokenRow(reason, separator.join(cells)[:MAX_RAW])
        else:
            yield place, dict(zip(header, cells, strict=True))


def _parquet_rows(path: Path) -> Iterator[tuple[Place, Any]]:
    try:
        # only this format needs it
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtra(
            f"{path} cannot be read", why="pyarrow is not installed", fix="pip install pyarrow"
        ) from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}[{number}]", row
    except (OSError, ValueError) as fault:
        raise DataError(
            f"{path} is no whole Parquet file",
            why=str(fault)[:200],
            fix="copy or write it again, or save it as CSV",
        ) from None
