"""Files whose rows are no objects with all of a question: VQA's pairs of files, easy-VQA's triples,
and which file of a folder holds the rows."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from onecard.datasets import row_files
from onecard.datasets.row_files import BrokenRow
from onecard.errors import DataError, NotFound, SettingsError, unreadable_file
from onecard.tasks.vlm.picture_files import PictureNumber
from onecard.tasks.vlm.row_forms import NamedRow

WRAPPERS = ("data", "rows", "items", "examples", "samples", "train", "test", "val", "validation")
"""Names of the only list of a JSON object that holds the rows."""
PARTNERS = {"questions": "annotations", "annotations": "questions"}
SUBSET = re.compile(r"(?:train|val|test)(?:-dev)?20\d\d")
METADATA = tuple(f"metadata{suffix}" for suffix in row_files.SUFFIXES)
"""Hugging Face's imagefolder."""


def data_file(path: Path) -> Path:
    """The file itself, or the one of a folder that holds its rows. Raises NotFound, DataError."""
    if path.is_file():
        return path
    if not path.exists():
        is_address = "://" in str(path) or ":/" in str(path)
        raise NotFound(
            f"there is no {path}",
            why="addresses are not opened" if is_address else "nothing lies at that path",
            fix="download it first, and name the file" if is_address else "check the path",
        )
    files = [
        each
        for each in sorted(path.iterdir())
        if each.suffix.lower() in row_files.SUFFIXES and each.is_file() and each.name[0] != "."
    ]
    named = [each for each in files if each.name.lower() in METADATA]
    questions = [each for each in files if "question" in each.name.lower()]
    for candidates in (named, files, questions):
        if len(candidates) == 1:
            return candidates[0]
    if files:
        raise DataError(
            f"{path} holds several files of rows",
            why=", ".join(each.name for each in files[:6]),
            fix="name the one to use",
        )
    below = sorted(
        {each.parent.name for each in path.glob("*/*") if each.suffix in row_files.SUFFIXES}
    )
    raise DataError(
        f"{path} holds no file of rows",
        why=f"there are rows in {', '.join(below[:6])}"
        if below
        else "it has no JSONL, JSON, CSV, TSV or Parquet file",
        fix=f"name one: {path / below[0]}"
        if below
        else "give pictures, questions and answers as JSONL: image, question, answer",
    )


