"""Runs that were thrown away: moved into a folder of the trash, so that it can be undone."""

import shutil
import time
from pathlib import Path

from onecard import paths
from onecard.errors import DataError, not_found
from onecard.runs.store import RunRecord

KEPT_S = 30 * 24 * 3600
"""Age at which a run in the trash is removed for good, when the next one is thrown away."""


def folder() -> Path:
    return paths.runs() / ".trash"


def put(run: RunRecord) -> Path:
    """Move a run into the trash; where it lies there. Raises DataError for one that runs."""
    if run.status == "running":
        raise DataError(
            f"run {run.id} is still running",
            why="its process writes into the folder",
            fix="stop it first",
        )
    trash = folder()
    trash.mkdir(parents=True, exist_ok=True)
    _empty(trash)
    target = trash / run.id
    try:
        run.folder.rename(target)
    except OSError as fault:
        raise DataError(
            f"run {run.id} cannot be moved into the trash",
            why=fault.strerror or str(fault),
            fix=f"check {trash}",
        ) from None
    (target / "thrown-away").touch()
    return target


def restore(run_id: str) -> RunRecord:
    """Undo it. Raises NotFound."""
    source = next((run.folder for run in listing() if run.id == run_id), None)
    if source is None:
        raise not_found("run in the trash", run_id, [run.id for run in listing()])
    target = paths.runs() / run_id
    try:
        source.rename(target)
    except OSError as fault:
        raise DataError(
            f"run {run_id} cannot be restored",
            why=fault.strerror or str(fault),
            fix="move a run of the same name away, or free some space",
        ) from None
    (target / "thrown-away").unlink(missing_ok=True)
    return RunRecord(target)


def listing() -> list[RunRecord]:
    """The newest first."""
    folders = [path.parent for path in folder().glob("*/run.json")] if folder().is_dir() else []
    return [RunRecord(path) for path in sorted(folders, reverse=True)]


def _empty(trash: Path) -> None:
    """Remove what has lain there for KEPT_S."""
    for path in trash.iterdir():
        mark = path / "thrown-away"
        if mark.exists() and time.time() - mark.stat().st_mtime > KEPT_S:
            shutil.rmtree(path, ignore_errors=True)
