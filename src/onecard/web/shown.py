"""Files of a run or an upload as a page may show them."""

import mimetypes
from pathlib import Path
from typing import Any

from fastapi.responses import FileResponse, Response

from onecard import fsio
from onecard.errors import NotFound

MAX_JSON = 32 << 20
MAX_ARTIFACTS = 500
TAIL = 4000
SANDBOX = "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; "
SANDBOX += "sandbox allow-same-origin"
"""Policy of a file that is shown: whatever it holds runs no script and fetches nothing but pictures
from here. Without an origin of its own a report could not load those of its run."""
KINDS = {
    "image": (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".bmp"),
    "audio": (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".webm"),
    "video": (".mp4", ".mkv", ".mov"),
    "text": (".txt", ".md", ".json", ".jsonl", ".csv", ".toml", ".srt", ".vtt", ".log"),
    "page": (".html",),
}
"""What a browser is shown in place -> endings of names; everything else is a download."""


def kind(path: Path) -> str:
    ending = path.suffix.lower()
    return next((name for name, endings in KINDS.items() if ending in endings), "file")


def artifacts(folder: Path) -> list[dict[str, Any]]:
    """The files below a run's folder: name, kind, bytes. Checkpoints are left out."""
    rows = []
    for path in sorted((folder / "artifacts").rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and "checkpoint" not in name and not path.is_symlink():
            rows.append({"name": name, "kind": kind(path), "bytes": path.stat().st_size})
            if len(rows) >= MAX_ARTIFACTS:
                break
    for name in ("report.html", "notebook.ipynb", "README.md"):
        path = folder / name
        if path.is_file():
            rows.append({"name": name, "kind": kind(path), "bytes": path.stat().st_size})
    return rows


def newest(folder: Path, which: str, limit: int) -> list[dict[str, Any]]:
    """The artifacts of a kind that were written last."""
    rows = [row for row in artifacts(folder) if row["kind"] == which and "/" in row["name"]]
    rows.sort(key=lambda row: (folder / row["name"]).stat().st_mtime_ns, reverse=True)
    return rows[:limit]


def file_reply(path: Path, *, download: bool = False, name: str = "") -> Response:
    """The file, shown in a sandbox or downloaded. Raises NotFound."""
    if not path.is_file():
        raise NotFound(
            f"there is no file {path.name[:100]}",
            why="it was moved, or never made",
            fix="load the page again",
        )
    guess = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    which = kind(path)
    if which == "text":
        guess = "text/plain; charset=utf-8"
    elif which == "file":
        guess = "application/octet-stream"  # with nosniff no page can load it as its own script
    disposition = "attachment" if download or which == "file" else "inline"
    return FileResponse(
        path,
        media_type=guess,
        filename=name or path.name,
        content_disposition_type=disposition,
        headers={"Content-Security-Policy": SANDBOX},
    )


def json_file(path: Path) -> dict[str, Any]:
    """Empty where it is missing, broken or too large."""
    return fsio.read_json(path, MAX_JSON)


def tail(path: Path) -> str:
    """The end of a text file; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")[-TAIL:]
    except OSError:
        return ""


def change(item: dict[str, Any]) -> float:
    """How far an item's score lies from the base's: the largest over its metrics."""
    scores = item.get("scores")
    if not isinstance(scores, dict):
        return 0.0
    changes = [
        abs(float(value) - float(scores[f"base_{name}"]))
        for name, value in scores.items()
        if isinstance(value, int | float) and isinstance(scores.get(f"base_{name}"), int | float)
    ]
    return max(changes, default=0.0)
