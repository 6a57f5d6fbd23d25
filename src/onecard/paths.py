"""Where onecard keeps its files: one cache folder outside every project, and `runs/`.

Knows no file's content.
"""

import os
from pathlib import Path

from onecard.errors import DataError


def home() -> Path:
    """The cache folder: $ONECARD_HOME, else ~/.cache/onecard.

    Models, converted files and run folders lie in it.
    """
    return Path(os.environ.get("ONECARD_HOME") or Path.home() / ".cache" / "onecard").expanduser()


def models() -> Path:
    return home() / "models"


def runs() -> Path:
    """$ONECARD_RUNS, else `runs` in the cache folder."""
    return Path(os.environ.get("ONECARD_RUNS") or home() / "runs").expanduser()


def safe_join(folder: Path, name: str) -> Path:
    """`folder/name`, with names from outside kept inside: links followed, '..' refused.

    Raises DataError.
    """
    root = folder.resolve()
    try:
        path = (root / name).resolve()
    except (OSError, ValueError) as fault:  # a NUL, a circle of links
        raise DataError(
            f"'{name[:200]!r}' is no name for a file", why=str(fault), fix="give another name"
        ) from None
    if path != root and root not in path.parents:
        raise DataError(
            f"'{name}' leads out of {folder}",
            why="names from outside may not leave their folder",
            fix="give a name below it",
        )
    return path
