"""A cited passage in its document: code and text by lines, Markdown by blocks, a PDF by page."""

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from onecard import api
from onecard.errors import DataError
from onecard.web import markdown

MAX_BYTES = 20 << 20
MAX_LINES = 4000
"""Lines that one answer gives, around the passage."""
MARKDOWN = (".md", ".markdown", ".mdx")
DOCUMENTS = (".docx", ".pptx", ".xlsx", ".odt", ".rtf", ".epub", ".eml", ".html", ".htm", ".ipynb")
"""Formats whose lines a person does not read: shown as the blocks that the index reads."""
_PAGES: "OrderedDict[tuple[str, int, int, str], Any]" = OrderedDict()
"""The last pages of PDFs that were drawn."""
KEPT_PAGES = 16


def passage(
    path: Path, line: int = 0, last_line: int = 0, page: int = 0, quote: str = ""
) -> dict[str, Any]:
    """The document around a passage, with what is to be highlighted. Raises NotFound, DataError."""
    ending = path.suffix.lower()
    facts: dict[str, Any] = {"path": str(path), "name": path.name}
    if ending == ".pdf":
        view = pdf_page(path, max(page, 1), quote)
        return facts | {
            "kind": "pdf",
            "page": min(max(page, 1), view.n_pages),
            "pages": view.n_pages,
            "boxes": view.boxes,
        }
    if ending in DOCUMENTS:
        return facts | _blocks(path, line, last_line, page, quote)
    lines = _lines(path)
    last_line = max(last_line, line)
    first = max(1, line - MAX_LINES // 4)
    shown = lines[first - 1 : first - 1 + MAX_LINES]
    facts |= {"first": first, "line": line, "last_line": last_line, "total": len(lines)}
    if ending in MARKDOWN:
        rows = _markdown_blocks(shown, first, line, last_line)
        return facts | {"kind": "markdown", "blocks": rows}
    return facts | {"kind": "lines", "lines": shown}


def pdf_page(path: Path, page: int, quote: str = "") -> Any:
    """A PageView, kept for the picture that the page asks for next."""
    key = (str(path), path.stat().st_mtime_ns if path.exists() else 0, page, quote[:5000])
    if key not in _PAGES:
        _PAGES[key] = api.pdf_view(path, page, quote[:5000])
        while len(_PAGES) > KEPT_PAGES:
            _PAGES.popitem(last=False)
    return _PAGES[key]


def _lines(path: Path) -> list[str]:
    text = api.text_of(path, MAX_BYTES)
    return text.splitlines()


def _markdown_blocks(lines: list[str], first: int, line: int, last: int) -> list[dict[str, Any]]:
    """The document's top blocks as safe HTML, each with its lines and whether the passage is in it.

    A front matter is shown as it is.
    """
    start, rows = 0, []
    if first == 1 and lines and lines[0].strip() == "---":
        end = next((i for i, text in enumerate(lines[1:], 1) if text.strip() == "---"), 0)
        if end:
            start = end + 1
            rows.append(_block("\n".join(lines[:start]), 1, end + 1, line, last, plain=True))
    body = lines[start:]
    spans = [
        token.map
        for token in MarkdownIt("commonmark").enable("table").parse("\n".join(body))
        if token.level == 0 and token.map and token.nesting >= 0
    ]
    for low, high in spans:
        text = "\n".join(body[low:high])
        begin = first + start + low
        rows.append(_block(text, begin, begin + high - low - 1, line, last))
    return rows


def _block(
    text: str, first: int, end: int, line: int, last: int, *, plain: bool = False
) -> dict[str, Any]:
    html = markdown.render(f"```\n{text}\n```" if plain else text)
    while end > first and not text.splitlines()[end - first : end - first + 1]:
        end -= 1
    return {"html": html, "first": first, "last": end, "hit": first <= last and end >= line > 0}


def _blocks(path: Path, line: int, last: int, page: int, quote: str) -> dict[str, Any]:
    """Blocks of text as the index reads them; those of the passage are marked."""
    words = _words(quote)
    rows = []
    for block in api.document_blocks(path, MAX_BYTES)[:MAX_LINES]:
        text = str(block["text"])
        in_lines = line > 0 and block["line"] <= max(last, line) and block["last_line"] >= line
        in_page = page > 0 and block["page"] == page
        near = (
            bool(words)
            and _words(text) != ""
            and (words[:60] in _words(text) or _words(text)[:60] in words)
        )
        rows.append(
            {
                "text": text[:20_000],
                "page": block["page"],
                "hit": near or (not words and (in_lines or in_page)),
            }
        )
    if not rows:
        raise DataError(
            f"{path.name} has no text", why="nothing could be read", fix="open the file itself"
        )
    return {"kind": "blocks", "blocks": rows}


def _words(text: str) -> str:
    return re.sub(r"\W+", " ", text).strip().lower()
