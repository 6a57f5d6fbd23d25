"""Homes (ONECARD_HOME) for tests: empty but for the models, which are fetched once for all."""

import os
from pathlib import Path

CACHE = Path(os.environ.get("ONECARD_TEST_CACHE") or Path.home() / ".cache" / "onecard-tests")
"""Models and what is converted from them: 98 MB, 91 MB and 500 MB, which no test writes to."""
SHARED_FOLDERS = ("models", "dense", "ultralytics")
"""Folders of the home that hold downloaded or converted files."""


def new_home(folder):
    """A home whose models are the cache's."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SHARED_FOLDERS:
        (CACHE / name).mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(CACHE / name, target_is_directory=True)
    return folder
