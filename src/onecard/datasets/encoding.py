"""Detection of a text file's encoding: its mark, UTF-8, what it declares, then a detector."""

import codecs
import re
import sys
from pathlib import Path
from typing import TextIO

from onecard.errors import DataError

PROBE_BYTES = 8192
"""Start of a file in which NUL and control bytes are counted: UTF-16 and binary files have them."""
DETECTOR_BYTES = 200_000
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""UTF-32 before UTF-16: its mark begins with the other's."""
DECLARED = re.compile(rb"(?:charset\s*=|encoding\s*=|coding[:=])\s*[\"']?([A-Za-z][\w.-]{2,20})")
CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\b\x1b\0")) + b"\x7f"
MAX_CONTROLS = 0.02
VALID_PER_FAULT = 2
"""Valid characters beyond ASCII for one wrong byte from which a file is UTF-8 all the same. In the
code pages of East Asia about one character in seven looks like UTF-8 by chance, elsewhere none."""


def decode(data: bytes, path: Path) -> tuple[str, str]:
    """The text and the name of its encoding; NUL characters are removed.

    Raises DataError for a binary file.
    """
    for mark, codec in MARKS:
        if data.startswith(mark):
            name = "utf-8" if codec == "utf-8-sig" else codec
            return _checked(data.decode(codec, "replace"), path), name
    probe = data[:PROBE_BYTES]
    nuls = probe.count(0)
    # UTF-16 without a mark: every other byte of Latin letters is zero
    for codec, place in (("utf-16-le", 1), ("utf-16-be", 0)):
        if nuls > len(probe) // 4 and probe[place::2].count(0) > 0.9 * nuls:
            return _checked(data.decode(codec, "replace"), path), codec
    controls = len(probe) - len(probe.translate(None, CONTROLS))
    # a single NUL does not make a file binary
    if nuls > len(probe) // 1000 + 1 or controls > len(probe) * MAX_CONTROLS + 1:
        raise DataError(
            f"{path} is a binary file",
            why="it has NUL bytes" if nuls else "it has many control characters",
            fix="leave it out, or convert it to text",
        )
    text, name = _decode(data)
    return text.replace("\0", ""), name


def piped_text(stream: TextIO | None = None) -> str:
    """What was piped in, decoded as a file is; empty at a terminal and where stdin is closed.

    Raises DataError for binary data.
    """
    stream = stream or sys.stdin
    if stream is None or stream.isatty():
        return ""
    buffer = getattr(stream, "buffer", None)
    return decode(buffer.read(), Path("standard input"))[0] if buffer else stream.read()


def _decode(data: bytes) -> tuple[str, str]:
    if b"\x1b$" in data[:PROBE_BYTES]:
        try:
            return data.decode("iso2022_jp"), "iso2022_jp"
        except UnicodeDecodeError:
            pass
    text = _as_utf8(data)
    if text is not None:
        return text, "utf-8"
    names = [match[1].decode("ascii") for match in DECLARED.finditer(data[:1024])]
    for name in names:
        try:
            return data.decode(name), codecs.lookup(name).name
        except (LookupError, ValueError):
            continue
    import chardet  # 0.1 s with its tables, and most files are UTF-8

    name = chardet.detect(data[:DETECTOR_BYTES])["encoding"] or "cp1252"
    try:
        return data.decode(name, "replace"), codecs.lookup(name).name
    except LookupError:
        return data.decode("cp1252", "replace"), "cp1252"


def _as_utf8(data: bytes) -> str | None:
    """None for another encoding; a few wrong bytes become U+FFFD, half a character at the end
    nothing."""
    try:
        return data.decode()
    except UnicodeDecodeError as fault:
        cut = fault.start >= len(data) - 3 and fault.reason == "unexpected end of data"
    if cut:
        text = data.decode("utf-8", "ignore")
        return text if not text.isascii() else None
    text = data.decode("utf-8", "replace")
    faults = text.count("\ufffd") - data.count(b"\xef\xbf\xbd")
    valid = len(text) - len(text.encode("ascii", "ignore")) - text.count("\ufffd")
    return text if valid >= VALID_PER_FAULT * faults else None


def _checked(text: str, path: Path) -> str:
    if text.count("\ufffd") > len(text) // 100 + 1:
        raise DataError(
            f"{path} is a binary file",
            why="it begins with the mark of an encoding and goes on otherwise",
            fix="leave it out, or save it as UTF-8",
        )
    return text.replace("\0", "")
