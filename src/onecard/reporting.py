"""What is told to a person while work goes on: lines, streamed words, a progress bar. Knows nothing
of the work.

`Screen` itself is silent (tests, notebooks, `--json`); `Terminal` writes. Only this file and cli.py
print.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from onecard.units import duration


@dataclass(frozen=True)
class Result:
    """The result of a verb: `data` is what `--json` prints, `text` is what a person reads."""

    data: dict[str, Any] = field(default_factory=dict)
    text: str = ""


CONTROL = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"
}


def plain(text: str) -> str:
    """A text without what steers a terminal: file names and model answers may hold escape codes.

    >>> plain("a\\x1b[31m.md")
    'a\\\\x1b[31m.md'
    """
    return text.translate(CONTROL).encode("utf-8", "backslashreplace").decode()


class Progress:
    """Counts towards a total; `step` says one more is done."""

    def step(self, n: int = 1, note: str = "") -> None: ...

    def grow(self, n: int) -> None: ...


class Reporter:
    """Silent: the base of all screens."""

    interactive = False

    def line(self, text: str = "") -> None: ...

    def warn(self, text: str) -> None: ...

    def stream(self, text: str) -> None: ...

    def confirm(self, question: str) -> bool:
        """Ask the person yes or no; nobody there means no."""
        return False

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Progress]:
        yield Progress()


class TerminalReporter(Reporter):
    """Answers go to stdout, everything else to stderr, so that a pipe gets the answer alone."""

    def __init__(self) -> None:
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()

    def line(self, text: str = "") -> None:
        print(plain(text), file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        shown = (
            f"\x1b[1;33mwarning:\x1b[0m {plain(text)}"
            if sys.stderr.isatty()
            else f"warning: {plain(text)}"
        )
        print(shown, file=sys.stderr, flush=True)

    def stream(self, text: str) -> None:
        sys.stdout.write(plain(text))
        sys.stdout.flush()

    def confirm(self, question: str) -> bool:
        if not self.interactive:
            return False
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Progress]:
        bar = _Bar(what, total)
        try:
            yield bar
        finally:
            bar.close()


class _Bar(Progress):
    """A one-line bar on a terminal; elsewhere one line every ten seconds, so that a log stays
    short."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self.live = sys.stderr.isatty()
        self.started = self.shown = time.monotonic()
        self.note = ""

    def grow(self, n: int) -> None:
        self.total += n

    def step(self, n: int = 1, note: str = "") -> None:
        self.done += n
        self.note = note or self.note
        now = time.monotonic()
        if now - self.shown >= (0.1 if self.live else 10):
            self.shown = now
            self._show(now)

    def _show(self, now: float) -> None:
        share = min(self.done / self.total, 1.0) if self.total else 0.0
        spent = now - self.started
        left = (
            f", {duration(spent / self.done * (self.total - self.done))} left"
            if 0 < self.done < self.total
            else ""
        )
        filled = "█" * round(share * 20)
        text = (
            f"{self.what} {filled:<20} {self.done:,}/{self.total:,} ({duration(spent)}{left}) "
            f"{self.note}"
        )
        print(
            f"\r\x1b[2K{text[:150]}" if self.live else text,
            end="" if self.live else "\n",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        if self.live:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)


def table(rows: list[list[str]], head: list[str]) -> str:
    """Columns padded to their widest cell; wide CJK characters count two.

    Numbers are set to the right.
    """
    import unicodedata

    def width(text: str) -> int:
        return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)

    widths = [max(map(width, column)) for column in zip(head, *rows, strict=True)]
    right = [
        bool(rows) and all(row[i][:1] in "0123456789-+<=.~–" for row in rows if row[i])
        for i in range(len(head))
    ]

    def draw(row: list[str]) -> str:
        cells = [
            " " * (w - width(c)) + c if r else c + " " * (w - width(c))
            for c, w, r in zip(row, widths, right, strict=True)
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([draw(head), "  ".join("-" * w for w in widths), *map(draw, rows)])
