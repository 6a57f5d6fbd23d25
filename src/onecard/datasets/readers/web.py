"""HTML, XML and EPUB: all text that a page shows, under its headings; a table row is a line."""

import posixpath
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from onecard.datasets.blocks import Document
from onecard.datasets.encoding import decode
from onecard.datasets.readers.sections import Sections, paragraphs
from onecard.datasets.readers.zipped import Archive, parse_xml

HIDDEN = {"script", "style", "nav", "noscript", "template", "head", "svg", "select"}
BLOCKS = {
    *("address", "article", "aside", "blockquote", "body", "center", "dd", "details", "dialog"),
    *("div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "header", "hr"),
    *("html", "legend", "li", "main", "ol", "p", "pre", "section", "summary", "ul", "caption"),
}
HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
TAG = re.compile(r"<[^<>]{0,4000}>")


def read_html(path: Path, data: bytes) -> Document:
    source, encoding = decode(data, path)
    from lxml import etree  # 0.03 s

    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, no_network=True)
    tree = etree.fromstring(source.encode("utf-8", "replace"), parser)
    if tree is None or any("depth" in entry.message for entry in parser.error_log):
        # libxml2 stops at a depth of 2,048: the words are kept without their structure
        return Document(path.stem, "html", paragraphs(TAG.sub(" ", source)), encoding)
    titles = [element.text for element in tree.iter("title") if (element.text or "").strip()]
    page = _Page()
    page.walk(tree)
    title = " ".join(str(titles[0]).split()) if titles else path.stem
    return Document(title, "html", page.sections.close(), encoding)


class _Page:
    """Collects the text of a tree, one element after the other: no depth is too deep."""

    def __init__(self) -> None:
        self.sections = Sections()
        self._text: list[str] = []
        self._line = 1
        self._cells: list[list[str]] = []
        """Cells of the open rows, the innermost last."""
        self._parts: list[list[str]] = []
        """Texts in the open cells."""
        self._rows: list[list[str]] = []
        """Rows of the open tables."""
        self._pre = 0

    def walk(self, tree: Any) -> None:
        from lxml import etree  # 0.03 s

        hidden = 0
        for event, element in etree.iterwalk(tree, events=("start", "end", "comment", "pi")):
            name = element.tag if isinstance(element.tag, str) else ""
            if event == "start":
                if name in HIDDEN:
                    hidden += 1
                if not hidden:
                    self._start(name, element)
                continue
            if event == "end":
                if not hidden:
                    self._end(name, element)
                if name in HIDDEN:
                    hidden -= 1
            if not hidden and element.tail:
                self._add(element.tail, element)
        self._flush()

    def _add(self, text: str, element: Any) -> None:
        if text.strip() and not any(part.strip() for part in self._text):
            self._line = element.sourceline or self._line
        self._text.append(text)

    def _start(self, name: str, element: Any) -> None:
        if name in BLOCKS or name in HEADINGS or name == "table":
            self._flush()
        if name == "table":
            self._rows.append([])
        elif name == "tr":
            self._flush()
            self._cells.append([])
        elif name in ("td", "th"):
            self._flush()
            self._parts.append([])
        elif name == "br":
            self._text.append("\n" if self._pre else " ")
        elif name == "img":
            self._add(f" {element.get('alt') or ''} ", element)
        elif name == "input" and element.get("type", "text") in ("text", "button", "submit"):
            self._add(f" {element.get('value') or ''} ", element)
        self._pre += name == "pre"
        if element.text:
            self._add(element.text, element)

    def _end(self, name: str, element: Any) -> None:
        if name in HEADINGS:
            text = self._taken()
            if self._parts:
                self._parts[-1].append(text)
            else:
                self.sections.heading(int(name[1]), text, element.sourceline or 1)
        elif name in ("td", "th") and self._parts:
            self._flush()
            cell = " ".join(self._parts.pop())
            (self._cells[-1] if self._cells else self._text).append(cell)
        elif name == "tr" and self._cells:
            self._flush()
            row = " | ".join(self._cells.pop())
            if row.strip(" |"):
                (self._rows[-1] if self._rows else self._text).append(row)
        elif name == "table" and self._rows:
            self._flush()
            self._end_table(self._rows.pop(), element.sourceline or 1)
        elif name in BLOCKS:
            self._flush()
        self._pre -= name == "pre"

    def _end_table(self, rows: list[str], line: int) -> None:
        text = "\n".join(rows)
        if self._parts:  # a table in a cell of another
            self._parts[-1].append(text)
        else:
            self.sections.text(text, line, line)

    def _taken(self) -> str:
        text = "".join(self._text)
        self._text = []
        return text.strip("\n") if self._pre else " ".join(text.split())

    def _flush(self) -> None:
        text = self._taken()
        if not text.strip():
            return
        if self._parts:
            self._parts[-1].append(text)
        elif self._cells:
            self._cells[-1].append(text)
        else:
            self.sections.text(text, self._line, self._line)


def read_xml(path: Path, data: bytes) -> Document:
    """Elements as lines of `name: text`; an element with text among its children as it reads."""
    from lxml import etree  # 0.03 s

    source, encoding = decode(data, path)
    try:
        tree = parse_xml(re.sub(r"^\s*<\?xml[^>]{0,200}\?>", "", source).encode("utf-8", "replace"))
    except etree.XMLSyntaxError:
        return Document(path.stem, "xml", paragraphs(source), encoding)
    sections = Sections()
    stack = [tree]
    while stack:
        element = stack.pop()
        if not isinstance(element.tag, str):
            continue
        name = etree.QName(element).localname
        text = " ".join((element.text or "").split())
        line = element.sourceline or 1
        if len(element) and any((child.tail or "").strip() for child in element):
            text = " ".join(" ".join(element.itertext()).split())
        else:
            stack += list(reversed(element))
        values = [f"{key.rpartition('}')[2]}={value}" for key, value in element.attrib.items()]
        content = " ".join(filter(None, [text, *(values if not text else [])]))
        if content:
            sections.text(f"{name}: {content}", line, line)
    return Document(path.stem, "xml", sections.close(), encoding)


def read_epub(path: Path, data: bytes) -> Document:
    """The chapters in the order of the spine; `page` is the number of the chapter."""
    archive = Archive(path, data)
    container = parse_xml(archive.read("META-INF/container.xml"))
    package_name = next(element.get("full-path") for element in container.iter("{*}rootfile"))
    package = parse_xml(archive.read(package_name))
    folder = posixpath.dirname(package_name)
    files = {element.get("id"): element.get("href") for element in package.iter("{*}item")}
    titles = [element.text for element in package.iter("{*}title") if element.text]
    blocks, notes = [], []
    chapters = [files.get(element.get("idref")) for element in package.iter("{*}itemref")]
    for number, name in enumerate(filter(None, chapters), 1):
        full = posixpath.normpath(posixpath.join(folder, unquote(str(name))))
        if full not in archive:
            notes.append(f"chapter {number} is missing")
            continue
        chapter = read_html(Path(full), archive.read(full))
        blocks += [replace(block, page=number) for block in chapter.blocks]
    return Document(titles[0] if titles else path.stem, "epub", blocks, notes=notes)
