"""Word, PowerPoint, OpenDocument, Excel and RTF.

Word and PowerPoint are read from their XML: the libraries for them leave out content controls, text
boxes, headers, notes, nested tables or tracked insertions.
"""

import datetime
import re
from io import BytesIO
from pathlib import Path
from typing import Any

from onecard.datasets.blocks import Block, Document
from onecard.datasets.encoding import decode
from onecard.datasets.readers.sections import Sections, paragraphs
from onecard.datasets.readers.zipped import Archive, parse_xml

MAX_ROWS = 100_000
"""Rows of one sheet."""
HEADING_NAME = re.compile(r"heading ([1-9])", re.IGNORECASE)
WORD_PARTS = re.compile(r"word/(header|footer|footnotes|endnotes|comments)\d*\.xml")
SLIDE = re.compile(r"ppt/slides/slide(\d+)\.xml")
# names without their namespace; what is deleted, moved away or drawn for old programs is left out
SKIPPED = {"del", "moveFrom", "Fallback", "tracked-changes", "instrText", "delText", "annotation"}
OPENDOCUMENT = {"table-row": "tr", "table-cell": "tc", "table": "tbl", "h": "p"}
TAG_TEXT = {"tab": "\t", "br": "\n", "cr": "\n", "line-break": "\n", "s": " "}


class _Text:
    """Paragraphs and tables of an office file, in one pass without recursion."""

    def __init__(self, sections: Sections, page: int = 0, *, mixed: bool = False) -> None:
        self.sections, self.page = sections, page
        self._mixed = mixed
        """Whether text stands in any element (OpenDocument), not only in `t`."""
        self._paragraphs: list[list[str]] = []
        self._cells: list[list[str]] = []
        self._rows: list[list[str]] = []
        self._tables: list[list[str]] = []
        self.number = 0
        self.style_level: dict[str, int] = {}

    def walk(self, root: Any) -> None:
        from lxml import etree  # 0.03 s

        skipped = 0
        for event, element in etree.iterwalk(root, events=("start", "end")):
            name = etree.QName(element).localname
            kind = OPENDOCUMENT.get(name, name) if self._mixed else name
            if event == "start":
                skipped += name in SKIPPED
                if not skipped:
                    self._start(kind, element)
                continue
            if not skipped:
                self._end(kind, element)
            skipped -= name in SKIPPED
            if self._mixed and element.tail and self._paragraphs and not skipped:
                self._paragraphs[-1].append(element.tail)

    def _start(self, kind: str, element: Any) -> None:
        if kind == "p":
            self._paragraphs.append([])
        elif kind == "tbl":
            self._tables.append([])
        elif kind == "tr":
            self._rows.append([])
        elif kind == "tc":
            self._cells.append([])
        if self._paragraphs:
            if kind in TAG_TEXT:
                self._paragraphs[-1].append(TAG_TEXT[kind])
            elif element.text and (self._mixed or kind == "t"):
                self._paragraphs[-1].append(element.text)

    def _end(self, kind: str, element: Any) -> None:
        if kind == "p" and self._paragraphs:
            self._end_paragraph("".join(self._paragraphs.pop()).strip(), element)
        elif kind == "tc" and self._cells:
            cell = " ".join(self._cells.pop())
            if self._rows:
                self._rows[-1].append(cell)
        elif kind == "tr" and self._rows:
            row = " | ".join(self._rows.pop())
            if self._tables and row.strip(" |"):
                self._tables[-1].append(row)
        elif kind == "tbl" and self._tables:
            text = "\n".join(self._tables.pop())
            if self._cells:  # a table in a cell of another
                self._cells[-1].append(text)
            else:
                self.number += 1
                self.sections.text(text, self.number, self.number, self.page)

    def _end_paragraph(self, text: str, element: Any) -> None:
        if self._cells:
            if text:
                self._cells[-1].append(text)
            return
        self.number += 1
        level = self._level(element)
        if text and level >= 0:
            self.sections.heading(level, text, self.number, self.page)
        else:
            self.sections.text(text, self.number, self.number, self.page)

    def _level(self, element: Any) -> int:
        """Level of a heading, 0 for the title; -1 for other paragraphs."""
        if self._mixed:
            level = _attribute(element, "outline-level")
            return int(level) if level.isdigit() else -1
        for properties in element.iterchildren("{*}pPr"):
            for style in properties.iterchildren("{*}pStyle"):
                return self.style_level.get(_attribute(style, "val"), -1)
        return -1


