"""Where onecard keeps its files: one cache folder outside every project, and `runs/`. Knows no file's content."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onecard.errors import DataError


def home() -> Path:
    """The cache folder: $ONECARD_HOME, else ~/.cache/onecard. Models, converted files and run folders lie in it."""
    return Path(os.environ.get("ONECARD_HOME") or Path.home() / ".cache" / "onecard").expanduser()


def models() -> Path:
    return home() / "models"


def runs() -> Path:
    """$ONECARD_RUNS, else `runs` in the cache folder."""
    return Path(os.environ.get("ONECARD_RUNS") or home() / "runs").expanduser()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to: it takes `path`'s place when the block ends well, and is removed when not.

    The bytes are on the disk before the name changes (fsync), so that a power cut leaves the old file or the new one.
    Raises DataError where the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as fault:
        raise _unwritable(path, fault) from fault
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.chmod(0o644)
        draft.replace(path)
    except OSError as fault:
        raise _unwritable(path, fault) from fault
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text whole or not at all."""
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def inside(folder: Path, name: str) -> Path:
    """`folder/name`, with names from outside kept inside: links followed, '..' refused. Raises DataError."""
    root = folder.resolve()
    path = (root / name).resolve()
    if path != root and root not in path.parents:
        raise DataError(f"'{name}' leads out of {folder}", why="names from outside may not leave their folder", fix="give a name below it")
    return path


def _unwritable(path: Path, fault: OSError) -> DataError:
    return DataError(f"{path} cannot be written", why=fault.strerror or str(fault), fix="free some disk space or choose another folder; nothing was half-written")
