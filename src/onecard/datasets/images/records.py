"""What the readers of pictures give and the tasks take: pictures with boxes, labels or masks.

Boxes are in pixels of the upright picture (EXIF rotation applied), corners x0 y0 x1 y1.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Box:
    """One labelled object."""

    label: int
    """Number of its class in ImageDataset.classes."""
    x0: float
    y0: float
    x1: float
    y1: float
    crowd: bool = False
    """A region of many objects, as COCO's iscrowd: neither trained on nor counted against."""
    polygons: tuple[tuple[float, ...], ...] = ()
    """Outlines, each x y x y ... in pixels; empty for a plain box."""
    runs: tuple[int, ...] = ()
    """The object's pixels where they were painted, not outlined: lengths of runs down the columns
    of the whole picture, outside and inside by turns, outside first (COCO's uncompressed RLE)."""

    @property
    def area(self) -> float:
        """Of the rectangle (px^2)."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)


@dataclass(frozen=True)
class Picture:
    """One picture with what is known of it."""

    path: Path
    name: str
    """Its id: the path below the data set's root, with slashes; unique."""
    width: int
    height: int
    """Of the upright picture (px)."""
    split: str = ""
    """train, val or test as the data set says; empty where it does not."""
    boxes: tuple[Box, ...] = ()
    label: int = -1
    """The class of the whole picture; -1 where there is none."""
    mask: Path | None = None
    """A picture of the same size whose values are keys of ImageDataset.mask_values; what a value is
    says masks.read_mask."""
    group: str = ""
    """What it was cut from (a film, a burst, one frame in several exposures): pictures of one group
    stay on one side of a split. Empty for a picture of its own."""


@dataclass(frozen=True)
class RejectedLabel:
    """A label or picture that is not used, and why."""

    where: str
    """The file, with the line or entry where there is one: labels/a.txt:3."""
    reason: str

    def as_dict(self) -> dict[str, str]:
        return {"where": self.where, "reason": self.reason}


@dataclass
class ImageDataset:
    """A read data set."""

    root: Path
    form: str
    """The layout it was read as: yolo, coco, voc, label-studio, folders, csv, masks."""
    classes: tuple[str, ...]
    """Names in the order of their numbers: the one class map from labels to export."""
    pictures: list[Picture]
    rejected: list[RejectedLabel] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a user should know of how it was read."""
    mask_values: dict[int, int] = field(default_factory=dict)
    """Value in a mask -> class number; a value that is missing here is ignored in training."""

    def of_split(self, name: str) -> list[Picture]:
        return [picture for picture in self.pictures if picture.split == name]


@dataclass(frozen=True)
class Detection:
    """One object that a model found, in pixels of the upright picture."""

    label: int
    score: float
    """In [0, 1]."""
    x0: float
    y0: float
    x1: float
    y1: float
    polygons: tuple[tuple[float, ...], ...] = ()


def fingerprint(pictures: Iterable[Picture]) -> str:
    """sha256 over names, sizes and labels, in hex: the same for the same labels in any order."""
    rows: list[Any] = sorted(
        [
            picture.name,
            picture.width,
            picture.height,
            picture.label,
            [[b.label, b.x0, b.y0, b.x1, b.y1, b.crowd, b.polygons, b.runs] for b in picture.boxes],
            picture.mask.name if picture.mask else "",
        ]
        for picture in pictures
    )
    text = json.dumps(rows, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
