"""JSON and JSONL: rows as lines of `field: value`; other JSON as it stands, escapes decoded."""

import json
import re
from pathlib import Path
from typing import Any

from onecard.datasets import source_code
from onecard.datasets.blocks import Block, Document
from onecard.datasets.encoding import decode

ESCAPES = re.compile(r"(?<!\\)((?:\\\\)*)((?:\\u[0-9a-fA-F]{4}){1,64})")
MAX_DEPTH = 40
"""Levels of a nested value that are written out."""
LONG_LINE = 1000
"""JSON with longer lines was written by a program: its values are listed one a line."""


def read_lines(path: Path, data: bytes) -> Document:
    """A line that is not a JSON object stays as it is."""
    text, encoding = decode(data, path)
    blocks = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        row = parsed(line)
        content = readable(line)
        if isinstance(row, dict):
            content = "\n".join(f"{key}: {flat(value)}" for key, value in row.items())
        if content.strip():
            blocks.append(Block(content, number, number))
    return Document(path.stem, "rows", blocks, encoding)


def read(path: Path, data: bytes) -> Document:
    """A list of objects as rows; other JSON as code, or by its values if its lines are long."""
    text, encoding = decode(data, path)
    value = (
        parsed(text)
        if len(text) > LONG_LINE * (text.count("\n") + 1) or text.lstrip()[:1] == "["
        else None
    )
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        rows = ["\n".join(leaves(each)) for each in value]
        blocks = [Block(row, i, i) for i, row in enumerate(rows, 1) if row.strip()]
        return Document(path.stem, "rows", blocks, encoding)
    if isinstance(value, dict | list):
        content = "\n".join(leaves(value))
        return Document(path.stem, "rows", [Block(content, 1, 1)], encoding)
    blocks = source_code.blocks(readable(text), "json")
    return Document(path.name, "code", blocks, encoding)


def parsed(text: str) -> Any:
    """None for what is not JSON, or too deep."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def readable(text: str) -> str:
    r"""The text with its \u escapes as letters; those of control characters stay.

    >>> readable(r'"Gr\u00fc\u00dfe \\u0041"')
    '"Grüße \\\\u0041"'
    """

    def letters(match: re.Match[str]) -> str:
        content = json.loads(f'"{match[2]}"')
        return match[1] + (content if content.isprintable() else match[2])

    return ESCAPES.sub(letters, text) if "\\u" in text else text


def flat(value: Any) -> str:
    """A value in one line: nested ones as JSON with all letters as they are."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "..."


def leaves(value: Any) -> list[str]:
    """Lines of `name: value` for every value below, in their order."""
    lines: list[str] = []
    stack: list[tuple[str, Any, int]] = [("", value, 0)]
    while stack:
        name, each, depth = stack.pop()
        if depth > MAX_DEPTH:
            continue
        if isinstance(each, dict):
            stack += [(str(key), inner, depth + 1) for key, inner in reversed(each.items())]
        elif isinstance(each, list):
            stack += [(name, inner, depth + 1) for inner in reversed(each)]
        elif each is not None and each != "":
            lines.append(f"{name}: {each}" if name else str(each))
    return lines
