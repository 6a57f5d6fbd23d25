"""Rows of data files, for the page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onecard.datasets import documents, row_edits
from onecard.datasets import pdf_view as pdf_pages
from onecard.datasets.encoding import decode
from onecard.datasets.images import rejects
from onecard.datasets.pdf_view import PageView
from onecard.errors import DataError, NotFound, unreadable_file


def rows(path: Path, start: int = 0, limit: int = 50, query: str = "") -> dict[str, Any]:
    """Rows of a JSONL, JSON, CSV or Parquet file. Raises NotFound, DataError."""
    return row_edits.page(path, start, limit, query)


def edited_rows(path: Path, edits: Mapping[int, str | None]) -> tuple[Path, dict[str, int]]:
    """A copy of a data file with rows changed or left out. Raises DataError."""
    return row_edits.edited_copy(path, edits)


def pictures(root: Path, start: int, limit: int, *, rejected: bool = False) -> dict[str, Any]:
    """Names of a data set's pictures, or of those that were rejected. Raises NotFound."""
    return rejects.listing(root, start, limit, rejected=rejected)


def picture_file(root: Path, name: str, *, rejected: bool = False) -> Path:
    """The file of a listed picture. Raises NotFound, DataError."""
    return rejects.picture(root, name, rejected=rejected)


def reject_picture(root: Path, name: str, *, restore: bool = False) -> list[str]:
    """Move a picture with its labels into the data set's `.rejected`, or back; what was moved.

    Raises NotFound, DataError.
    """
    return rejects.restore(root, name) if restore else rejects.reject(root, name)


def pdf_view(path: Path, page: int, text: str = "") -> PageView:
    """A page of a PDF with where a text stands on it. Raises NotFound, DataError."""
    _require_file(path)
    return pdf_pages.view(path, page, text)


def document_blocks(path: Path, max_bytes: int) -> list[dict[str, Any]]:
    """Blocks of a document as an index reads them: text, line, last_line, page. Raises NotFound,
    DataError."""
    _require_file(path)
    with documents.DocumentReader(max_bytes) as reader:
        blocks = reader.read(path).blocks
    return [
        {"text": b.text, "line": b.line, "last_line": b.last_line, "page": b.page} for b in blocks
    ]


def text_of(path: Path, max_bytes: int) -> str:
    """A text file in its own encoding. Raises NotFound, DataError."""
    _require_file(path)
    if path.stat().st_size > max_bytes:
        raise DataError(
            f"{path.name} is too large to be shown",
            why=f"it has more than {max_bytes >> 20} MiB",
            fix="open the file itself",
        )
    try:
        content = path.read_bytes()
    except OSError as fault:
        raise unreadable_file(path, fault) from None
    if b"\0" in content[:8192] and not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path.name} is no text", why="it holds binary data", fix="open it itself")
    return decode(content, path)[0]


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise NotFound(
            f"there is no file {path.name}",
            why="it was moved or deleted since it was indexed",
            fix="index again",
        )
