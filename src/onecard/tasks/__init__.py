"""The tasks. A folder here that defines TASK is one; there is no list to keep. Knows no task's
content."""

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from onecard.errors import not_found
from onecard.tasks.base import Command, Task


@cache
def names() -> tuple[str, ...]:
    """The folders, in alphabetical order; nothing is imported."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg))


@cache
def all_tasks() -> dict[str, Task]:
    """Every task by its name, in alphabetical order."""
    return {name: get(name) for name in names()}


@cache
def get(name: str) -> Task:
    """Raises NotFound with the nearest name."""
    if name not in names():
        raise not_found("task", name, names())
    task: Task = importlib.import_module(f"{__name__}.{name}").TASK
    return task


def folder(task: Task) -> Path:
    return Path(__path__[0]) / task.name


def command_of(task: Task, name: str) -> Command:
    """By its name or its name of onecard 0.1. Raises NotFound with the nearest command."""
    name = task.aliases.get(name, name)
    if name not in task.commands:
        raise not_found(f"command of {task.name}", name, [*task.commands, "plan"])
    return task.commands[name]


def config_class(task: Task, target: str) -> Any:
    """The class behind 'configs:TrainConfig'."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(f"{__name__}.{task.name}.{module}"), name)


def configs(task: Task) -> dict[str, Any]:
    """Every Config class of the task by its target."""
    targets = [row.config for row in task.commands.values()]
    targets += [row.config for row in task.plans.values()]
    return {target: config_class(task, target) for target in targets}


def memory(task: Task) -> ModuleType:
    """The task's memory.py: `plan(config, device)`, `fallbacks(config)`, `FIT`."""
    return importlib.import_module(f"{__name__}.{task.name}.memory")
