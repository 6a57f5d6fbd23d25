"""Checkpoint folders of transformers' Trainer: checkpoint-<step>, marked once they are complete."""

import shutil
from pathlib import Path

COMPLETE = ".whole"
"""Written into a checkpoint after everything else: a killed process leaves one without it."""
OPTIMIZER_NAME = "optim.txt"


def mark_complete(checkpoint: Path, optim: str) -> None:
    """`optim`: the optimizer whose state lies in the checkpoint."""
    (checkpoint / OPTIMIZER_NAME).write_text(optim)
    (checkpoint / COMPLETE).touch()


def last(folder: Path) -> Path | None:
    """The newest complete checkpoint."""
    complete = [
        path
        for path in folder.glob("checkpoint-*")
        if (path / COMPLETE).exists() and path.name.rpartition("-")[2].isdigit()
    ]
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def remove_incomplete(folder: Path) -> None:
    for path in folder.glob("checkpoint-*"):
        if not (path / COMPLETE).exists():
            shutil.rmtree(path, ignore_errors=True)


def drop_foreign_optimizer(checkpoint: Path, optim: str) -> None:
    """Remove the state of another optimizer, which the new one could not load: its moments start
    anew, the adapter's weights stay."""
    name = checkpoint / OPTIMIZER_NAME
    if name.exists() and name.read_text() != optim:
        for file in ("optimizer.pt", "scheduler.pt"):
            (checkpoint / file).unlink(missing_ok=True)
