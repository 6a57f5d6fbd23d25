"""Jupyter notebooks: text cells under their headings, code cells with their printed output."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onecard.datasets.blocks import Document
from onecard.datasets.encoding import decode
from onecard.datasets.readers.markdown import heading
from onecard.datasets.readers.sections import Sections
from onecard.errors import DataError

MAX_OUTPUT = 4000
"""Characters of a cell's output: the rest is tables and logs."""


def read(path: Path, data: bytes) -> Document:
    """`line` is the number of the cell."""
    source, encoding = decode(data, path)
    try:
        cells = list(_cells(json.loads(source)))
    except (ValueError, KeyError, TypeError) as fault:
        raise DataError(
            f"{path} is a broken notebook", why=str(fault)[:150], fix="open and save it in Jupyter"
        ) from None
    sections = Sections()
    for number, (kind, level, text) in enumerate(cells, 1):
        if kind == "heading":
            sections.heading(level, text, number)
            continue
        lines = text.split("\n")
        if kind == "markdown":
            plain: list[str] = []
            for line in lines:
                depth, name = heading(line)
                if depth:
                    sections.text("\n".join(plain), number, number)
                    plain = []
                    sections.heading(depth, name, number)
                else:
                    plain.append(line)
            text = "\n".join(plain)
        sections.text(text, number, number)
    return Document(path.stem, "notebook", sections.close(), encoding)


def _cells(notebook: Any) -> Iterator[tuple[str, int, str]]:
    """(kind, level of a heading, text) of each cell, of format 3 and 4."""
    if not isinstance(notebook, dict) or not ({"cells", "worksheets"} & set(notebook)):
        raise KeyError("it has no cells")
    sheets = notebook.get("worksheets") or [notebook]
    for sheet in sheets:
        for cell in sheet.get("cells") or []:
            if isinstance(cell, dict):
                text = _joined(cell.get("source", cell.get("input")))
                output = "".join(_output_text(each) for each in cell.get("outputs") or [])
                if output.strip():
                    text = f"{text}\n{output[:MAX_OUTPUT].rstrip()}"
                level = cell.get("level")
                yield str(cell.get("cell_type")), level if isinstance(level, int) else 1, text


def _joined(source: Any) -> str:
    if isinstance(source, list):
        return "".join(str(line) for line in source)
    return source if isinstance(source, str) else ""


def _output_text(output: Any) -> str:
    """What a cell printed or returned as plain text; pictures and HTML are left out."""
    if not isinstance(output, dict):
        return ""
    data = output.get("data")
    plain = data.get("text/plain") if isinstance(data, dict) else None
    return _joined(output.get("text") or plain)
