"""What a task says of itself. Light: no task's `__init__` imports pydantic or a heavy library.

A task is a folder: `__init__.py` (TASK), `configs.py` (one Config per command), `memory.py` (Config
-> memory terms), one file per command, `presets/`, `README.md`, tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Command:
    """One thing that a task can do."""

    target: str
    """'module:function' in the task's folder, called with (config, run). Heavy: loaded last."""
    summary: str
    config: str
    """'configs:TrainConfig': the class in the task's folder."""
    positional: str = ""
    """The field that takes the words without a flag, as in `onecard rag index FOLDER...`."""
    requires: tuple[str, ...] = ()
    """Distributions that it needs beyond the plain install, as `faster-whisper`."""
    recorded: bool = True
    """Whether it opens a run folder; a single question does not."""


@dataclass(frozen=True)
class PlanPreset:
    """A short name of `onecard plan`: a config of the task with some values of its own."""

    summary: str
    config: str
    values: Mapping[str, Any] = field(default_factory=dict)
    example: str = ""
    """A model to plan with."""


@dataclass(frozen=True)
class Task:
    name: str
    """The folder's name."""
    summary: str
    """One line: what it makes."""
    commands: Mapping[str, Command]
    plans: Mapping[str, PlanPreset]
    """Short names of `onecard plan`; the first one is what `onecard TASK plan` plans."""
    default_command: str = ""
    """What `onecard TASK` alone does."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Commands of onecard 0.1 and their names of today."""
    packages: tuple[str, ...] = ()
    """Distributions whose versions a run keeps, and that `onecard doctor` looks for."""
    extra: str = ""
    """The extra in pyproject that installs them; empty: the one with the task's name."""
