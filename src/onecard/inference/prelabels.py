"""Labels for unlabelled pictures, to be corrected by a person: YOLO files, Label Studio tasks,
class folders. The pictures of which the network is least sure come first.

Pictures in which nothing was found come last, as a block: there is nothing to correct in them, only
to look whether an object was missed.
"""

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import cv2
import numpy as np
import yaml

from onecard import fsio
from onecard.datasets.images.sheets import colour_of
from onecard.inference.picture_log import ResultsLog
from onecard.inference.picture_model import ModelCard
from onecard.inference.picture_outcomes import boxes_of
from onecard.inference.picture_predictions import Work, lock, open_log, predict_all, tables
from onecard.inference.picture_sources import Names
from onecard.inference.picture_writers import file_names, save_label, yolo_text
from onecard.reporting import Result
from onecard.runs.record import Run

SMOOTH_PX = 1.0
"""How far a corner that is left out may lie from the outline: a person moves ten corners, not the
thousand of every pixel's edge."""
LEAST_PX = 1.0
"""Width and height of a label."""
LABELLED = "labelled.json"
"""Pictures whose labels were written."""
Row = Mapping[str, Any]


def prelabel(work: Work, run: Run) -> Result:
    """Label all pictures and write all formats.

    Raises SettingsError, NotFound, DataError.
    """
    with lock(work.out), open_log(work, run) as log:
        summary = predict_all(work, log, run)
        rows = sorted((_key(row) for row in _label_rows(log)), key=lambda key: key[:2])
        order = [key[2] for key in rows]
        n_empty = sum(key[0] for key in rows)

        def ordered() -> Iterator[dict[str, Any]]:
            return (_as_labels(log.get((source, -1))) for source in order)

        write_order(ordered(), work.out / "order.csv")
        files = ["order.csv", *_write(work, ordered, log)]
    lines = [f"labelled {len(order):,} pictures, the least sure first (order.csv)"]
    lines += [str(each) for each in tables(summary)]
    if n_empty:
        lines.append(f"in {n_empty:,} nothing was found: they come last")
    if summary.failed:
        shown = "; ".join(f"{row.where}: {row.reason}" for row in summary.failed[:3])
        lines.append(f"{len(summary.failed):,} could not be looked at: {shown[:400]}")
    if "label-studio" in work.formats:
        folder = common_folder(order)
        lines.append(
            "Label Studio: start it with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true "
            f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={folder.parent}; in a project with "
            f"labeling_config.xml add a storage of local files with the path {folder}, then import "
            "tasks.json"
        )
    lines.append(f"written to {work.out}: {', '.join(files)}")
    data = {
        **summary.as_dict(),
        "nothing_found": n_empty,
        "output_dir": str(work.out),
        "written": files,
    }
    return Result(data, "\n".join(lines), tuple(tables(summary)))


def _key(row: Row) -> tuple[bool, float, str]:
    """(nothing found, least score, path)."""
    score = least_sure(row)
    return score is None, score if score is not None else 1.0, str(row["source"])


def least_sure(row: Row) -> float | None:
    """Score of the least sure object, of the likeliest class, or of the pixels in the mean; None
    where nothing was found."""
    if "classes" in row:
        return float(row["classes"][0]["score"])
    if not row.get("objects"):
        return None
    return float(row["least_sure"])


def _label_rows(log: ResultsLog) -> Iterator[dict[str, Any]]:
    """In the order in which the pictures were looked at."""
    return (_as_labels(row) for row in log.rows() if "width" in row)


def _as_labels(row: dict[str, Any]) -> dict[str, Any]:
    """The row without objects of less than a pixel, which no label can hold, and with outlines of
    few corners."""
    if "objects" not in row:
        return row
    row["objects"] = [each for each in row["objects"] if _least_side(each["box"]) >= LEAST_PX]
    for each in row["objects"]:
        if "outlines" in each:
            each["outlines"] = [_few_corners(points) for points in each["outlines"]]
    if row["objects"] and "pixels" not in row:
        row["least_sure"] = min(each["score"] for each in row["objects"])
    return row


def _least_side(box: Sequence[float]) -> float:
    return min(box[2] - box[0], box[3] - box[1])


def _few_corners(points: Sequence[float]) -> list[float]:
    xy = np.asarray(points, np.float32).reshape(-1, 1, 2)
    fewer = cv2.approxPolyDP(xy, SMOOTH_PX, True)
    return [float(v) for v in (fewer if len(fewer) >= 3 else xy).reshape(-1)]


