"""Reads training samples from JSONL, JSON, CSV, Parquet or XML. Knows no model; row_formats knows
the forms of rows.

A row that cannot be read is never dropped silently: it is returned as a RejectedRow with its place
and the reason.
"""

import csv
import io
import json
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onecard.datasets.encoding import decode
from onecard.errors import DataError, NotFound, SettingsError
from onecard.tasks.finetune.row_formats import RowParser
from onecard.tasks.finetune.sample import RejectedRow, Sample

SUFFIXES = (".xml", ".jsonl", ".json", ".csv", ".tsv", ".parquet")
PARTS = ("system", "prompt", "completion", "rejected", "group", "item")
"""What --columns can map to a column of another name."""
MAX_RAW_CHARS = 100_000
"""Of a rejected row, what is kept to be shown."""


@dataclass
class ParsedDataset:
    samples: list[Sample] = field(default_factory=list)
    rejected: list[RejectedRow] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)
    """Column -> how many rows have a value there that nothing uses."""


def read(path: Path, columns: Sequence[str] = ()) -> ParsedDataset:
    """All samples of a file or folder.

    Raises NotFound, SettingsError, DataError where no row can be used.
    """
    names = _column_names(columns)
    parser, parsed = RowParser(names), ParsedDataset()
    for file in _files(path):
        for source, row in _rows(file, names):
            if isinstance(row, RejectedRow):
                parsed.rejected.append(row)
                continue
            try:
                samples, unused = parser.parse(row, source)
            except Exception as fault:  # whatever a row holds, it costs itself and no other
                reason = str(fault) if isinstance(fault, ValueError) else repr(fault)
                parsed.rejected.append(RejectedRow(source, reason[:300], _raw(row)))
            else:
                parsed.samples += samples
                parsed.unused.update(set(unused))
    if not parsed.samples:
        why = "it is empty"
        if parsed.rejected:
            first = parsed.rejected[0]
            why = (
                f"{len(parsed.rejected)} rows are broken; the first, {first.source}: {first.reason}"
            )
        raise DataError(
            f"{path} holds no sample",
            why=why,
            fix='rows like {"prompt": ..., "completion": ...}; other names with --columns '
            "prompt=NAME --columns completion=NAME",
        )
    return parsed


def _raw(row: Any) -> str:
    """The row for the list of rejected ones, without what cannot be written."""
    text = json.dumps(row, ensure_ascii=False, default=str)[:MAX_RAW_CHARS]
    return text.encode(errors="backslashreplace").decode()


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise NotFound(
            f"there is no dataset {path}",
            why="nothing lies at that path",
            fix="--dataset FILE.jsonl, or a folder of XML files",
        )
    if path.is_file():
        return [path]
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(
            f"{path} holds no data",
            why="it has no .jsonl, .json, .csv, .tsv, .parquet or .xml file",
            fix="give a file in one of these formats",
        )
    return files


def _column_names(columns: Sequence[str]) -> dict[str, str]:
    names = {}
    for column in columns:
        part, sign, name = column.partition("=")
        if not sign or part not in PARTS or not name:
            raise SettingsError(
                f"'{column}' names no column",
                why=f"PART=NAME is needed, with one of the parts {', '.join(PARTS)}",
                fix="--columns prompt=question --columns completion=reply",
            )
        names[part] = name
    return names


# Files to rows


def _rows(path: Path, names: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """(file:line, row) of one file; a RejectedRow where a line cannot be read."""
    match path.suffix.lower():
        case ".parquet":
            yield from _parquet(path)
        case ".xml":
            yield from _xml(path, names)
        case ".csv" | ".tsv":
            yield from _csv(path)
        case _:
            yield from _json(path)


def _csv(path: Path) -> Iterator[tuple[str, Any]]:
    text = decode(path.read_bytes(), path)[0]
    header = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t|", key=header.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, restkey="")
    csv.field_size_limit(1 << 27)
    try:
        for row in reader:
            place = f"{path}:{reader.line_num}"
            n_cells = sum(value is not None for key, value in row.items() if key)
            n_cells += len(row.get("") or ())
            if n_cells != len(reader.fieldnames or ()):
                reason = (
                    f"{n_cells} cells under {len(reader.fieldnames or ())} columns: a text with "
                    f"{delimiter!r} in it needs quotation marks"
                )
                yield "", RejectedRow(place, reason, _raw(row))
                continue
            yield place, row
    except csv.Error as fault:
        yield "", RejectedRow(f"{path}:{reader.line_num}", str(fault), "")


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    text = decode(path.read_bytes(), path)[0]
    if path.suffix.lower() == ".json":
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError) as fault:
            if text.lstrip().startswith("["):
                raise DataError(
                    f"{path} is not JSON",
                    why=str(fault),
                    fix="write one JSON object a line, as .jsonl: then a broken line costs only "
                    "itself",
                ) from None
            whole = None  # JSON lines under the name .json
        if isinstance(whole, dict):  # {"data": [rows]}, as SQuAD and many exports have it
            lists = [value for value in whole.values() if isinstance(value, list)]
            whole = lists[0] if len(lists) == 1 and len(whole) <= 3 else [whole]
        if isinstance(whole, list):
            for number, row in enumerate(whole, 1):
                yield f"{path}[{number}]", row
            return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"{path}:{number}", json.loads(line)
        except (ValueError, RecursionError) as fault:
            yield "", RejectedRow(f"{path}:{number}", f"not JSON: {fault}", line[:MAX_RAW_CHARS])


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    # pyarrow comes with the package `datasets`; only this format needs it
    import pyarrow.parquet as parquet

    try:
        for number, row in enumerate(parquet.read_table(path).to_pylist(), 1):
            yield f"{path}[{number}]", row
    except (OSError, ValueError) as fault:
        raise DataError(
            f"{path} is no Parquet file",
            why=str(fault)[:200],
            fix="write it again, or save it as CSV",
        ) from None


def _xml(path: Path, names: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    data = path.read_bytes()
    if b"<!ENTITY" in data[:65536]:
        # entities that expand to entities fill the memory ("billion laughs")
        yield "", RejectedRow(str(path), "it declares XML entities, which are not expanded", "")
        return
    try:
        root = ET.fromstring(data)
    except ET.ParseError as fault:
        yield "", RejectedRow(str(path), f"not XML: {fault}", data[:2000].decode(errors="replace"))
        return
    tags = {
        "prompt": names.get("prompt", "Question"),
        "completion": names.get("completion", "Answer"),
    }
    for number, item in enumerate(root.iter(names.get("item", "QAPair")), 1):
        row = {"group": str(path)}
        for part, tag in tags.items():
            element = item.find(f".//{tag}")
            if element is not None:
                row[names.get(part, part)] = " ".join("".join(element.itertext()).split())
        yield f"{path}[{number}]", row
