"""A file to its blocks of text, each with the lines or the page it came from. Knows formats, no
index.

A block is what must not be torn without need: a section, a function, a page, a row. Headings are
the path from the title down.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml

from onecard.datasets import code
from onecard.datasets import text as data_text
from onecard.datasets.blocks import Block
from onecard.datasets.walk import language
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
    """Names of other notes that it points to: [[wikilinks]]."""
    meta: dict[str, Any] = field(default_factory=dict)
    """The front matter."""


def read(path: Path, max_bytes: int = 50 << 20) -> Document:
    """Raises DataError that says what is wrong with the file and how to mend it."""
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
            fix="check its rights; a file that vanished is left out",
        ) from None
    if not data.strip():
        raise DataError(f"{path} is empty", why=f"{len(data)} bytes", fix="nothing: it is left out")
    reader = READERS.get(path.suffix.lower())
    if reader:
        return reader(path, data)
    words, encoding = data_text.decode(data, path)
    if grammar := language(path):
        return Document(path.name, "code", code.blocks(words, grammar), encoding)
    return Document(path.stem, "text", _paragraphs(words), encoding)


def _paragraphs(
    words: str, heading: tuple[str, ...] = (), first_line: int = 1, page: int = 0
) -> list[Block]:
    """Runs of lines between blank ones."""
    blocks: list[Block] = []
    held: list[str] = []
    start = 0
    for i, line in enumerate([*words.split("\n"), ""]):
        if line.strip():
            if not held:
                start = i
            held.append(line.rstrip())
        elif held:
            blocks.append(
                Block(
                    "\n".join(held),
                    first_line + start,
                    first_line + start + len(held) - 1,
                    heading,
                    page,
                )
            )
            held = []
    return blocks


HEADING = re.compile(r"^(#{1,6})[ \t]+(.+?)(?:[ \t]+#+)?(?:[ \t]*\{[^}]*\})?[ \t]*$")
FENCE = re.compile(r"^[ \t]*(```+|~~~+)")
WIKILINK = re.compile(r"!?\[\[([^\]|#^\n]+)(?:[#^][^\]|\n]*)?(?:\|([^\]\n]*))?\]\]")


def _markdown(path: Path, data: bytes) -> Document:
    """By heading; code fences are kept whole; [[wikilinks]] are noted and read as their shown
    words."""
    words, encoding = data_text.decode(data, path)
    meta, skipped = _front_matter(words)
    lines = words.split("\n")
    links = [match[1].strip() for match in WIKILINK.finditer(words)]
    blocks: list[Block] = []
    trail: list[tuple[int, str]] = []
    held: list[str] = []
    start, fence = skipped, ""

    def close(end: int) -> None:
        heading = tuple(name for _, name in trail)
        body = "\n".join(held)
        if body.strip():
            blocks.extend(_paragraphs_keeping_fences(body, heading, start + 1))
        held.clear()

    for i in range(skipped, len(lines)):
        line = lines[i]
        mark = FENCE.match(line)
        if mark:
            fence = "" if fence and line.strip().startswith(fence) else fence or mark[1]
        found = None if fence else HEADING.match(line)
        if found:
            close(i)
            level = len(found[1])
            trail = [(depth, name) for depth, name in trail if depth < level] + [
                (level, _shown(found[2]))
            ]
            start = i + 1
        else:
            held.append(_shown(line) if not fence else line)
    close(len(lines))
    title = str(meta.get("title") or next((b.heading[0] for b in blocks if b.heading), path.stem))
    return Document(title, "markdown", blocks, encoding, links, meta)


def _shown(line: str) -> str:
    return WIKILINK.sub(lambda match: match[2] or match[1], line)


def _paragraphs_keeping_fences(body: str, heading: tuple[str, ...], first_line: int) -> list[Block]:
    """Paragraphs, but a fenced code block is one with all its blank lines."""
    blocks: list[Block] = []
    lines, i = body.split("\n"), 0
    plain_start = 0
    while i < len(lines):
        mark = FENCE.match(lines[i])
        if not mark:
            i += 1
            continue
        end = next(
            (j for j in range(i + 1, len(lines)) if lines[j].strip().startswith(mark[1])),
            len(lines) - 1,
        )
        blocks += _paragraphs("\n".join(lines[plain_start:i]), heading, first_line + plain_start)
        blocks.append(
            Block("\n".join(lines[i : end + 1]), first_line + i, first_line + end, heading)
        )
        i = plain_start = end + 1
    return blocks + _paragraphs("\n".join(lines[plain_start:]), heading, first_line + plain_start)


def _front_matter(words: str) -> tuple[dict[str, Any], int]:
    """The YAML between two lines of ---, and the number of lines it takes; broken YAML is left in
    the text."""
    if not words.startswith("---\n"):
        return {}, 0
    end = words.find("\n---", 3)
    if end < 0:
        return {}, 0
    try:
        meta = yaml.safe_load(words[4:end])
    except (yaml.YAMLError, ValueError):
        return {}, 0
    return (
        ({str(k): v for k, v in meta.items()}, words[: end + 4].count("\n") + 1)
        if isinstance(meta, dict)
        else ({}, 0)
    )


def _html(path: Path, data: bytes) -> Document:
    """Headings and paragraphs of a page; scripts, styles and navigation are left out."""
    from bs4 import BeautifulSoup

    words, encoding = data_text.decode(data, path)
    soup = BeautifulSoup(words, "html.parser")
    for tag in soup(["script", "style", "nav", "noscript", "template"]):
        tag.decompose()
    title = soup.title.get_text(strip=True) if soup.title else path.stem
    blocks: list[Block] = []
    trail: list[tuple[int, str]] = []
    for tag in soup.find_all(
        ["h1", "h2", "h3", "h4", "h5", "h6", "p", "li", "pre", "td", "th", "blockquote", "dd", "dt"]
    ):
        if tag.find_parent(["p", "li", "pre", "td", "blockquote", "dd"]) is not None:
            continue
        said = tag.get_text("\n" if tag.name == "pre" else " ", strip=tag.name != "pre")
        if not said.strip():
            continue
        line = tag.sourceline or 1
        if tag.name[0] == "h" and tag.name[1:].isdigit():
            level = int(tag.name[1])
            trail = [(depth, name) for depth, name in trail if depth < level] + [(level, said)]
        else:
            blocks.append(Block(said, line, line, tuple(name for _, name in trail)))
    if not blocks:
        blocks = _paragraphs(soup.get_text("\n"))
    return _some(Document(title, "html", blocks, encoding), path)


def _pdf(path: Path, data: bytes) -> Document:
    """By page. A page without text layer gives none: scanned pages need OCR first."""
    import logging

    import pypdf

    logging.getLogger("pypdf").setLevel(
        logging.ERROR
    )  # it warns of every small fault of a file; ours are told as one
    try:
        reader = pypdf.PdfReader(BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise DataError(
                f"{path} is locked by a password",
                why="its text is encrypted",
                fix="save it without one",
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
            f"{path} holds no text",
            why=f"its {len(pages)} pages are pictures",
            fix="put a text layer in it first: ocrmypdf IN OUT",
        )
    return _some(
        Document(
            title,
            "pdf",
            [b for n, page in enumerate(pages, 1) for b in _paragraphs(page, (), 1, n)],
        ),
        path,
    )


def _docx(path: Path, data: bytes) -> Document:
    """Headings, paragraphs and tables in their order."""
    import docx
    from docx.table import Table

    try:
        file = docx.Document(BytesIO(data))
        blocks: list[Block] = []
        trail: list[tuple[int, str]] = []
        for i, part in enumerate(file.iter_inner_content(), 1):
            if isinstance(part, Table):
                said = "\n".join(
                    " | ".join(cell.text.strip() for cell in row.cells) for row in part.rows
                )
            else:
                said = part.text
                name = (part.style.name or "") if part.style else ""
                if said.strip() and (name == "Title" or re.fullmatch(r"Heading \d", name)):
                    level = int(name[-1]) if name[-1].isdigit() else 0
                    trail = [(depth, old) for depth, old in trail if depth < level] + [
                        (level, said.strip())
                    ]
                    continue
            if said.strip():
                blocks.append(Block(said.strip(), i, i, tuple(name for _, name in trail)))
    except Exception as fault:  # a zip of XML can be broken in many ways
        raise DataError(
            f"{path} is a broken Word file",
            why=f"{type(fault).__name__}: {str(fault)[:150]}",
            fix="save it again as .docx",
        ) from None
    return _some(Document(path.stem, "docx", blocks), path)


def _notebook(path: Path, data: bytes) -> Document:
    """Cells in their order: text under its headings, code as it stands; outputs are left out."""
    words, encoding = data_text.decode(data, path)
    try:
        cells = json.loads(words)["cells"]
        blocks: list[Block] = []
        trail: list[tuple[int, str]] = []
        for number, cell in enumerate(cells, 1):
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                for line in source.split("\n"):
                    if found := HEADING.match(line):
                        trail = [(d, name) for d, name in trail if d < len(found[1])] + [
                            (len(found[1]), found[2])
                        ]
                source = "\n".join(line for line in source.split("\n") if not HEADING.match(line))
            if source.strip():
                blocks.append(Block(source, number, number, tuple(name for _, name in trail)))
    except (ValueError, KeyError, TypeError) as fault:
        raise DataError(
            f"{path} is a broken notebook", why=str(fault)[:150], fix="open and save it in Jupyter"
        ) from None
    return _some(Document(path.stem, "notebook", blocks, encoding), path)


def _rows(path: Path, data: bytes) -> Document:
    """Each line of JSONL, CSV or TSV as `field: value` words; a line that does not read stands as
    it is."""
    words, encoding = data_text.decode(data, path)
    lines = words.split("\n")
    blocks = []
    if path.suffix.lower() == ".jsonl":
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line) if line.strip() else None
            except ValueError:
                row = None
            said = (
                "\n".join(f"{key}: {value}" for key, value in row.items())
                if isinstance(row, dict)
                else line
            )
            if said.strip():
                blocks.append(Block(said, number, number))
    else:
        import csv

        mark = "\t" if path.suffix.lower() == ".tsv" else ","
        rows = csv.reader(lines, delimiter=mark)
        head: list[str] = []
        try:
            for row in rows:
                head = head or row
                if row and row is not head:
                    blocks.append(
                        Block(
                            "\n".join(
                                f"{k}: {v}" for k, v in zip(head, row, strict=False) if v.strip()
                            ),
                            rows.line_num,
                            rows.line_num,
                        )
                    )
        except csv.Error as fault:
            raise DataError(
                f"{path}:{rows.line_num} is no CSV",
                why=str(fault),
                fix="mend the quotes of that line, or save it again as CSV",
            ) from None
    return _some(Document(path.stem, "rows", blocks, encoding), path)


def _some(document: Document, path: Path) -> Document:
    if not document.blocks:
        raise DataError(
            f"{path} holds no text",
            why="nothing in it can be read as words",
            fix="nothing: it is left out",
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
