"""Reader of YOLO's text labels: `class x y w h` or `class x y x y ...`, in shares of a picture."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from onecard.datasets.images.gathering import (
    CLASS_FILES,
    Gathering,
    files_below,
    head_of,
    pictures_below,
    whole_number,
)
from onecard.datasets.images.geometry import Fit, fit_box, fit_polygons
from onecard.datasets.images.records import Box, ImageDataset
from onecard.datasets.images.yolo_layout import (
    YoloLayout,
    layout_of_folder,
    layout_of_yaml,
    shown_numbers,
)
from onecard.errors import DataError

OVER = 0.01
"""Shares so little outside 0..1 come from rounding."""
NO_LABELS = {*CLASS_FILES, "train.txt", "val.txt", "valid.txt", "test.txt", "readme.txt"}
MAX_UNNAMED = 1000
"""Numbers above are no classes, where no file names them."""
MIN_ROWS = 4
"""Fewer rows do not show whether they hold corners."""


@dataclass
class _Corners:
    """Whether rows make sense as corners x0 y0 x1 y1 rather than as centre and size."""

    rows: int = 0
    centres_fail: int = 0
    corners_hold: int = 0

    def add(self, a: float, b: float, c: float, d: float) -> None:
        self.rows += 1
        over = 2 * OVER
        ends = (a - c / 2, b - d / 2, a + c / 2, b + d / 2)
        self.centres_fail += min(ends) < -over or max(ends) > 1 + over
        self.corners_hold += c > a and d > b and min(a, b) >= -OVER and max(c, d) <= 1 + OVER

    @property
    def likely(self) -> bool:
        most = self.corners_hold >= 0.98 * self.rows and self.centres_fail > 0.5 * self.rows
        return self.rows >= MIN_ROWS and most


@dataclass
class _Labels:
    """What reading the label files needs and counts."""

    layout: YoloLayout
    gathering: Gathering
    outlines: bool
    """Objects need an outline."""
    corners: _Corners = field(default_factory=_Corners)
    boxes_only: int = 0


def read_yaml(path: Path, gathering: Gathering, outlines: bool) -> ImageDataset:
    """By a data.yaml. Raises DataError."""
    return _read(layout_of_yaml(path, gathering), gathering, outlines)


def read_folder(root: Path, gathering: Gathering, outlines: bool) -> ImageDataset:
    """By folders alone. Raises DataError."""
    return _read(layout_of_folder(root, gathering), gathering, outlines)


def _read(layout: YoloLayout, gathering: Gathering, outlines: bool) -> ImageDataset:
    files = {path: _label_file(path, layout.base) for path, _ in layout.pictures}
    if not layout.classes:
        _number_classes(layout, [file for file in files.values() if file], gathering)
    labels = _Labels(layout, gathering, outlines)
    splits = dict(reversed(layout.pictures))
    listed = [path for path, _ in layout.pictures]
    if len(splits) < len(listed):
        gathering.count("entries name a picture again; each counts once", len(listed) - len(splits))
    for path in gathering.reading(list(dict.fromkeys(listed))):
        _read_picture(path, splits[path], files[path], labels)
    _orphans(files, layout.base, gathering)
    if labels.corners.likely:
        raise DataError(
            f"the labels of {gathering.root} are not in YOLO's form",
            why=f"{labels.corners.centres_fail:,} of {labels.corners.rows:,} boxes reach out of "
            "their picture as centre and size, and nearly all make sense as corners x0 y0 x1 y1",
            fix="write centre x, centre y, width and height, as shares of the picture",
        )
    if outlines and labels.boxes_only and not any(picture.boxes for picture in gathering.pictures):
        raise DataError(
            f"{gathering.root} has boxes but no outlines",
            why="segmentation needs lines of class x y x y x y ...",
            fix="train a detector on it, or export the labels as polygons",
        )
    if layout.base != gathering.root:
        gathering.note(f"pictures are taken from {layout.base}, as the yaml says")
    return gathering.dataset("yolo", layout.classes)


def _read_picture(path: Path, split: str, file: Path | None, labels: _Labels) -> None:
    gathering = labels.gathering
    size = gathering.size(path)
    if size is None:
        return
    if file is None:
        gathering.count("pictures have no label file: they count as pictures without objects")
        gathering.add(path, split, (), 0)
        return
    n_faults = len(gathering.rejected)
    text = gathering.text(file)
    broken_file = len(gathering.rejected) > n_faults
    boxes: list[Box] = []
    lines: dict[tuple[str, ...], int] = {}
    for number, words in _words(text):
        where = f"{gathering.name(file)}:{number}"
        if tuple(words) in lines:
            gathering.reject(where, f"the same label as in line {lines[tuple(words)]}")
            continue
        lines[tuple(words)] = number
        if box := gathering.take(_label(words, size, labels), where):
            boxes.append(box)
    gathering.add(path, split, boxes, len(lines) + broken_file)


def _words(text: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if words := line.replace(",", " ").split():
            yield number, words


def _label(words: list[str], size: tuple[int, int], labels: _Labels) -> Fit:
    """One line, checked."""
    layout = labels.layout
    if len(words) < 5:
        return Fit(None, f"{len(words)} columns: class x y w h has five")
    try:
        values = [float(word) for word in words]
    except ValueError:
        return Fit(None, f"a column is no number: {' '.join(words)[:80]}")
    if not all(map(math.isfinite, values)):
        return Fit(None, f"a column is not a finite number: {' '.join(words)[:80]}")
    number = whole_number(values[0])
    if number is None or number not in layout.numbers:
        known = shown_numbers(layout.numbers, layout.classes) if layout.numbers else "none"
        return Fit(None, f"class {words[0][:20]} is not declared: there are {known}")
    label, shares = layout.numbers[number], values[1:]
    if layout.keypoints and len(shares) >= 4 + layout.keypoints:
        shares = shares[:4]
    if len(shares) in (4, 5):  # a fifth number is a detector's confidence
        return _box(label, shares[:4], size, labels)
    points = shares[: len(shares) // 2 * 2]
    if fault := _outside(points):
        return Fit(None, fault)
    width, height = size
    pixels = [value * (height if i % 2 else width) for i, value in enumerate(points)]
    return fit_polygons(label, [pixels], size)


def _box(label: int, shares: list[float], size: tuple[int, int], labels: _Labels) -> Fit:
    x, y, w, h = shares
    if labels.outlines:
        labels.boxes_only += 1
        return Fit(None, "a box without an outline")
    if fault := _outside(shares):
        return Fit(None, fault)
    labels.corners.add(x, y, w, h)
    if w <= 0 or h <= 0:
        return Fit(None, f"the box has no area: width {w:g}, height {h:g}")
    width, height = size
    corners = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
    return fit_box(Box(label, *corners), size)


def _outside(shares: list[float]) -> str:
    """Why numbers are no shares of the picture; empty where they are."""
    if min(shares) >= -OVER and max(shares) <= 1 + OVER:
        return ""
    worst = max(shares, key=lambda value: abs(value - 0.5))
    hint = "; they look like pixels" if max(shares) > 2 else ""
    return f"coordinate {worst:g} is outside 0..1{hint}"


# Label files


def _label_file(picture: Path, base: Path) -> Path | None:
    """labels/ in the place of the last images/ of the path, else a .txt beside the picture, else
    one in a labels folder beside the picture's."""
    return next((path for path in _label_places(picture, base) if path.is_file()), None)


