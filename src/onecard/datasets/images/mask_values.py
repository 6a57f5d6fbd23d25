"""What the values of masks mean: ids, levels of grey or colours -> classes."""

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onecard.datasets.images.class_lists import listed_classes, shown_names
from onecard.datasets.images.gathering import class_list, read_text, unique_names, whole_number
from onecard.errors import DataError

COLOUR = 1 << 24
"""Added to r << 16 | g << 8 | b, so that a colour is never taken for an id."""
MAX_CLASSES = 256
MAX_COLOURS = 64
"""More colours without a list are a photo, or a drawing with soft edges."""
VOID = 255
"""The value that VOC, Cityscapes and others give to pixels that do not count."""
MAX_ID = 64
"""Largest value that is taken for a class id beside VOID where no list says so."""
SOFT_SHARE = 0.5
"""Levels of grey are noise where 0 and 255 hold more than this share of all pixels."""
LEVEL_SHARE = 0.003
"""Share of the pixels from which a value amid noise is a level of its own."""
NOISE = 40
"""Widest distance (of 255) between a level and a value that JPEG or a soft edge made of it."""

BACKGROUND = "background"
LISTS = ("codes.txt", "label_names.txt")
COLOUR_LISTS = ("labelmap.txt", "class_dict.csv", "_classes.csv")


@dataclass
class MaskClasses:
    """Classes of a set of masks."""

    names: list[str]
    values: dict[int, int]
    """Value -> class; what is missing is ignored."""
    notes: list[str] = field(default_factory=list)


@dataclass
class _Listed:
    """What files beside the masks say."""

    names: list[str]
    source: str = ""
    keys: dict[int, int] = field(default_factory=dict)
    """Value or colour -> place in names, where the file says it."""


def classes_of(histogram: Counter[int], lossy: bool, root: Path) -> MaskClasses:
    """Classes for all values that stand in masks; `lossy`: they are JPEG files.

    Raises DataError for masks of one value, and for pictures that are no masks.
    """
    listed = _listed(root)
    greys = {key: _grey(key) for key in histogram}
    if any(value is None for value in greys.values()) and any(k >= COLOUR for k in histogram):
        return _of_colours(histogram, lossy, listed)
    if listed.keys and min(listed.keys) >= COLOUR and set(histogram) <= set(listed.keys):
        return _of_colours(histogram, lossy, listed)
    levels: Counter[int] = Counter()
    for key, value in greys.items():
        levels[value if value is not None else key] += histogram[key]
    classes = _of_levels(levels, lossy, listed)
    values = {
        key: classes.values[value]
        for key, value in greys.items()
        if value is not None and value in classes.values
    }
    return MaskClasses(classes.names, values, classes.notes)


def _grey(key: int) -> int | None:
    """The level of a grey colour, or the value itself; None for a colour."""
    if key < COLOUR:
        return key
    red, green, blue = rgb_of(key)
    return red if red == green == blue else None


def rgb_of(key: int) -> tuple[int, int, int]:
    return key >> 16 & 255, key >> 8 & 255, key & 255


# Lists of classes


def _listed(root: Path) -> _Listed:
    """Of labelmap.txt (CVAT), class_dict.csv, _classes.csv (Roboflow), else of a list of names."""
    for name in COLOUR_LISTS:
        for path in (root / name, *sorted(root.glob(f"*/{name}"))):
            if path.is_file() and (listed := _colour_list(path)):
                return listed
    lists = listed_classes(root)
    for name in LISTS:
        if (root / name).is_file():
            lists[name] = class_list(root / name)
    source = next((each for each in lists if lists[each]), "")
    return _Listed(unique_names(lists.get(source, [])), source)


