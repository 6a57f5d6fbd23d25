"""Files written whole or not at all. Knows no file's content.

A draft is named after its process (.NAME.draft-PID-START-...), so that those of a process that was
killed are known and removed.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
        remove_dead_drafts(path.parent, path.name)
        handle, name = tempfile.mkstemp(prefix=_draft_prefix(path.name), dir=path.parent)
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
    """Write a text whole or not at all.

    A file name that is not UTF-8 has half surrogates in Python; they are written as \\udce9, which
    in JSON is the same name again.
    """
    with atomic_write(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` that takes its place when the block ends well, and is removed when
    not. Raises DataError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_dead_drafts(path.parent, path.name)
        draft = Path(tempfile.mkdtemp(prefix=_draft_prefix(path.name), dir=path.parent))
    except OSError as fault:
        raise _unwritable(path, fault) from fault
    try:
        yield draft
        draft.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        draft.rename(path)
    except OSError as fault:
        raise _unwritable(path, fault) from fault
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def remove_dead_drafts(folder: Path, name: str = "") -> None:
    """Remove what processes that are gone left half-written; of one name, or of all."""
    for entry in folder.glob(".*.draft-*"):
        parts = DRAFT.fullmatch(entry.name)
        if not parts or (name and parts["name"] != name[:NAME_CHARS]):
            continue
        if parts["start"] == process_start(int(parts["pid"])):
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


DRAFT = re.compile(r"\.(?P<name>.*)\.draft-(?P<pid>\d+)-(?P<start>\w*)-\w+", re.DOTALL)
NAME_CHARS = 40
"""Of the final name in a draft's, which has a length limit of its own."""


def _draft_prefix(name: str) -> str:
    pid = os.getpid()
    return f".{name[:NAME_CHARS]}.draft-{pid}-{process_start(pid)}-"


def process_start(pid: int) -> str:
    """When a process began, in the kernel's ticks since boot; empty for one that is gone, or that
    has ended and only waits for its parent to see it.

    With the process id it names a process until the next boot: ids are given again.
    """
    try:
        # proc(5)'s stat; the second field, a name in brackets, may hold spaces
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        state, start = fields[0], fields[19]
    except (OSError, IndexError):
        return ""
    return "" if state in "ZX" else start


def _unwritable(path: Path, fault: OSError) -> DataError:
    return DataError(
        f"{path} cannot be written",
        why=fault.strerror or str(fault),
        fix="free some disk space or choose another folder; nothing was half-written",
    )


def disk_bytes(path: Path) -> int:
    """Of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


def read_json(path: Path, max_bytes: int | None = None) -> dict[str, Any]:
    """A JSON object; empty where the file is missing, broken or larger than `max_bytes`, so that
    one bad file hides no other."""
    try:
        if max_bytes is not None and path.stat().st_size > max_bytes:
            return {}
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
