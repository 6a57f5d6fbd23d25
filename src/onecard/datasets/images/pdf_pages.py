"""Pages of PDF files as pictures, at a bounded size."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from onecard.datasets.images.decode import Rgb
from onecard.errors import DataError, MissingExtra, NotFound, unreadable_file

LONGER_SIDE = 1600
"""Pixels of a page's longer side: A4 at 137 dots an inch, where 8-point letters are 10 px high."""
MAX_RATIO = 100
MAX_BYTES = 512 << 20
_LOCK = threading.Lock()
"""PDFium works in one thread at a time."""


def is_pdf(path: Path) -> bool:
    return path.suffix.lower() == ".pdf" and not path.name.startswith(".")


def n_pages(path: Path) -> int:
    """Raises NotFound, DataError, MissingExtra."""
    with _opened(path) as document:
        return len(document)


def page(path: Path, number: int) -> Rgb:
    """Page `number` from 0 on white, LONGER_SIDE px long. Raises NotFound, DataError."""
    with _opened(path) as document:
        sheet = document[number]
        width, height = sheet.get_size()
        if min(width, height) <= 0 or max(width, height) > MAX_RATIO * min(width, height):
            raise _refusal(path, f"page {number + 1} is {width:.0f}x{height:.0f} points")
        scale = LONGER_SIDE / max(width, height)
        bitmap = sheet.render(scale=scale, rev_byteorder=True, prefer_bgrx=False)
        pixels = np.array(bitmap.to_numpy()[..., :3])
        if pixels.shape[-1] == 1:
            pixels = np.repeat(pixels, 3, axis=-1)
        return pixels


def pages(path: Path) -> Iterator[tuple[int, Rgb]]:
    """(number from 0, picture), rendered as they are taken. Raises NotFound, DataError."""
    for number in range(n_pages(path)):
        yield number, page(path, number)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import pypdfium2  # only a question about a PDF needs it
    except ModuleNotFoundError:
        raise MissingExtra(
            "pages of PDF files need pypdfium2",
            why="it is not installed",
            fix="pip install 'onecard[vlm]'",
        ) from None
    if not path.is_file():
        raise NotFound(
            f"there is no file {path}", why="nothing lies at that path", fix="check the path"
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _refusal(path, f"it has more than {MAX_BYTES >> 20} MiB")
        data = path.read_bytes()
    except OSError as fault:
        raise unreadable_file(path, fault) from None
    with _LOCK:
        try:
            document = pypdfium2.PdfDocument(data)
            try:
                yield document
            finally:
                document.close()
        except pypdfium2.PdfiumError as fault:
            why = "it is locked by a password" if "password" in str(fault) else str(fault)
            raise _refusal(path, why[:200]) from None


def _refusal(path: Path, why: str) -> DataError:
    return DataError(
        f"{path} does not open as a PDF", why=why, fix="open it and print it to a new PDF"
    )
