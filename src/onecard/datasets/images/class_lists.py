"""The order of class names, where several files of one data set give it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from onecard.datasets.images.gathering import CLASS_FILES, class_list, read_text
from onecard.errors import DataError

MAX_CLASSES = 20_000


def listed_classes(root: Path) -> dict[str, list[str]]:
    """File -> class names in its order, of classes.txt and its like and of Label Studio's
    notes.json, in the root and in labels/ (where labelImg leaves its own). Raises DataError."""
    lists: dict[str, list[str]] = {}
    for folder in (root, root / "labels", *sorted(root.glob("labels/*/"))):
        for name in CLASS_FILES:
            path = folder / name
            if path.is_file() and (names := class_list(path)):
                lists[path.relative_to(root).as_posix()] = names
    notes = root / "notes.json"
    if notes.is_file() and (names := _categories(notes)):
        lists[notes.name] = names
    return lists


def _categories(path: Path) -> list[str]:
    """Of notes.json: {"categories": [{"id": 0, "name": "cat"}, ...]}; empty for another file."""
    try:
        rows = json.loads(read_text(path))["categories"]
        return [str(row["name"]) for row in sorted(rows, key=lambda row: int(row["id"]))]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def one_order(lists: Mapping[str, Sequence[str]], fix: str = "") -> list[str]:
    """The names of the first list, where all others agree or are longer with the same beginning;
    empty without a list. Raises DataError that names both orders: a label 1 would else be learned
    as another class than it is."""
    sources = [(source, list(names)) for source, names in lists.items() if names]
    if not sources:
        return []
    first, names = sources[0]
    for source, others in sources[1:]:
        if others[: len(names)] != names and names[: len(others)] != others:
            raise DataError(
                f"{first} and {source} disagree on the classes",
                why=f"{first} has {shown_names(names)}; {source} has {shown_names(others)}",
                fix=fix or "keep the one that the labels were written with, and delete the other",
            )
    if len(names) > MAX_CLASSES:
        raise DataError(
            f"{first} names {len(names):,} classes",
            why=f"more than {MAX_CLASSES:,} are no class list",
            fix="give the list of classes",
        )
    return names


def shown_names(names: Sequence[str], most: int = 8) -> str:
    """The first names, short.

    >>> shown_names(["a", "b"]), shown_names(["a", "b", "c"], 2)
    ('a, b', 'a, b and 1 more')
    """
    shown = ", ".join(name[:40] for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
