"""Reader of COCO's JSON: boxes, polygons and runs, one file for each split or one for all."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onecard.datasets.images.class_lists import listed_classes, one_order, shown_names
from onecard.datasets.images.gathering import (
    Gathering,
    head_of,
    is_there,
    pictures_below,
    read_text,
    split_in_path,
    split_of,
    whole_number,
)
from onecard.datasets.images.geometry import (
    Fit,
    coco_counts,
    fit_box,
    fit_polygons,
    fit_runs,
    turned_box,
)
from onecard.datasets.images.records import Box, ImageDataset
from onecard.errors import DataError

OTHER_FILES = ("captions_", "panoptic_", "stuff_", "person_keypoints_", "image_info_")
"""Beginnings of COCO's files for other tasks, which name the same pictures."""
PICTURE_FOLDERS = ("", "images", "data", "JPEGImages", "img", "imgs")


@dataclass
class _File:
    """One JSON file."""

    path: Path
    images: list[Any]
    annotations: list[Any]
    categories: list[Any]
    split: str
    folders: list[Path] = field(default_factory=list)
    """Where its pictures may lie."""


@dataclass
class _Classes:
    names: list[str]
    places: dict[int, int]
    """Category id of the file at hand -> place in `names`."""


def is_coco(path: Path) -> bool:
    """Whether a .json file looks like COCO's, by its beginning and end."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    head = head_of(path, 1 << 20)
    ends = head
    if len(head) == 1 << 20:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - (1 << 20)))
            ends += file.read()
    keys = (b'"images"', b'"annotations"', b'"categories"')
    return head.lstrip(b"\xef\xbb\xbf \r\n\t")[:1] == b"{" and sum(key in ends for key in keys) >= 2


def find_files(folder: Path) -> list[Path]:
    """COCO's files in a folder, its annotations/ and one folder down (train/, valid/, test/)."""
    paths = sorted(folder.glob("*.json")) + sorted(folder.glob("*/*.json"))
    paths = [path for path in paths if not path.name.startswith(OTHER_FILES) and is_coco(path)]
    for chosen in (
        [path for path in paths if path.name == "_annotations.coco.json"],
        [path for path in paths if path.name.startswith("instances_")],
    ):
        if chosen:
            return chosen
    return paths


def read(paths: Sequence[Path], gathering: Gathering, outlines: bool) -> ImageDataset:
    """Files of one data set as one. Raises DataError."""
    files = [_load(path, gathering) for path in paths]
    splits = Counter(file.split for file in files)
    if len(files) > 1 and max(splits.values()) > 1:
        shown = ", ".join(path.name for path in paths[:6])
        gathering.note(f"several files of one split were read as one data set: {shown}")
    names = _class_names(files, gathering)
    _check_order(names, gathering.root)
    n_plain = 0
    listed: set[Path] = set()
    for file in files:
        classes = _Classes(names, _places(file, names))
        n_plain += _read_file(file, classes, gathering, outlines, listed)
    if outlines and n_plain and not any(picture.boxes for picture in gathering.pictures):
        raise DataError(
            f"{gathering.root} has boxes but no outlines",
            why="no annotation has a segmentation",
            fix="train a detector on it, or export the labels with polygons",
        )
    _unlisted(files, listed, gathering)
    return gathering.dataset("coco", names)


def _load(path: Path, gathering: Gathering) -> _File:
    try:
        row = json.loads(read_text(path))
    except (ValueError, RecursionError) as fault:
        raise DataError(
            f"{path} is not JSON", why=str(fault)[:200], fix="export the labels again"
        ) from None
    lists = [row.get(key) for key in ("images", "annotations", "categories")] if row else []
    if not isinstance(row, dict) or not isinstance(lists[0], list):
        raise DataError(
            f"{path} is not in COCO's form",
            why="it has no list of images",
            fix="a COCO file has images, annotations and categories",
        )
    images, annotations, categories = (each if isinstance(each, list) else [] for each in lists)
    if not categories:
        raise DataError(
            f"{path} names no classes", why="its categories are empty", fix="export it again"
        )
    below = path.relative_to(gathering.root) if path.is_relative_to(gathering.root) else path
    split = split_of(path.stem) or split_in_path(below.parent)
    file = _File(path, images, annotations, categories, split)
    file.folders = _folders(path, split, gathering.root)
    return file