def _label_places(picture: Path, base: Path) -> list[Path]:
    places = []
    parts = picture.parts
    start = len(base.parts) if picture.is_relative_to(base) else 0
    below = [i for i in range(start, len(parts) - 1) if parts[i].lower() == "images"]
    if not below and base.name.lower() == "images" and start:
        below = [start - 1]
    for i in reversed(below):
        for word in ("labels", "Labels"):
            places.append(Path(*parts[:i], word, *parts[i + 1 :]))
    places += [picture, picture.parent / "labels" / picture.name]
    places += [picture.parent.parent / "labels" / picture.name]
    return [path.with_suffix(".txt") for path in places]


def _orphans(files: dict[Path, Path | None], base: Path, gathering: Gathering) -> None:
    """Rejects label files without a picture, in the folders where labels were looked for."""
    used = {path for path in files.values() if path}
    folders = {path.parent for path in used}
    folders |= {_label_places(picture, base)[0].parent for picture in files}
    folders.add(base / "labels")
    stems = {path.with_suffix("") for path in files}
    candidates = {path for folder in folders if folder.is_dir() for path in files_below(folder)}
    for path in sorted(candidates - used):
        if path.suffix.lower() != ".txt" or path.name.lower() in NO_LABELS:
            continue
        if path.with_suffix("") in stems or not _starts_as_label(path):
            continue
        gathering.reject(gathering.name(path), "a label file without a picture of its name")


def _starts_as_label(path: Path) -> bool:
    """Whether a text begins with a number or is empty: notes and licences lie around too."""
    words = head_of(path, 200).split()
    return not words or whole_number(words[0].decode("ascii", "replace")) is not None


def _number_classes(layout: YoloLayout, files: list[Path], gathering: Gathering) -> None:
    """Classes called by the numbers that stand in the labels, where no file names them."""
    numbers: set[int] = set()
    for file in files:
        n_faults = len(gathering.rejected)
        text = gathering.text(file)
        del gathering.rejected[n_faults:]  # rejected when its picture is read
        for _, words in _words(text):
            number = whole_number(words[0])
            if len(words) >= 5 and number is not None and 0 <= number < MAX_UNNAMED:
                numbers.add(number)
    gathering.note("no data.yaml or classes.txt names the classes: they are called by numbers")
    layout.classes = [str(number) for number in sorted(numbers)]
    layout.numbers = {number: i for i, number in enumerate(sorted(numbers))}


def has_labels(root: Path) -> bool:
    """Whether a folder without a data.yaml has label files: a .txt of numbers for some picture."""
    files = [_label_file(path, root) for path in pictures_below(root)[:2000]]
    labels = [file for file in files if file is not None]
    return any(_starts_as_label(file) for file in labels)
