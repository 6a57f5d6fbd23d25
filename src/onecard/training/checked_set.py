"""A labelled data set ready to train or score on: read, checked for leaks, split, recorded."""

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from onecard import fsio
from onecard.datasets.images import reader, splits
from onecard.datasets.images.records import ImageDataset, Picture, fingerprint
from onecard.errors import DataError, SettingsError
from onecard.runs.record import Run

Task = Literal["detect", "classify", "segment"]


@dataclass
class CheckedSet:
    """Pictures on their sides of the split."""

    dataset: ImageDataset
    train: list[Picture]
    val: list[Picture]
    test: list[Picture]
    notes: list[str] = field(default_factory=list)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.dataset.classes

    @property
    def fingerprints(self) -> dict[str, str]:
        sides = {"train": self.train, "val": self.val, "test": self.test}
        return {name: fingerprint(pictures) for name, pictures in sides.items() if pictures}

    def held_out(self) -> list[Picture]:
        """What a finished model is scored on: the test pictures where there are some."""
        return self.test or self.val

    @staticmethod
    def groups(pictures: Sequence[Picture]) -> dict[str, Hashable]:
        """Name -> what the picture was cut from; itself where it stands alone."""
        return {picture.name: picture.group or picture.name for picture in pictures}


def load(config: Any, task: Task, run: Run) -> CheckedSet:
    """`config`: an ImageDataConfig with a seed. Raises SettingsError, NotFound, DataError."""
    if not config.data:
        raise SettingsError(
            "there are no pictures to learn from",
            why="--data names no data set",
            fix=f"onecard {task} train DATA, a folder or its data.yaml",
        )
    dataset = reader.read(config.data, task, run.reporter)
    split = splits.prepare(
        dataset,
        val_share=config.val_share,
        seed=getattr(config, "seed", 0),
        regroup=config.regroup,
        allow_leakage=config.allow_leakage,
        reporter=run.reporter,
    )
    data = CheckedSet(dataset, split.train, split.val, split.test, [*dataset.notes, *split.notes])
    if not data.train or not data.val:
        raise DataError(
            f"{config.data} has too few pictures",
            why=f"{len(data.train)} to train on and {len(data.val)} to check on are left",
            fix="label more, or give another --val_share",
        )
    for note in data.notes:
        run.reporter.line(f"note: {note}")
    if dataset.rejected:
        first = dataset.rejected[0]
        run.reporter.warn(
            f"{len(dataset.rejected)} labels or pictures are not used, the first: {first.where}: "
            f"{first.reason}; all are in rejected.jsonl"
        )
    for name, pictures in (("train", data.train), ("val", data.val), ("test", data.test)):
        if pictures:
            key = "train" if name == "train" else f"questions_{name}"
            run.data(key, rows=len(pictures), sha256=fingerprint(pictures))
    run.reporter.line(
        f"read as {dataset.form}: {len(dataset.classes)} classes, {len(data.train)} pictures to "
        f"train on, {len(data.val)} to check on"
        + (f", {len(data.test)} for the test" if data.test else "")
    )
    return data


def write_rejected(data: CheckedSet, folder: Path) -> None:
    """rejected.jsonl, where something was rejected."""
    if data.dataset.rejected:
        fsio.write_text(folder / "rejected.jsonl", rejected_lines(data.dataset))


def rejected_lines(dataset: ImageDataset) -> str:
    rows = [row.as_dict() for row in dataset.rejected]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
