"""Files of this machine: listings below the roots, uploads in pieces, downloads."""

import secrets
import shutil
import time
from pathlib import Path
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from onecard import paths
from onecard.errors import DataError, NotFound
from onecard.web import shown, state

router = APIRouter(tags=["files"])
PIECE = 8 << 20
"""Bytes of a piece that the page sends at once."""
MAX_UPLOAD = 20 << 30
"""Bytes of one upload, all its files together."""
MAX_FILES = 100_000
SPARE = 2 << 30
"""Bytes of the disk that stay free."""


@router.get("/files")
def listing(request: Request, path: str = "") -> dict[str, Any]:
    """A folder's entries; without a path the folders that the page may use."""
    return state.of(request).roots.listing(path)


@router.get("/file", response_class=Response)
def file(request: Request, path: str, download: bool = False) -> Response:
    """A file below the roots, shown in a sandbox or downloaded."""
    return shown.file_reply(state.of(request).roots.check(path), download=download)


class Upload(BaseModel):
    name: str = Field("upload", max_length=100)
    """A word of the user's for the folder."""


@router.post("/uploads", status_code=201)
def begin(request: Request, body: Upload) -> dict[str, Any]:
    """A folder of its own for files that are sent next."""
    word = "".join(c if c.isalnum() or c in "-_" else "-" for c in body.name)[:40] or "upload"
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{word}-{secrets.token_hex(3)}"
    folder = state.of(request).uploads / name
    folder.mkdir(parents=True)
    return {"id": name, "folder": str(folder), "piece_bytes": PIECE}


@router.put("/uploads/{upload}/{name:path}")
async def piece(request: Request, upload: str, name: str, offset: int = 0) -> dict[str, Any]:
    """Write the body at an offset of a file: pieces are sent in order, and one that was sent twice
    lies where it lay. Names cannot leave the upload's folder."""
    folder = _folder(request, upload)
    body = await request.body()
    target = await to_thread.run_sync(_write, folder, name, offset, body)
    return {"path": str(target), "bytes": offset + len(body), "folder": str(folder)}


def _write(folder: Path, name: str, offset: int, body: bytes) -> Path:
    """Raises DataError."""
    target = _target(folder, name)
    try:
        size = target.stat().st_size if target.exists() else 0
        if not 0 <= offset <= size:
            raise DataError(
                f"a piece of {name[:100]} is missing",
                why=f"{size} bytes lie here, this piece begins at {offset}",
                fix="send the pieces in order",
            )
        _check_space(folder, len(body))
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("r+b" if target.exists() else "wb") as file:
            file.seek(offset)
            file.write(body)
            file.truncate()
    except OSError as fault:  # a file where a folder is meant, a name too long, a full disk
        raise DataError(
            f"'{name[:80]}' cannot be written", why=fault.strerror or str(fault), fix="rename it"
        ) from None
    return target


def _folder(request: Request, upload: str) -> Path:
    root = state.of(request).uploads
    folder = paths.safe_join(root, upload)
    if folder.parent != root.resolve() or not folder.is_dir():
        raise NotFound("there is no such upload", why=upload[:100], fix="begin a new one")
    return folder


def _target(folder: Path, name: str) -> Path:
    """Raises DataError for a name that no file can have."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    bad = not parts or "\0" in name or any(len(part.encode()) > 200 for part in parts)
    if bad or any(part.startswith("..") for part in parts) or len(parts) > 20:
        raise DataError(
            f"'{name[:80]}' is no name for a file",
            why="it is empty, too long or leads out of its folder",
            fix="rename the file",
        )
    try:
        target = paths.safe_join(folder, "/".join(parts))
        is_folder = target.is_dir()
    except OSError as fault:
        raise DataError(
            f"'{name[:80]}' is no name for a file", why=fault.strerror or "", fix="shorten it"
        ) from None
    if is_folder:
        raise DataError(f"'{name[:80]}' is a folder", why="a file was sent", fix="rename it")
    return target


def _check_space(folder: Path, n_bytes: int) -> None:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    if sum(sizes) + n_bytes > MAX_UPLOAD or len(sizes) > MAX_FILES:
        raise DataError(
            "the upload is too large",
            why=f"one upload holds at most {MAX_UPLOAD >> 30} GiB and {MAX_FILES:,} files",
            fix="copy the folder to this machine and choose it there",
        )
    if shutil.disk_usage(folder).free - n_bytes < SPARE:
        raise DataError(
            "the disk is nearly full", why="2 GiB have to stay free", fix="free some space"
        )
