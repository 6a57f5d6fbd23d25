"""A tiny language model on the disk: model.safetensors, config.json and tokenizer.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from onecard import fsio
from onecard.errors import DataError, NotFound, SettingsError
from onecard.hub import names
from onecard.runs import store
from onecard.runs.record import read_json
from onecard.tasks.tinylm import model_config
from onecard.tasks.tinylm.model import TinyLM

POINTER = "tinylm.json"
"""Artifact of a run that names the folder of its model."""


@dataclass(frozen=True)
class SavedModel:
    net: TinyLM
    """In evaluation mode, on the card where there is one."""
    tokenizer: Tokenizer
    folder: Path
    config: dict[str, Any]
    """config.json: the ModelConfig and facts of the training."""


def save(net: TinyLM, folder: Path, tokenizer: Tokenizer, facts: dict[str, Any]) -> None:
    """Each file whole or not at all. `facts` go into config.json."""
    with fsio.atomic_write(folder / "model.safetensors") as draft:
        save_file(
            {name: weight.detach().cpu().contiguous() for name, weight in net.named_parameters()},
            draft,
        )
    fsio.write_text(folder / "tokenizer.json", tokenizer.to_str())
    config = {"model_type": "onecard-tinylm", **net.model_config.as_dict(), **facts}
    fsio.write_text(folder / "config.json", json.dumps(config, indent=1))


def load(name: str) -> SavedModel:
    """The model of a run (its id, `last` or run:ID) or in a folder.

    Raises NotFound, SettingsError, DataError for files that do not belong together.
    """
    folder = _find(name)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as fault:  # the tokenizers library raises a bare Exception
        raise DataError(
            f"{folder} is not complete",
            why=f"config.json or tokenizer.json: {str(fault).splitlines()[0][:150]}",
            fix="give the folder as the training wrote it",
        ) from None
    shape = model_config.from_dict(config, str(folder / "config.json"))
    if tokenizer.get_vocab_size() != shape.vocab_size:
        raise DataError(
            f"the tokenizer in {folder} is another model's",
            why=f"it has {tokenizer.get_vocab_size()} tokens, the model {shape.vocab_size}",
            fix="put back the tokenizer.json that the training wrote",
        )
    net = TinyLM(shape)
    try:
        net.load_state_dict(load_file(folder / "model.safetensors"))
    except (SafetensorError, RuntimeError) as fault:
        raise DataError(
            f"{folder / 'model.safetensors'} is cut short or another model's",
            why=str(fault).splitlines()[0][:200],
            fix="train again, or give another folder",
        ) from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return SavedModel(net.eval().to(device), tokenizer, folder, config)


def _find(name: str) -> Path:
    if not name:
        raise SettingsError(
            "there is no model",
            why="no run was named",
            fix="onecard tinylm generate last, or the ID of a training: onecard runs list",
        )
    folder = names.local_path(name, ("last",))
    if folder is None or not folder.is_dir():
        artifacts = store.find(name.removeprefix("run:")).folder / "artifacts"
        recorded = str(read_json(artifacts / POINTER).get("model", ""))
        folder = artifacts / "model"
        if recorded and Path(recorded).is_dir():
            folder = Path(recorded)
    if not (folder / "model.safetensors").is_file():
        raise NotFound(
            f"{name} holds no tiny language model",
            why=f"{folder} has no model.safetensors",
            fix="onecard tinylm train makes one",
        )
    return folder