def _write(work: Work, rows: Callable[[], Iterator[Row]], log: ResultsLog) -> list[str]:
    """Files for labels that a person edits are written once: a resumed run adds those of new
    pictures and leaves the others, which may be corrected already."""
    before = _labelled(work.out)
    fresh = [str(row["source"]) for row in rows() if str(row["source"]) not in before]

    def new_rows() -> Iterator[Row]:
        """In the order in which the pictures were looked at, so that names do not change."""
        return _label_rows(log)

    files = []
    if "yolo" in work.formats:
        outlined = any("outlines" in each for row in rows() for each in row.get("objects", ()))
        write_yolo_set(new_rows(), work.card, work.out / "yolo", set(fresh), outlines=outlined)
        files.append("yolo/data.yaml")
    if "folders" in work.formats:
        write_folders(new_rows(), work.card.classes, work.out / "folders", set(fresh))
        files.append("folders/")
    if "csv" in work.formats:
        write_labels(rows(), work.out / "labels.csv")
        files.append("labels.csv")
    if "label-studio" in work.formats:
        write_tasks(rows, work.card, work.out / "tasks.json")
        kind = control_of(rows())
        fsio.write_text(work.out / "labeling_config.xml", labeling_config(work.card.classes, kind))
        files += ["tasks.json", "labeling_config.xml"]
    fsio.write_text(work.out / LABELLED, json.dumps(sorted({*before, *fresh}), indent=0))
    return files


