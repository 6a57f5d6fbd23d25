"""The child of documents.py: reads the files that stdin names, with limits, to stdout."""

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onecard.datasets.blocks import Document
from onecard.datasets.documents import HEADER
from onecard.datasets.readers import read_document
from onecard.errors import DataError, unreadable_file
from onecard.units import size

try:
    import resource
except ImportError:  # Windows: the parent's limit on time stays
    resource = None  # type: ignore[assignment]

MAX_GROWTH = 96 << 20
"""Bytes that the idle child may grow by before it ends and another takes its place."""
MAX_VALUES = 10_000
"""Values of a front matter: aliases of aliases make thousands of millions of 445 bytes."""
MAX_DEPTH = 12
LONGER_SIDE = 2048
"""Pixels of a picture's longer side, as it is sent to a model: models scale larger ones down, and a
request stays below 20 MB."""


def main() -> None:
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no reply
    base = address_space()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        set_limits(request, base)
        reply = answer(request)
        # a heap that has grown leaves the next file less than its share
        reply["last"] = reply.get("last", False) or address_space() > base + MAX_GROWTH
        data = json.dumps(reply).encode()
        replies.write(HEADER.pack(len(data)) + data)
        replies.flush()
        if reply["last"]:
            break


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """The document or the fault; any exception is the file's fault."""
    path = Path(request["path"])
    try:
        if request["picture"]:
            return {"picture": picture(path, request["page"])}
        options = {name: request[name] for name in ("plain", "ocr", "scans")}
        document = fields(read_file(path, **options))
        n_chars = sum(len(block[0]) for block in document["blocks"])
        if n_chars > request["reply"] // 8:
            return {
                "fault": _fault(
                    f"{path} holds too much text",
                    f"{n_chars:,} characters, the limit is {request['reply'] // 8:,}",
                    "cut it into parts",
                )
            }
        return {"document": document}
    except DataError as fault:
        return {"fault": _fault(fault.what, fault.why, fault.fix)}
    except MemoryError:
        why = f"its reader needs more than {size(request['memory'])}"
        return {
            "fault": _fault(f"{path} takes too much memory", why, "cut it into parts"),
            "last": True,
        }
    except RecursionError:
        why = "it is nested deeper than its reader can follow"
        return {"fault": _fault(f"{path} is nested too deeply", why, "leave it out")}
    except Exception as fault:  # parsers let errors of all kinds through for broken files
        why = f"its reader failed: {type(fault).__name__}: {str(fault)[:150]}"
        return {"fault": _fault(f"{path} is broken", why, "open and save it in its own program")}


def read_file(path: Path, *, plain: bool, ocr: bool, scans: bool) -> Document:
    """Raises DataError, and what the parsers raise."""
    data = _bytes_of(path)
    document = read_document(path, data, plain=plain, ocr=ocr, scans=scans)
    return replace(document, sha256=hashlib.sha256(data).hexdigest())


def picture(path: Path, page: int) -> tuple[str, str]:
    """(data URI, sha256 of the file) of a picture, or of a PDF's page from 1. Raises DataError, and
    what the decoders raise."""
    # NumPy and Pillow take 0.2 s: for pictures only
    from onecard.datasets.images import decode, pdf_pages, picture_uris

    data = _bytes_of(path)
    rgb = pdf_pages.page(path, page - 1) if page else decode.read_rgb_bytes(data, str(path))
    return picture_uris.data_uri(rgb, LONGER_SIDE), hashlib.sha256(data).hexdigest()


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise unreadable_file(path, fault) from None


def fields(document: Document) -> dict[str, Any]:
    """A document as JSON, every text encodable: a lone surrogate becomes a question mark."""
    values = dict(vars(document))
    values["blocks"] = [
        [
            encodable(block.text),
            block.line,
            block.last_line,
            [encodable(name) for name in block.heading],
            block.page,
        ]
        for block in document.blocks
    ]
    values["title"] = encodable(" ".join(document.title.split()))[:200]
    values["links"] = [encodable(name) for name in document.links]
    values["notes"] = [encodable(note) for note in document.notes]
    values["meta"] = plain(document.meta, [MAX_VALUES])
    return values


def encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def plain(value: Any, budget: list[int], depth: int = 0) -> Any:
    """A value of YAML in JSON's types; what goes beyond the budget or the depth is left out."""
    budget[0] -= 1
    if budget[0] < 0 or depth > MAX_DEPTH:
        return "..."
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        pairs: dict[str, Any] = {}
        for key, each in value.items():
            if budget[0] < 0:
                break
            name = key if isinstance(key, str) else str(plain(key, budget, depth + 1))
            pairs[encodable(name)] = plain(each, budget, depth + 1)
        return pairs
    if isinstance(value, Sequence | set) and not isinstance(value, str | bytes):
        items: list[Any] = []
        for each in value:
            if budget[0] < 0:
                break
            items.append(plain(each, budget, depth + 1))
        return items
    return encodable(str(value))


def _fault(what: str, why: str, fix: str) -> list[str]:
    return [encodable(" ".join(text.split())) for text in (what, why, fix)]


def address_space() -> int:
    """Bytes of virtual memory of this process; 0 where /proc does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def set_limits(request: Mapping[str, Any], base: int) -> None:
    if resource is None:
        return
    # the kernel counts whole seconds: at the limit it sends SIGXCPU, which ends the process
    seconds = math.ceil(time.process_time() + request["seconds"])
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (_at_most(seconds, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if base:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_at_most(base + request["memory"], hard), hard))


def _at_most(value: int, hard: int) -> int:
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


if __name__ == "__main__":
    main()
