"""Where the pictures of a YOLO data set lie and what its class numbers mean: data.yaml, Darknet's
obj.data, or folders alone."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from onecard.datasets.images import decode
from onecard.datasets.images.class_lists import listed_classes, one_order, shown_names
from onecard.datasets.images.gathering import (
    SPLIT_WORDS,
    Gathering,
    class_list,
    is_there,
    pictures_below,
    read_text,
    split_in_path,
    split_of,
    unique_names,
    whole_number,
)
from onecard.errors import DataError

MAX_YAML_BYTES = 8 << 20
SPLIT_KEYS = ("train", "val", "valid", "validation", "test")


@dataclass
class YoloLayout:
    """A YOLO data set before its labels are read."""

    base: Path
    pictures: list[tuple[Path, str]]
    """With their splits."""
    classes: list[str] = field(default_factory=list)
    """Empty where no file names them."""
    numbers: dict[int, int] = field(default_factory=dict)
    """Class number in the labels -> place in `classes`."""
    keypoints: int = 0
    """Columns of key points after each box."""


def is_yaml(path: Path) -> bool:
    """Whether a file is a data set's description: a .yaml with folders and names."""
    if path.suffix.lower() not in (".yaml", ".yml") or not path.is_file():
        return False
    try:
        row = _load(path)
    except DataError:
        return path.stem.lower() in ("data", "dataset")  # broken: refused where it is read
    return bool({"names", "nc"} & set(row)) and bool(set(SPLIT_KEYS) & set(row))


def find_yaml(folder: Path) -> Path | None:
    """data.yaml, else the only description in the folder. Raises DataError for several."""
    paths = [path for path in sorted(folder.iterdir()) if is_yaml(path)]
    usual = [path for path in paths if path.stem.lower() in ("data", "dataset")]
    if len(usual or paths) > 1:
        raise DataError(
            f"{folder} holds several data sets",
            why=f"there are {', '.join(path.name for path in usual or paths)}",
            fix="name the one to use",
        )
    return next(iter(usual or paths), None)


def layout_of_yaml(path: Path, gathering: Gathering) -> YoloLayout:
    """Raises DataError."""
    row = _load(path)
    classes, numbers = _class_names(path, row, gathering)
    lists = {path.name: classes} | listed_classes(path.parent)
    one_order(lists)
    places = {key: _places(row[key], path, key) for key in SPLIT_KEYS if row.get(key)}
    if not places:
        raise DataError(
            f"{path} names no pictures",
            why="it has no train: or val:",
            fix="write train: images/train, a folder below the one of this file",
        )
    base = _base(path, row, places)
    pictures: list[tuple[Path, str]] = []
    for key, names in places.items():
        split = SPLIT_WORDS[key]
        for name in names:
            place = _resolve(base, name, gathering)
            paths = _pictures_at(place, base, gathering) if place else []
            pictures.extend((each, split) for each in paths)
            fault = "holds no pictures" if place else "does not exist"
            if not paths and split == "test":
                gathering.note(f"{path.name}: {key}: {name[:120]} {fault}")
            elif not paths:
                raise DataError(
                    f"{path}: {key}: {name[:120]} {fault}",
                    why=f"it was looked for in {base}",
                    fix="correct the path, which counts from path: or from the file's folder",
                )
    shape = row.get("kpt_shape")
    if isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) for n in shape):
        gathering.note("the key points of the labels are not used")
        return YoloLayout(base, pictures, classes, numbers, shape[0] * shape[1])
    return YoloLayout(base, pictures, classes, numbers)


def layout_of_folder(root: Path, gathering: Gathering) -> YoloLayout:
    """images/ and labels/, or a .txt beside each picture; classes.txt, obj.names or notes.json for
    the names. Raises DataError where they disagree."""
    classes = unique_names(one_order(listed_classes(root)))
    pictures = _darknet_lists(root, gathering)
    if not pictures:
        pictures = [
            (path, split_in_path(path.parent.relative_to(root))) for path in pictures_below(root)
        ]
    return YoloLayout(root, pictures, classes, {i: i for i in range(len(classes))})


def _darknet_lists(root: Path, gathering: Gathering) -> list[tuple[Path, str]]:
    """Of train.txt and valid.txt beside Darknet's obj.data."""
    if not (root / "obj.data").is_file():
        return []
    lists = [path for path in sorted(root.glob("*.txt")) if split_of(path.stem)]
    return [
        (picture, split_of(path.stem))
        for path in lists
        for picture in _listed_pictures(path, root, gathering)
    ]


# data.yaml


