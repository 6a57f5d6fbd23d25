"""The pictures and sounds behind a run's items: what an item is of, and answers that are pictures.

Knows no task: it reads the run's items.
"""

from pathlib import Path
from typing import Any

from onecard.errors import NotFound
from onecard.runs.store import RunRecord

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
MEDIA = (*PICTURES, ".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".webm")
"""Endings of pictures and sounds that a browser shows."""


def subject(row: dict[str, Any]) -> str:
    """Path of the picture or the sound that an item is of; empty where it is of none."""
    images = row.get("images")
    first = images[0] if isinstance(images, list) and images else ""
    return str(row.get("audio") or first)


def answers(row: dict[str, Any]) -> dict[str, str]:
    """Paths of the answers that are pictures, by the names of what drew them."""
    rows = row.get("pictures")
    return {str(k): str(v) for k, v in rows.items()} if isinstance(rows, dict) else {}


def endings(row: dict[str, Any]) -> dict[str, str]:
    """What of an item can be shown, with the endings of the files: `media` for its subject, else
    the name of an answer."""
    files = {"media": subject(row), **answers(row)}
    rows = {name: Path(path).suffix.lower() for name, path in files.items()}
    return {name: ending for name, ending in rows.items() if ending in MEDIA}


def find(run: RunRecord, item: str, name: str = "media") -> Path:
    """The file of an item's subject ('media') or of an answer. Raises NotFound."""
    row = run.items().get(item, {})
    return shown(Path(subject(row) if name == "media" else answers(row).get(name, "")))


def shown(path: Path) -> Path:
    """The path, if a browser can show what is there. Raises NotFound."""
    if path.suffix.lower() not in MEDIA or not path.is_file():
        raise NotFound(
            "there is no picture or sound of this item",
            why="it was moved, or is neither",
            fix="look at another item",
        )
    return path
