"""The kinds of project. A folder here that defines KIND is one; there is no list to keep. Knows no kind's content."""

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any

from onecard.errors import MissingExtra, not_found
from onecard.kinds.base import Kind, Verb


@cache
def all_kinds() -> dict[str, Kind]:
    """Every kind by its name, in alphabetical order."""
    found: dict[str, Kind] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.ispkg:
            kind: Kind = importlib.import_module(f"{__name__}.{module.name}").KIND
            found[kind.name] = kind
    return found


def get(name: str) -> Kind:
    """Raises NotFound with the nearest name."""
    if name not in all_kinds():
        raise not_found("kind", name, all_kinds())
    return all_kinds()[name]


def verb_of(kind: Kind, name: str) -> Verb:
    """Raises NotFound with the nearest verb."""
    if name not in kind.verbs:
        raise not_found(f"verb of {kind.name}", name, [*kind.verbs, "plan"])
    return kind.verbs[name]


def work(kind: Kind, verb: Verb) -> Callable[..., Any]:
    """Import the function behind a verb: the one place that loads what is heavy. Raises MissingExtra."""
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


def missing_extra(kind: Kind, modules: str) -> MissingExtra:
    return MissingExtra(
        f"{kind.name} needs {modules}, which is not installed",
        why="each kind's libraries are installed only when asked for",
        fix=f"pip install 'onecard[{kind.extra or kind.name}]'",
    )
