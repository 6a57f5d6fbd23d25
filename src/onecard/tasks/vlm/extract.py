"""onecard vlm extract: fields of receipts, invoices, forms and screenshots, as JSON and CSV."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onecard import fsio
from onecard.errors import SettingsError
from onecard.evaluation.metrics.json_fields import FENCE, schema_faults
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.vlm import document_answers
from onecard.tasks.vlm.ask import read_schema
from onecard.tasks.vlm.configs import ExtractConfig
from onecard.tasks.vlm.engine import Answer

FILE, TABLE = "fields.jsonl", "fields.csv"
QUESTION = "Read the fields from this document. What is not there is null."
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""Beginnings that a spreadsheet takes for a formula: a document must not run one (CWE-1236)."""
BRACKET = re.compile(r"[{\[]")
MAX_DEPTH = 20
"""Levels of an answer that become columns; what lies deeper is one cell of JSON."""


def extract(config: ExtractConfig, run: Run) -> Result:
    """A line of JSON and a row of a table for each document. Raises OneCardErrors."""
    document_answers.require_sources(config.images, "extract")
    schema = schema_of(config)

    def row_of(answer: Answer) -> dict[str, Any]:
        value = whole_json(answer.text, schema)
        if value is None:
            error = "the answer holds no JSON"
            if answer.finish_reason == "length":
                error = "the answer was cut off: --max_tokens with more"
            return {"error": error, "why": answer.text[:300]}
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
    names = [name.strip() for each in config.fields for name in each.split(",")]
    names = list(dict.fromkeys(name for name in names if name))
    if bool(config.schema_file) == bool(names):
        both = bool(names)
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
        "properties": dict.fromkeys(names, nullable),
        "required": names,
        "additionalProperties": False,
    }


def whole_json(answer: str, schema: Mapping[str, Any]) -> Any:
    """The object or list that an answer is or holds; None where there is none, or only the inside
    of one that is broken or cut off: its fields would stand for those around them.

    >>> whole_json('Here: {"total": "3"} I hope.', {}), whole_json('{"a": {"b": 1}, "c": ', {})
    ({'total': '3'}, None)
    """
    fenced = FENCE.search(answer)
    bare = answer.lstrip()[:1] in ("{", "[")
    for candidate in (answer if bare else "", fenced[1] if fenced else "", answer):
        for start in _starts(candidate, schema):
            try:
                value, _ = DECODER.raw_decode(candidate, start)
                json.dumps(value)  # nested deeper than it could be written
            except (ValueError, RecursionError):
                continue
            return value
    return None


def _starts(text: str, schema: Mapping[str, Any]) -> Iterator[int]:
    """Where the outermost value may begin: at the first bracket, or, where that is one of the
    words before, as in "[JSON] {...}", at the first of the schema's kind."""
    first = BRACKET.search(text)
    if not first:
        return
    yield first.start()
    own = "[" if schema.get("type") == "array" else "{"
    start = text.find(own)
    closing = {"{": "}", "[": "]"}[first[0]]
    if start > first.start() and closing in text[first.start() : start]:
        yield start


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


DECODER = json.JSONDecoder(parse_constant=_refused)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table with a column for each field; lists and objects inside are JSON paths. Documents of
    one name are told apart by their paths; an error has a column of its own.

    >>> print(as_csv([{"name": "a.png", "page": 0, "fields": {"sum": 3, "tax": {"rate": "=1"}}}]))
    document,page,sum,tax.rate
    a.png,0,3,'=1
    <BLANKLINE>
    """
    flat = [dict(_leaves(row.get("fields"))) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    has_errors = any(row.get("error") for row in rows)
    n_names = Counter((row.get("name"), row.get("page")) for row in rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["document", "page", *columns, *(["error"] if has_errors else [])]
    writer.writerow([_cell(each) for each in head])
    for row, values in zip(rows, flat, strict=True):
        name, page = row.get("name", ""), row.get("page", 0)
        place = name if n_names[name, page] == 1 else row.get("file", name)
        cells = [place, page, *(values.get(c, "") for c in columns)]
        writer.writerow([_cell(each) for each in (*cells, row.get("error", ""))[: len(head)]])
    return text.getvalue()


def _leaves(value: Any, path: str = "", depth: int = 0) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping | list) and depth >= MAX_DEPTH:
        return [(path, json.dumps(value, ensure_ascii=False))]
    if isinstance(value, Mapping):
        pairs = [(f"{path}.{key}" if path else str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list):
        pairs = [(f"{path}[{i}]", inner) for i, inner in enumerate(value)]
    else:
        return [(path, value)] if path else []
    return [leaf for name, inner in pairs for leaf in _leaves(inner, name, depth + 1)]


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would run gets an apostrophe; a negative number stays one."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.lstrip(" ").startswith(FORMULA):
        try:
            float(value)
        except ValueError:
            return f"'{value}"
    return value
