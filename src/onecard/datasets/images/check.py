"""What a data set of pictures holds and what is wrong with it, before anything is trained."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from onecard.datasets.images import duplicates, groups, masks, reader
from onecard.datasets.images.leaks import LeakReport, leaks_of
from onecard.datasets.images.records import SPLITS, ImageDataset, Picture, RejectedLabel
from onecard.errors import OneCardError
from onecard.reporting import Reporter, Table, table

SMALL, MEDIUM = 32**2, 96**2
"""COCO's limits of small and medium objects (px^2)."""
TINY_PX = 8
"""A side at the network's input that its coarsest useful cell no longer resolves."""
SHOWN = 20
"""Rejected labels of a report; all are in rejected.jsonl."""
MAX_MASKS = 200
"""Masks whose pixels are counted."""
IMBALANCE = 20
"""Ratio of the most to the least frequent class from which a note says so."""


@dataclass(frozen=True)
class BoxSizes:
    """Objects by area: under 32^2, under 96^2, and larger pixels."""

    small: int = 0
    medium: int = 0
    large: int = 0
    tiny: int = 0
    """With a side under 8 px."""

    def as_dict(self) -> dict[str, int]:
        return dict(vars(self))


@dataclass
class DataReport:
    """The check's result."""

    location: str
    form: str
    classes: tuple[str, ...]
    imgsz: int
    pictures: dict[str, int]
    """Split -> pictures; "" for those of none."""
    empty: dict[str, int]
    """Split -> pictures without an object."""
    counts: dict[str, list[int]]
    """Split -> labels of each class: objects, pictures, or pixels of masks."""
    unit: str
    """What is counted: objects, pictures or pixels."""
    widths: tuple[int, int, int]
    heights: tuple[int, int, int]
    """Least, median and greatest (px)."""
    sizes: BoxSizes | None
    """In pixels of the pictures; None without boxes."""
    sizes_at_input: BoxSizes | None
    """In pixels of a network's input with its longer side `imgsz`."""
    broken: list[RejectedLabel]
    exact: list[tuple[str, str]]
    near: list[tuple[str, str]]
    """Pairs of names."""
    leaks: LeakReport
    rejected: list[RejectedLabel]
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {
            "location": self.location,
            "form": self.form,
            "classes": list(self.classes),
            "pictures": self.pictures,
            "empty": self.empty,
            "unit": self.unit,
            "counts": {
                split: dict(zip(self.classes, row, strict=True))
                for split, row in self.counts.items()
            },
            "widths": self.widths,
            "heights": self.heights,
            "imgsz": self.imgsz,
            "box_sizes": self.sizes.as_dict() if self.sizes else None,
            "box_sizes_at_imgsz": self.sizes_at_input.as_dict() if self.sizes_at_input else None,
            "broken": [row.as_dict() for row in self.broken],
            "exact_duplicates": len(self.exact),
            "near_duplicates": len(self.near),
            "duplicates": [*self.exact[:SHOWN], *self.near[:SHOWN]],
            "leaks": self.leaks.as_dict(),
            "n_rejected": len(self.rejected),
            "rejected": [row.as_dict() for row in self.rejected[:SHOWN]],
            "notes": self.notes,
        }

    def tables(self) -> tuple[Table, ...]:
        splits = [split for split in (*SPLITS, "") if self.pictures.get(split)]
        head = [self.unit, *(split or "no split" for split in splits)]
        rows = [
            [name, *(f"{self.counts[split][i]:,}" for split in splits)]
            for i, name in enumerate(self.classes)
        ]
        rows.append(["pictures", *(f"{self.pictures[split]:,}" for split in splits)])
        if any(self.empty.values()):
            rows.append(["  of these empty", *(f"{self.empty[split]:,}" for split in splits)])
        tables = [table(rows, head)]
        if self.sizes and self.sizes_at_input:
            lines = [("in the pictures", self.sizes)]
            lines.append((f"at --imgsz {self.imgsz}", self.sizes_at_input))
            cells = [[name, *(f"{n:,}" for n in sizes.as_dict().values())] for name, sizes in lines]
            names = ["objects", "under 32x32", "under 96x96", "larger", f"a side < {TINY_PX} px"]
            tables.append(table(cells, names))
        return tuple(tables)

    def render(self) -> str:
        """For a terminal; `tables` gives the tables that stand in it."""
        low, mid, high = (f"{w}x{h}" for w, h in zip(self.widths, self.heights, strict=True))
        head = f"{self.location}: {self.form}, {len(self.classes)} classes, pictures of "
        parts = [head + (low if low == high else f"{low} to {high} px, in the median {mid}")]
        parts += self.tables()
        if self.exact or self.near:
            pair = (self.exact or self.near)[0]
            text = f"{len(self.exact):,} pairs of equal files, {len(self.near):,} of one picture"
            parts.append(f"duplicates: {text}: {pair[0]} = {pair[1]}")
        parts += [f"leak: {text}" for text in self.leaks.render()]
        for name, rows in (("broken", self.broken), ("rejected", self.rejected)):
            if rows:
                lines = [f"  {row.where}: {row.reason}" for row in rows[:SHOWN]]
                more = len(rows) - SHOWN
                lines += [f"  and {more:,} more"] if more > 0 else []
                noun = "pictures" if name == "broken" else "labels or pictures"
                parts.append("\n".join([f"{name}: {len(rows):,} {noun}", *lines]))
        parts += [f"note: {note}" for note in self.notes]
        return "\n\n".join(parts)


