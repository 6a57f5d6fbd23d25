"""A document as its reader gives it: blocks of text, each with its place."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Block:
    """A unit that is better not cut: a section, a function, a page, a row."""

    text: str
    line: int
    """First line, from 1; the cell of a notebook, the paragraph of a Word file."""
    last_line: int
    heading: tuple[str, ...] = ()
    """Headings from the title down; for code the class and function."""
    page: int = 0
    """Page of a PDF, slide of a presentation, from 1; 0 elsewhere."""


@dataclass(frozen=True)
class Document:
    title: str
    kind: str
    """markdown, code, text, html, pdf, docx, notebook, rows ..."""
    blocks: list[Block]
    encoding: str = "utf-8"
    links: list[str] = field(default_factory=list)
    """Names of other notes in [[wikilinks]]."""
    meta: dict[str, Any] = field(default_factory=dict)
    """The YAML front matter, of JSON's types only."""
    notes: list[str] = field(default_factory=list)
    """What of the file could not be read, as "3 of 10 pages have no text"."""
    empty_pages: list[int] = field(default_factory=list)
    """Pages of a PDF that hold no text, from 1: scans."""
    n_pages: int = 0
    """Of a PDF; 0 elsewhere."""
    sha256: str = ""
    """Of the file's bytes."""
