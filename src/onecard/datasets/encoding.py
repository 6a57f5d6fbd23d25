"""Detection of a text file's encoding."""

from pathlib import Path

import charset_normalizer

from onecard.errors import DataError

PROBE_BYTES = 8192
"""Start of a file in which NUL bytes are counted: they show UTF-16 or a binary file."""


def decode(data: bytes, path: Path) -> tuple[str, str]:
    """The text and the name of its encoding; NUL characters are removed.

    UTF-8 or UTF-16, else the best guess of charset-normalizer. Raises DataError for a binary file.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _checked(data.decode("utf-16", "replace"), path), "utf-16"
    probe = data[:PROBE_BYTES]
    nuls = probe.count(0)
    # UTF-16 without a byte order mark: every other byte of Latin letters is zero
    for codec, place in (("utf-16-le", 1), ("utf-16-be", 0)):
        if nuls > len(probe) // 4 and probe[place::2].count(0) > 0.9 * nuls:
            return _checked(data.decode(codec, "replace"), path), codec
    # a single NUL does not make a file binary
    if nuls > len(probe) // 1000 + 1:
        raise DataError(
            f"{path} is a binary file",
            why="it has NUL bytes",
            fix="leave it out, or convert it to text",
        )
    try:
        return data.decode("utf-8-sig").replace("\0", ""), "utf-8"
    except UnicodeDecodeError:
        best = charset_normalizer.from_bytes(data[:200_000]).best()
    if best is None:
        raise DataError(
            f"{path} is in no known encoding",
            why="its bytes are not text in any of them",
            fix="save it as UTF-8",
        )
    return data.decode(best.encoding, "replace").replace("\0", ""), best.encoding


def _checked(text: str, path: Path) -> str:
    if text.count("\ufffd") > len(text) // 100:
        raise DataError(
            f"{path} is a binary file",
            why="it begins like UTF-16 and goes on otherwise",
            fix="leave it out, or save it as UTF-8",
        )
    return text.replace("\0", "")
