"""Labelled pictures of any usual layout, recognised by what lies in the folder."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onecard.datasets.images import (
    coco,
    decode,
    folders,
    label_studio,
    masks,
    tables,
    voc,
    yolo,
    yolo_layout,
)
from onecard.datasets.images.gathering import Gathering, files_below, is_there
from onecard.datasets.images.records import ImageDataset
from onecard.errors import DataError, NotFound, unreadable_file
from onecard.reporting import Reporter

Task = Literal["detect", "classify", "segment"]

NEEDS = {"detect": "boxes", "segment": "outlines", "classify": "labels"}
"""What each task learns from."""
LAYOUTS = {
    "boxes": "YOLO (data.yaml, or images/ and labels/), COCO JSON, Pascal VOC XML, Label Studio "
    "JSON, or a CSV with xmin, ymin, xmax and ymax",
    "outlines": "images/ and masks/, YOLO or COCO with polygons, or Label Studio JSON",
    "labels": "a folder for each class, with or without train/ and val/ above, a CSV with filename "
    "and label, or Label Studio JSON with choices",
}


@dataclass(frozen=True)
class _Layout:
    """A layout that a folder holds, and what reads it."""

    name: str
    read: Callable[[Gathering], ImageDataset]


def read(location: str | Path, task: Task, reporter: Reporter | None = None) -> ImageDataset:
    """The data set of a folder or of its data.yaml, JSON or CSV, as the task needs it.

    What cannot be used is in `rejected`, with file and line; how it was read in `notes`. A file is
    opened only below the folder, or where the user's own data.yaml names it.
    Raises NotFound, DataError.
    """
    try:
        return _read(location, NEEDS[task], reporter or Reporter())
    except OSError as fault:
        raise unreadable_file(Path(fault.filename or location), fault) from None


def _read(location: str | Path, need: str, reporter: Reporter) -> ImageDataset:
    named = Path(location)
    path = Path(
        os.path.normpath(named.expanduser() if named.parts[:1] == ("~",) else named.absolute())
    )
    if not is_there(path):
        is_address = "://" in str(location)
        raise NotFound(
            f"there is no {location}",
            why="addresses are not opened" if is_address else "nothing lies at that path",
            fix="download and unpack it first" if is_address else "check the path",
        )
    layouts = _layouts_of_folder(path, need) if path.is_dir() else [_layout_of_file(path, need)]
    if not layouts:
        raise _unknown(path, need)
    gathering = Gathering(path if path.is_dir() else path.parent, reporter)
    if len(layouts) > 1:
        others = ", ".join(layout.name for layout in layouts[1:])
        gathering.note(f"read as {layouts[0].name}; it could also be read as {others}")
    return layouts[0].read(gathering)


def _layout_of_file(path: Path, need: str) -> _Layout:
    """Raises DataError."""
    outlines, suffix = need == "outlines", path.suffix.lower()
    has_shapes = need != "labels"
    if suffix in (".yaml", ".yml") and has_shapes:
        return _Layout("yolo", lambda g: yolo.read_yaml(path, g, outlines))
    if label_studio.is_label_studio(path):
        return _Layout("label-studio", lambda g: label_studio.read(path, g, need))
    if suffix == ".json" and has_shapes:
        return _Layout("coco", lambda g: coco.read([path], g, outlines))
    if suffix in (".csv", ".tsv") and not outlines:
        return _Layout("csv", lambda g: tables.read([path], g, has_shapes))
    if suffix in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".xz", ".bz2", ".zst"):
        raise DataError(
            f"{path} is an archive", why="pictures are read from a folder", fix="unpack it first"
        )
    raise _unknown(path, need)


def _layouts_of_folder(root: Path, need: str) -> list[_Layout]:
    """All that the folder can be read as for the task, the surest first. Raises DataError."""
    if need == "labels":
        return _label_layouts(root)
    outlines = need == "outlines"
    layouts = []
    if description := yolo_layout.find_yaml(root):
        layouts.append(_Layout("yolo", lambda g: yolo.read_yaml(description, g, outlines)))
    layouts += _label_studio(root, need)
    if files := coco.find_files(root):
        layouts.append(_Layout("coco", lambda g: coco.read(files, g, outlines)))
    if outlines and masks.find_pairs(root):
        layouts.append(_Layout("masks", lambda g: masks.read(root, g)))
    if voc.find_files(root):
        layouts.append(_Layout("voc", lambda g: voc.read(root, g, outlines)))
    if not description and yolo.has_labels(root):
        layouts.append(_Layout("yolo", lambda g: yolo.read_folder(root, g, outlines)))
    if not outlines and (files_csv := [p for p in tables.find_files(root) if tables.has_boxes(p)]):
        layouts.append(_Layout("csv", lambda g: tables.read(files_csv, g, True)))
    return layouts


def _label_studio(root: Path, need: str) -> list[_Layout]:
    exports = [path for path in sorted(root.glob("*.json")) if label_studio.is_label_studio(path)]
    if len(exports) > 1:
        raise DataError(
            f"{root} holds several exports of Label Studio",
            why=f"there are {', '.join(path.name for path in exports[:5])}",
            fix="name the one to use",
        )
    if not exports:
        return []
    return [_Layout("label-studio", lambda g: label_studio.read(exports[0], g, need))]


def _label_layouts(root: Path) -> list[_Layout]:
    layouts = _label_studio(root, "labels")
    if files := [path for path in tables.find_files(root) if not tables.has_boxes(path)]:
        layouts.append(_Layout("csv", lambda g: tables.read(files, g, False)))
    top = folders.class_root(root)
    below = folders.subfolders(top)
    if folders.has_classes(top, below):
        layouts.append(_Layout("folders", lambda g: folders.read(root, g)))
    return layouts


def _unknown(path: Path, need: str) -> DataError:
    """The refusal of a layout that is not known, with what lies there."""
    if path.is_file():
        why = "it is a picture" if decode.is_picture(path) else f"it is a {path.suffix or 'file'}"
    else:
        counts = Counter(each.suffix.lower() or "without ending" for each in files_below(path))
        shown = ", ".join(f"{n:,} {suffix}" for suffix, n in counts.most_common(6))
        why = f"it holds {shown or 'no file'}, and no labels of a known form beside the pictures"
    return DataError(f"{path} is not a data set with {need}", why=why, fix=f"give {LAYOUTS[need]}")
