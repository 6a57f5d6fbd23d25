"""Mail (.eml): the header that a reader sees, the body, and attachments by their own readers."""

import contextlib
import email
from collections.abc import Callable, Mapping
from dataclasses import replace
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from pathlib import Path

from onecard.datasets.blocks import Block, Document
from onecard.datasets.readers.sections import paragraphs
from onecard.errors import DataError

SHOWN = ("From", "To", "Cc", "Date", "Subject")
MAX_PARTS = 200
MAX_HEADER = 10_000


def read(
    path: Path, data: bytes, readers: Mapping[str, Callable[[Path, bytes], Document]]
) -> Document:
    message = email.message_from_bytes(data)  # the newer policy parses addresses slowly
    header = [f"{name}: {_header(message, name)}" for name in SHOWN if _header(message, name)]
    blocks = [Block("\n".join(header), 1, 1)] if header else []
    notes = []
    parts = [part for part in message.walk() if not part.is_multipart()][:MAX_PARTS]
    plain_bodies = [part for part in parts if part.get_content_type() == "text/plain"]
    for part in parts:
        kind = part.get_content_type()
        name = Path(str(part.get_filename() or ""))
        content = part.get_payload(decode=True)
        if not isinstance(content, bytes) or not content.strip():
            continue
        if not name.name and kind == "text/plain":
            text = content.decode(_charset(part), "replace").replace("\r\n", "\n")
            blocks += paragraphs(text)
            continue
        if not name.name and kind == "text/html":
            if plain_bodies:
                continue  # the same words once more
            name = Path("body.html")
        reader = readers.get(name.suffix.lower())
        try:
            if reader is None:
                raise DataError(str(name), why="no reader for its kind", fix="save it as a file")
            inner = reader(name, content).blocks
        except DataError as fault:
            notes.append(f"attachment {name.name or kind} is not read: {fault.why}")
            continue
        attached = () if name.name == "body.html" else (name.name,)
        blocks += [replace(block, heading=(*attached, *block.heading)) for block in inner]
    return Document(_header(message, "Subject") or path.stem, "mail", blocks, notes=notes)


def _header(message: Message, name: str) -> str:
    """Empty for one that is missing."""
    raw = str(message[name] or "")[:MAX_HEADER]
    # a header in a wrong encoding stays as it stands
    with contextlib.suppress(ValueError, LookupError, HeaderParseError):
        raw = str(make_header(decode_header(raw)))
    return " ".join(raw.split())


def _charset(part: Message) -> str:
    name = part.get_content_charset() or "utf-8"
    try:
        b"".decode(name)
    except (LookupError, ValueError):
        return "utf-8"
    return name
