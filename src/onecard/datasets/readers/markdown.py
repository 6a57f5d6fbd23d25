"""Markdown: paragraphs under their headings, fenced code whole, front matter, wikilinks."""

import re
from pathlib import Path
from typing import Any

import yaml

from onecard.datasets.blocks import Block, Document
from onecard.datasets.encoding import decode
from onecard.datasets.readers.sections import Sections, paragraphs

FENCE = re.compile(r"[ \t]*(```+|~~~+)")
# every run is bounded or ends at a bracket: `[[` a thousand times is read once
WIKILINK = re.compile(
    r"!?\[\[([^\[\]|#^\n]{1,300})(?:[#^][^\[\]|\n]{0,300})?(?:\|([^\[\]\n]{0,300}))?\]\]"
)
HEADING_START = re.compile(r"#{1,6}(?=[ \t])")
MAX_FRONT_MATTER = 64 << 10
MAX_ALIASES = 16
"""Aliases (*name) in a front matter: a few repeat a tag; 81 of them make 9 ** 9 values."""


def read(path: Path, data: bytes) -> Document:
    text, encoding = decode(data, path)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    meta, n_front_matter = front_matter(text)
    lines = text.split("\n")
    links = [match[1].strip() for match in WIKILINK.finditer(text)]
    sections = Sections()
    section: list[str] = []
    start, fence = n_front_matter, ""

    def end_section() -> None:
        body = "\n".join(section)
        if body.strip():
            sections.add(_paragraphs_and_fences(body, sections.path, start + 1))
        section.clear()

    first_heading = ""
    for i in range(n_front_matter, len(lines)):
        line = lines[i]
        fence_mark = FENCE.match(line)
        if fence_mark:
            closes = fence and line.strip().startswith(fence)
            fence = "" if closes else fence or fence_mark[1]
        level, name = (0, "") if fence else heading(line)
        if level:
            end_section()
            name = without_wikilinks(name)
            sections.heading(level, name, i + 1)
            first_heading = first_heading or name
            start = i + 1
        else:
            section.append(line if fence else without_wikilinks(line))
    end_section()
    title = meta.get("title")
    title = title if isinstance(title, str | int | float) else ""
    blocks = sections.close()
    return Document(
        str(title or first_heading or path.stem), "markdown", blocks, encoding, links, meta
    )


def heading(line: str) -> tuple[int, str]:
    """Level and text of a heading line as `## Text ## {#id}`; (0, "") for another line.

    >>> heading("## Closing ##"), heading("#tag")
    ((2, 'Closing'), (0, ''))
    """
    match = HEADING_START.match(line)
    if not match:
        return 0, ""
    text = line[match.end() :].strip()
    if text.endswith("}"):
        at = text.rfind("{")
        text = text[:at].rstrip() if at > 0 else text
    stripped = text.rstrip("#")
    if stripped != text and stripped[-1:] in (" ", "\t"):
        text = stripped.rstrip()
    return (match.end(), text) if text else (0, "")


def without_wikilinks(line: str) -> str:
    return WIKILINK.sub(lambda match: match[2] or match[1], line) if "[[" in line else line


def _paragraphs_and_fences(body: str, path: tuple[str, ...], first_line: int) -> list[Block]:
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
        blocks += paragraphs("\n".join(lines[plain_start:i]), path, first_line + plain_start)
        blocks.append(Block("\n".join(lines[i : end + 1]), first_line + i, first_line + end, path))
        i = plain_start = end + 1
    return blocks + paragraphs("\n".join(lines[plain_start:]), path, first_line + plain_start)


def front_matter(text: str) -> tuple[dict[str, Any], int]:
    """The YAML between two lines of ---, and its number of lines; invalid YAML stays text."""
    if not text.startswith("---\n"):
        return {}, 0
    end = text.find("\n---", 3, MAX_FRONT_MATTER)
    if end < 0:
        return {}, 0
    source = text[4:end]
    n_lines = text[: end + 4].count("\n") + 1
    try:
        if _n_aliases(source) > MAX_ALIASES:
            return {}, 0
        meta = yaml.safe_load(source)
    # wrong dates and numbers are ValueErrors, keys that cannot be keys TypeErrors
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError):
        return {}, 0
    if meta is None:
        return {}, n_lines
    return ({str(k): v for k, v in meta.items()}, n_lines) if isinstance(meta, dict) else ({}, 0)


def _n_aliases(source: str) -> int:
    if "*" not in source:
        return 0
    return sum(isinstance(token, yaml.AliasToken) for token in yaml.scan(source))
