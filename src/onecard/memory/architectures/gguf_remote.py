"""A GGUF header over HTTP range requests: some megabytes of a file of gigabytes."""

import http.client
import urllib.request

from onecard.errors import DataError, NotFound
from onecard.memory.architectures.gguf import (
    MOST_BYTES,
    Header,
    NeedsMore,
    Reader,
    joined,
    shard_names,
)

FIRST_BYTES = 1 << 22
"""Asked for first: most headers are smaller; a vocabulary of 256k words takes some 8 MB, and it is
asked for more until the header is whole."""
TIMEOUT_S = 20


def read_remote(url: str) -> Header:
    """The header of a file with all its parts. Raises DataError, NotFound."""
    first = _read_one(url)
    base, _, name = url.rpartition("/")
    names = shard_names(name, first)
    if len(names) == 1:
        return first
    return joined([first if part == name else _read_one(f"{base}/{part}") for part in names])


def _read_one(url: str) -> Header:
    have, whole = b"", 0
    ask = FIRST_BYTES
    while True:
        more, whole = _range(url, len(have), ask)
        have += more
        try:
            return Reader(have, url, whole).header()
        except NeedsMore:
            if not more or len(have) >= min(whole, MOST_BYTES):
                raise DataError(
                    f"{url} is not a whole GGUF file",
                    why=f"its header does not end within {len(have)} bytes",
                    fix="check the address, or download the file",
                ) from None
        ask = len(have)


def _range(url: str, start: int, count: int) -> tuple[bytes, int]:
    """(bytes from `start`, size of the whole file)."""
    if not url.lower().startswith(("http://", "https://")):
        raise DataError(
            f"{url} is no web address",
            why="a header is read over http or https",
            fix="give a file's path, or its address",
        )
    request = urllib.request.Request(
        url, headers={"Range": f"bytes={start}-{start + count - 1}", "User-Agent": "onecard"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            if answer.status == 200 and start:
                raise DataError(
                    f"{url} cannot be read in parts",
                    why="its server ignores range requests",
                    fix="download the file",
                )
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            whole = (
                int(total) if total.isdigit() else int(answer.headers.get("Content-Length") or 0)
            )
            return answer.read(count), whole
    except (OSError, http.client.HTTPException) as fault:  # URLError and time-outs are OSErrors
        raise NotFound(
            f"{url} cannot be read", why=str(fault), fix="check the address and the network"
        ) from None