def rows_of(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, row as an object, or BrokenRow) of a data file. Raises DataError, NotFound."""
    for place, row in row_files.read_rows(path):
        if place == str(path) and isinstance(row, dict):
            yield from _unwrapped(row, path)
        else:
            yield place, _as_object(row)


def _as_object(row: Any) -> Any:
    """[question, answer, picture] of easy-VQA with names; other rows as they are."""
    if isinstance(row, list) and len(row) == 3 and isinstance(row[0], str):
        is_number = isinstance(row[2], int) and not isinstance(row[2], bool)
        if isinstance(row[1], str) and (is_number or isinstance(row[2], str)):
            values = {"question": row[0], "answer": row[1], "image_id": row[2]}
            return NamedRow("easy-VQA's [question, answer, picture]", values)
    return row


def _unwrapped(whole: dict[str, Any], path: Path) -> Iterator[tuple[str, Any]]:
    """Rows of a JSON file that is one object."""
    for own in PARTNERS:
        rows = whole.get(own)
        if (
            isinstance(rows, list)
            and rows
            and isinstance(rows[0], Mapping)
            and ("question_id" in rows[0])
        ):
            yield from _joined(whole, own, path)
            return
    lists = {
        name: value
        for name, value in whole.items()
        if isinstance(value, list) and any(isinstance(each, Mapping) for each in value)
    }
    if len(lists) > 1:
        lists = {name: value for name, value in lists.items() if name in WRAPPERS}
    is_row = "conversations" in whole or "messages" in whole
    if len(lists) == 1 and not is_row:
        (rows,) = lists.values()
        for number, row in enumerate(rows, 1):
            yield f"{path}[{number}]", _as_object(row)
    elif whole and all(isinstance(value, Mapping) for value in whole.values()):  # GQA
        for name, row in whole.items():
            yield f"{path}[{name}]", {"id": name, **row}
    else:
        yield f"{path}:1", whole


# VQA's pairs of files


def _joined(whole: dict[str, Any], own: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Rows of questions with the answers of the other file, which stands beside it.

    Raises DataError where there is none, or several.
    """
    other = PARTNERS[own]
    partner_rows = whole.get(other)
    if isinstance(partner_rows, list):
        partner, partner_path = whole, path
    else:
        partner, partner_path = _partner(path, whole[own], other)
    questions, annotations = (whole, partner) if own == "questions" else (partner, whole)
    question_path = path if own == "questions" else partner_path
    subset = str(questions.get("data_subtype") or annotations.get("data_subtype") or "")
    if not subset and (match := SUBSET.search(question_path.name)):
        subset = match[0]
    answers = {
        row["question_id"]: row
        for row in annotations.get("annotations", ())
        if isinstance(row, Mapping) and "question_id" in row
    }
    for number, row in enumerate(questions.get("questions", ()), 1):
        place = f"{question_path}[{number}]"
        if not isinstance(row, Mapping) or "image_id" not in row:
            yield place, BrokenRow("no question with question_id and image_id", repr(row)[:200])
            continue
        known = answers.get(row.get("question_id"), {})
        picture = row["image_id"]
        if isinstance(picture, int):
            picture = PictureNumber(picture, subset)
        values = {
            "id": row.get("question_id"),
            "image": picture,
            "question": row.get("question"),
            "answer": known.get("multiple_choice_answer"),
            "answers": known.get("answers"),
        }
        yield place, NamedRow("VQA's questions and annotations", values)


def _partner(path: Path, rows: list[Any], other: str) -> tuple[dict[str, Any], Path]:
    """The file beside `path` with the other half of its questions."""
    ids = {row["question_id"] for row in rows[:50] if isinstance(row, Mapping)}
    matching = []
    for candidate in sorted(path.parent.glob("*.json")):
        if candidate == path or other not in _head_and_tail(candidate):
            continue
        try:
            value = json.loads(candidate.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        theirs = value.get(other) if isinstance(value, dict) else None
        if isinstance(theirs, list) and ids & {
            row.get("question_id") for row in theirs if isinstance(row, Mapping)
        }:
            matching.append((value, candidate))
    if len(matching) == 1:
        return matching[0]
    shown = ", ".join(candidate.name for _, candidate in matching[:4])
    raise DataError(
        f"{path} needs one file of {other}",
        why=f"{len(matching)} beside it have its questions: {shown}"
        if matching
        else f"no JSON file beside it holds {other} with its question_ids",
        fix=f"put VQA's file of {other} into {path.parent}, and no other of the same questions",
    )


def _head_and_tail(path: Path) -> str:
    """Where a JSON file's own names stand, in files whose rows fill gigabytes; the name too, in
    which VQA's files say what they hold."""
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
            file.seek(max(0, path.stat().st_size - (1 << 16)))
            tail = file.read(1 << 16)
    except OSError as fault:
        raise unreadable_file(path, fault) from None
    return path.name + (head + tail).decode("utf-8", "replace")


def column_names(columns: tuple[str, ...], parts: Mapping[str, Any]) -> dict[str, str]:
    """Part -> the user's own column, of image=NAME ... Raises SettingsError."""
    names = {}
    for column in columns:
        part, sign, name = column.partition("=")
        if not sign or part not in parts or not name.strip():
            raise SettingsError(
                f"'{column}' names no column",
                why=f"PART=NAME is needed, with one of the parts {', '.join(parts)}",
                fix="--columns image=photo --columns question=frage --columns answer=antwort",
            )
        names[part] = name.strip()
    return names
