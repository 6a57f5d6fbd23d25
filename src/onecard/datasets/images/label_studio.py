"""Reader of Label Studio's JSON and JSON-MIN exports: rectangles, polygons, ellipses, brushes and
choices, in percent of the picture."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from onecard.datasets.images import decode
from onecard.datasets.images.class_lists import listed_classes, one_order
from onecard.datasets.images.gathering import Gathering, head_of, pictures_below, read_text
from onecard.datasets.images.geometry import (
    Fit,
    Mask,
    fit_box,
    fit_polygons,
    fit_runs,
    mask_runs,
    rotated_corners,
)
from onecard.datasets.images.records import Box, ImageDataset, Picture
from onecard.errors import DataError

HASH = re.compile(r"^[0-9a-f]{6,10}-")
"""What an upload's name is given in front."""
SHAPES = ("rectanglelabels", "polygonlabels", "ellipselabels", "brushlabels", "labels")
"""Keys of a value that name its classes."""


@dataclass
class _Result:
    """One labelled region or choice."""

    value: Mapping[str, Any]
    names: list[str]
    where: str


def is_label_studio(path: Path) -> bool:
    """Whether a .json is a list of tasks, by its beginning."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    head = head_of(path, 1 << 16).lstrip(b"\xef\xbb\xbf \r\n\t")
    keys = (b'"annotations"', b'"completions"', b'"annotation_id"', b'"file_upload"')
    return head[:1] == b"[" and any(key in head for key in keys)


def read(path: Path, gathering: Gathering, need: str) -> ImageDataset:
    """`need`: boxes, outlines or labels (of whole pictures). Raises DataError."""
    tasks = _load(path)
    files = _Files(gathering.root)
    rows: list[tuple[Path, list[_Result]]] = []
    for i, task in enumerate(tasks):
        where = f"{gathering.name(path)}:[{i}]"
        if not isinstance(task, dict):
            gathering.reject(where, "it is no task")
            continue
        picture = files.of(task, where, gathering)
        results = _results(task, where, gathering)
        if picture is not None and results is not None:
            rows.append((picture, results))
    wanted = [(path, [r for r in results if _is_wanted(r, need)]) for path, results in rows]
    names = sorted({name for _, results in wanted for each in results for name in each.names})
    listed = one_order(listed_classes(gathering.root))
    if listed and set(names) <= set(listed):
        names = listed
    if not names:
        kinds = sorted({key for _, results in rows for each in results for key in each.value})
        raise DataError(
            f"{path} has no {need}",
            why=f"its labels have {', '.join(kinds)[:120] or 'nothing'}",
            fix="choose the task that fits the labels",
        )
    places = {name: i for i, name in enumerate(names)}
    taken: set[Path] = set()
    for place, results in wanted:
        if place in taken:
            where = results[0].where if results else gathering.name(place)
            gathering.reject(where, f"a second task for {gathering.name(place)}")
            continue
        taken.add(place)
        if need == "labels":
            _add_choice(place, results, places, gathering)
        else:
            _add_shapes(place, results, places, gathering, need == "outlines")
    return gathering.dataset("label-studio", names)


def _load(path: Path) -> list[Any]:
    try:
        tasks = json.loads(read_text(path))
    except (ValueError, RecursionError) as fault:
        raise DataError(
            f"{path} is not JSON", why=str(fault)[:200], fix="export the labels again"
        ) from None
    if not isinstance(tasks, list):
        raise DataError(
            f"{path} is not a Label Studio export",
            why="it is no list of tasks",
            fix="export the project as JSON",
        )
    return tasks


# Tasks


class _Files:
    """Pictures below the root by the names that tasks have for them."""

    def __init__(self, root: Path) -> None:
        self._by_name: dict[str, list[Path]] = {}
        for path in pictures_below(root):
            self._by_name.setdefault(path.name, []).append(path)

    def of(self, task: Mapping[str, Any], where: str, gathering: Gathering) -> Path | None:
        """None after rejecting it. Only the last part of a name counts: exports hold addresses of
        the server, which are not opened."""
        names = list(_picture_names(task))
        if not names:
            gathering.reject(where, "the task names no picture")
            return None
        for name in names:
            for each in (name, HASH.sub("", name)):
                paths = self._by_name.get(each, [])
                if len(paths) > 1:
                    gathering.reject(where, f"{len(paths)} pictures are called {each[:100]}")
                    return None
                if paths:
                    return paths[0]
        gathering.reject(where, f"there is no picture {names[0][:100]}: lay it beside the JSON")
        return None


def _picture_names(task: Mapping[str, Any]) -> Iterator[str]:
    data = task.get("data")
    values = list(data.values()) if isinstance(data, dict) else []
    keys = ("image", "img", "picture", "photo", "url")
    first = [row.get(key) for row in (data or {}, task) if isinstance(row, dict) for key in keys]
    for value in [*first, task.get("file_upload"), *values]:
        if not isinstance(value, str):
            continue
        try:
            parts = urlsplit(value)
        except ValueError:
            continue
        local = parse_qs(parts.query).get("d", [])  # /data/local-files/?d=folder/a.jpg
        for text in (*local, parts.path, value):
            for name in (unquote(text), text):
                last = name.replace("\\", "/").rpartition("/")[2]
                if decode.is_picture(Path(last)):
                    yield last


def _results(task: Mapping[str, Any], where: str, gathering: Gathering) -> list[_Result] | None:
    """Of the newest annotation that was not cancelled; None for a task nobody labelled."""
    rounds = task.get("annotations", task.get("completions"))
    if not isinstance(rounds, list):
        return _short_results(task, where)
    valid = [each for each in rounds if isinstance(each, dict) and not each.get("was_cancelled")]
    if not valid:
        gathering.count("tasks are not labelled, or were skipped: they are not used")
        return None
    if len(valid) > 1:
        gathering.count("tasks have several annotations: the newest counts")
    newest = max(
        valid, key=lambda each: str(each.get("updated_at") or each.get("created_at") or "")
    )
    items = newest.get("result")
    results = []
    for i, item in enumerate(items if isinstance(items, list) else []):
        place = f"{where}.result[{i}]"
        value = item.get("value") if isinstance(item, dict) else None
        if isinstance(value, dict):
            size = {key: item.get(key) for key in ("original_width", "original_height")}
            results.append(_Result({**size, **value}, _names(value), place))
        elif not isinstance(item, dict) or item.get("type") != "relation":
            gathering.reject(place, "the label has no value")
    return results


def _short_results(task: Mapping[str, Any], where: str) -> list[_Result]:
    """JSON-MIN: regions and choices as fields of the task."""
    results = []
    for key, value in task.items():
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            for i, each in enumerate(value):
                results.append(_Result(each, _names(each), f"{where}.{key}[{i}]"))
        elif key in ("choice", "label", "class"):
            choices = value.get("choices") if isinstance(value, dict) else value
            names = [choices] if isinstance(choices, str) else choices
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                results.append(_Result({"choices": names}, names, f"{where}.{key}"))
    return results


def _names(value: Mapping[str, Any]) -> list[str]:
    lists = [value.get(key) for key in ("choices", *SHAPES)]
    names: list[Any] = next((each for each in lists if isinstance(each, list)), [])
    return [str(name).strip() for name in names if isinstance(name, str | int)]


def _is_wanted(result: _Result, need: str) -> bool:
    """Text fields, ratings and key points stand beside the labels of other tasks."""
    is_choice = "choices" in result.value
    return is_choice if need == "labels" else not is_choice and _has_shape(result.value)


def _has_shape(value: Mapping[str, Any]) -> bool:
    return bool({"points", "rle", "radiusX"} & set(value)) or {"width", "x"} <= set(value)


# Labels


def _add_choice(
    path: Path, results: list[_Result], places: dict[str, int], gathering: Gathering
) -> None:
    names = sorted({name for each in results for name in each.names})
    size = gathering.size(path)
    if size is None:
        return
    if len(names) != 1:
        reason = f"it has {len(names)} classes: {', '.join(names)[:80]}" if names else "no class"
        gathering.reject(results[0].where if results else gathering.name(path), reason)
        return
    gathering.pictures.append(Picture(path, gathering.name(path), *size, label=places[names[0]]))


def _add_shapes(
    path: Path,
    results: list[_Result],
    places: dict[str, int],
    gathering: Gathering,
    outlines: bool,
) -> None:
    size = gathering.size(path)
    if size is None:
        return
    boxes = []
    for each in results:
        if len(each.names) != 1:
            gathering.reject(each.where, f"the region has {len(each.names)} classes")
            continue
        try:
            fit = _fit(each.value, places[each.names[0]], size, outlines, gathering)
        except (TypeError, ValueError, KeyError, IndexError, OverflowError) as fault:
            fit = Fit(None, f"the label is malformed: {fault}"[:120])
        if box := gathering.take(fit, each.where):
            boxes.append(box)
    gathering.add(path, "", boxes, len(results))


def _fit(
    value: Mapping[str, Any],
    label: int,
    size: tuple[int, int],
    outlines: bool,
    gathering: Gathering,
) -> Fit:
    width, height = size
    if "rle" in value:
        fit = _fit_brush(value, label, size)
    elif "points" in value:
        points = [
            n * side / 100 for x, y in value["points"] for n, side in ((x, width), (y, height))
        ]
        fit = fit_polygons(label, [points], size)
    elif "radiusX" in value:
        fit = fit_polygons(label, [_ellipse(value, size)], size)
    elif outlines:
        return Fit(None, "a box without an outline")
    else:
        fit = _fit_rectangle(value, label, size, gathering)
    if fit.box and not outlines:
        return replace(fit, box=replace(fit.box, polygons=(), runs=()))
    return fit


def _fit_rectangle(
    value: Mapping[str, Any], label: int, size: tuple[int, int], gathering: Gathering
) -> Fit:
    width, height = size
    x, y, w, h = (float(value[key]) for key in ("x", "y", "width", "height"))
    degrees = float(value.get("rotation") or 0)
    if w <= 0 or h <= 0:
        return Fit(None, f"the box has no area: width {w:g}, height {h:g}")
    pixels = (x * width / 100, y * height / 100, w * width / 100, h * height / 100)
    if not all(map(math.isfinite, (*pixels, degrees))):
        return Fit(None, "a coordinate is not a number")
    corners = rotated_corners(*pixels, degrees)
    if degrees % 360:
        gathering.count("rotated boxes were replaced by upright ones around them")
    xs, ys = zip(*corners, strict=True)
    return fit_box(Box(label, min(xs), min(ys), max(xs), max(ys)), size)


def _ellipse(value: Mapping[str, Any], size: tuple[int, int], n: int = 48) -> list[float]:
    width, height = size
    x, y = float(value["x"]) * width / 100, float(value["y"]) * height / 100
    rx, ry = float(value["radiusX"]) * width / 100, float(value["radiusY"]) * height / 100
    turn = math.radians(float(value.get("rotation") or 0))
    points = []
    for i in range(n):
        dx, dy = rx * math.cos(2 * math.pi * i / n), ry * math.sin(2 * math.pi * i / n)
        points.append(x + dx * math.cos(turn) - dy * math.sin(turn))
        points.append(y + dx * math.sin(turn) + dy * math.cos(turn))
    return points


def _fit_brush(value: Mapping[str, Any], label: int, size: tuple[int, int]) -> Fit:
    width = int(value.get("original_width") or size[0])
    height = int(value.get("original_height") or size[1])
    if (width, height) != size:
        return Fit(None, f"it was painted on {width}x{height}, the picture has {size[0]}x{size[1]}")
    return fit_runs(label, mask_runs(brush_mask(value["rle"], width, height)), size)


def brush_mask(data: Sequence[int], width: int, height: int) -> Mask:
    """HxW of a brush's `rle`, a stream of bits with RGBA values in runs; painted is alpha > 127.

    Form: 32 bits with the number of values, 5 bits word size - 1, four times 4 bits run width - 1;
    then blocks of 1 bit (a run?), 2 bits (which run width), the length - 1, and one word, or a word
    for each value (label_studio_converter, brush.py, decode_rle).
    Raises ValueError.
    """
    bits = np.unpackbits(np.asarray(data, np.uint8))
    at = 0

    def number(n: int) -> int:
        nonlocal at
        if at + n > len(bits):
            raise ValueError("the runs break off")
        at += n
        return int("".join(map(str, bits[at - n : at])), 2)

    n_values = number(32)
    word = number(5) + 1
    widths = [number(4) + 1 for _ in range(4)]
    if n_values != width * height * 4:
        raise ValueError(f"the runs hold {n_values:,} values, not {width * height * 4:,}")
    values = np.zeros(n_values, np.uint8)
    i = 0
    while i < n_values:
        is_run = number(1)
        end = min(i + 1 + number(widths[number(2)]), n_values)
        if is_run:
            values[i:end] = number(word) & 255
        else:
            for j in range(i, end):
                values[j] = number(word) & 255
        i = end
    return np.asarray(values[3::4].reshape(height, width) > 127)
