"""The kinds of project.

A folder here that defines KIND is one; there is no list to keep. Knows no kind's content.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any

from onecard.errors import MissingExtra, not_found
from onecard.tasks.base import Command, Task


@cache
def all_tasks() -> dict[str, Task]:
    """Every kind by its name, in alphabetical order."""
    found: dict[str, Task] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.ispkg:
            kind: Task = importlib.import_module(f"{__name__}.{module.name}").TASK
            found[kind.name] = kind
    return found


def get(name: str) -> Task:
    """Raises NotFound with the nearest name."""
    if name not in all_tasks():
        raise not_found("kind", name, all_tasks())
    return all_tasks()[name]


def command_of(kind: Task, name: str) -> Command:
    """Raises NotFound with the nearest verb."""
    if name not in kind.commands:
        raise not_found(f"verb of {kind.name}", name, [*kind.commands, "plan"])
    return kind.commands[name]


def work(kind: Task, verb: Command) -> Callable[..., Any]:
    """Import the function behind a verb: the one place that loads what is heavy.

    Raises MissingExtra.
    """
    missing = [name for name in verb.needs if importlib.util.find_spec(name) is None]
    if missing:
        raise missing_extra(kind, ", ".join(missing))
    module, _, function = verb.target.partition(":")
    try:
        return getattr(importlib.import_module(f"{__name__}.{kind.name}.{module}"), function)  # type: ignore[no-any-return]
    except ModuleNotFoundError as fault:
        if (fault.name or "").startswith("onecard"):
            raise
        raise missing_extra(kind, str(fault.name)) from fault


def missing_extra(kind: Task, modules: str) -> MissingExtra:
    return MissingExtra(
        f"{kind.name} needs {modules}, which is not installed",
        why="each kind's libraries are installed only when asked for",
        fix=f"pip install 'onecard[{kind.extra or kind.name}]'",
    )
