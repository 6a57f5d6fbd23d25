"""Rows to train on and rows that judge: read, validated, split by pictures, bounded."""

from collections.abc import Sequence
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


def largest_pictures(vlm: Vlm, data: TrainingData) -> tuple[int, int, int, str]:
    """(width, height, tokens, table) of the picture that becomes most tokens, counted by the
    model's own processor on blank pictures of the set's most extreme sizes."""
    sizes = {
        data.facts.sizes[path]
        for item in (*data.train, *data.evaluation)
        for path in item.images
        if path in data.facts.sizes
    }
    if not sizes:
        return 0, 0, 0, ""
    by_area = sorted(sizes, key=lambda s: -s[0] * s[1])
    by_shape = sorted(sizes, key=lambda s: -max(s) / min(s))
    probes = dict.fromkeys([*by_area[:PROBED_SIZES], *by_shape[:PROBED_SIZES], by_area[-1]])
    rows = []
    for width, height in probes:
        rows.append((blank_tokens(vlm, width, height), width, height))
    most, least = max(rows), min(rows)
    n, width, height = most
    text = f"{width}x{height} px: {n:,} tokens a picture"
    if least[0] != n:
        text += f" (the smallest, {least[1]}x{least[2]} px: {least[0]:,})"
    return width, height, n, text


def blank_tokens(vlm: Vlm, width: int, height: int) -> int:
    """Raises DataError for a size that the processor does not take."""
    return vlm.picture_tokens(Picture(np.zeros((height, width, 3), np.uint8), "a blank picture"))


def most_pictures(rows: Sequence[VlmItem]) -> int:
    return max((len(item.images) for item in rows), default=0)
