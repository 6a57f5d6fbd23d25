"""PDF: paragraphs by page; pages without text are counted."""

import logging
from io import BytesIO
from pathlib import Path

from onecard.datasets.blocks import Block, Document
from onecard.datasets.readers.sections import paragraphs
from onecard.errors import DataError

NO_TITLES = {"", "untitled", "anonymous", "unknown", "untitled document"}
"""Titles that programs write when nobody gave one."""


def read(path: Path, data: bytes) -> Document:
    import pypdf  # 0.26 s

    # it warns of every small fault of a file; a broken one becomes an error of ours
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    blocks: list[Block] = []
    no_text: list[int] = []
    broken: list[int] = []
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
                text = reader.pages[number - 1].extract_text() or ""
            except (MemoryError, KeyboardInterrupt):
                raise
            except Exception:  # one broken page leaves the others
                broken.append(number)
                continue
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
    if not blocks:
        raise DataError(
            f"{path} has no text",
            why=f"its {n_pages} pages are pictures",
            fix="add a text layer first: ocrmypdf IN OUT",
        )
    notes = []
    if no_text:
        notes.append(f"{pages(no_text)} of {n_pages} hold no text (scans need OCR: ocrmypdf)")
    if broken:
        notes.append(f"{pages(broken)} of {n_pages} are broken")
    if title.strip("()").lower() in NO_TITLES:
        title = path.stem
    return Document(title, "pdf", blocks, notes=notes)


def pages(numbers: list[int]) -> str:
    """As "pages 2, 5, 9 and 4 more"."""
    shown = ", ".join(map(str, numbers[:10]))
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return f"page{'s' if len(numbers) > 1 else ''} {shown}{more}"