def check(
    location: str | Path,
    task: reader.Task,
    reporter: Reporter | None = None,
    imgsz: int = 640,
) -> DataReport:
    """Reads the data set as the task would and decodes every picture. Leaks and broken files are
    reported, not refused. Raises NotFound, DataError where it cannot be read at all."""
    reporter = reporter or Reporter()
    dataset = reader.read(location, task, reporter)
    pictures, group_notes = groups.with_groups(dataset.pictures)
    signs = duplicates.signatures(pictures, reporter)
    exact, near = duplicates.exact_pairs(signs), duplicates.near_pairs(signs)
    equal = set(exact)
    near = [pair for pair in near if pair not in equal and not _same_file(signs, pair)]
    intact = [picture for picture, digest in zip(pictures, signs.digests, strict=True) if digest]
    unit, counts, mask_notes = _counts(dataset, intact, reporter)
    boxes = [(picture, box) for picture in intact for box in picture.boxes]
    sides = sorted(picture.width for picture in pictures)
    heights = sorted(picture.height for picture in pictures)
    report = DataReport(
        location=str(location),
        form=dataset.form,
        classes=dataset.classes,
        imgsz=imgsz,
        pictures=dict(Counter(picture.split for picture in intact)),
        empty=_empty(intact, unit),
        counts=counts,
        unit=unit,
        widths=(sides[0], round(median(sides)), sides[-1]),
        heights=(heights[0], round(median(heights)), heights[-1]),
        sizes=_sizes([(box.x1 - box.x0, box.y1 - box.y0) for _, box in boxes]),
        sizes_at_input=_sizes(
            [
                ((box.x1 - box.x0) * scale, (box.y1 - box.y0) * scale)
                for picture, box in boxes
                for scale in (imgsz / max(picture.width, picture.height),)
            ]
        ),
        broken=signs.broken,
        exact=[(pictures[i].name, pictures[j].name) for i, j in exact],
        near=[(pictures[i].name, pictures[j].name) for i, j in near],
        leaks=leaks_of(pictures, exact, near),
        rejected=dataset.rejected,
        notes=[*dataset.notes, *group_notes, *mask_notes],
    )
    report.notes += _class_notes(report)
    return report


def _same_file(signs: duplicates.Signatures, pair: tuple[int, int]) -> bool:
    return signs.digests[pair[0]] == signs.digests[pair[1]]


