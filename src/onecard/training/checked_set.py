"""A labelled data set ready to train or score on: read, checked for leaks, split, recorded."""

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from onecard import fsio
from onecard.datasets.images import groups, reader, splits
from onecard.datasets.images.mask_values import BACKGROUND
from onecard.datasets.images.records import SPLITS, ImageDataset, Picture, fingerprint
from onecard.errors import DataError, SettingsError
from onecard.inference.picture_model import ModelCard
from onecard.runs.record import Run

Task = Literal["detect", "classify", "segment"]
SEGMENT: Task = "segment"


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

    @property
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


SPLITTING = ("val_share", "seed", "regroup", "allow_leakage")
"""Settings that decide which pictures are held out."""


def facts(config: Any, data: CheckedSet) -> dict[str, Any]:
    """Of a training, for its ModelCard."""
    return {
        "path": str(Path(config.data).expanduser().resolve()),
        "fingerprints": data.fingerprints,
        **{name: getattr(config, name) for name in SPLITTING},
    }


def load_for_scoring(config: Any, card: ModelCard, task: Task, run: Run) -> CheckedSet:
    """Pictures to score a trained model on, as `val`: those that its own training held out, where
    `config.data` is empty or the same set; of another set its test or validation pictures, else all
    of them. `train` holds pictures to calibrate an int8 export with.

    Classes are matched by name. Raises NotFound, DataError.
    """
    path = config.data or str(card.data.get("path", ""))
    if not path:
        raise SettingsError(
            "there are no pictures to score on",
            why="--data names no data set, and the model does not say what it was trained on",
            fix="--data with labelled pictures",
        )
    dataset = matched(reader.read(path, task, run.reporter), card, task)
    same = str(Path(path).expanduser().resolve()) == card.data.get("path")
    if same:
        how = {name: card.data[name] for name in SPLITTING if name in card.data}
        split = splits.prepare(dataset, **how, reporter=run.reporter)
        data = CheckedSet(dataset, split.train, split.test or split.val, [], dataset.notes)
        expected = card.data.get("fingerprints", {}).get("test" if split.test else "val")
        if expected and fingerprint(data.val) != expected:
            run.reporter.warn("the held-out pictures or their labels changed since the training")
    else:
        pictures, notes = groups.with_groups(dataset.pictures)
        sides = {name: [p for p in pictures if p.split == name] for name in SPLITS}
        held_out = sides["test"] or sides["val"] or pictures
        data = CheckedSet(
            dataset, sides["train"] or pictures, held_out, [], [*dataset.notes, *notes]
        )
    if not data.val:
        raise DataError(
            f"{path} has no pictures to score on",
            why="none is left that is labelled and can be read",
            fix=f"onecard {task} check {path}",
        )
    run.data("questions", rows=len(data.val), sha256=fingerprint(data.val))
    return data


def matched(dataset: ImageDataset, card: ModelCard, task: Task) -> ImageDataset:
    """The set with the model's class numbers, by the classes' names. Raises DataError for a
    labelled class that the model does not know."""
    wanted = card.classes
    if task == SEGMENT and not card.instances and not dataset.mask_values:
        wanted = tuple(name for name in wanted if name != BACKGROUND)
    if dataset.classes == wanted:
        return dataset
    index = {name: number for number, name in enumerate(wanted)}
    used = {box.label for picture in dataset.pictures for box in picture.boxes}
    used |= {picture.label for picture in dataset.pictures if picture.label >= 0}
    used |= set(dataset.mask_values.values())
    missing = [dataset.classes[i] for i in sorted(used) if dataset.classes[i] not in index]
    if missing:
        raise DataError(
            f"the model does not know {', '.join(missing[:5])}",
            why=f"its classes are {', '.join(wanted[:10])}",
            fix="score it on pictures with the classes that it was trained for",
        )
    places = {i: index[name] for i, name in enumerate(dataset.classes) if name in index}
    pictures = [
        replace(
            picture,
            label=places.get(picture.label, -1),
            boxes=tuple(replace(box, label=places[box.label]) for box in picture.boxes),
        )
        for picture in dataset.pictures
    ]
    values = {value: places[label] for value, label in dataset.mask_values.items()}
    note = "the data set numbers its classes otherwise than the model: they are matched by name"
    return replace(
        dataset,
        classes=wanted,
        pictures=pictures,
        mask_values=values,
        notes=[*dataset.notes, note],
    )


def write_rejected(data: CheckedSet, folder: Path) -> None:
    """rejected.jsonl, where something was rejected."""
    if data.dataset.rejected:
        fsio.write_text(folder / "rejected.jsonl", rejected_lines(data.dataset))


def rejected_lines(dataset: ImageDataset) -> str:
    rows = [row.as_dict() for row in dataset.rejected]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