def _folders(path: Path, split: str, root: Path) -> list[Path]:
    """Where pictures of a file may lie: beside it, in the folder named after it (train2017 of
    instances_train2017), in images/, or in a folder named after the split."""
    stem = path.stem.removeprefix("instances_")
    aliases = {"val": ("val", "valid", "validation")}.get(split, (split,))
    names = [stem, *(alias for alias in aliases if alias)]
    bases = list(dict.fromkeys((path.parent, root, path.parent.parent)))
    folders = [
        base / first / second
        for base in bases
        if base.is_relative_to(root)
        for first in PICTURE_FOLDERS
        for second in ("", *names)
    ]
    folders += [base / name / "images" for base in bases for name in names]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


# Classes


def _categories(file: _File) -> list[tuple[int, str, str]]:
    """(id, name, supercategory) by id. Raises DataError."""
    rows: dict[int, tuple[int, str, str]] = {}
    for row in file.categories:
        number = whole_number(row.get("id")) if isinstance(row, dict) else None
        name = row.get("name") if isinstance(row, dict) else None
        if number is None or not isinstance(name, str | int) or not str(name).strip():
            raise DataError(
                f"{file.path} has a category without id or name",
                why=repr(row)[:120],
                fix='write {"id": 1, "name": "cat"}',
            )
        name = str(name).strip()
        if number in rows and rows[number][1] != name:
            raise DataError(
                f"{file.path} gives one id to two categories",
                why=f"id {number} is {rows[number][1]} and {name}",
                fix="give each category an id of its own",
            )
        rows.setdefault(number, (number, name, str(row.get("supercategory") or "")))
    return [rows[number] for number in sorted(rows)]


def _class_names(files: Sequence[_File], gathering: Gathering) -> list[str]:
    """By the ids of the first file; names that only later files have follow."""
    names: list[str] = []
    dummies = _dummies(files)
    for file in files:
        rows = _categories(file)
        listed = [whole_number(row.get("id")) for row in file.categories]
        if listed != sorted(listed, key=lambda number: number or 0):
            gathering.note(f"classes of {file.path.name} are in the order of their ids")
        new = [name for _, name, _ in rows if name not in names and name not in dummies]
        if names and new:
            gathering.note(f"{file.path.name} adds classes: {shown_names(new)}")
        names.extend(dict.fromkeys(new))
    if dummies:
        gathering.note(f"class {shown_names(sorted(dummies))} has no labels: Roboflow's group name")
    return names


def _dummies(files: Sequence[_File]) -> set[str]:
    """Roboflow's category 0, which only names the group of the others and has no labels."""
    used = {
        (i, whole_number(each.get("category_id")))
        for i, file in enumerate(files)
        for each in file.annotations
        if isinstance(each, dict)
    }
    dummies: set[str] = set()
    for i, file in enumerate(files):
        rows = _categories(file)
        first, others = rows[0], rows[1:]
        groups = {group for _, _, group in others}
        is_group = first[2] == "none" and groups == {first[1]}
        if is_group and (i, first[0]) not in used:
            dummies.add(first[1])
        elif first[1] in dummies and (i, first[0]) in used:
            dummies.discard(first[1])
    by_name = {
        name for i, file in enumerate(files) for n, name, _ in _categories(file) if (i, n) in used
    }
    return dummies - by_name


def _places(file: _File, names: Sequence[str]) -> dict[int, int]:
    places = {name: i for i, name in enumerate(names)}
    return {number: places[name] for number, name, _ in _categories(file) if name in places}


def _check_order(names: list[str], root: Path) -> None:
    """Label Studio's export has notes.json or classes.txt beside it, in an order of their own."""
    lists = listed_classes(root)
    same = {source: order for source, order in lists.items() if set(order) == set(names)}
    one_order({"the categories by id": names, **same})


# Pictures and labels


def _read_file(
    file: _File, classes: _Classes, gathering: Gathering, outlines: bool, listed: set[Path]
) -> int:
    """Adds a file's pictures; the number of boxes without an outline."""
    name = gathering.name(file.path)
    entries = _entries(file, gathering)
    labels: dict[int, list[tuple[int, dict[str, Any]]]] = {number: [] for number in entries}
    for i, row in enumerate(file.annotations):
        number = whole_number(row.get("image_id")) if isinstance(row, dict) else None
        if number is None or number not in labels:
            shown = row.get("image_id") if isinstance(row, dict) else row
            gathering.reject(f"{name}:annotations[{i}]", f"it has no image: {shown!r}"[:120])
        else:
            labels[number].append((i, row))
    paths = {number: _locate(row, file, gathering) for number, row in entries.items()}
    numbers = {path: number for number, path in reversed(paths.items()) if path}
    n_plain = 0
    for number, path in paths.items():
        if path is None:
            continue
        if numbers[path] != number:
            reason = "another image has the same file"
            gathering.reject(f"{name}:image {number}", reason)
    for path in gathering.reading(sorted(numbers)):
        listed.add(path)
        number = numbers[path]
        size = gathering.size(path)
        if size is None:
            continue
        entry = entries[number]
        named = (whole_number(entry.get("width")), whole_number(entry.get("height")))
        drawn, orientation = gathering.label_size(path, size, named)
        boxes = []
        for i, row in labels[number]:
            fit = _fit(row, drawn, classes, outlines)
            n_plain += fit.fault == NO_OUTLINE
            if box := gathering.take(fit, f"{name}:annotations[{i}]"):
                boxes.append(turned_box(box, orientation, drawn) if orientation else box)
        gathering.add(path, file.split, boxes, len(labels[number]), f"{name}:image {number}")
    return n_plain


