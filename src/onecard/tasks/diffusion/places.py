"""The folder that pictures or a training go to: looked at before any work is done for it."""

import os
from pathlib import Path

from onecard.errors import SettingsError


def require_writable(output_dir: str) -> None:
    """Creates nothing. Raises SettingsError where `output_dir` is a file, lies below one or cannot
    be written to; an empty one is the run's own folder."""
    if not output_dir.strip():
        return
    path = Path(output_dir).expanduser()
    try:
        # the folders that are missing are made in the nearest one that is there
        nearest = next(each for each in (path, *path.absolute().parents) if each.exists())
        is_folder = nearest.is_dir()
    except OSError as fault:  # a name that is too long
        raise _refusal(output_dir, fault.strerror or str(fault)) from None
    if not is_folder:
        raise _refusal(output_dir, f"{nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _refusal(output_dir, f"you may not write to {nearest}, or its disk is read-only")


def _refusal(output_dir: str, why: str) -> SettingsError:
    return SettingsError(
        f"nothing can be written to {output_dir}", why=why, fix="--output_dir with another folder"
    )
