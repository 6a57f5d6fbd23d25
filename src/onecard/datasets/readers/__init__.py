"""Readers of documents: a file's bytes to blocks of text, each with its lines, page or cell.

They run in a child process (documents.py), which bounds their time and memory: a reader may fail
with any exception. Each imports its own parser when the first file of its kind comes.
"""

from collections.abc import Callable
from pathlib import Path

from onecard.datasets import source_code
from onecard.datasets.blocks import Document
from onecard.datasets.encoding import decode
from onecard.datasets.files import language
from onecard.datasets.readers import json_text, mail, markdown, notebook, office, pdf, tables, web
from onecard.datasets.readers.sections import paragraphs
from onecard.errors import DataError

Reader = Callable[[Path, bytes], Document]

READERS: dict[str, Reader] = {
    ".md": markdown.read,
    ".markdown": markdown.read,
    ".mdx": markdown.read,
    ".html": web.read_html,
    ".htm": web.read_html,
    ".xhtml": web.read_html,
    ".xml": web.read_xml,
    ".epub": web.read_epub,
    ".pdf": pdf.read,
    ".docx": office.read_docx,
    ".pptx": office.read_pptx,
    ".odt": office.read_opendocument,
    ".odp": office.read_opendocument,
    ".ods": office.read_opendocument,
    ".xlsx": office.read_xlsx,
    ".rtf": office.read_rtf,
    ".ipynb": notebook.read,
    ".jsonl": json_text.read_lines,
    ".ndjson": json_text.read_lines,
    ".json": json_text.read,
    ".csv": tables.read,
    ".tsv": tables.read,
}
MINIFIED_LINE = 1000
"""Mean characters of a line of code from which nobody wrote it by hand."""
MINIFIED = {"javascript", "typescript", "tsx", "css"}


def read_document(
    path: Path, data: bytes, *, plain: bool = False, ocr: bool = False, scans: bool = False
) -> Document:
    """`plain` reads any file as text, `ocr` also the scanned pages of a PDF, `scans` takes a PDF
    without text, too.

    Raises DataError for a file without text, and whatever its parser raises.
    """
    if not data.strip():
        raise DataError(f"{path} is empty", why=f"{len(data)} bytes", fix="nothing: it is skipped")
    document = _read_plain(path, data) if plain else _read(path, data, ocr, scans)
    if not document.blocks and not (scans and document.empty_pages):
        raise DataError(
            f"{path} has no text",
            why="; ".join(document.notes) or "nothing in it can be read as text",
            fix="nothing: it is skipped",
        )
    return document


def _read(path: Path, data: bytes, ocr: bool, scans: bool) -> Document:
    suffix = path.suffix.lower()
    if suffix == ".pdf":
        return pdf.read(path, data, ocr=ocr, scans=scans)
    if suffix == ".eml":  # its attachments are read by the other readers
        return mail.read(path, data, READERS)
    if reader := READERS.get(suffix):
        return reader(path, data)
    text, encoding = decode(data, path)
    if grammar := language(path):
        if grammar in MINIFIED and len(text) > MINIFIED_LINE * (text.count("\n") + 1):
            raise DataError(
                f"{path} is minified code",
                why=f"its lines have {len(text) // (text.count(chr(10)) + 1):,} characters",
                fix="nothing: it is left out",
            )
        return Document(path.name, "code", source_code.blocks(text, grammar), encoding)
    return _read_plain(path, data)


def _read_plain(path: Path, data: bytes) -> Document:
    text, encoding = decode(data, path)
    return Document(path.stem or path.name, "text", paragraphs(text), encoding)
