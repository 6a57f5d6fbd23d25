"""What a kind of project must say of itself. Light: no kind's __init__ imports a heavy library."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from onecard.config import Settings
from onecard.memory.devices import Device
from onecard.memory.plan import Plan


@dataclass(frozen=True)
class Command:
    """One thing a kind can do: `target` is 'module:function' in its folder, called with (settings,
    run)."""

    target: str
    says: str
    positional: str = ""
    """The field that takes the words that stand alone, as FOLDER... in `onecard rag index
    FOLDER...`."""
    needs: tuple[str, ...] = ()
    """Modules this verb imports that are not part of the plain install."""
    records: bool = True
    """Whether it opens a run folder; a single question does not."""
    fields: tuple[str, ...] = ()
    """The settings that its --help shows; empty means all."""


@dataclass(frozen=True)
class Task:
    name: str
    """The folder's name."""
    says: str
    """One line: what it makes."""
    settings: type[Settings]
    plan: Callable[[Any, Device], Plan]
    commands: Mapping[str, Command]
    default_verb: str = ""
    """What `onecard KIND` alone does."""
    smaller: Callable[[Any], Iterable[tuple[dict[str, Any], str]]] | None = None
    """(changes, what they cost) of settings that need less memory, smallest loss first: taken one
    by one when memory runs out."""
    extra: str = ""
    """The extra in pyproject that installs what its verbs need; empty means the plain install."""