def _attribute(element: Any, name: str) -> str:
    """The value of an attribute by its name without namespace."""
    for key, value in element.attrib.items():
        if key.rpartition("}")[2] == name:
            return str(value)
    return ""


def read_docx(path: Path, data: bytes) -> Document:
    """Body, then headers, footers, notes and comments; `line` is the number of the paragraph."""
    archive = Archive(path, data)
    sections = Sections()
    text = _Text(sections)
    if "word/styles.xml" in archive:
        text.style_level = _heading_styles(parse_xml(archive.read("word/styles.xml")))
    text.walk(parse_xml(archive.read("word/document.xml")))
    blocks = sections.close()
    known = {block.text for block in blocks}
    for name in sorted(filter(WORD_PARTS.fullmatch, archive.names())):
        part = _Text(Sections())
        part.number = text.number
        part.walk(parse_xml(archive.read(name)))
        text.number = part.number
        for block in part.sections.close():
            if block.text not in known:  # every section repeats its header
                known.add(block.text)
                blocks.append(block)
    return Document(path.stem, "docx", blocks)


def _heading_styles(root: Any) -> dict[str, int]:
    """Id of a style -> level of its headings. Names are English in every language of Word."""
    levels = {}
    for style in root.iter("{*}style"):
        name = next((_attribute(each, "val") for each in style.iterchildren("{*}name")), "")
        match = HEADING_NAME.fullmatch(name)
        if match or name.lower() == "title":
            levels[_attribute(style, "styleId")] = int(match[1]) if match else 0
    return levels


def read_pptx(path: Path, data: bytes) -> Document:
    """Slides with their notes; `page` is the number of the slide."""
    archive = Archive(path, data)
    slides = {int(match[1]): match[0] for match in map(SLIDE.fullmatch, archive.names()) if match}
    blocks: list[Block] = []
    for number in sorted(slides):
        text = _Text(Sections(), number)
        for name in (slides[number], f"ppt/notesSlides/notesSlide{number}.xml"):
            if name in archive:
                text.walk(parse_xml(archive.read(name)))
        blocks += text.sections.close()
    return Document(path.stem, "pptx", blocks)


def read_opendocument(path: Path, data: bytes) -> Document:
    archive = Archive(path, data)
    sections = Sections()
    text = _Text(sections, mixed=True)
    text.walk(parse_xml(archive.read("content.xml")))
    if "styles.xml" in archive:  # headers and footers
        text.walk(parse_xml(archive.read("styles.xml")))
    return Document(path.stem, path.suffix.lower()[1:], sections.close())


def read_xlsx(path: Path, data: bytes) -> Document:
    """Each row as lines of `column: value` under the name of its sheet; `line` is the row."""
    import openpyxl  # 0.2 s

    Archive(path, data).check_size()
    book = openpyxl.load_workbook(BytesIO(data), read_only=True, data_only=True)
    blocks: list[Block] = []
    notes = []
    for sheet in book.worksheets:
        header: list[str] = []
        pending: Block | None = None
        for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
            if number > MAX_ROWS:
                notes.append(f"sheet {sheet.title}: rows after {MAX_ROWS:,} are left out")
                break
            values = [_cell(value) for value in cells]
            n_values = sum(map(bool, values))
            if not n_values:
                continue
            text = " | ".join(filter(None, values))
            if not header and n_values > 1 and not any(_is_number(value) for value in cells):
                header = values
                pending = Block(text, number, number, (sheet.title,))
                continue
            if header:
                pending = None
                names = [*header, *[""] * (len(values) - len(header))]
                text = "\n".join(
                    f"{name}: {value}" if name else value
                    for name, value in zip(names, values, strict=False)
                    if value
                )
            blocks.append(Block(text, number, number, (sheet.title,)))
        if pending:
            blocks.append(pending)
    return Document(path.stem, "xlsx", blocks, notes=notes)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | datetime.date | datetime.time)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, float):
        return f"{value:.12g}"
    return " ".join(str(value).split())


def read_rtf(path: Path, data: bytes) -> Document:
    from striprtf.striprtf import rtf_to_text  # only some folders have such files

    source, encoding = decode(data, path)
    text = str(rtf_to_text(source, errors="replace"))  # type: ignore[no-untyped-call]
    lines = text.split("\n")
    return Document(path.stem, "rtf", paragraphs("\n\n".join(lines)), encoding)
