"""Rows of data files, for the page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onecard.datasets import row_edits


def rows(path: Path, start: int = 0, limit: int = 50, query: str = "") -> dict[str, Any]:
    """Rows of a JSONL, JSON, CSV or Parquet file. Raises NotFound, DataError."""
    return row_edits.page(path, start, limit, query)


def edited_rows(path: Path, edits: Mapping[int, str | None]) -> tuple[Path, dict[str, int]]:
    """A copy of a data file with rows changed or left out. Raises DataError."""
    return row_edits.edited_copy(path, edits)
