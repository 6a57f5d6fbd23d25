"""What a finished training of a vision model leaves: the model folder and the result."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from onecard.evaluation.stats import Interval
from onecard.inference.picture_model import ModelCard
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.training import picture_torch, yolo_names
from onecard.training.checked_set import CheckedSet
from onecard.training.picture_trainer import TrainingState

MODEL = "model"
"""The model's folder in the training's own."""


def keep(net: nn.Module, card: ModelCard, out: Path, run: Run) -> None:
    """Write out/model, a .pt for ultralytics' own programs beside a YOLO, and the pointer by which
    a run's name finds it."""
    folder = out / MODEL
    picture_torch.save(net, card, folder)
    if yolo_names.is_network(net):
        yolo_names.network().write_pt(net, card.classes, folder / "best.pt", card.task)
    run.artifact("result.json", json.dumps({"model": str(folder.resolve())}))


def held_out_note(data: CheckedSet) -> list[str]:
    """What a reader should know of the pictures that the score is from."""
    if data.test:
        return [f"scored on the {len(data.test)} test pictures, which chose nothing"]
    return [
        f"scored on the {len(data.val)} validation pictures, on which the best epoch was chosen "
        "too: a test split would tell it without that"
    ]


def result(
    config: Any,
    run: Run,
    out: Path,
    card: ModelCard,
    state: TrainingState,
    values: Mapping[str, Interval],
    verdicts: Sequence[str],
    lines: Sequence[str],
) -> Result:
    """`lines`: the scores as a person reads them."""
    folder = out / MODEL
    name = str(folder) if config.output_dir or not run.id else run.id
    text = [
        *lines,
        *verdicts,
        *([f"stopped early: {state.stopped}"] if state.stopped else []),
        f"wrote {folder}",
        f"use it: onecard {card.task} predict PICTURE --run_id {name}",
        f"export it: onecard {card.task} export {name} --formats onnx",
    ]
    return Result(
        {
            "metrics": {name: interval.as_dict() for name, interval in values.items()},
            "verdicts": list(verdicts),
            "classes": list(card.classes),
            "license": card.license,
            "epochs": state.epoch,
            "best_epoch": state.best_epoch,
            "output_dir": str(out),
            "model": str(folder),
        },
        "\n".join(text),
    )
