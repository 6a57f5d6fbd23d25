"""Files written whole or not at all. Knows no file's content."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onecard.errors import DataError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to: it takes `path`'s place when the block ends well, and is
    removed when not.

    The bytes are on the disk before the name changes (fsync), so that a power cut leaves the old
    file or the new one.
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
    with atomic_write(path) as draft:
        draft.write_text(text, encoding="utf-8")


def _unwritable(path: Path, fault: OSError) -> DataError:
    return DataError(
        f"{path} cannot be written",
        why=fault.strerror or str(fault),
        fix="free some disk space or choose another folder; nothing was half-written",
    )
