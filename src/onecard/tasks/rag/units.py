"""What can be quoted of a passage: sentences, lines of code, list items, rows of tables."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from onecard.tasks.rag.analyzer import terms
from onecard.tasks.rag.chunking import HEADING_MARK
from onecard.tasks.rag.store import TITLE_SEPARATOR, Chunk

PROSE = re.compile(r"\s*(?=(?:\S+ ){2,}\S)[-\w`*\"'(\[][^={};]*$")
"""A line of running text: three words or more, and no character that only code has."""
LIST_MARKER = re.compile(r"\s*([-*+] |\* ?\*|\d+[.)] )")
MARKDOWN_PREFIX = re.compile(r"^[\s#>|]*(?:[-*+]\s+)?")
SENTENCE_END = re.compile(r"[.!?](?=\s)|[。！？]")
PARENTHESIS = re.compile(r"[(（][^()]*[)）][.。]?")
FENCE = re.compile(r"\s*(?:`{3,}|~{3,})\s*[\w{}.+#-]*\s*")
"""The line around a block of code."""
FIELD = re.compile(r"[^\W\d][\w .()/-]{0,40}: ?\S")
TABLE_RULE = re.compile(r":?-+:?")
"""A cell of the line between a table's header and its rows."""
MAX_QUOTE_CHARS = 400


@dataclass(frozen=True)
class Unit:
    """What can be quoted: a sentence, a line of code, a list item with the line that leads to it, a
    row of a table with its header."""

    text: str
    heading: str
    """The nearest heading above it; "" for none."""
    context: str
    """What it stands under: title and headings."""

    def titled(self) -> str:
        return f"{self.heading}: {self.text}" if self.heading else self.text

    def terms(self) -> set[str]:
        return {*terms(self.text), *terms(self.context)}


@lru_cache(maxsize=256)
def units(chunk: Chunk) -> tuple[Unit, ...]:
    """In the order of the text; kept, as each sentence of an answer is checked against them.

    A heading inside the passage begins a section of its own.
    """
    title, *headings = chunk.title.split(TITLE_SEPARATOR)
    heading = headings[-1] if headings else ""
    parts: list[Unit] = []
    context = chunk.title
    for section in re.split(rf"(?m)^(?={re.escape(HEADING_MARK)})", chunk.text):
        body = section
        if section.startswith(HEADING_MARK):
            first, _, body = section.partition("\n")
            heading = first.removeprefix(HEADING_MARK).strip()
            context = f"{title}{TITLE_SEPARATOR}{heading}"
        parts += [Unit(text, heading, context) for text in _texts(body)]
    return tuple(parts)


def _texts(body: str) -> list[str]:
    """The quotable texts of one section: rows of tables, then what is left as sentences, in
    order."""
    texts: list[str] = []
    prose: list[str] = []
    header: list[str] = []
    lines = _joined_records(body).split("\n")
    for i, line in enumerate(lines):
        cells = table_cells(line)
        if not cells:
            prose.append(line)
            header = []
            continue
        texts += split_sentences("\n".join(prose))
        prose = []
        following = table_cells(lines[i + 1]) if i + 1 < len(lines) else []
        if following and all(TABLE_RULE.fullmatch(cell) for cell in following):
            header = cells
        elif not all(TABLE_RULE.fullmatch(cell) for cell in cells):
            texts.append(_row(header, cells)[:MAX_QUOTE_CHARS])
    return texts + split_sentences("\n".join(prose))


def _joined_records(body: str) -> str:
    """Paragraphs of `field: value` lines (rows of CSV and JSONL, front matter) as one line each."""
    paragraphs = []
    for paragraph in body.split("\n\n"):
        lines = paragraph.split("\n")
        if len(lines) > 1 and all(FIELD.match(line) for line in lines):
            paragraph = "| " + " | ".join(line.replace("|", "/") for line in lines) + " |"
        paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)


def table_cells(line: str) -> list[str]:
    """The cells of a Markdown table's line; empty for another line.

    >>> table_cells("| Plan | 5 MB |"), table_cells("a | b"), table_cells("x = a | b")
    (['Plan', '5 MB'], [], [])
    """
    stripped = line.strip()
    if len(stripped) < 3 or not stripped.startswith("|") or not stripped.endswith("|"):
        return []
    return [cell.strip() for cell in stripped[1:-1].split("|")]


def _row(header: Sequence[str], cells: Sequence[str]) -> str:
    """A row with its header: a number alone says nothing."""
    if len(header) != len(cells):
        return "; ".join(cell for cell in cells if cell)
    return "; ".join(
        f"{name}: {cell}" if name else cell
        for name, cell in zip(header, cells, strict=True)
        if cell
    )


def split_sentences(text: str) -> list[str]:
    """Sentences of prose, also over line ends, lines of code, and list items behind the line that
    leads to them.

    >>> split_sentences("The limit is how long\\nto wait. It is five seconds.\\nt = Timeout(5.0)")
    ['The limit is how long to wait.', 'It is five seconds.', 't = Timeout(5.0)']
    >>> split_sentences("The gate opens:\\n- at 7\\n- on Sundays at 9")
    ['The gate opens: at 7', 'The gate opens: on Sundays at 9']
    """
    sentences: list[str] = []
    lead = ""
    for line in _joined_lines(text):
        is_item = bool(LIST_MARKER.match(line))
        parts = [line]
        if len(line) > 120 or PROSE.match(line):
            parts = _sentence_parts(line)
        for part in parts:
            clean = MARKDOWN_PREFIX.sub("", part).strip(" \t|")
            clean = clean.removeprefix('"""').removesuffix('"""')
            if not any(char.isalnum() for char in clean):
                continue
            if not is_item:
                lead = clean if clean.endswith((":", "：")) else ""
                if lead and line is not text:
                    sentences.append(clean[:MAX_QUOTE_CHARS])
                    continue
            elif lead:
                if sentences and sentences[-1] == lead:
                    sentences.pop()
                clean = f"{lead} {clean}"
            sentences.append(clean[:MAX_QUOTE_CHARS])
    return sentences


def _sentence_parts(line: str) -> list[str]:
    """The line cut behind the ends of its sentences; a parenthesis stays with the one before it.

    >>> _sentence_parts("The most that are open. (Default 100)")
    ['The most that are open. (Default 100)']
    """
    cuts = [0, *(match.end() for match in SENTENCE_END.finditer(line)), len(line)]
    parts: list[str] = []
    for part in (line[a:b].strip() for a, b in itertools.pairwise(cuts)):
        if parts and PARENTHESIS.fullmatch(part):
            parts[-1] += f" {part}"
        elif part:
            parts.append(part)
    return parts


def _joined_lines(text: str) -> list[str]:
    """Lines, with those joined that continue a sentence of prose."""
    lines: list[str] = []
    for line in text.split("\n"):
        if FENCE.fullmatch(line):
            lines.append("")
        elif (
            lines
            and lines[-1][-1:] not in (*'.!?:。！？"', "")
            and PROSE.match(lines[-1])
            and PROSE.match(line)
            and not LIST_MARKER.match(line)
        ):
            lines[-1] += " " + line.strip()
        else:
            lines.append(line.rstrip())
    return lines
