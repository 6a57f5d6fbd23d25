"""Bytes inside, GiB at the edges: the only place that converts and words quantities.

Knows no file and no card.
"""

import re

KIB, MIB, GIB = 1024, 1024**2, 1024**3
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": KIB, "mi": MIB, "gi": GIB}


def gib(n_bytes: int) -> str:
    """Bytes in words for memory.

    >>> gib(6442450944)
    '6.00 GiB'
    """
    return f"{n_bytes / GIB:.2f} GiB"


def size(n_bytes: int) -> str:
    """Bytes in words for files and small buffers, in the unit that suits.

    >>> size(98362432), size(512), size(5 * GIB)
    ('93.8 MiB', '512 B', '5.00 GiB')
    """
    if n_bytes >= GIB:
        return gib(n_bytes)
    if n_bytes >= MIB:
        return f"{n_bytes / MIB:.1f} MiB"
    return f"{n_bytes / KIB:.1f} KiB" if n_bytes >= KIB else f"{n_bytes} B"


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(0.0432), duration(7.25), duration(3900)
    ('43 ms', '7.2 s', '1 h 05 min')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def parse_bytes(text: str) -> int:
    """'12gb', '12 GiB' or '900m' to bytes; a card's 'gb' is 1024**3, as on its box. Raises
    ValueError.

    >>> parse_bytes("12gb") == 12 * GIB
    True
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmg]?i?)b?\s*", text.lower())
    if not match:
        raise ValueError(f"{text!r} is no size in bytes")
    unit = match[2] if match[2] != "g" else "gi"
    return round(float(match[1]) * _SIZES[unit])
