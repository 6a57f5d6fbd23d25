"""Modules of web/, whose libraries are an extra."""

import importlib
from types import ModuleType

from onecard.errors import MissingExtra


def load(name: str, what: str) -> ModuleType:
    """onecard.web.NAME. Raises MissingExtra, which says that `what` needs a library."""
    try:
        return importlib.import_module(f"onecard.web.{name}")
    except ModuleNotFoundError as fault:
        if (fault.name or "").startswith("onecard"):
            raise
        raise MissingExtra(
            f"{what} needs {fault.name}",
            why="its libraries are installed only when asked for",
            fix="pip install 'onecard[ui]'",
        ) from None
