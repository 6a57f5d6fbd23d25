"""Readers of documents: a file to blocks of text, each with its lines or page.

Markdown, source code, plain text, HTML, PDF, Word, notebooks, JSONL and CSV. A block is a unit that
is better not cut: a section, a function, a page, a row.

bs4, pypdf and docx are imported by the reader that needs them: together they take 0.5 s to load,
and `onecard rag index` over unchanged files reads nothing and takes 0.8 s in all.
"""

import csv
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml

from onecard.datasets import source_code
from onecard.datasets.blocks import Block
from onecard.datasets.encoding import decode
from onecard.datasets.files import language
from onecard.errors import DataError
from onecard.units import size


@dataclass(frozen=True)
class Document:
    title: str
    kind: str
    """markdown, code, text, html, pdf, docx, notebook or rows."""
    blocks: list[Block]
    encoding: str = "utf-8"
    links: list[str] = field(default_factory=list)
    """Names of other notes in [[wikilinks]]."""
    meta: dict[str, Any] = field(default_factory=dict)
    """The YAML front matter."""


def read(path: Path, max_bytes: int = 50 << 20) -> Document:
    """Raises DataError with the fault of the file and how to correct it."""
    try:
        if path.stat().st_size > max_bytes:
            raise DataError(
                f"{path} is too large",
                why=f"{size(path.stat().st_size)}, the limit is {size(max_bytes)}",
                fix="raise --max_file_mb, or cut it into parts",
            )
        data = path.read_bytes()
    except OSError as fault:
        raise DataError(
            f"{path} cannot be read",
            why=fault.strerror or str(fault),
            fix="check its permissions; a file that vanished is skipped",
        ) from None
    if not data.strip():
        raise DataError(f"{path} is empty", why=f"{len(data)} bytes", fix="nothing: it is skipped")
    reader = READERS.get(path.suffix.lower())
    if reader:
        return reader(path, data)
    text, encoding = decode(data, path)
    if grammar := language(path):
        return Document(path.name, "code", source_code.blocks(text, grammar), encoding)
    return Document(path.stem, "text", _paragraphs(text), encoding)


def _paragraphs(
    text: str, heading: tuple[str, ...] = (), first_line: int = 1, page: int = 0
) -> list[Block]:
    """Runs of lines between blank lines."""
    blocks: list[Block] = []
    lines: list[str] = []
    for i, line in enumerate([*text.split("\n"), ""]):
        if line.strip():
            lines.append(line.rstrip())
        elif lines:
            last = first_line + i - 1
            first = last - len(lines) + 1
            blocks.append(Block("\n".join(lines), first, last, heading, page))
            lines = []
    return blocks


HEADING = re.compile(r"^(#{1,6})[ \t]+(.+?)(?:[ \t]+#+)?(?:[ \t]*\{[^}]*\})?[ \t]*$")
FENCE = re.compile(r"^[ \t]*(```+|~~~+)")
WIKILINK = re.compile(r"!?\[\[([^\]|#^\n]+)(?:[#^][^\]|\n]*)?(?:\|([^\]\n]*))?\]\]")


def _markdown(path: Path, data: bytes) -> Document:
    """Paragraphs under their headings; fenced code stays whole; wikilinks become their text."""
    text, encoding = decode(data, path)
    meta, n_front_matter = _front_matter(text)
    lines = text.split("\n")
    links = [match[1].strip() for match in WIKILINK.finditer(text)]
    blocks: list[Block] = []
    headings: Headings = []
    section: list[str] = []
    start, fence = n_front_matter, ""

    def end_section() -> None:
        body = "\n".join(section)
        if body.strip():
            blocks.extend(_paragraphs_and_fences(body, _names(headings), start + 1))
        section.clear()

    for i in range(n_front_matter, len(lines)):
        line = lines[i]
        fence_mark = FENCE.match(line)
        if fence_mark:
            closes = fence and line.strip().startswith(fence)
            fence = "" if closes else fence or fence_mark[1]
        heading = None if fence else HEADING.match(line)
        if heading:
            end_section()
            headings = _under(headings, len(heading[1]), _without_wikilinks(heading[2]))
            start = i + 1
        else:
            section.append(line if fence else _without_wikilinks(line))
    end_section()
    title = str(meta.get("title") or next((b.heading[0] for b in blocks if b.heading), path.stem))
    return Document(title, "markdown", blocks, encoding, links, meta)


