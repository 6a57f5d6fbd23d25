"""What a file is called, and the facts of its front matter, as passages see them."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from onecard.datasets.blocks import Block, Document
from onecard.tasks.rag.analyzer import terms

MAX_FIELD_CHARS, MAX_ALIASES = 200, 10


def title(document: Document, path: Path) -> str:
    """A file's title, its name where that says something else ("Tasks" in 2025-03-04.md), and its
    aliases."""
    if document.kind == "code":  # `pkg/module.py` says more than `module.py`
        return "/".join(path.parts[-2:])
    known = set(terms(document.title))
    names = [path.stem, *aliases(document.meta)]
    # a bare number (145.txt) says nothing
    new = [name for name in names if not set(terms(name)) <= known and not name.isdigit()]
    return f"{document.title} ({', '.join(new)})" if new else document.title


def aliases(meta: Mapping[str, Any]) -> list[str]:
    value = meta.get("aliases") or meta.get("alias") or []
    values = value if isinstance(value, list) else [value]
    return [str(alias)[:MAX_FIELD_CHARS] for alias in values][:MAX_ALIASES]


def front_matter(meta: Mapping[str, Any]) -> list[Block]:
    """The fields of a note's front matter as its first block: `due: 2026-02-14` is a fact that can
    be asked for."""
    lines = []
    for key, value in meta.items():
        values = value if isinstance(value, list) else [value]
        if all(isinstance(part, str | int | float | date) for part in values) and values:
            lines.append(f"{key}: {', '.join(map(str, values))}"[:MAX_FIELD_CHARS])
    return [Block("\n".join(lines), 1, len(lines) + 1)] if lines else []
