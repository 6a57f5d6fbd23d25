"""Pictures of a conversation: decoded, made smaller and written anew, so that nothing of the sent
file but its pixels is kept. No path and no address is ever opened."""

import io
import secrets
import sqlite3
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from onecard import fsio, paths
from onecard.errors import DataError
from onecard.web.chat_rows import no_picture
from onecard.web.chat_store import ChatStore

MAX_BYTES = 10 << 20
MAX_PICTURES = 8
"""Of one message."""
MAX_PIXELS = 50_000_000
"""What a phone's camera takes; decoded 150 MB."""
MAX_SIDE = 20_000
KEPT_SIDE = 2048
"""Longer side (px) that is kept: more than any model of the catalogue sees of one picture."""
FORMATS = ("PNG", "JPEG", "WEBP")
_TURNS = threading.BoundedSemaphore(2)
"""Pictures that are decoded at once: each may need 300 MB."""


Encoded = tuple[bytes, str, tuple[int, int]]
"""A picture's file, its ending (png or jpg) and its size (px)."""


@dataclass(frozen=True)
class Picture:
    id: str
    path: Path
    width: int
    height: int

    @property
    def media_type(self) -> str:
        return "image/png" if self.path.suffix == ".png" else "image/jpeg"


def picture_folder(store: ChatStore, chat: str) -> Path:
    return paths.safe_join(store.folder / "chats", chat)


def add(store: ChatStore, chat: str, content: bytes) -> Picture:
    """Keep a picture for a message to come. Raises DataError for what is none, NotFound."""
    store.chat(chat)
    encoded = reencode(content)
    with store.database.open(write=True) as db:
        return keep(store, db, chat, encoded)


def keep(store: ChatStore, db: sqlite3.Connection, chat: str, encoded: Encoded) -> Picture:
    """Write a picture within an open transaction."""
    content, form, size = encoded
    picture = secrets.token_hex(8)
    path = picture_folder(store, chat) / f"{picture}.{form}"
    with fsio.atomic_write(path) as draft:
        draft.write_bytes(content)
    db.execute(
        "INSERT INTO pictures (id, chat, name, width, height, bytes, created) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (picture, chat, path.name, *size, len(content), time.time()),
    )
    return Picture(picture, path, *size)


def find(store: ChatStore, chat: str, picture: str) -> Picture:
    """Raises NotFound."""
    with store.database.open() as db:
        row = db.execute(
            "SELECT * FROM pictures WHERE id = ? AND chat = ?", (picture, chat)
        ).fetchone()
    path = picture_folder(store, chat) / (row["name"] if row else "none")
    if not path.is_file():
        raise no_picture(picture)
    return Picture(picture, path, row["width"], row["height"])


def reencode(content: bytes) -> Encoded:
    """A picture's pixels, upright, at most KEPT_SIDE long.

    Raises DataError.
    """
    if len(content) > MAX_BYTES:
        raise _refusal(
            f"it has {len(content) / 2**20:.0f} MiB, at most {MAX_BYTES >> 20} are taken"
        )
    with _TURNS, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
                    raise _refusal(f"{width} x {height} pixels are too many")
                is_photo = image.format == "JPEG"
                image.draft("RGB", (KEPT_SIDE, KEPT_SIDE))
                upright = ImageOps.exif_transpose(image) or image
                pixels = _opaque(upright)
        except DataError:
            raise
        except UnidentifiedImageError:
            raise _refusal("it is no PNG, JPEG or WebP") from None
        except Exception as fault:  # Pillow's decoders raise many kinds on broken files
            raise _refusal(str(fault)[:200] or type(fault).__name__) from None
        pixels.thumbnail((KEPT_SIDE, KEPT_SIDE))
        out = io.BytesIO()
        if not is_photo:
            pixels.save(out, "PNG")
            if out.tell() <= 2 << 20:
                return out.getvalue(), "png", pixels.size
            out = io.BytesIO()
        pixels.save(out, "JPEG", quality=90)
        return out.getvalue(), "jpg", pixels.size


def _opaque(image: Image.Image) -> Image.Image:
    """In RGB; what is transparent is white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, "white")
        return Image.alpha_composite(white, with_alpha).convert("RGB")
    return image.convert("RGB")


def _refusal(why: str) -> DataError:
    return DataError(
        "this picture cannot be taken", why=why, fix="save it as PNG or JPEG, at most 10 MiB"
    )
