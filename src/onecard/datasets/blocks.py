"""A block of a document: its text and its place."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    text: str
    line: int
    """First line, from 1; the cell of a notebook, the paragraph of a Word file."""
    last_line: int
    heading: tuple[str, ...] = ()
    """Headings from the title down; for code the class and function."""
    page: int = 0
    """Page of a PDF, from 1; 0 elsewhere."""
