"""Rows to train on and rows that judge: read, validated, split by pictures, bounded."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onecard import fsio
from onecard.datasets import jsonl
from onecard.errors import DataError
from onecard.runs.record import Run
from onecard.tasks.vlm import batches, held_out_rows, items, scoring, text_baseline, validation
from onecard.tasks.vlm.configs import VisionTrainConfig
from onecard.tasks.vlm.engine import Picture
from onecard.tasks.vlm.items import RejectedRow, VlmItem
from onecard.tasks.vlm.model import Vlm
from onecard.tasks.vlm.picture_facts import PictureFacts
from onecard.tasks.vlm.validation import ValidationReport

REJECTED = "put_aside.jsonl"
PROBED_SIZES = 24
"""Largest and flattest picture sizes of a set whose tokens are counted."""


@dataclass
class TrainingData:
    train: list[VlmItem]
    evaluation: list[VlmItem]
    report: ValidationReport
    rejected: list[RejectedRow] = field(default_factory=list)

    @property
    def facts(self) -> PictureFacts:
        return self.report.facts

    @property
    def fingerprint(self) -> str:
        return items.fingerprint([*self.train, *self.evaluation], self.facts.digests)

    def text_alone(self) -> dict[str, float]:
        """Item id -> 1 where the question alone, as the training rows answer it, is enough."""
        return text_baseline.TextBaseline(self.train).scores(self.evaluation)


def prepare(config: VisionTrainConfig, report: ValidationReport, vlm: Vlm) -> TrainingData:
    """Split, with the rows left out that are too long. Raises DataError where nothing is left."""
    if report.evaluation:
        train, held_out = report.items, report.evaluation
    else:
        train, held_out = validation.split(
            report.items, config.eval_share, config.seed, report.facts, config.eval_items
        )
    train, long_train = batches.within(vlm, train, config.text_tokens)
    held_out = [item for item in held_out if item.has_answer]
    held_out, long_held_out = batches.within(vlm, held_out, config.text_tokens)
    for side, what in ((train, "to train on"), (held_out, "to judge by")):
        if not side:
            raise DataError(
                f"no row {what} is left",
                why=f"all are longer than {config.text_tokens:,} tokens, or have no answer",
                fix="a larger --text_tokens, or shorter rows",
            )
    held_out = scoring.sample(held_out, config.eval_items, config.seed)
    return TrainingData(train, held_out, report, [*report.rejected, *long_train, *long_held_out])


def record(data: TrainingData, out: Path, run: Run) -> None:
    """Fingerprints into the run; held-out and rejected rows as files."""
    run.data("train", rows=len(data.train), sha256=data.fingerprint, put_aside=len(data.rejected))
    digests = data.facts.digests
    run.data(
        "questions",
        rows=len(data.evaluation),
        sha256=items.fingerprint(data.evaluation, digests),
    )
    fsio.write_text(
        out / held_out_rows.HELD_OUT, jsonl.to_jsonl(item.as_dict() for item in data.evaluation)
    )
    pictures = sorted({path for item in data.train for path in item.images if path in digests})
    lines = "".join(f"{digests[path].hex()}\t{path.name}\n" for path in pictures)
    fsio.write_text(out / held_out_rows.TRAINED, lines)
    if data.rejected:
        fsio.write_text(out / REJECTED, jsonl.to_jsonl(row.as_dict() for row in data.rejected))


@dataclass(frozen=True)
class LargestPictures:
    """What the pictures of a set become in this model."""

    size: tuple[int, int] = (0, 0)
    """(width, height) of the one that becomes most tokens, px; zeros without any."""
    tokens: int = 0
    smallest: tuple[int, int] = (0, 0)
    fewest_tokens: int = 0
    a_row: int = 0
    """Most pictures of a row."""

    def render(self) -> str:
        if not self.tokens:
            return "no row has a picture"
        text = f"pictures: {self.size[0]}x{self.size[1]} px: {self.tokens:,} tokens a picture"
        if self.fewest_tokens != self.tokens:
            width, height = self.smallest
            text += f" (the smallest, {width}x{height} px: {self.fewest_tokens:,})"
        return f"{text}; {self.a_row} a row at most"


def largest_pictures(vlm: Vlm, data: TrainingData) -> LargestPictures:
    """Counted by the model's own processor on blank pictures of the set's most extreme sizes.

    Raises DataError for a size that the processor does not take.
    """
    sizes = {
        data.facts.sizes[path]
        for item in (*data.train, *data.evaluation)
        for path in item.images
        if path in data.facts.sizes
    }
    if not sizes:
        return LargestPictures()
    by_area = sorted(sizes, key=lambda s: -s[0] * s[1])
    by_shape = sorted(sizes, key=lambda s: -max(s) / min(s))
    probes = dict.fromkeys([*by_area[:PROBED_SIZES], *by_shape[:PROBED_SIZES], by_area[-1]])
    counts = {size: vlm.picture_tokens(_blank(*size)) for size in probes}
    most, fewest = (pick(counts, key=lambda s: (counts[s], s)) for pick in (max, min))
    a_row = max(len(item.images) for item in data.train)
    return LargestPictures(most, counts[most], fewest, counts[fewest], a_row)


def _blank(width: int, height: int) -> Picture:
    return Picture(np.zeros((height, width, 3), np.uint8), "a blank picture")
