"""Thumbs up and down on answers of the notes: a question set that `rag evaluate` scores.

<home>/question-sets/<name of the index>.jsonl, in the form that the command reads. A thumb up keeps
answer and citations as evidence; a thumb down is a question whose right answer the user writes.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from onecard import fsio, paths

MAX_ROWS = 20_000


def path_of(index: str) -> Path:
    name = Path(index).name if index else "notes"
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip(".") or "notes"
    return paths.home() / "question-sets" / f"{safe[:80]}.jsonl"


def rows(index: str) -> list[dict[str, Any]]:
    """The set so far; half a line is passed over."""
    out = []
    try:
        lines = path_of(index).read_text(encoding="utf-8").split("\n")
    except OSError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("question"), str):
            out.append(row)
    return out


def keep(index: str, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Add a row, or put it in the place of the same question's; the set after it."""
    row = {"id": hashlib.sha256(row["question"].strip().encode()).hexdigest()[:12], **row}
    others = [each for each in rows(index) if each.get("id") != row["id"]]
    return _write(index, [*others, row][-MAX_ROWS:])


def remove(index: str, row_id: str) -> list[dict[str, Any]]:
    return _write(index, [row for row in rows(index) if row.get("id") != row_id])


def _write(index: str, out: list[dict[str, Any]]) -> list[dict[str, Any]]:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in out)
    path_of(index).parent.mkdir(parents=True, exist_ok=True)
    fsio.write_text(path_of(index), text)
    return out