Headings = list[tuple[int, str]]
"""(level, text) from the outermost heading to the innermost."""


def _under(headings: Headings, level: int, text: str) -> Headings:
    """The path of headings at a new heading of this level."""
    return [(depth, name) for depth, name in headings if depth < level] + [(level, text)]


def _names(headings: Headings) -> tuple[str, ...]:
    return tuple(name for _, name in headings)


def _without_wikilinks(line: str) -> str:
    return WIKILINK.sub(lambda match: match[2] or match[1], line)


def _paragraphs_and_fences(body: str, heading: tuple[str, ...], first_line: int) -> list[Block]:
    """Paragraphs, and each fenced code block with its blank lines as one."""
    blocks: list[Block] = []
    lines, i = body.split("\n"), 0
    plain_start = 0
    while i < len(lines):
        fence = FENCE.match(lines[i])
        if not fence:
            i += 1
            continue
        end = next(
            (j for j in range(i + 1, len(lines)) if lines[j].strip().startswith(fence[1])),
            len(lines) - 1,
        )
        blocks += _paragraphs("\n".join(lines[plain_start:i]), heading, first_line + plain_start)
        blocks.append(
            Block("\n".join(lines[i : end + 1]), first_line + i, first_line + end, heading)
        )
        i = plain_start = end + 1
    return blocks + _paragraphs("\n".join(lines[plain_start:]), heading, first_line + plain_start)


def _front_matter(text: str) -> tuple[dict[str, Any], int]:
    """The YAML between two lines of ---, and its number of lines; invalid YAML stays text."""
    if not text.startswith("---\n"):
        return {}, 0
    end = text.find("\n---", 3)
    if end < 0:
        return {}, 0
    try:
        meta = yaml.safe_load(text[4:end])
    except (yaml.YAMLError, ValueError):
        return {}, 0
    if not isinstance(meta, dict):
        return {}, 0
    return {str(k): v for k, v in meta.items()}, text[: end + 4].count("\n") + 1


def _html(path: Path, data: bytes) -> Document:
    """Headings and paragraphs of a page, without scripts, styles and navigation."""
    from bs4 import BeautifulSoup  # 0.17 s

    source, encoding = decode(data, path)
    soup = BeautifulSoup(source, "html.parser")
    for tag in soup(["script", "style", "nav", "noscript", "template"]):
        tag.decompose()
    title = soup.title.get_text(strip=True) if soup.title else path.stem
    blocks: list[Block] = []
    headings: Headings = []
    for tag in soup.find_all(
        ["h1", "h2", "h3", "h4", "h5", "h6", "p", "li", "pre", "td", "th", "blockquote", "dd", "dt"]
    ):
        if tag.find_parent(["p", "li", "pre", "td", "blockquote", "dd"]) is not None:
            continue
        text = tag.get_text("\n" if tag.name == "pre" else " ", strip=tag.name != "pre")
        if not text.strip():
            continue
        line = tag.sourceline or 1
        if tag.name[0] == "h" and tag.name[1:].isdigit():
            headings = _under(headings, int(tag.name[1]), text)
        else:
            blocks.append(Block(text, line, line, _names(headings)))
    if not blocks:
        blocks = _paragraphs(soup.get_text("\n"))
    return _some(Document(title, "html", blocks, encoding), path)


