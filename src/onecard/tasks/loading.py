"""Loads the function behind a command: the one place where heavy libraries come in."""

import importlib
import importlib.metadata
from collections.abc import Callable, Iterable
from typing import Any

from onecard.errors import MissingExtra
from onecard.tasks.base import Command, Task


def load(task: Task, command: Command) -> Callable[..., Any]:
    """The function, called with (config, run). Raises MissingExtra."""
    lacking = missing(command.requires)
    if lacking:
        raise missing_extra(task, lacking)
    module, _, function = command.target.partition(":")
    try:
        loaded = importlib.import_module(f"onecard.tasks.{task.name}.{module}")
    except ModuleNotFoundError as fault:
        if (fault.name or "").startswith("onecard"):
            raise
        raise missing_extra(task, [str(fault.name)]) from fault
    return getattr(loaded, function)  # type: ignore[no-any-return]


def missing(packages: Iterable[str]) -> list[str]:
    """Those of the distributions that are not installed."""
    lacking = []
    for package in packages:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            lacking.append(package)
    return lacking


def missing_extra(task: Task, packages: Iterable[str]) -> MissingExtra:
    return MissingExtra(
        f"{task.name} needs {', '.join(packages)}, which is not installed",
        why="each task's libraries are installed only when asked for",
        fix=f"pip install 'onecard[{task.extra or task.name}]'",
    )
