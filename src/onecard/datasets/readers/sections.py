"""Blocks under headings, as readers of running text collect them."""

from onecard.datasets.blocks import Block

MAX_HEADING = 200
"""Characters of a heading; what is longer is text: every passage below repeats its headings."""


def paragraphs(
    text: str, heading: tuple[str, ...] = (), first_line: int = 1, page: int = 0
) -> list[Block]:
    """Runs of lines between blank lines."""
    blocks: list[Block] = []
    lines: list[str] = []
    for i, line in enumerate([*text.split("\n"), ""]):
        if line.strip():
            lines.append(line.rstrip())
        elif lines:
            last = first_line + i - 1
            first = last - len(lines) + 1
            blocks.append(Block("\n".join(lines), first, last, heading, page))
            lines = []
    return blocks


class Sections:
    """Takes headings and texts in their order; a heading with nothing below it becomes text."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._open: list[tuple[int, str, int, int]] = []
        """(level, text, line, page) from the outermost heading to the innermost."""
        self._bare = False

    @property
    def path(self) -> tuple[str, ...]:
        return tuple(each[1] for each in self._open)

    def heading(self, level: int, text: str, line: int, page: int = 0) -> None:
        text = " ".join(text.split())
        if not text:
            return
        if len(text) > MAX_HEADING:
            self.text(text, line, line, page)
            return
        if self._bare and level <= self._open[-1][0]:
            self.close()
        self._open = [each for each in self._open if each[0] < level]
        self._open.append((level, text, line, page))
        self._bare = True

    def text(self, text: str, line: int, last_line: int, page: int = 0) -> None:
        if text.strip():
            self.add([Block(text.strip("\n"), line, last_line, self.path, page)])

    def add(self, blocks: list[Block]) -> None:
        """Blocks that have their headings already."""
        if blocks:
            self.blocks += blocks
            self._bare = False

    def close(self) -> list[Block]:
        """All blocks; the last heading is kept too."""
        if self._bare:
            _, text, line, page = self._open[-1]
            self.blocks.append(Block(text, line, line, self.path[:-1], page))
            self._bare = False
        return self.blocks