def _colour_list(path: Path) -> _Listed | None:
    """`name:r,g,b:parts:actions`, `name,r,g,b` or `value,name` a line."""
    names: list[str] = []
    keys: dict[int, int] = {}
    is_table = path.suffix == ".csv"
    text = read_text(path)
    try:
        rows = list(csv.reader(io.StringIO(text)))[1:] if is_table else []
    except csv.Error:
        return None
    lines = [] if is_table else [line for line in text.splitlines() if line.strip()]
    for line in lines:
        parts = line.rsplit(":", 3) if line.count(":") >= 3 else line.split(":")
        rows.append([parts[0], *re.split(r"[,\s]+", parts[1])] if len(parts) > 1 else parts)
    for cells in rows:
        row = [cell.strip() for cell in cells]
        if not row or not row[0] or row[0].startswith("#"):
            continue
        numbers = [whole_number(cell) for cell in row[1:4]]
        if len(numbers) == 3 and all(n is not None and 0 <= n < 256 for n in numbers):
            red, green, blue = (n or 0 for n in numbers)
            keys[COLOUR | red << 16 | green << 8 | blue] = len(names)
            names.append(row[0])
        elif len(row) == 2 and (value := whole_number(row[0])) is not None:
            keys[value] = len(names)
            names.append(row[1])
        elif not is_table:
            names.append(row[0])
    return _Listed(unique_names(names), path.name, keys) if names else None


# Levels of grey


def _of_levels(levels: Counter[int], lossy: bool, listed: _Listed) -> MaskClasses:
    notes = []
    nearest = {value: value for value in levels}
    if _is_noisy(levels, lossy):
        nearest = _denoised(levels)
        kept = sorted(set(nearest.values()))
        n = len(levels) - len(kept)
        shown = ", ".join(map(str, kept))
        notes.append(f"{n} values of the masks are noise; the nearest of {shown} counts")
        merged: Counter[int] = Counter()
        for value, count in levels.items():
            merged[nearest[value]] += count
        levels = merged
    values = sorted(levels)
    if len(values) > MAX_CLASSES:
        raise _no_masks(f"they have {len(values):,} different values")
    if listed.names:
        names, ids = _by_list(values, levels, listed, notes)
    else:
        names, ids = _by_value(values, notes)
    if len(set(ids.values())) < 2:
        share = f"{max(levels.values()) / max(1, sum(levels.values())):.0%}"
        raise _no_masks(f"value {max(levels, key=levels.__getitem__)} fills {share} of them")
    return MaskClasses(names, {v: ids[near] for v, near in nearest.items() if near in ids}, notes)


def _by_list(
    values: Sequence[int], levels: Counter[int], listed: _Listed, notes: list[str]
) -> tuple[list[str], dict[int, int]]:
    """Value -> class by the list: by what it says of values, by place, or in the values' order."""
    names = list(listed.names)
    by_value = {key: i for key, i in listed.keys.items() if key < COLOUR}
    real = [value for value in values if value != VOID]
    has_background = names[0].lower() in (BACKGROUND, "_background_", "bg", "unlabeled")
    if by_value:
        ids = {value: by_value[value] for value in values if value in by_value}
    elif values and values[-1] < len(names):
        ids = {value: value for value in values}
    elif 0 in values and not has_background and _counts_from_one(values, names):
        names = [BACKGROUND, *names]
        ids = {value: i for i, value in enumerate(values)} if len(values) == 2 else {}
        ids = ids or {value: value for value in values}
        notes.append(f"{listed.source} has no background: value 0 is it")
    elif real and real[-1] < len(names) and len(values) > 2:
        ids = {value: value for value in real}
    elif len(values) == len(names):
        ids = {value: i for i, value in enumerate(values)}
        shown = ", ".join(map(str, values[:10]))
        notes.append(f"values {shown} of the masks are the classes of {listed.source} in order")
    else:
        ids = {value: value for value in values if value < len(names)}
    if others := [value for value in values if value not in ids]:
        share = sum(levels[value] for value in others) / max(1, sum(levels.values()))
        shown = shown_names([str(value) for value in others])
        notes.append(f"values {shown} are no class of {listed.source}: ignored ({share:.1%})")
    return names, ids


def _counts_from_one(values: Sequence[int], names: Sequence[str]) -> bool:
    return values[-1] == len(names) or (len(values) == 2 and len(names) == 1)


