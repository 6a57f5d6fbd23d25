"""PDF: paragraphs by page; pages without text are counted, or read by OCR."""

import logging
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from onecard.datasets.blocks import Block, Document
from onecard.datasets.readers.columns import reading_order
from onecard.datasets.readers.sections import paragraphs
from onecard.errors import DataError

NO_TITLES = {"", "untitled", "anonymous", "unknown", "untitled document"}
"""Titles that programs write when nobody gave one."""
MIN_SCAN_PIXELS = 64
"""A smaller picture is a rule or a logo."""


def read(path: Path, data: bytes, *, ocr: bool = False, scans: bool = False) -> Document:
    """`ocr` reads scanned pages; with `scans` a PDF of pictures alone is a document without blocks,
    whose pages somebody will describe. Raises DataError."""
    import pypdf  # 0.26 s

    # it warns of every small fault of a file; a broken one becomes an error of ours
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    blocks: list[Block] = []
    no_text: list[int] = []
    broken: list[int] = []
    scanned: list[int] = []
    try:
        reader = pypdf.PdfReader(BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise DataError(
                f"{path} needs a password",
                why="its text is encrypted",
                fix="save it without a password",
            )
        n_pages = len(reader.pages)
        for number in range(1, n_pages + 1):
            try:
                text = page_text(reader.pages[number - 1])
            except (MemoryError, KeyboardInterrupt):
                raise
            except Exception:  # one broken page leaves the others
                broken.append(number)
                continue
            if ocr and not text.strip():
                text = scanned_text(reader.pages[number - 1])
                scanned += [number] if text else []
            page = paragraphs(text, (), 1, number)
            blocks += page
            if not page:
                no_text.append(number)
        title = str((reader.metadata.title if reader.metadata else "") or "").strip()
    except (DataError, MemoryError):
        raise
    except Exception as fault:  # pypdf lets errors of many kinds through for broken files
        raise DataError(
            f"{path} is a broken PDF",
            why=f"{type(fault).__name__}: {str(fault)[:150]}",
            fix="print it to a new PDF",
        ) from None
    if not blocks and not (scans and n_pages):
        raise DataError(
            f"{path} has no text",
            why=f"its {n_pages} pages are pictures",
            fix="read them by OCR: --ocr, or have them described: --describe_url",
        )
    notes = []
    if no_text and not scans:
        notes.append(f"{pages(no_text)} of {n_pages} hold no text (--ocr reads scans)")
    if scanned:
        notes.append(f"{pages(scanned)} of {n_pages} were read by OCR: check what you cite")
    if broken:
        notes.append(f"{pages(broken)} of {n_pages} are broken")
    if title.strip("()").lower() in NO_TITLES:
        title = path.stem
    empty = sorted(no_text + broken)
    return Document(title, "pdf", blocks, notes=notes, empty_pages=empty, n_pages=n_pages)


def page_text(page: Any) -> str:
    """The text of a page in the order of its file, or column by column where it has columns: many
    programs write those line by line over the whole page."""
    text = page.extract_text() or ""
    try:
        ordered = reading_order(page.extract_text(extraction_mode="layout"))
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception:  # this way of pypdf reads fewer pages than the other
        return text
    # it leaves turned text out, and what else it does not place
    is_complete = sorted("".join(ordered.split())) == sorted("".join(text.split()))
    return ordered if is_complete else text


def scanned_text(page: Any) -> str:
    """Lines of the pictures of a page, from top to bottom."""
    import numpy  # with the engine: 1 s, for scans only

    lines: list[str] = []
    for each in page.images:
        picture = numpy.asarray(each.image.convert("RGB"))
        if min(picture.shape[:2]) >= MIN_SCAN_PIXELS:
            result, _ = _ocr_engine()(picture)
            lines += [text for _, text, _ in result or []]
    return "\n".join(lines)


@cache
def _ocr_engine() -> Any:
    from rapidocr_onnxruntime import RapidOCR  # 1 s, for scans only

    return RapidOCR()


def pages(numbers: list[int]) -> str:
    """As "pages 2, 5, 9 and 4 more"."""
    shown = ", ".join(map(str, numbers[:10]))
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return f"page{'s' if len(numbers) > 1 else ''} {shown}{more}"
