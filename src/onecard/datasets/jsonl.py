"""Rows to JSONL text, as all files of rows here are written."""

import json
from collections.abc import Iterable, Mapping
from typing import Any


def to_jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    """One JSON object a line, letters of all scripts as they are.

    >>> to_jsonl([{"a": "ü"}, {"a": 1}])
    '{"a": "ü"}\\n{"a": 1}\\n'
    """
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