def _by_value(values: Sequence[int], notes: list[str]) -> tuple[list[str], dict[int, int]]:
    if len(values) == 2:
        notes.append(f"value {values[0]} is background, {values[1]} foreground")
        return [BACKGROUND, "foreground"], {values[0]: 0, values[1]: 1}
    real = [value for value in values if value != VOID]
    if len(real) < len(values) and len(real) > 1 and real[-1] <= MAX_ID:
        notes.append(f"value {VOID} is ignored, as masks mark what does not count")
        values = real
    names = [BACKGROUND if value == 0 else f"value {value}" for value in values]
    notes.append(f"no list names the classes: they are called {shown_names(names)}")
    return names, {value: i for i, value in enumerate(values)}


def _is_noisy(levels: Counter[int], lossy: bool) -> bool:
    """JPEG, or soft edges between 0 and 255."""
    if len(levels) <= 2 or max(levels) > 255:
        return False
    ends = (levels[0] + levels[255]) / max(1, sum(levels.values()))
    soft = levels[0] and levels[255] and ends > SOFT_SHARE and len(levels) > 32
    return lossy or bool(soft)


def _denoised(levels: Counter[int]) -> dict[int, int]:
    """Value -> the level that it came from: frequent values that lie apart, and the largest."""
    total = sum(levels.values())
    kept: list[int] = []
    for value, _ in levels.most_common():
        near = sum(levels[other] for other in range(value - 4, value + 5))
        apart = all(abs(value - other) > NOISE for other in kept)
        if apart and (near >= LEVEL_SHARE * total or not kept):
            kept.append(value)
    top = max(levels)
    if all(abs(top - other) > NOISE for other in kept) and len(kept) < 2:
        kept.append(top)  # a small object
    return {value: min(kept, key=lambda level: abs(level - value)) for value in levels}


# Colours


def _of_colours(histogram: Counter[int], lossy: bool, listed: _Listed) -> MaskClasses:
    colours = {key: i for key, i in listed.keys.items() if key >= COLOUR}
    notes: list[str] = []
    names = list(listed.names)
    if not colours:
        kept = _colours(histogram, lossy)
        black = COLOUR
        order = sorted(kept, key=lambda key: (key != black, key))
        names = [BACKGROUND if key == black else f"#{key - COLOUR:06x}" for key in order]
        colours = {key: i for i, key in enumerate(order)}
        if listed.names and len(listed.names) == len(order):
            notes.append(f"{listed.source} names the classes, but not their colours: not used")
        notes.append(f"no list names the colours: classes are called {shown_names(names)}")
    values, ignored = {}, 0
    for key, count in histogram.items():
        best = min(colours, key=lambda other: _distance(key, other))
        if key == best or (lossy and _distance(key, best) <= 3 * NOISE**2):
            values[key] = colours[best]
        elif key >= COLOUR:
            ignored += count
    if lossy:
        notes.append("the masks are JPEG: noisy colours count as the nearest one")
    if ignored:
        share = ignored / max(1, sum(histogram.values()))
        notes.append(f"colours that no class has are ignored ({share:.1%} of the pixels)")
    if len(set(values.values())) < 2:
        raise _no_masks("less than two classes have a colour in them")
    return MaskClasses(names, values, notes)


def _colours(histogram: Counter[int], lossy: bool) -> list[int]:
    total = sum(histogram.values())
    kept: list[int] = []
    for key, count in histogram.most_common():
        if lossy and (
            count < LEVEL_SHARE / 10 * total
            or any(_distance(key, other) <= 3 * NOISE**2 for other in kept)
        ):
            continue
        kept.append(key)
        if len(kept) > MAX_COLOURS:
            raise _no_masks(f"they have more than {MAX_COLOURS} colours")
    return kept


def _distance(a: int, b: int) -> int:
    return sum((x - y) ** 2 for x, y in zip(rgb_of(a), rgb_of(b), strict=True))


def _no_masks(why: str) -> DataError:
    return DataError(
        "the masks do not hold classes",
        why=why,
        fix="a mask has one value for each class, as PNG without smoothing; list the names in "
        "classes.txt, or colours in labelmap.txt as name:r,g,b::",
    )