def _counts(
    dataset: ImageDataset, pictures: Sequence[Picture], reporter: Reporter
) -> tuple[str, dict[str, list[int]], list[str]]:
    """(unit, split -> labels of each class, notes)."""
    splits = sorted({picture.split for picture in pictures})
    rows = {split: np.zeros(len(dataset.classes), np.int64) for split in splits}
    if dataset.mask_values:
        notes = _count_pixels(dataset, pictures, rows, reporter)
        return "pixels", {split: row.tolist() for split, row in rows.items()}, notes
    unit = "pictures" if any(picture.label >= 0 for picture in pictures) else "objects"
    for picture in pictures:
        labels = [picture.label] if picture.label >= 0 else [box.label for box in picture.boxes]
        for label in labels:
            rows[picture.split][label] += 1
    return unit, {split: row.tolist() for split, row in rows.items()}, []


def _count_pixels(
    dataset: ImageDataset,
    pictures: Sequence[Picture],
    rows: Mapping[str, np.ndarray],
    reporter: Reporter,
) -> list[str]:
    """Adds the pixels of masks to `rows`; of many masks, evenly spread ones are counted."""
    chosen = list(pictures)
    notes = []
    if len(chosen) > MAX_MASKS:
        places = np.linspace(0, len(chosen) - 1, MAX_MASKS).round().astype(int)
        chosen = [chosen[i] for i in places]
        notes.append(f"pixels are counted in {MAX_MASKS} of {len(pictures):,} masks")
    ignored = total = 0
    with reporter.progress("masks", len(chosen)) as progress:
        for picture in chosen:
            progress.step()
            try:
                labels = masks.pixel_labels(picture, dataset)
            except OneCardError as fault:
                notes.append(f"{picture.name}: {fault.why}")
                continue
            counts = np.bincount(labels[labels >= 0], minlength=len(dataset.classes))
            rows[picture.split][:] += counts
            ignored += int((labels < 0).sum())
            total += labels.size
    if ignored:
        notes.append(f"{ignored / total:.1%} of the masks' pixels are ignored")
    return notes


def _empty(pictures: Sequence[Picture], unit: str) -> dict[str, int]:
    counts = dict.fromkeys(sorted({picture.split for picture in pictures}), 0)
    if unit == "objects":
        for picture in pictures:
            counts[picture.split] += not picture.boxes
    return counts


def _sizes(sides: Sequence[tuple[float, float]]) -> BoxSizes | None:
    if not sides:
        return None
    areas = [width * height for width, height in sides]
    small = sum(area < SMALL for area in areas)
    medium = sum(SMALL <= area < MEDIUM for area in areas)
    tiny = sum(min(pair) < TINY_PX for pair in sides)
    return BoxSizes(small, medium, len(areas) - small - medium, tiny)


def _class_notes(report: DataReport) -> list[str]:
    """Imbalance, classes without labels, objects too small for the input."""
    totals = [sum(row[i] for row in report.counts.values()) for i in range(len(report.classes))]
    notes = []
    empty = [name for name, n in zip(report.classes, totals, strict=True) if not n]
    if empty:
        notes.append(f"classes without a label: {', '.join(empty[:10])}")
    rest = [(n, name) for n, name in zip(totals, report.classes, strict=True) if n]
    if rest and max(rest)[0] > IMBALANCE * min(rest)[0]:
        (most, first), (least, last) = max(rest), min(rest)
        text = f"{first} has {most:,} {report.unit}, {last} {least:,}"
        notes.append(f"the classes are unbalanced: {text}")
    for split in ("val", "test"):
        train, row = report.counts.get("train"), report.counts.get(split)
        if train and row:
            names = [
                name
                for name, a, b in zip(report.classes, train, row, strict=True)
                if (a == 0) != (b == 0)
            ]
            if names:
                notes.append(f"classes in only one of train and {split}: {', '.join(names[:10])}")
    if report.sizes_at_input and report.sizes_at_input.tiny:
        tiny, sizes = report.sizes_at_input.tiny, report.sizes_at_input
        n = sizes.small + sizes.medium + sizes.large
        if tiny > 0.05 * n:
            text = f"{tiny:,} of {n:,} objects have a side under {TINY_PX} px"
            notes.append(f"{text} at --imgsz {report.imgsz}: a larger one or tiles would help")
    return notes
