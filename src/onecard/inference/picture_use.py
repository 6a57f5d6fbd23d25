"""A trained vision model opened for use: torch or one of its exports, behind one Predictor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from onecard.errors import SettingsError
from onecard.inference.picture_config import TrainedModelConfig
from onecard.inference.picture_model import ModelCard, find_model, read_card
from onecard.inference.picture_sessions import (
    ONNX_INT8,
    OnnxSession,
    OpenVinoSession,
    Predictor,
    TensorRtSession,
    TorchSession,
)

Load = Callable[[Path, ModelCard], Any]
"""(folder, card) -> the trained torch network, as the task builds it."""


def require_model(config: TrainedModelConfig, task: str) -> tuple[Path, ModelCard]:
    """The model's folder and description.

    Raises SettingsError where none is named or it does another task, NotFound, DataError.
    """
    if not config.run_id:
        raise SettingsError(
            "no model is named",
            why="--run_id is empty",
            fix=f"--run_id with the run of an onecard {task} train (onecard runs list), or the "
            "folder of its model",
        )
    folder = find_model(config.run_id)
    card = read_card(folder)
    if card.task != task:
        raise SettingsError(
            f"{config.run_id} is no model of {task}",
            why=f"it was trained to {card.task}",
            fix=f"onecard {card.task}, with the same words",
        )
    return folder, card


def open_predictor(
    config: TrainedModelConfig, task: str, load: Load, *, confidence: float | None = None
) -> Predictor:
    """The model in the form that the config names. `confidence`: in place of the config's.

    Raises what `require_model` raises, and MissingExtra and EngineError of the form's engine.
    """
    folder, card = require_model(config, task)
    if config.n_threads:
        torch.set_num_threads(config.n_threads)
    run = open_form(config.form, folder, card, load, config.n_threads)
    chosen = config.confidence or None if confidence is None else confidence
    return Predictor(card, run, batch=config.batch, confidence=chosen)


def open_form(form: str, folder: Path, card: ModelCard, load: Load, n_threads: int = 0) -> Any:
    """images_BCHW -> outputs, by one of the model's files."""
    if form == "torch":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return TorchSession(load(folder, card), device=device).run
    if form == "onnx":
        return OnnxSession(folder, card, n_threads=n_threads).run
    if form == "onnx-int8":
        return OnnxSession(folder, card, name=ONNX_INT8, n_threads=n_threads).run
    if form == "openvino":
        return OpenVinoSession(folder, card, n_threads=n_threads).run
    return TensorRtSession(folder, card).run
