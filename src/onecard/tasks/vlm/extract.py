"""onecard vlm extract: fields of receipts, invoices, forms and screenshots, as JSON and CSV."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from onecard import fsio
from onecard.errors import SettingsError
from onecard.evaluation.metrics.json_fields import parse_json, schema_faults
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.vlm import document_answers
from onecard.tasks.vlm.ask import read_schema
from onecard.tasks.vlm.configs import ExtractConfig
from onecard.tasks.vlm.engine import Answer

FILE, TABLE = "fields.jsonl", "fields.csv"
QUESTION = "Read the fields from this document. What is not there is null."
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings that a spreadsheet takes for a formula: a document must not run one (CWE-1236)."""


def extract(config: ExtractConfig, run: Run) -> Result:
    """A line of JSON and a row of a table for each document. Raises OneCardErrors."""
    document_answers.require_sources(config.images, "extract")
    schema = schema_of(config)

    def row_of(answer: Answer) -> dict[str, Any]:
        value = parse_json(answer.text)
        if value is None:
            return {"error": "the answer holds no JSON", "why": answer.text[:300]}
        return {"fields": value, "schema_faults": schema_faults(value, schema)}

    rows, path = document_answers.ask_all(
        config, run, config.question or QUESTION, FILE, row_of, schema
    )
    fsio.write_text(path.with_name(TABLE), as_csv(rows))
    n_failed = sum(bool(row.get("error")) for row in rows)
    n_faulty = sum(bool(row.get("schema_faults")) for row in rows)
    lines = [f"{len(rows) - n_failed:,} of {len(rows):,} read"]
    if n_faulty:
        lines.append(f"{n_faulty:,} break the schema: see schema_faults in {path.name}")
    lines += [f"wrote {path}", f"wrote {path.with_name(TABLE)}"]
    return Result({"rows": rows, "file": str(path)}, "\n".join(lines))


def schema_of(config: ExtractConfig) -> dict[str, Any]:
    """Of --schema_file or --fields. Raises SettingsError for neither or both, DataError."""
    if bool(config.schema_file) == bool(config.fields):
        both = bool(config.fields)
        raise SettingsError(
            "fields and a schema are both given" if both else "no fields are named",
            why="it must be known what to read, once",
            fix="--fields date total vendor, or --schema_file receipt.json",
        )
    if config.schema_file:
        return dict(read_schema(config.schema_file) or {})
    nullable = {"type": ["string", "null"]}
    return {
        "type": "object",
        "properties": dict.fromkeys(config.fields, nullable),
        "required": list(config.fields),
        "additionalProperties": False,
    }


def as_csv(rows: list[dict[str, Any]]) -> str:
    """A table with a column for each field; lists and objects inside are JSON paths.

    >>> print(as_csv([{"name": "a.png", "page": 0, "fields": {"sum": 3, "tax": {"rate": "=1"}}}]))
    document,page,sum,tax.rate
    a.png,0,3,'=1
    <BLANKLINE>
    """
    flat = [dict(_leaves(row.get("fields"))) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["document", "page", *columns])
    for row, values in zip(rows, flat, strict=True):
        cells = [row.get("name", ""), row.get("page", 0), *(values.get(c, "") for c in columns)]
        writer.writerow([_cell(cell) for cell in cells])
    return text.getvalue()


def _leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        pairs = [(f"{path}.{key}" if path else str(key), inner) for key, inner in value.items()]
        return [leaf for name, inner in pairs for leaf in _leaves(inner, name)]
    if isinstance(value, list):
        return [leaf for i, inner in enumerate(value) for leaf in _leaves(inner, f"{path}[{i}]")]
    return [(path, value)] if path else []


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would run gets an apostrophe; a negative number stays one."""
    if value is None:
        return ""
    if isinstance(value, str) and value.startswith(FORMULA):
        try:
            float(value)
        except ValueError:
            return f"'{value}"
    return value
