"""Reader of pictures with masks, and the masks' classes as arrays."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onecard.datasets.images import decode, geometry
from onecard.datasets.images.gathering import Gathering, pictures_below, split_in_path
from onecard.datasets.images.mask_values import BACKGROUND, COLOUR, classes_of
from onecard.datasets.images.records import ImageDataset, Picture
from onecard.datasets.images.split_lists import keep_listed, listed_splits
from onecard.errors import DataError, OneCardError

IMAGE_WORDS = {"image", "images", "img", "imgs", "jpegimages", "input", "inputs", "picture"}
IMAGE_WORDS |= {"pictures", "original", "originals", "raw", "rgb", "leftimg8bit", "photos", "x"}
MASK_WORDS = {"mask", "masks", "label", "labels", "annotation", "annotations", "annot", "gt"}
MASK_WORDS |= {"groundtruth", "truth", "seg", "segs", "segmentation", "segmentations", "target"}
MASK_WORDS |= {"targets", "manual", "segmentationclass", "gtfine", "labelids", "y"}
MASK_SUFFIX = re.compile(
    r"(?:[ _.-](?:masks?|labels?|labelids|seg|segmentation|gt|gtfine|annotation|manual\d?|target"
    r"|[lp]))+$",
    re.IGNORECASE,
)
IMAGE_SUFFIX = re.compile(r"[ _.-](?:image|img|training|leftimg8bit|sat|rgb)$", re.IGNORECASE)
PREFIX = re.compile(r"^(?:mask|label|seg|gt|image|img)[ _.-]+", re.IGNORECASE)
MAX_VALUES = 1 << 16
"""Different values of one mask; a photo has more."""
IGNORED = -1

Labels = NDArray[np.int16]


# Pairs


def find_pairs(root: Path, gathering: Gathering | None = None) -> list[tuple[Path, Path]]:
    """(picture, mask): of folders that are named alike but for images and masks (images/train and
    masks/train, train/image and train/label, train and train_masks), or of a.jpg and a_mask.png.

    With `gathering`, what has no partner is rejected.
    """
    folders: dict[tuple[str, ...], tuple[list[Path], list[Path]]] = {}
    for path in pictures_below(root):
        if "segmentationobject" in (part.lower() for part in path.parts):
            continue
        kind, key = _kind(path.parent.relative_to(root).parts)
        images, masks = folders.setdefault(key, ([], []))
        (masks if kind == "mask" else images).append(path)
    pairs = []
    for images, masks in folders.values():
        if not masks:  # in one folder, told apart by the name
            masks = [path for path in images if _is_mask_name(path, images)]
            images = sorted(set(images) - set(masks))
        if masks:
            pairs += _match(images, masks, gathering)
    return sorted(pairs)


def _kind(parts: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """mask, image or "", and the rest of the path, which a picture's and its mask's share."""
    kind, key = "", []
    for part in parts:
        words = [word for word in re.split(r"[ _.-]+", part.lower()) if word]
        words = [word for word in words if word != "ground"]
        if words and words[-1].endswith("annot") and words[-1] != "annot":
            words[-1:] = [words[-1].removesuffix("annot"), "annot"]
        rest = [word for word in words if word not in IMAGE_WORDS | MASK_WORDS]
        if set(words) & MASK_WORDS:
            kind = "mask"
        elif set(words) & IMAGE_WORDS and not kind:
            kind = "image"
        if rest:
            key.append("_".join(rest))
    return kind, tuple(key)


def _is_mask_name(path: Path, others: Iterable[Path]) -> bool:
    stem = MASK_SUFFIX.sub("", path.stem)
    return stem != path.stem and any(other.stem == stem for other in _stems(others).get(stem, ()))


def _stems(paths: Iterable[Path]) -> dict[str, list[Path]]:
    stems: dict[str, list[Path]] = {}
    for path in paths:
        stems.setdefault(path.stem, []).append(path)
    return stems


def _match(
    images: Sequence[Path], masks: Sequence[Path], gathering: Gathering | None
) -> list[tuple[Path, Path]]:
    """By the same stem, else by stems without _mask and its like, else by the last number."""
    left, rest = list(images), list(masks)
    pairs: list[tuple[Path, Path]] = []
    for image_key, mask_key in (
        (lambda path: path.stem, lambda path: path.stem),
        (lambda path: path.stem, lambda path: MASK_SUFFIX.sub("", path.stem)),
        (_plain_stem, _plain_stem),
        (_last_number, _last_number),
    ):
        by_key: dict[str, list[Path]] = {}
        for path in rest:
            by_key.setdefault(mask_key(path), []).append(path)
        keys = Counter(image_key(path) for path in left)
        for path in left:
            key = image_key(path)
            if key and keys[key] == 1 and len(by_key.get(key, ())) == 1:
                pairs.append((path, by_key[key][0]))
        used = {each for pair in pairs for each in pair}
        left = [path for path in left if path not in used]
        rest = [path for path in rest if path not in used]
    if gathering and pairs:
        for path in left:
            gathering.reject(gathering.name(path), "there is no mask for it")
        for path in rest:
            gathering.reject(gathering.name(path), "a mask without a picture")
    return pairs


def _plain_stem(path: Path) -> str:
    return PREFIX.sub("", IMAGE_SUFFIX.sub("", MASK_SUFFIX.sub("", path.stem)))


def _last_number(path: Path) -> str:
    numbers = re.findall(r"\d+", path.stem)
    return str(int(numbers[-1])) if numbers else ""


# Reading


def read(root: Path, gathering: Gathering) -> ImageDataset:
    """Raises DataError."""
    pairs = find_pairs(root, gathering)
    splits = listed_splits(root, gathering, ("Segmentation", "Main"))
    histogram: Counter[int] = Counter()
    colours, palettes = {}, _Palettes()
    lossy = 0
    masks = dict(pairs)
    for path in gathering.reading(list(masks)):
        mask = masks[path]
        size = gathering.size(path)
        if size is None:
            continue
        try:
            image = _open_mask(mask)
            values, by_colour = _histogram(image)
        except OneCardError as fault:
            gathering.reject(gathering.name(mask), fault.why)
            continue
        if image.size != size:
            shown = f"the mask has {image.size[0]}x{image.size[1]} pixels, its picture"
            gathering.reject(gathering.name(mask), f"{shown} {size[0]}x{size[1]}")
            continue
        histogram.update(values)
        colours[mask] = by_colour
        palettes.add(by_colour)
        lossy += mask.suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
        split = splits[path.stem][0] if path.stem in splits else ""
        if not splits:
            split = split_in_path(path.parent.relative_to(root))
        name = gathering.name(path)
        gathering.pictures.append(Picture(path, name, *size, split, mask=mask))
    if palettes.differ:
        histogram = Counter()
        for by_colour in colours.values():
            histogram.update({key: count for _, key, count in by_colour})
        gathering.note("the masks' palettes differ from file to file: their colours count")
    keep_listed(splits, {path.stem for path, _ in pairs}, gathering)
    if not gathering.pictures:
        return gathering.dataset("masks", ())  # refuses, with the reasons
    classes = classes_of(histogram, lossy * 2 > len(pairs), root)
    for note in classes.notes:
        gathering.note(note)
    return replace(
        gathering.dataset("masks", classes.names), mask_values=dict(sorted(classes.values.items()))
    )


class _Palettes:
    """Whether one index stands for several colours in the palettes of several masks."""

    def __init__(self) -> None:
        self.differ = False
        self._colours: dict[int, int] = {}

    def add(self, by_colour: Iterable[tuple[int, int, int]]) -> None:
        for index, colour, _ in by_colour:
            if self._colours.setdefault(index, colour) != colour:
                self.differ = True


def _open_mask(path: Path) -> Image.Image:
    """A mask with its values: palette indices as they are. Raises DataError, NotFound."""
    return decode.read_mask_image(path)


def _histogram(image: Image.Image) -> tuple[dict[int, int], list[tuple[int, int, int]]]:
    """Value -> pixels; and (index, colour, pixels) for a mask with a palette. Raises DataError."""
    counts = image.getcolors(MAX_VALUES)
    if counts is None:
        raise DataError(
            "the mask is a photo",
            why=f"it has more than {MAX_VALUES:,} different values",
            fix="give a mask with one value for each class",
        )
    pairs = [(value, count) for count, value in counts]
    if image.mode != "P":
        return {_key(value): count for value, count in pairs}, []
    palette = image.getpalette("RGB") or []
    colours = [*palette, *[0] * 768]
    by_colour = [
        (_key(index), _key(tuple(colours[3 * _key(index) : 3 * _key(index) + 3])), count)
        for index, count in pairs
    ]
    return {index: count for index, _, count in by_colour}, by_colour


def _key(value: Any) -> int:
    if isinstance(value, tuple):
        red, green, blue = (int(each) for each in value[:3])
        return COLOUR | red << 16 | green << 8 | blue
    return int(value)


# Arrays


def read_mask(path: Path, values: Mapping[int, int]) -> Labels:
    """A mask as HxW int16 of class numbers, -1 for pixels that are ignored.

    A key of `values` is a palette's index or a grey value, or COLOUR + r << 16 + g << 8 + b.
    Raises NotFound, DataError.
    """
    image = _open_mask(path)
    if image.mode == "P" and values and min(values) >= COLOUR:
        image = image.convert("RGB")
    raw = np.asarray(image).astype(np.int64)
    if raw.ndim == 3:
        raw = COLOUR | raw[..., 0] << 16 | raw[..., 1] << 8 | raw[..., 2]
    keys = np.array(sorted(values), np.int64)
    classes = np.array([values[key] for key in sorted(values)], np.int16)
    at = np.minimum(np.searchsorted(keys, raw), len(keys) - 1)
    return np.where(keys[at] == raw, classes[at], np.int16(IGNORED)).astype(np.int16)


def pixel_classes(dataset: ImageDataset) -> tuple[str, ...]:
    """Classes of pixels: those of the masks; of a set with outlines, background before its own."""
    is_outlined = not dataset.mask_values
    return (BACKGROUND, *dataset.classes) if is_outlined else dataset.classes


def pixel_labels(picture: Picture, dataset: ImageDataset) -> Labels:
    """HxW int16 of numbers in `pixel_classes`, -1 where pixels do not count.

    Of outlined objects, smaller ones lie on larger ones; regions of a crowd do not count.
    Raises NotFound, DataError.
    """
    if picture.mask is not None:
        return read_mask(picture.mask, dataset.mask_values)
    labels = np.zeros((picture.height, picture.width), np.int16)
    masks = [
        (box, geometry.object_mask(box, picture.width, picture.height)) for box in picture.boxes
    ]
    for box, mask in sorted(masks, key=lambda pair: (not pair[0].crowd, -int(pair[1].sum()))):
        labels[mask] = IGNORED if box.crowd else box.label + 1
    return labels
