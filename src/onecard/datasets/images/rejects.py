"""Pictures of a data set to look at, one by one taken out of it and back. Knows no label's meaning.

A rejected picture is moved with its label files into the hidden folder `.rejected` of the data set,
which no reader looks into; nothing is deleted.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onecard.datasets.images.decode import is_picture
from onecard.errors import DataError, NotFound
from onecard.paths import safe_join

FOLDER = ".rejected"
LABELS = (".txt", ".json", ".xml", ".caption")
"""Endings of files that belong to a picture of the same name."""
MAX_PICTURES = 200_000


def listing(root: Path, start: int, limit: int, *, rejected: bool = False) -> dict[str, Any]:
    """Names below the data set, in order of their paths. Raises NotFound for what is no folder."""
    base = root / FOLDER if rejected else _folder(root)
    names = sorted(_names(base)) if base.is_dir() else []
    return {"root": str(root), "total": len(names), "names": names[start : start + limit]}


def _folder(root: Path) -> Path:
    if not root.is_dir():
        raise NotFound(
            f"{root} is no folder of pictures",
            why="it is a file, or nothing lies there",
            fix="choose the folder of the data set",
        )
    return root


def _names(base: Path) -> Iterator[str]:
    count = 0
    for folder, folders, files in os.walk(base):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(folder) / name
            if is_picture(path):
                yield path.relative_to(base).as_posix()
                count += 1
                if count >= MAX_PICTURES:
                    return


def picture(root: Path, name: str, *, rejected: bool = False) -> Path:
    """The file of a listed name. Raises NotFound, DataError for a name that leads out."""
    base = root / FOLDER if rejected else root
    path = safe_join(base, name)
    if not is_picture(path) or not path.is_file():
        raise NotFound(f"there is no picture {name[:200]}", why="it was moved", fix="look again")
    return path


def reject(root: Path, name: str) -> list[str]:
    """Move a picture and its labels out; the names of what was moved."""
    return _move(root, root / FOLDER, picture(root, name))


def restore(root: Path, name: str) -> list[str]:
    """Undo it."""
    return _move(root / FOLDER, root, picture(root, name, rejected=True))


def _move(source: Path, target: Path, path: Path) -> list[str]:
    names = [file.relative_to(source.resolve()) for file in (path, *_labels(source, path))]
    clashes = [name for name in names if (target / name).exists()]
    if clashes:
        raise DataError(
            f"{clashes[0]} lies there already",
            why="a file of this name is in both places",
            fix="rename one of them",
        )
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            (source / name).rename(target / name)
        except OSError as fault:
            raise DataError(
                f"{name} cannot be moved",
                why=fault.strerror or str(fault),
                fix=f"make {target} writable",
            ) from None
    return [name.as_posix() for name in names]


def _labels(source: Path, path: Path) -> Iterator[Path]:
    """Files of the same name beside the picture, and in YOLO's parallel folder of labels."""
    parts = path.relative_to(source.resolve()).parts
    folders = [path.parent]
    for i, part in enumerate(parts[:-1]):
        if part == "images":
            folders.append(source.resolve().joinpath(*parts[:i], "labels", *parts[i + 1 : -1]))
    for folder in folders:
        for ending in LABELS:
            file = folder / f"{path.stem}{ending}"
            if file.is_file():
                yield file