def _entries(file: _File, gathering: Gathering) -> dict[int, dict[str, Any]]:
    """Image id -> its entry."""
    name = gathering.name(file.path)
    entries: dict[int, dict[str, Any]] = {}
    for i, row in enumerate(file.images):
        where = f"{name}:images[{i}]"
        number = whole_number(row.get("id")) if isinstance(row, dict) else None
        if number is None or not isinstance(row.get("file_name"), str):
            gathering.reject(where, "the image has no whole id and file_name")
        elif number in entries:
            gathering.reject(where, f"a second image with id {number}")
        else:
            entries[number] = row
    return entries


def _locate(row: Mapping[str, Any], file: _File, gathering: Gathering) -> Path | None:
    """The picture of an entry; None after rejecting it. A name that leads out of the data set is
    looked for by its last part alone."""
    name = row["file_name"]
    where = f"{gathering.name(file.path)}:image {row['id']}"
    last = name.replace("\\", "/").rpartition("/")[2]
    for each in dict.fromkeys((name, last)):
        for folder in file.folders:
            path = gathering.inside(folder, each)
            if path is not None and is_there(path) and path.is_file():
                return path
    leads_out = gathering.inside(gathering.root, name) is None
    fault = "leads out of the data set" if leads_out else "does not exist"
    gathering.reject(where, f"{name[:120]} {fault}")
    return None


NO_OUTLINE = "a box without an outline"


def _fit(row: Mapping[str, Any], size: tuple[int, int], classes: _Classes, outlines: bool) -> Fit:
    number = whole_number(row.get("category_id"))
    if number is None or number not in classes.places:
        return Fit(None, f"category {row.get('category_id')!r} is not declared"[:100])
    label = classes.places[number]
    crowd = row.get("iscrowd") in (1, True, "1")
    shape = row.get("segmentation")
    try:
        box = _box(row.get("bbox"), label, crowd)
        if shape and (outlines or box is None or crowd):
            return _fit_shape(shape, label, size, crowd)
        if box is None:
            return Fit(None, "it has no bbox of four numbers")
        return Fit(None, NO_OUTLINE) if outlines and not crowd else fit_box(box, size)
    except (TypeError, ValueError, KeyError, OverflowError) as fault:
        return Fit(None, f"the label is malformed: {fault}"[:120])


def _box(values: Any, label: int, crowd: bool) -> Box | None:
    """Of x, y, width and height. Raises ValueError."""
    if not isinstance(values, list) or len(values) != 4:
        return None
    x, y, w, h = (float(value) for value in values)
    if w <= 0 or h <= 0:
        raise ValueError(f"the box has no area: width {w:g}, height {h:g}")
    return Box(label, x, y, x + w, y + h, crowd)


def _fit_shape(shape: Any, label: int, size: tuple[int, int], crowd: bool) -> Fit:
    """Polygons, or runs in either of COCO's forms."""
    if isinstance(shape, list):
        polygons = shape if isinstance(shape[0], list) else [shape]
        return fit_polygons(label, [[float(n) for n in each] for each in polygons], size, crowd)
    counts = shape["counts"]
    runs = coco_counts(counts) if isinstance(counts, str) else [int(n) for n in counts]
    return fit_runs(label, runs, size, crowd)


def _unlisted(files: Sequence[_File], listed: set[Path], gathering: Gathering) -> None:
    folders = {path.parent for path in listed} | {file.path.parent for file in files}
    others = sorted({path for folder in folders for path in pictures_below(folder)} - listed)
    if others:
        shown = ", ".join(gathering.name(path) for path in others[:3])
        gathering.note(f"{len(others):,} pictures stand in no JSON and are not used: {shown}")
