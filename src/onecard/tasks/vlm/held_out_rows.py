"""Rows of a task's commands that need no model: read and validated, and those that a training held
out. Light: no torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onecard.errors import DataError, SettingsError
from onecard.runs.record import Run
from onecard.tasks.vlm import items, picture_rows, validation
from onecard.tasks.vlm.configs import VlmDataConfig
from onecard.tasks.vlm.items import VlmItem
from onecard.tasks.vlm.picture_facts import PictureFacts
from onecard.tasks.vlm.validation import ValidationReport

HELD_OUT = "held_out.jsonl"
TRAINED = "trained_pictures.tsv"
"""sha256 and name of every picture that was trained on, one a line."""


def validated(config: VlmDataConfig, run: Run) -> ValidationReport:
    """Raises SettingsError without data, NotFound, DataError."""
    if not config.data:
        raise SettingsError(
            "there is no data",
            why="no file or folder of rows was named",
            fix="onecard vlm train rows.jsonl --images FOLDER",
        )
    options: dict[str, Any] = {
        "columns": config.columns,
        "question": config.question,
        "reporter": run.reporter,
    }
    rows = picture_rows.read(config.data, config.images, **options)
    evaluation = None
    if config.eval_data:
        evaluation = picture_rows.read(config.eval_data, config.images, **options)
    return validation.validate(
        rows,
        evaluation,
        allow_leakage=config.allow_leakage,
        seed=config.seed,
        reporter=run.reporter,
    )


def read_held_out(path: Path) -> list[VlmItem]:
    """Rows that a training held out. Raises DataError for a damaged file."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [items.from_dict(row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise DataError(
            f"{path} cannot be read",
            why=f"{type(fault).__name__}: {str(fault)[:150]}",
            fix="name the rows to score: onecard vlm evaluate ROWS --run_id RUN",
        ) from None


def trained_pictures(out: Path) -> dict[str, str]:
    """sha256 -> name of the pictures that a run was trained on."""
    path = out / TRAINED
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t", 1) for line in lines if "\t" in line)


def fingerprint(rows: Sequence[VlmItem], facts: PictureFacts) -> str:
    return items.fingerprint(rows, facts.digests)
