"""Reader of CSV files with a picture and a class, or a box, in each row."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onecard.datasets.images import decode
from onecard.datasets.images.class_lists import listed_classes, one_order
from onecard.datasets.images.gathering import (
    SPLIT_WORDS,
    Gathering,
    is_there,
    pictures_below,
    read_text,
    split_in_path,
    split_of,
)
from onecard.datasets.images.geometry import fit_box
from onecard.datasets.images.records import Box, ImageDataset, Picture
from onecard.errors import DataError

FILE = (
    *("filename", "file_name", "image_path", "filepath", "file_path", "path", "file", "image"),
    *("image_name", "img", "img_path", "image_file", "picture", "image_id", "imageid", "id"),
)
LABEL = (
    *("label", "class", "class_name", "classname", "category", "label_name", "target", "species"),
    *("category_name", "name", "diagnosis", "breed", "tag", "y"),
)
SPLIT = ("split", "set", "subset", "partition", "phase", "fold", "dataset")
GROUP = ("group", "group_id", "patient", "patient_id", "video", "video_id", "scene", "film")
CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("x1", "y1", "x2", "y2"),
    ("x0", "y0", "x1", "y1"),
    ("left", "top", "right", "bottom"),
)
SIDES = (
    ("x", "y", "w", "h"),
    ("x", "y", "width", "height"),
    ("bbox_x", "bbox_y", "bbox_width", "bbox_height"),
    ("left", "top", "width", "height"),
    ("xmin", "ymin", "width", "height"),
)
"""Left, top, width and height."""
MIN_HOT = 2
"""Columns of 0 and 1 that are a class each."""


@dataclass
class _Columns:
    file: str
    label: str = ""
    split: str = ""
    group: str = ""
    box: tuple[str, ...] = ()
    has_sides: bool = False
    """The box columns hold width and height, not the other corner."""
    hot: list[str] = field(default_factory=list)


@dataclass
class _Row:
    where: str
    cells: Mapping[str, str]


@dataclass
class _Table:
    path: Path
    columns: _Columns
    rows: list[_Row]


def find_files(folder: Path) -> list[Path]:
    """Tables of pictures in a folder or one below it."""
    paths = [*sorted(folder.glob("*")), *sorted(folder.glob("*/*"))]
    return [path for path in paths if is_table(path)]


def is_table(path: Path) -> bool:
    """Whether a .csv or .tsv has columns for pictures and labels."""
    if path.suffix.lower() not in (".csv", ".tsv") or not path.is_file():
        return False
    try:
        return _load(path) is not None
    except DataError:
        return False


def read(paths: Sequence[Path], gathering: Gathering, boxes: bool) -> ImageDataset:
    """Raises DataError."""
    tables = []
    for path in paths:
        if (table := _load(path, gathering)) is None:
            raise DataError(
                f"{path} has no columns for pictures and labels",
                why=f"it begins with {read_text(path)[:80]!r}",
                fix=f"name them {FILE[0]} and {LABEL[0]}, with {', '.join(CORNERS[0])} for boxes",
            )
        tables.append(table)
    usable = [table for table in tables if bool(table.columns.box) == boxes]
    if not usable:
        noun = "boxes" if boxes else "one class a picture"
        raise DataError(
            f"{paths[0]} does not have {noun}",
            why=f"its columns are {', '.join(tables[0].rows[0].cells)}"[:200],
            fix=f"for boxes name them {', '.join(CORNERS[0])}; for classes leave them out",
        )
    names = _class_names(usable, gathering.root)
    finder = _Finder(gathering)
    for table in usable:
        (_read_boxes if boxes else _read_labels)(table, names, finder, gathering)
    return gathering.dataset("csv", names)


# Tables


def _load(path: Path, gathering: Gathering | None = None) -> _Table | None:
    """None where it has no column of pictures or none of labels. Raises DataError."""
    text = read_text(path)
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    rows: list[_Row] = []
    name = gathering.name(path) if gathering else path.name
    head: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not head:
                head = _head(cells)
                if head[0] != "filename" or cells[0].strip().lower() == "filename":
                    continue
            row = dict(zip(head, (cell.strip() for cell in cells), strict=False))
            rows.append(_Row(f"{name}:{reader.line_num}", row))
    except csv.Error as fault:
        raise DataError(
            f"{path}:{reader.line_num} is not CSV", why=str(fault), fix="correct that line"
        ) from None
    columns = _columns(head, rows)
    return _Table(path, columns, rows) if columns and rows else None


def _head(cells: Sequence[str]) -> list[str]:
    """Column names; of a table without a head (keras-retinanet's) those of its six columns."""
    if decode.is_picture(Path(cells[0].strip())) and len(cells) in (2, 6):
        middle = CORNERS[0] if len(cells) == 6 else ()
        return ["filename", *middle, "class"]
    return [cell.strip().strip("\ufeff") for cell in cells]


def _columns(head: Sequence[str], rows: Sequence[_Row]) -> _Columns | None:
    by_name = {name.lower().replace(" ", "_"): name for name in reversed(head)}

    def first(names: Sequence[str]) -> str:
        return next((by_name[name] for name in names if name in by_name), "")

    columns = _Columns(first(FILE), first(LABEL), first(SPLIT), first(GROUP))
    if not columns.file:
        return None
    for group, has_sides in ((CORNERS, False), (SIDES, True)):
        for names in group:
            if not columns.box and all(name in by_name for name in names):
                columns.box = tuple(by_name[name] for name in names)
                columns.has_sides = has_sides
    if not columns.label:
        special = {columns.file, columns.split, columns.group, *columns.box}
        others = [name for name in head if name and name not in special]
        columns.hot = [
            name
            for name in others
            if all(row.cells.get(name) in ("0", "1", "0.0", "1.0") for row in rows[:1000])
        ]
        if len(columns.hot) < MIN_HOT:
            return None
    return columns


def _class_names(tables: Sequence[_Table], root: Path) -> list[str]:
    names: set[str] = set()
    for table in tables:
        column = table.columns.label
        names |= {row.cells.get(column, "") for row in table.rows} if column else set()
        names |= set(table.columns.hot)
    names.discard("")
    if not names:
        raise DataError(
            f"{tables[0].path} names no class", why="its column is empty", fix="fill it in"
        )
    listed = one_order(listed_classes(root))
    if listed and names <= set(listed):
        return listed
    by_number = all(name.isascii() and name.isdigit() for name in names)
    return sorted(names, key=lambda name: (int(name), name)) if by_number else sorted(names)


# Pictures


class _Finder:
    """Pictures by the names that a table has for them: below its folder or the root, by the path,
    or by the last part where it is the only one; with or without the ending."""

    def __init__(self, gathering: Gathering) -> None:
        self._gathering = gathering
        self._by_name: dict[str, list[Path]] = {}
        for path in pictures_below(gathering.root):
            for name in (path.name, path.stem):
                self._by_name.setdefault(name, []).append(path)

    def find(self, name: str, table: Path) -> tuple[Path | None, str]:
        """(path, "") or (None, why not)."""
        for folder in (table.parent, table.parent / "images", self._gathering.root):
            path = self._gathering.inside(folder, name)
            if path is not None and decode.is_picture(path) and is_there(path) and path.is_file():
                return path, ""
        last = name.replace("\\", "/").rpartition("/")[2]
        paths = self._by_name.get(last, [])
        split = split_of(table.stem)
        if len(paths) > 1 and split:
            paths = [path for path in paths if split_in_path(path.parent) == split] or paths
        if len(paths) == 1:
            return paths[0], ""
        if paths:
            return None, f"{len(paths)} pictures are called {last[:80]}"
        if self._gathering.inside(table.parent, name) is None:
            return None, f"{name[:80]} leads out of the data set"
        return None, f"there is no picture {name[:80]}"


def _located(table: _Table, finder: _Finder, gathering: Gathering) -> dict[Path, list[_Row]]:
    """Picture -> its rows; a row without one is rejected."""
    by_path: dict[Path, list[_Row]] = {}
    for row in table.rows:
        path, fault = finder.find(row.cells.get(table.columns.file, ""), table.path)
        if path is None:
            gathering.reject(row.where, fault)
        else:
            by_path.setdefault(path, []).append(row)
    return by_path


def _split(table: _Table, row: _Row, path: Path, gathering: Gathering) -> str:
    cell = row.cells.get(table.columns.split, "").lower()
    if cell in SPLIT_WORDS:
        return SPLIT_WORDS[cell]
    below = Path(gathering.name(path)).parent
    return split_of(table.path.stem) or split_in_path(below)


def _read_labels(
    table: _Table, names: Sequence[str], finder: _Finder, gathering: Gathering
) -> None:
    places = {name: i for i, name in enumerate(names)}
    located = _located(table, finder, gathering)
    for path in gathering.reading(list(located)):
        rows = located[path]
        labels = {name for row in rows for name in _names(table.columns, row.cells)}
        if len(labels) != 1:
            shown = ", ".join(sorted(labels))[:80]
            reason = f"it has {len(labels)} classes: {shown}" if labels else "it has no class"
            gathering.reject(rows[0].where, reason)
            continue
        if len(rows) > 1:
            gathering.count("rows name a picture again with the same class", len(rows) - 1)
        if size := gathering.size(path):
            split, group = _split(table, rows[0], path, gathering), _group(table, rows[0])
            label = places[labels.pop()]
            gathering.pictures.append(
                Picture(path, gathering.name(path), *size, split, label=label, group=group)
            )


def _names(columns: _Columns, cells: Mapping[str, str]) -> list[str]:
    if columns.label:
        return [name] if (name := cells.get(columns.label, "")) else []
    return [name for name in columns.hot if cells.get(name) in ("1", "1.0")]


def _group(table: _Table, row: _Row) -> str:
    column = table.columns.group
    return f"{column} {row.cells.get(column, '')}" if row.cells.get(column) else ""


def _read_boxes(table: _Table, names: Sequence[str], finder: _Finder, gathering: Gathering) -> None:
    places = {name: i for i, name in enumerate(names)}
    located = _located(table, finder, gathering)
    relative = _are_shares(table)
    if relative:
        gathering.note(f"{table.path.name}: boxes are shares of the picture, not pixels")
    for path in gathering.reading(list(located)):
        size = gathering.size(path)
        if size is None:
            continue
        boxes, n_labels = [], 0
        for row in located[path]:
            cells = [row.cells.get(name, "") for name in table.columns.box]
            name = next(iter(_names(table.columns, row.cells)), "")
            if not any(cells):
                continue  # a picture without an object
            n_labels += 1
            corners = _corners(cells, table.columns.has_sides)
            if corners is None:
                gathering.reject(row.where, f"the box is no four numbers: {' '.join(cells)[:80]}")
            elif name not in places:
                gathering.reject(row.where, "the box has no class")
            else:
                scale = size if relative else (1, 1)
                x0, y0, x1, y1 = (value * scale[i % 2] for i, value in enumerate(corners))
                box = gathering.take(fit_box(Box(places[name], x0, y0, x1, y1), size), row.where)
                boxes += [box] if box else []
        first = located[path][0]
        split = _split(table, first, path, gathering)
        gathering.add(path, split, boxes, n_labels, group=_group(table, first))


def _corners(cells: Sequence[str], has_sides: bool) -> list[float] | None:
    try:
        a, b, c, d = (float(cell) for cell in cells)
    except ValueError:
        return None
    return [a, b, a + c, b + d] if has_sides else [a, b, c, d]


def _are_shares(table: _Table) -> bool:
    """Whether all boxes lie in 0..1, some of them with a fraction."""
    rows = [[row.cells.get(name, "") for name in table.columns.box] for row in table.rows]
    boxes = [box for row in rows if (box := _corners(row, False)) and all(map(math.isfinite, box))]
    numbers = [value for box in boxes for value in box]
    inside = bool(numbers) and all(0 <= value <= 1 for value in numbers)
    return inside and any(0 < value < 1 for value in numbers)


def has_boxes(path: Path) -> bool:
    table = _load(path)
    return table is not None and bool(table.columns.box)
