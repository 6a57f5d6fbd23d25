"""Reader of a folder for each class, with or without train, val and test above them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from onecard.datasets.images import decode
from onecard.datasets.images.gathering import SPLIT_WORDS, Gathering, pictures_below, split_of
from onecard.datasets.images.records import ImageDataset, Picture
from onecard.errors import DataError


def subfolders(folder: Path) -> list[Path]:
    """Visible ones that hold pictures."""
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and not _is_hidden(path)]
    return [path for path in folders if pictures_below(path)]


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name == "__MACOSX"


LAYOUT_FOLDERS = {"images", "image", "jpegimages", "labels", "annotations", "masks", "mask"}
LAYOUT_FOLDERS |= {"segmentationclass", "segmentationobject", "imagesets"}


def has_classes(top: Path, below: Sequence[Path]) -> bool:
    """Whether folders are classes, or splits with classes in them, and no parts of another layout:
    train2017 and val2017, images and masks."""
    has_splits = any(path.name.lower() in SPLIT_WORDS for path in below)
    if has_splits:
        inner = {each.name for path in below for each in subfolders(path)}
    else:
        inner = {path.name for path in below}
    classes = {name for name in inner if not split_of(name) and name.lower() not in LAYOUT_FOLDERS}
    return bool(classes) and (has_splits or len(inner) > 1)


def class_root(root: Path) -> Path:
    """The folder whose subfolders are splits or classes: an archive often adds one around it."""
    place = root
    for _ in range(4):
        below = subfolders(place)
        pictures_here = any(decode.is_picture(path) for path in place.iterdir())
        if len(below) != 1 or pictures_here or not subfolders(below[0]):
            return place
        if below[0].name.lower() in SPLIT_WORDS:
            return place
        place = below[0]
    return place


def read(root: Path, gathering: Gathering) -> ImageDataset:
    """Raises DataError for less than two classes."""
    top = class_root(root)
    folders = subfolders(top)
    splits = [folder for folder in folders if folder.name.lower() in SPLIT_WORDS]
    classes: dict[str, list[tuple[Path, str]]] = {}
    loose = [path for path in sorted(top.iterdir()) if decode.is_picture(path)]
    if splits and len(splits) < len(folders):
        others = [folder.name for folder in folders if folder not in splits]
        gathering.note(f"beside {splits[0].name}, these folders are not used: {', '.join(others)}")
    for folder in splits or [top]:
        split = SPLIT_WORDS.get(folder.name.lower(), "") if splits else ""
        loose += [path for path in sorted(folder.iterdir()) if decode.is_picture(path) and splits]
        for each in subfolders(folder):
            pairs = [(path, split) for path in pictures_below(each)]
            classes.setdefault(each.name, []).extend(pairs)
    for path in loose:
        gathering.reject(gathering.name(path), "it lies in no folder of a class")
    names = sorted(classes)
    if len(names) < 2:
        raise DataError(
            f"{root} has {len(names) or 'no'} class{'es' if not names else ''}",
            why=f"classes are the folders below {top}: {', '.join(names) or 'none with pictures'}",
            fix="make a folder for each class, at least two",
        )
    folded = Counter(name.casefold() for name in names)
    if twins := [name for name in names if folded[name.casefold()] > 1]:
        gathering.note(f"classes differ in letter case only: {', '.join(twins)}")
    labels = {path: i for i, name in enumerate(names) for path, _ in classes[name]}
    by_path = {path: split for pairs in classes.values() for path, split in pairs}
    for path in gathering.reading(sorted(labels)):
        if size := gathering.size(path):
            gathering.pictures.append(
                Picture(path, gathering.name(path), *size, by_path[path], label=labels[path])
            )
    return gathering.dataset("folders", names)