def _pdf(path: Path, data: bytes) -> Document:
    """Paragraphs by page; a page without a text layer has none (scans need OCR first)."""
    import pypdf  # 0.26 s

    # it warns of every small fault of a file; a broken one becomes an error of ours
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    try:
        reader = pypdf.PdfReader(BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise DataError(
                f"{path} needs a password",
                why="its text is encrypted",
                fix="save it without a password",
            )
        pages = [page.extract_text() or "" for page in reader.pages]
        title = str((reader.metadata.title if reader.metadata else "") or path.stem)
    except DataError:
        raise
    except Exception as fault:  # pypdf lets errors of many kinds through for broken files
        raise DataError(
            f"{path} is a broken PDF",
            why=f"{type(fault).__name__}: {str(fault)[:150]}",
            fix="print it to a new PDF",
        ) from None
    if pages and not any(page.strip() for page in pages):
        raise DataError(
            f"{path} has no text",
            why=f"its {len(pages)} pages are pictures",
            fix="add a text layer first: ocrmypdf IN OUT",
        )
    blocks = [b for n, page in enumerate(pages, 1) for b in _paragraphs(page, (), 1, n)]
    return _some(Document(title, "pdf", blocks), path)


def _docx(path: Path, data: bytes) -> Document:
    """Paragraphs and tables under their headings; `line` is the number of the paragraph."""
    import docx  # 0.09 s
    from docx.table import Table

    try:
        file = docx.Document(BytesIO(data))
        blocks: list[Block] = []
        headings: Headings = []
        for i, part in enumerate(file.iter_inner_content(), 1):
            if isinstance(part, Table):
                rows = [" | ".join(cell.text.strip() for cell in row.cells) for row in part.rows]
                text = "\n".join(rows).strip()
            else:
                text = part.text.strip()
                style = (part.style.name or "") if part.style else ""
                if text and (style == "Title" or re.fullmatch(r"Heading \d", style)):
                    headings = _under(headings, 0 if style == "Title" else int(style[-1]), text)
                    continue
            if text:
                blocks.append(Block(text, i, i, _names(headings)))
    except Exception as fault:  # a zip of XML can be broken in many ways
        raise DataError(
            f"{path} is a broken Word file",
            why=f"{type(fault).__name__}: {str(fault)[:150]}",
            fix="save it again as .docx",
        ) from None
    return _some(Document(path.stem, "docx", blocks), path)


def _notebook(path: Path, data: bytes) -> Document:
    """Text cells under their headings and code cells, without outputs; `line` is the cell."""
    source, encoding = decode(data, path)
    try:
        cells = json.loads(source)["cells"]
        blocks: list[Block] = []
        headings: Headings = []
        for number, cell in enumerate(cells, 1):
            text = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                for line in text.split("\n"):
                    if heading := HEADING.match(line):
                        headings = _under(headings, len(heading[1]), heading[2])
                text = "\n".join(line for line in text.split("\n") if not HEADING.match(line))
            if text.strip():
                blocks.append(Block(text, number, number, _names(headings)))
    except (ValueError, KeyError, TypeError) as fault:
        raise DataError(
            f"{path} is a broken notebook", why=str(fault)[:150], fix="open and save it in Jupyter"
        ) from None
    return _some(Document(path.stem, "notebook", blocks, encoding), path)


def _rows(path: Path, data: bytes) -> Document:
    """Each row of JSONL, CSV or TSV as lines of `field: value`."""
    text, encoding = decode(data, path)
    lines = text.split("\n")
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        blocks = _jsonl_blocks(lines)
    else:
        blocks = _csv_blocks(lines, "\t" if suffix == ".tsv" else ",", path)
    return _some(Document(path.stem, "rows", blocks, encoding), path)


def _jsonl_blocks(lines: list[str]) -> list[Block]:
    """A line that is not a JSON object stays as it is."""
    blocks = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError:
            row = None
        text = line
        if isinstance(row, dict):
            text = "\n".join(f"{key}: {value}" for key, value in row.items())
        if text.strip():
            blocks.append(Block(text, number, number))
    return blocks


def _csv_blocks(lines: list[str], delimiter: str, path: Path) -> list[Block]:
    rows = csv.reader(lines, delimiter=delimiter)
    blocks = []
    header: list[str] = []
    try:
        for row in rows:
            header = header or row
            if row and row is not header:
                cells = [f"{k}: {v}" for k, v in zip(header, row, strict=False) if v.strip()]
                blocks.append(Block("\n".join(cells), rows.line_num, rows.line_num))
    except csv.Error as fault:
        raise DataError(
            f"{path}:{rows.line_num} is not CSV",
            why=str(fault),
            fix="correct the quotes of that line, or save it again as CSV",
        ) from None
    return blocks


def _some(document: Document, path: Path) -> Document:
    if not document.blocks:
        raise DataError(
            f"{path} has no text",
            why="nothing in it can be read as text",
            fix="nothing: it is skipped",
        )
    return document


READERS: dict[str, Callable[[Path, bytes], Document]] = {
    ".md": _markdown,
    ".markdown": _markdown,
    ".mdx": _markdown,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
    ".docx": _docx,
    ".ipynb": _notebook,
    ".jsonl": _rows,
    ".csv": _rows,
    ".tsv": _rows,
}
