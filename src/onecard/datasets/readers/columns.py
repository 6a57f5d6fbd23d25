"""Pages in columns: the lines of a page as it looks, put in the order in which they are read."""

import re
from collections.abc import Sequence

MIN_LINES = 4
"""Lines that each of two columns has."""
MIN_WORDS = 2.5
"""Words of a line of running text, as a mean: cells of a table have fewer."""
MIN_FILL = 0.6
"""Length of a column's lines, as a share of the longest, that most of them reach: cells differ."""
MIN_GAP = 2
"""Characters between two columns."""
CELL_GAP = re.compile(r"\s{2,}")
MAX_CROSSING = 0.5
"""Share of lines that run over the gap: titles, abstracts, captions."""
OUTER = 0.2
"""Share of the width at either side where no gap is looked for: indents and line numbers."""


def reading_order(page: str) -> str:
    """The text with its columns one after another, each between the lines that run over both; ""
    for a page without columns.

    `page` has lines with spaces where the page is empty.
    """
    lines = page.expandtabs().split("\n")
    return "\n".join(_ordered(lines)) if _gap(lines) else ""


def _ordered(lines: Sequence[str]) -> list[str]:
    gap = _gap(lines)
    if not gap:
        return [line.strip() for line in lines]
    ordered: list[str] = []
    left: list[str] = []
    right: list[str] = []
    for line in [*lines, None]:
        if line is not None and not _crosses(line, gap):
            left += [line[:gap]] if line[:gap].strip() or not line.strip() else []
            right += [line[gap:]] if line[gap:].strip() or not line.strip() else []
            continue
        ordered += [*_ordered(left), *_ordered(right)]
        left, right = [], []
        ordered += [line.strip()] if line else []
    return ordered


def _crosses(line: str, gap: int) -> bool:
    return bool(line[gap - MIN_GAP : gap].strip())


def _gap(lines: Sequence[str]) -> int:
    """Where the right one of two columns begins, 0 without columns."""
    texts = [line for line in lines if line.strip()]
    width = max(map(len, texts), default=0)
    best, fewest = 0, MAX_CROSSING * len(texts)
    for gap in range(round(OUTER * width), round((1 - OUTER) * width) + 1):
        if gap < MIN_GAP:
            continue
        inside = [line for line in texts if not _crosses(line, gap)]
        n_crossing = len(texts) - len(inside)
        # of equal ones the last: there the right column begins
        if n_crossing <= fewest and all(
            _is_prose(column)
            for column in ([line[:gap] for line in inside], [line[gap:] for line in inside])
        ):
            best, fewest = gap, n_crossing
    return best


def _is_prose(column: Sequence[str]) -> bool:
    """Whether the lines of a column are running text."""
    texts = [line.strip() for line in column if line.strip()]
    if len(texts) < MIN_LINES:
        return False
    longest = max(map(len, texts))
    full = sum(len(text) >= MIN_FILL * longest for text in texts)
    n_words = sum(len(text.split()) for text in texts)
    n_cells = sum(len(CELL_GAP.split(text)) for text in texts)
    return full >= MIN_FILL * len(texts) and (
        n_words >= MIN_WORDS * n_cells or not any(map(str.isascii, texts))
    )
