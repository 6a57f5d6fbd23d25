"""What is in a labelled data set, before anything is trained: report, rejected labels, a contact
sheet as labelled and one as the augmentation makes it."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from onecard.datasets.images import check as checking
from onecard.datasets.images import masks, reader, sheets
from onecard.datasets.images.records import ImageDataset, Picture
from onecard.datasets.splits import hash_rank
from onecard.errors import OneCardError, SettingsError
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.training import picture_data
from onecard.training.config import AugmentConfig
from onecard.training.picture_data import IGNORED, Kind

KINDS: dict[reader.Task, Kind] = {"detect": "boxes", "segment": "pixels", "classify": "class"}
"""What each task learns from."""
SHOWN = 24
"""Pictures on a sheet."""


def check(config: Any, task: reader.Task, run: Run) -> Result:
    """`config`: an ImageDataConfig with imgsz and the fields of AugmentConfig.

    Raises SettingsError, NotFound, DataError where the data cannot be read at all.
    """
    if not config.data:
        raise SettingsError(
            "there is nothing to look at",
            why="no data set is named",
            fix=f"onecard {task} check DATA, a folder or its data.yaml",
        )
    report = checking.check(config.data, task, run.reporter, config.imgsz)
    run.data("checked", rows=sum(report.pictures.values()), sha256="")
    data = report.as_dict()
    lines = [report.render()]
    if run.folder:
        run.artifact("check.json", json.dumps(data, indent=1, ensure_ascii=False))
        rows = [row.as_dict() for row in [*report.rejected, *report.broken]]
        if rows:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            run.artifact("rejected.jsonl", text)
        lines += _sheets(config, task, run)
    return Result(data, "\n".join(lines), report.tables())


def _sheets(config: Any, task: reader.Task, run: Run) -> list[str]:
    dataset = reader.read(config.data, task)
    labelled = run.artifacts / "labelled.png"
    sheets.contact_sheet(dataset.pictures, dataset, labelled, SHOWN)
    augmented = run.artifacts / "augmented.png"
    tiles = _augmented(config, task, dataset)
    lines = [f"wrote {labelled}"]
    if tiles:
        classes = masks.pixel_classes(dataset) if KINDS[task] == "pixels" else dataset.classes
        sheets.draw_tiles(tiles, classes, augmented)
        lines.append(f"wrote {augmented}")
    return lines


def _augmented(
    config: AugmentConfig, task: reader.Task, dataset: ImageDataset
) -> list[sheets.Tile]:
    """Some pictures as a training of these settings would see them."""
    side = int(getattr(config, "imgsz", 640))
    kind = KINDS[task]
    steps = picture_data.augmentation(kind, side, side, config)
    read_mask = mask_reader(dataset) if kind == "pixels" else None
    ranked = sorted(dataset.pictures, key=lambda picture: hash_rank(0, picture.name))[:SHOWN]
    samples = picture_data.PictureSamples(ranked, kind, steps, 0, read_mask)
    tiles: list[sheets.Tile] = []
    for number, picture in enumerate(ranked):
        try:
            sample = samples[0, number]
        except OneCardError:
            continue  # told as broken already
        labels: sheets.Labels = sample.label if sample.label >= 0 else None
        if sample.mask is not None:
            labels = np.where(sample.mask == IGNORED, -1, sample.mask.astype(np.int16))
        elif kind == "boxes":
            labels = sample.as_boxes()
        tiles.append((sample.image, labels, picture.name))
    return tiles


def mask_reader(dataset: ImageDataset) -> Callable[[Picture], np.ndarray]:
    """HW of class numbers of a picture, IGNORED where pixels do not count."""

    def read(picture: Picture) -> np.ndarray:
        labels = masks.pixel_labels(picture, dataset)
        return np.where(labels < 0, IGNORED, labels).astype(np.uint8)

    return read
