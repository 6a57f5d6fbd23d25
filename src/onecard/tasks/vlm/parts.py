"""Where the halves of a vision-language model are: transformers' families name them differently."""

from collections.abc import Iterator
from typing import Any

import torch

from onecard.errors import DataError

LANGUAGE = ("language_model", "text_model")
TOWER = ("vision_tower", "vision_model", "visual")
PROJECTOR = (
    "multi_modal_projector",
    "connector",
    "merger",
    "deepstack_merger_list",
    "embed_vision",
    "merger_list",
)


def _named(model: torch.nn.Module, names: tuple[str, ...]) -> list[str]:
    """Full names of the outermost modules with one of these names."""
    paths: list[str] = []
    for path, _ in model.named_modules():
        inside = any(path.startswith(f"{other}.") for other in paths)
        if path.rpartition(".")[2] in names and not inside:
            paths.append(path)
    return paths


def language(model: torch.nn.Module) -> str:
    """Name of the language model's layers; its head stands beside them. Raises DataError."""
    return _one(model, LANGUAGE, "language model")


def tower(model: torch.nn.Module) -> str:
    """Raises DataError for a model without a vision tower."""
    return _one(model, TOWER, "vision tower")


def projector(model: torch.nn.Module) -> list[str]:
    """Names of what turns the tower's output into tokens; it may stand inside the tower."""
    names = []
    for name in _named(model, PROJECTOR):
        module = model.get_submodule(name)
        if isinstance(module, torch.nn.ModuleList):  # an adapter's file holds its members
            names += [f"{name}.{i}" for i in range(len(module))]
        else:
            names.append(name)
    return names


def _one(model: torch.nn.Module, names: tuple[str, ...], what: str) -> str:
    paths = _named(model, names)
    if not paths:
        raise DataError(
            f"{type(model).__name__} has no {what} that is known",
            why=f"none of its modules is called {', '.join(names)}",
            fix="LLaVA, Qwen-VL, SmolVLM, Gemma 3, InternVL and others like them can be trained",
        )
    return paths[0]


def linear_layers(model: torch.nn.Module, part: str) -> list[str]:
    """Full names of the linear layers of a part, without those of a projector inside it."""
    inner = [f"{name}." for name in projector(model)]
    paths = []
    for path, module in model.named_modules():
        belongs = path.startswith(f"{part}.") and not any(path.startswith(p) for p in inner)
        if belongs and isinstance(module, torch.nn.Linear):
            paths.append(path)
    return paths


def parameters(model: torch.nn.Module, names: list[str]) -> Iterator[tuple[str, Any]]:
    """Parameters of these modules, by their full names."""
    for path, weight in model.named_parameters():
        if any(path.startswith(f"{name}.") for name in names):
            yield path, weight
