"""What is written of results: annotated pictures and masks as they come; JSON, COCO, YOLO and CSV
from the rows of results.jsonl."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image

from onecard import fsio
from onecard.datasets.images import geometry, sheets, yolo_files
from onecard.datasets.images.records import Box, Detection
from onecard.errors import DataError
from onecard.inference.picture_model import ModelCard
from onecard.inference.picture_outcomes import Outcome, Rgb, boxes_of, regions
from onecard.inference.picture_sources import Names, Source, shot_name

MOST_SIDE = 1920
"""Longer side of an annotated picture (px): names and lines stay readable on a screen. All numbers
stay those of the original."""
KEPT = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
"""Endings that an annotated picture keeps; others become .jpg."""
Row = Mapping[str, Any]
Rows = Callable[[], Iterable[Row]]
"""The rows from their beginning, as often as it is called."""


def draw(rgb: Rgb, outcome: Outcome, names: Sequence[str]) -> Image.Image:
    """The picture with what was found in it."""
    side = min(MOST_SIDE, max(rgb.shape[:2]))
    if outcome.objects is not None:
        return sheets.draw_labels(rgb, outcome.objects, names, side)
    if outcome.probabilities is not None:
        best = int(outcome.probabilities.argmax())
        shown = [f"{name} {p:.2f}" for name, p in zip(names, outcome.probabilities, strict=True)]
        return sheets.draw_labels(rgb, best, shown, side)
    tinted = np.asarray(sheets.draw_labels(rgb, outcome.classes, names, max(rgb.shape[:2])))
    return sheets.draw_labels(tinted, _tags(regions(outcome, names)), names, side)


def _tags(boxes: Sequence[Detection]) -> list[Detection]:
    """The largest region of each class as a tag alone: its outline is a point."""
    largest: dict[int, Detection] = {}
    for box in sorted(boxes, key=lambda each: (each.x1 - each.x0) * (each.y1 - each.y0)):
        point = (box.x0, box.y0) * 3
        largest[box.label] = Detection(
            box.label, box.score, box.x0, box.y0, box.x1, box.y1, (point,)
        )
    return list(largest.values())


def drawing_names(sources: Sequence[Source]) -> dict[str, str]:
    """Name of each source -> name of its annotated picture or video, none twice."""
    names, rows = Names(), {}
    for source in sources:
        path = Path(source.name)
        if source.kind == "picture":
            kept = path.suffix.lower() in KEPT
            candidates = [source.name if kept else f"{source.name}.jpg"]
        else:
            candidates = [path.with_suffix(".mp4").as_posix(), f"{source.name}.mp4"]
        rows[source.name] = names.claim(candidates)
    return rows


def save_picture(image: Image.Image, path: Path) -> None:
    """Raises DataError where it cannot be written."""
    form = KEPT.get(path.suffix.lower(), "JPEG")
    options: dict[str, Any] = {"quality": 92} if form == "JPEG" else {"compress_level": 3}
    with written(path) as draft:
        image.save(draft, form, **options)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A name beside `path` that takes its place when the block ends well. As fsio.atomic_write for
    one of many small files: it neither waits for the disk nor looks through a folder of 100,000.

    Raises DataError where it cannot be written.
    """
    draft = path.with_name(f".{path.name[:40]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        draft.replace(path)
    except OSError as fault:
        draft.unlink(missing_ok=True)
        raise DataError(
            f"{path} cannot be written",
            why=fault.strerror or str(fault),
            fix="free some disk space or choose another folder; then go on with --resume",
        ) from None


def mask_image(outcome: Outcome, names: Sequence[str]) -> Image.Image:
    """Class numbers of the pixels: 8 bits, or 16 where there are more than 256 classes. Of objects
    their outlines are filled, the surest on top; there 0 is no object and class k is k + 1."""
    if outcome.classes is not None:
        labels = outcome.classes
    else:
        labels = np.zeros((outcome.height, outcome.width), np.int32)
        for box in reversed(outcome.objects or ()):
            labels[geometry.object_mask(_as_box(box), outcome.width, outcome.height)] = (
                box.label + 1
            )
    deep = len(names) >= 256
    return Image.fromarray(labels.astype(np.uint16 if deep else np.uint8))


def _as_box(box: Detection) -> Box:
    return Box(box.label, box.x0, box.y0, box.x1, box.y1, polygons=box.polygons)


def file_names(rows: Iterable[Row], suffix: str) -> Iterator[tuple[Row, str]]:
    """Each row that is no error, with the name of its own file: the picture's name with another
    ending, and the whole name where two pictures differ only in theirs."""
    names = Names()
    for row in rows:
        if "width" in row:
            name = shot_name(str(row["name"]), int(row.get("frame", -1)))
            if int(row.get("frame", -1)) >= 0:
                yield row, f"{name}{suffix}"
                continue
            plain = Path(name).with_suffix(suffix).as_posix()
            yield row, names.claim([plain, f"{name}{suffix}"])


def save_label(text: str, path: Path) -> None:
    """Raises DataError where it cannot be written."""
    with written(path) as draft:
        draft.write_text(text, encoding="utf-8")


def mask_names(sources: Sequence[Source]) -> dict[str, str]:
    """Name of each picture -> name of its mask; frames have folders of their own."""
    names = Names()
    return {
        source.name: names.claim(
            [Path(source.name).with_suffix(".png").as_posix(), f"{source.name}.png"]
        )
        for source in sources
        if source.kind == "picture"
    }


# From the rows


def write_json(rows: Rows, card: ModelCard, path: Path) -> None:
    """results.json: the model's words and all rows as one list, written row by row."""
    head = {"task": card.task, "model": card.model, "run": card.run, "classes": list(card.classes)}
    with _text(path) as file:
        file.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "results": [\n')
        _write_items(file, rows())
        file.write("]}\n")


def _write_items(file: TextIO, items: Iterable[Row]) -> None:
    for i, row in enumerate(items):
        file.write((",\n" if i else "") + json.dumps(row, ensure_ascii=False))
    file.write("\n")


class _text:
    """A text file that is written whole or not at all; half surrogates of names become \\udce9."""

    def __init__(self, path: Path, newline: str | None = None) -> None:
        self._draft = fsio.atomic_write(path)
        self._newline = newline

    def __enter__(self) -> TextIO:
        draft = self._draft.__enter__()
        self._file = draft.open(
            "w", encoding="utf-8", errors="backslashreplace", newline=self._newline
        )
        return self._file

    def __exit__(self, *fault: Any) -> None:
        self._file.close()
        self._draft.__exit__(*fault)


def write_coco(rows: Rows, card: ModelCard, path: Path) -> None:
    """COCO's instances: categories in the order of the classes from 1 on, annotations with their
    score. A frame of a video is called clip.mp4/000012.jpg."""
    categories = [{"id": i, "name": name} for i, name in enumerate(card.classes, 1)]
    with _text(path) as file:
        head = json.dumps({"categories": categories}, ensure_ascii=False)[:-1]
        file.write(head + ', "images": [\n')
        _write_items(file, _coco_images(rows))
        file.write('], "annotations": [\n')
        _write_items(file, _coco_annotations(rows))
        file.write("]}\n")


def _coco_images(rows: Rows) -> Iterator[Row]:
    for i, row in enumerate((row for row in rows() if "width" in row), 1):
        frame = int(row.get("frame", -1))
        name = shot_name(str(row["name"]), frame) + (".jpg" if frame >= 0 else "")
        yield {"id": i, "file_name": name, "width": row["width"], "height": row["height"]}


def _coco_annotations(rows: Rows) -> Iterator[Row]:
    number = 0
    for i, row in enumerate((row for row in rows() if "width" in row), 1):
        for box in boxes_of(row):
            number += 1
            width, height = round(box.x1 - box.x0, 2), round(box.y1 - box.y0, 2)
            yield {
                "id": number,
                "image_id": i,
                "category_id": box.label + 1,
                "bbox": [box.x0, box.y0, width, height],
                "area": round(_area(box), 2),
                "iscrowd": 0,
                "segmentation": [list(points) for points in box.polygons],
                "score": box.score,
            }


def _area(box: Detection) -> float:
    if not box.polygons:
        return (box.x1 - box.x0) * (box.y1 - box.y0)
    corners = (np.asarray(points, np.float64).reshape(-1, 2) for points in box.polygons)
    return sum(geometry.polygon_area(xy) for xy in corners)


def yolo_text(row: Row, *, outlines: bool, scores: bool = False) -> str:
    """The label file of a row; with `scores` each line ends with one, as YOLO's save_conf."""
    boxes, size = boxes_of(row), (int(row["width"]), int(row["height"]))
    if not scores:
        return yolo_files.label_lines(boxes, *size, outlines)
    lines = [yolo_files.label_lines([box], *size, outlines).rstrip("\n") for box in boxes]
    return "".join(f"{line} {box.score:.6f}\n" for line, box in zip(lines, boxes, strict=True))


def write_yolo(
    rows: Rows, card: ModelCard, folder: Path, *, outlines: bool, scores: bool = False
) -> None:
    """labels/NAME.txt of every picture and frame, empty where nothing was found; classes.txt."""
    for row, name in file_names(rows(), ".txt"):
        text = yolo_text(row, outlines=outlines, scores=scores)
        save_label(text, folder / "labels" / name)
    fsio.write_text(folder / "classes.txt", "".join(f"{name}\n" for name in card.classes))


def write_csv(rows: Rows, path: Path, top: int) -> None:
    """A line for each picture and frame: the likeliest classes, the surest first."""
    head = ["picture", "frame", "time_s"]
    head += [word for i in range(1, top + 1) for word in (f"class_{i}", f"score_{i}")]
    with _text(path, newline="") as file:
        table = csv.writer(file)
        table.writerow(head)
        for row in rows():
            if "classes" in row:
                cells = [row["name"], row.get("frame", ""), row.get("time_s", "")]
                for each in row["classes"]:
                    cells += [each["class"], f"{each['score']:.5f}"]
                table.writerow(cells + [""] * (len(head) - len(cells)))