def _labelled(out: Path) -> set[str]:
    """Pictures whose labels were written before."""
    try:
        return set(map(str, json.loads((out / LABELLED).read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError):
        return set()


def write_order(rows: Iterator[Row], path: Path) -> None:
    """order.csv: picture, least score, number of objects; the least sure first."""
    with (
        fsio.atomic_write(path) as draft,
        draft.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(["picture", "least_score", "objects"])
        for row in rows:
            score = least_sure(row)
            shown = "" if score is None else f"{score:.5f}"
            table.writerow(
                [row["name"], shown, len(row.get("objects", row.get("classes", ())[:1]))]
            )


# YOLO


def write_yolo_set(
    rows: Iterator[Row], card: ModelCard, folder: Path, wanted: set[str], *, outlines: bool
) -> None:
    """Of the pictures `wanted`: images/ with links to them, labels/; and data.yaml with the classes
    in the model's order."""
    for row, name in file_names(rows, ".txt"):
        # the picture is called as its label file, so that two that differ only in their ending do
        # not share one
        if row["source"] not in wanted:
            continue
        picture = Path(str(row["source"]))
        link(picture, folder / "images" / f"{name.removesuffix('.txt')}{picture.suffix}")
        save_label(yolo_text(row, outlines=outlines), folder / "labels" / name)
    values = {
        "path": str(folder.resolve()),
        "train": "images",
        "names": dict(enumerate(card.classes)),
    }
    text = yaml.safe_dump(values, allow_unicode=True, sort_keys=False)
    note = "# labels of a model, to be corrected; there is no val, as nothing here is checked yet\n"
    fsio.write_text(folder / "data.yaml", note + text)


def link(picture: Path, place: Path) -> None:
    """A link to the picture, or a copy where the disk has no links. A link of before is replaced;
    a file that a person laid there stays."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink():
        place.unlink()
    if place.exists():
        return
    try:
        place.symlink_to(picture.resolve())
    except OSError:
        shutil.copyfile(picture, place)


# Classes of whole pictures


def write_folders(
    rows: Iterator[Row], classes: Sequence[str], folder: Path, wanted: set[str]
) -> None:
    """A folder for each class with links to its pictures; one without pictures too, to move some
    there."""
    names = Names()
    places = {name: names.claim([safe_name(name)]) for name in classes}
    for place in places.values():
        (folder / place).mkdir(parents=True, exist_ok=True)
    for row in rows:
        place = places[row["classes"][0]["class"]]
        flat = str(row["name"]).replace("/", "-")
        name = names.claim([f"{place}/{flat}"])
        if row["source"] in wanted:
            link(Path(str(row["source"])), folder / name)


def safe_name(name: str) -> str:
    """A class's name as that of one folder that is not hidden.

    >>> safe_name("a/b"), safe_name(".."), safe_name("cat")
    ('a_b', '_.', 'cat')
    """
    shown = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in name)[:80]
    return "_" + shown[1:] if shown.strip(" ")[:1] in (".", "") else shown


def write_labels(rows: Iterator[Row], path: Path) -> None:
    """labels.csv: filename, label, score; the least sure first."""
    with (
        fsio.atomic_write(path) as draft,
        draft.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(["filename", "label", "score"])
        for row in rows:
            best = row["classes"][0]
            table.writerow([row["name"], best["class"], f"{best['score']:.5f}"])


# Label Studio


def common_folder(paths: Sequence[str]) -> Path:
    """The folder that holds all pictures: the path of Label Studio's storage. Names in tasks begin
    above it, for a storage may not be the document root itself."""
    folders = [str(Path(path).absolute().parent) for path in paths]
    return Path(os.path.commonpath(folders)) if folders else Path.cwd()


def control_of(rows: Iterator[Row]) -> str:
    """Label Studio's tag: Choices, PolygonLabels or RectangleLabels."""
    kind = "RectangleLabels"
    for row in rows:
        if "classes" in row:
            return "Choices"
        if "pixels" in row or any("outlines" in each for each in row.get("objects", ())):
            kind = "PolygonLabels"
    return kind


def labeling_config(classes: Sequence[str], kind: str) -> str:
    """labeling_config.xml for a project, with from_name `label` and to_name `image`.

    >>> print(labeling_config(["<a>"], "Choices"))
    <View>
      <Image name="image" value="$image"/>
      <Choices name="label" toName="image">
        <Choice value="&lt;a&gt;"/>
      </Choices>
    </View>
    <BLANKLINE>
    """
    rows = []
    for i, name in enumerate(classes):
        value = quoteattr(name)
        if kind == "Choices":
            rows.append(f"    <Choice value={value}/>")
        else:
            colour = "#{:02x}{:02x}{:02x}".format(*colour_of(i))
            rows.append(f'    <Label value={value} background="{colour}"/>')
    head = ["<View>", '  <Image name="image" value="$image"/>']
    body = [f'  <{kind} name="label" toName="image">', *rows, f"  </{kind}>"]
    return "\n".join([*head, *body, "</View>", ""])


def write_tasks(rows: Callable[[], Iterator[Row]], card: ModelCard, path: Path) -> None:
    """tasks.json: Label Studio's import, a task for each picture with the model's predictions."""
    root = common_folder([str(row["source"]) for row in rows()]).parent
    kind = control_of(rows())
    version = f"{card.model} {card.run}".strip()
    with (
        fsio.atomic_write(path) as draft,
        draft.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        file.write("[\n")
        for i, row in enumerate(rows()):
            text = json.dumps(task_of(row, root, kind, version, i), ensure_ascii=False)
            file.write((",\n" if i else "") + text)
        file.write("\n]\n")


def task_of(row: Row, root: Path, kind: str, version: str, number: int) -> dict[str, Any]:
    """One task; coordinates in percent of the upright picture."""
    relative = Path(str(row["source"])).absolute().relative_to(root).as_posix()
    address = "/data/local-files/?d=" + quote(os.fsencode(relative))
    if kind == "Choices":
        values = [({"choices": [row["classes"][0]["class"]]}, float(row["classes"][0]["score"]))]
    else:
        values = list(_shapes(row, kind))
    common = {"from_name": "label", "to_name": "image", "type": kind.lower()}
    size = {"original_width": row["width"], "original_height": row["height"], "image_rotation": 0}
    result = [
        {"id": f"p{number}-{i}", **common, **size, "score": score, "value": value}
        for i, (value, score) in enumerate(values)
    ]
    score = least_sure(row)
    prediction = {"model_version": version, "score": 0.0 if score is None else score}
    return {"data": {"image": address}, "predictions": [{**prediction, "result": result}]}


def _shapes(row: Row, kind: str) -> Iterator[tuple[dict[str, Any], float]]:
    """(value, score) of each object's rectangle or outlines."""
    across, down = 100 / row["width"], 100 / row["height"]
    for each, box in zip(row.get("objects", ()), boxes_of(row), strict=True):
        if kind == "PolygonLabels":
            x0, y0, x1, y1 = box.x0, box.y0, box.x1, box.y1
            for points in box.polygons or ((x0, y0, x1, y0, x1, y1, x0, y1),):
                corners = [
                    [round(x * across, 4), round(y * down, 4)]
                    for x, y in zip(points[::2], points[1::2], strict=True)
                ]
                yield (
                    {"points": corners, "closed": True, "polygonlabels": [each["class"]]},
                    box.score,
                )
            continue
        value = {
            "x": round(box.x0 * across, 4),
            "y": round(box.y0 * down, 4),
            "width": round((box.x1 - box.x0) * across, 4),
            "height": round((box.y1 - box.y0) * down, 4),
            "rotation": 0,
            "rectanglelabels": [each["class"]],
        }
        yield value, box.score