def _load(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_YAML_BYTES:
        raise _no_yaml(path, f"it has more than {MAX_YAML_BYTES >> 20} MiB")
    try:
        row = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as fault:
        raise _no_yaml(path, " ".join(str(fault).split())[:200]) from None
    if not isinstance(row, dict):
        raise _no_yaml(path, "it holds no keys")
    return {str(key): value for key, value in row.items()}


def _no_yaml(path: Path, why: str) -> DataError:
    return DataError(
        f"{path} is not a description of a YOLO data set",
        why=why,
        fix="write path:, train:, val: and names: as Ultralytics has them",
    )


def _class_names(
    path: Path, row: dict[str, Any], gathering: Gathering
) -> tuple[list[str], dict[int, int]]:
    """Names in the order of their numbers, and number -> place."""
    names, n = row.get("names"), whole_number(row.get("nc"))
    if isinstance(names, str):
        place = gathering.inside(path.parent, names)
        if place is None or not is_there(place) or place.is_dir():
            raise _no_yaml(path, f"names: {names[:60]} is neither a list nor a file beside it")
        names = class_list(place)
    if names is None and n is not None and 0 < n < 10_000:
        gathering.note(f"{path.name} has no names: the classes are called by their numbers")
        names = [str(i) for i in range(n)]
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise _no_yaml(path, "it has no names:, the list of classes")
    numbers = [whole_number(key) for key in names]
    if any(number is None or number < 0 for number in numbers):
        raise _no_yaml(path, "the keys of names: must be the class numbers")
    if any(isinstance(name, list | dict | set) or name is None for name in names.values()):
        raise _no_yaml(path, "a class in names: has no plain name")
    pairs = sorted(
        (number or 0, str(name)) for number, name in zip(numbers, names.values(), strict=True)
    )
    classes = unique_names([name for _, name in pairs])
    if n is not None and n != len(classes):
        gathering.note(f"{path.name} says nc: {n} and names {len(classes)} classes; names: counts")
    if [number for number, _ in pairs] != list(range(len(pairs))):
        gathering.note(f"{path.name} leaves class numbers out: they were closed up")
    return classes, {number: i for i, (number, _) in enumerate(pairs)}


def _places(value: Any, path: Path, key: str) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) for each in values):
        raise _no_yaml(path, f"{key}: must be a folder, a list of folders or a .txt")
    return values


def _base(path: Path, row: dict[str, Any], places: dict[str, list[str]]) -> Path:
    """Where the places count from: `path:` below the file's folder, the folder above it or the
    current one, else the file's folder: exports keep the path of the machine they were made on."""
    named = str(row.get("path") or "").strip()
    bases = [path.parent / named, path.parent.parent / named, Path(named)] if named else []
    first = next(iter(places.values()))[0]
    for base in bases:
        if is_there(base / first):
            return Path(os.path.normpath(base))
    return path.parent


def _resolve(base: Path, name: str, gathering: Gathering) -> Path | None:
    """A folder or list that the user's own file names. Roboflow writes ../train/images and means
    train/images."""
    name = name.strip().replace("\\", "/")
    inner = name
    while inner.startswith(("../", "./")):
        inner = inner.partition("/")[2]
    if inner != name and inner and is_there(base / inner):
        if name.startswith("../"):
            gathering.note(f"{name} was taken for {inner}, as Roboflow means it")
        return base / inner
    home = str(Path.home()) + name[1:] if name.startswith("~/") else name
    place = Path(os.path.normpath(base / home))
    return place if is_there(place) else None


def _pictures_at(place: Path, base: Path, gathering: Gathering) -> list[Path]:
    if place.is_dir():
        return pictures_below(place)
    if place.suffix.lower() == ".txt":
        return _listed_pictures(place, base, gathering)
    return [place] if decode.is_picture(place) else []


def _listed_pictures(path: Path, base: Path, gathering: Gathering) -> list[Path]:
    """Of a list with a picture a line; what leads out of the data set is rejected."""
    pictures = []
    roots = [os.path.normpath(each) for each in (base, path.parent, gathering.root)]
    for number, line in enumerate(gathering.text(path).split("\n"), 1):
        name = line.strip().replace("\\", "/")
        if not name:
            continue
        inner = name.partition("/")[2]
        names = [name, inner or name] if not name.startswith("/") else [name]  # Darknet's data/
        places = [Path(os.path.normpath(Path(root) / each)) for each in names for root in roots]
        safe = [each for each in places if any(each.is_relative_to(root) for root in roots)]
        picture = next((each for each in safe if is_there(each) and each.is_file()), None)
        where = f"{gathering.name(path)}:{number}"
        if picture is not None:
            pictures.append(picture)
        elif not safe:
            gathering.reject(where, f"{name[:120]} leads out of the data set")
        else:
            gathering.reject(where, f"there is no picture {name[:120]}")
    return pictures


def shown_numbers(numbers: dict[int, int], classes: list[str]) -> str:
    """For a refusal of a class number.

    >>> shown_numbers({0: 0, 2: 1}, ["cat", "dog"])
    '0 to 2 (cat, dog)'
    """
    return f"{min(numbers)} to {max(numbers)} ({shown_names(classes, 4)})"
