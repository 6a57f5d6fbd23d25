"""Which files the page may name: those below its roots, hidden ones left out.

A page in a browser is farther from the user than a terminal: what it sends may come from a
borrowed session, so a path is held to folders that the server was started for.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from onecard import paths
from onecard.errors import DataError
from onecard.web.access import KEY_FILE

SYSTEM = (Path("/proc"), Path("/sys"), Path("/dev"))
"""Processes with their secrets, and devices: never files of the user."""
MAX_LISTED = 2000
"""Entries of a folder that a listing gives; more are counted."""


class Roots:
    """The allowed folders, links in them followed."""

    def __init__(self, folders: Iterable[str] = ()) -> None:
        chosen = [Path(folder).expanduser() for folder in folders] or _default_folders()
        own = [paths.home(), paths.runs()]
        self.own = list(dict.fromkeys(_real(folder) for folder in own))
        self.user = list(dict.fromkeys(_real(folder) for folder in chosen))

    def check(self, name: str) -> Path:
        """The absolute path behind a name from the page. Raises DataError outside the roots.

        Links are followed before the test, so that none leads out.
        """
        try:
            path = _real(Path(name).expanduser())
            path.exists()  # raises for a name too long and a folder that may not be entered
        except (OSError, RuntimeError, ValueError) as fault:
            raise DataError(
                f"'{name[:200]}' is no path", why=str(fault), fix="choose a file or folder"
            ) from None
        for root in (*self.own, *self.user):
            if _is_below(path, root) and not any(_is_below(path, each) for each in SYSTEM):
                parts = path.relative_to(root).parts
                if any(part.startswith(".") for part in parts) or parts == (KEY_FILE,):
                    raise DataError(
                        f"'{name[:200]}' is hidden",
                        why="the page shows no files whose path has a name with a dot in front",
                        fix="use the command line, or name that folder with onecard ui --root",
                    )
                return path
        raise DataError(
            f"'{name[:200]}' is outside the folders of this page",
            why=f"it was started for {', '.join(map(str, self.user))}",
            fix="onecard ui --root FOLDER  starts it for another folder",
        )

    def check_values(self, values: Mapping[str, Any]) -> None:
        """Raises DataError for a setting, or anything within one, that is a path outside the roots.
        A name of a model with a slash in it is no path unless such a file exists."""
        for text in _texts(values):
            if path := _path_in(text):
                self.check(path)

    def listing(self, name: str = "") -> dict[str, Any]:
        """A folder's entries, folders first; the roots themselves without a name.

        Raises DataError for what is no folder.
        """
        if not name:
            rows = [{"name": str(root), "path": str(root), "folder": True} for root in self.user]
            return {"path": "", "parent": "", "entries": rows, "left_out": 0}
        folder = self.check(name)
        try:
            entries = sorted(os.scandir(folder), key=lambda e: (not e.is_dir(), e.name.lower()))
        except OSError as fault:
            raise DataError(
                f"{folder} cannot be listed", why=fault.strerror or str(fault), fix="choose another"
            ) from None
        visible = [entry for entry in entries if not entry.name.startswith(".")]
        parent = "" if folder in self.user else str(folder.parent)
        rows = [
            {"name": e.name, "path": str(folder / e.name), "folder": e.is_dir()}
            for e in visible[:MAX_LISTED]
        ]
        left = max(0, len(visible) - MAX_LISTED)
        return {"path": str(folder), "parent": parent, "entries": rows, "left_out": left}


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _is_below(path: Path, root: Path) -> bool:
    return path == root or root in path.parents


def _default_folders() -> list[Path]:
    """The home folder, and the current one unless that is the whole disk, as for a service."""
    home, current = Path.home(), Path.cwd()
    return [home] if current in _real(home).parents else [home, current]


def _texts(value: Any) -> Iterator[str]:
    """Every text within a setting."""
    if isinstance(value, str | Path):
        yield str(value)
    elif isinstance(value, Mapping):
        yield from (text for pair in value.items() for part in pair for text in _texts(part))
    elif isinstance(value, list | tuple | set):
        yield from (text for item in value for text in _texts(item))


def _path_in(text: str) -> str:
    """The path that a program could open the text as; empty for a name, an address, a sentence."""
    bare = text.strip()
    is_file = bare.lower().startswith("file:")
    bare = bare[len("file:") :] if is_file else bare
    if len(bare) > 4096 or "\n" in bare:
        return ""
    if is_file or bare.startswith(("/", "~", "\\")) or ".." in Path(bare).parts:
        return bare
    try:
        return bare if bare and Path(bare).exists() else ""
    except (OSError, ValueError):  # no file has such a name
        return ""
