"""What is told to a person while work goes on: lines, streamed text, progress. Knows no work.

`Reporter` is silent (tests, notebooks, `--json`); `TerminalReporter` writes. With cli/ the only
place that prints. rich draws when the output is a terminal; pipes and NO_COLOR stay plain. Heads
and words of tables are in the current language; what `--json` prints is not.
"""

import os
import re
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onecard.i18n import ENGLISH, current, gettext
from onecard.units import duration

WORD_COLUMNS = {"state", "status", "part", "what", "found", "fix"}
"""Heads over words of the program's own; all other cells are data."""
VERDICT_COLUMNS = {"because", "new against old"}
"""Heads over texts that may begin with a verdict."""
_PLAN_VERDICT = re.compile(r"^(fits closely|fits|does not fit)(?=[ :])")
"""At the beginning of its cell."""
_VERDICT = re.compile(r"\b(better|worse|equal|inconclusive)(?=: (?:[+-][\d.]+|nan) \[)")
"""Of a comparison, before its figures."""


class Table(str):
    """Rows under a head, as text: columns padded to their widest cell.

    Wide CJK characters count two; columns of numbers are set to the right. `Result.tables` carries
    it to a terminal, where it is drawn.
    """

    rows: Sequence[Sequence[str]]
    head: Sequence[str]

    def __new__(cls, rows: Sequence[Sequence[str]], head: Sequence[str]) -> "Table":
        if current() != ENGLISH:
            rows = [
                [_localize_cell(cell, name) for cell, name in zip(row, head, strict=True)]
                for row in rows
            ]
            head = [gettext(name) for name in head]
        table = super().__new__(cls, _draw(rows, head))
        table.rows, table.head = rows, head
        return table


def _localize_cell(cell: str, head: str) -> str:
    if head in WORD_COLUMNS:
        return gettext(cell)
    if head in VERDICT_COLUMNS:
        return _localize_verdicts(_PLAN_VERDICT.sub(_translate, cell))
    return cell


def _translate(word: re.Match[str]) -> str:
    return gettext(word[0])


def _localize_verdicts(text: str) -> str:
    return text if current() == ENGLISH else _VERDICT.sub(_translate, text)


def _draw(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    widths = [max(map(display_width, column)) for column in zip(head, *rows, strict=True)]
    right = _numeric(rows, head)

    def line(row: Sequence[str]) -> str:
        cells = []
        for cell, width, to_right in zip(row, widths, right, strict=True):
            pad = " " * (width - display_width(cell))
            cells.append(pad + cell if to_right else cell + pad)
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(head), rule, *map(line, rows)])


def _numeric(rows: Sequence[Sequence[str]], head: Sequence[str]) -> list[bool]:
    """Which columns hold numbers only."""
    starts = "0123456789-+<=.~–"
    return [
        bool(rows) and all(row[i][:1] in starts for row in rows if row[i]) for i in range(len(head))
    ]


def display_width(text: str) -> int:
    """Columns on a terminal."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> Table:
    return Table(rows, head)


@dataclass(frozen=True)
class Result:
    """What a command returns: `data` is what `--json` prints, `text` is what a person reads."""

    data: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    tables: tuple[Table, ...] = ()
    """Tables whose plain form stands in `text`: a terminal shows them drawn."""


CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}


def plain(text: str) -> str:
    """A text without what steers a terminal: file names and model answers may hold escape codes.

    >>> plain("a\\x1b[31m.md")
    'a\\\\x1b[31m.md'
    """
    return text.translate(CONTROL).encode("utf-8", "backslashreplace").decode()


def is_rich(stream: Any) -> bool:
    """Whether to draw: a terminal that is no dumb one, and no NO_COLOR (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(stream.isatty())


class Progress:
    """Counts towards a total; `step` says one more is done."""

    def step(self, n: int = 1, note: str = "") -> None: ...

    def grow(self, n: int) -> None: ...


class Reporter:
    """Silent: the base of all reporters."""

    interactive = False

    def line(self, text: str = "") -> None: ...

    def warn(self, text: str) -> None: ...

    def stream(self, text: str) -> None: ...

    def confirm(self, question: str) -> bool:
        """Ask the person yes or no; nobody there means no."""
        return False

    def record(self, folder: Path) -> None:
        """The work is recorded in this folder from now on."""

    def listening(self, url: str) -> None:
        """The work is a server that answers at this address from now on."""

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
        label = gettext("warning:")
        if is_rich(sys.stderr):
            label = f"\x1b[1;33m{label}\x1b[0m"
        print(f"{label} {plain(text)}", file=sys.stderr, flush=True)

    def stream(self, text: str) -> None:
        sys.stdout.write(plain(text))
        sys.stdout.flush()

    def confirm(self, question: str) -> bool:
        if not self.interactive:
            return False
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Progress]:
        if is_rich(sys.stderr):
            with _rich_bar(what, total) as bar:
                yield bar
        else:
            yield _LogBar(what, total)


LOG_S = 10
"""Seconds between two lines of progress in a log, so that it stays short."""


class _LogBar(Progress):
    """One line every ten seconds."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self.started = self.shown = time.monotonic()
        self.note = ""

    def grow(self, n: int) -> None:
        self.total += n

    def step(self, n: int = 1, note: str = "") -> None:
        self.done += n
        self.note = note or self.note
        now = time.monotonic()
        if now - self.shown >= LOG_S:
            self.shown = now
            spent = now - self.started
            left = ""
            if 0 < self.done < self.total:
                rest = duration(spent / self.done * (self.total - self.done))
                left = gettext(", {time} left").format(time=rest)
            text = f"{self.what} {self.done:,}/{self.total:,} ({duration(spent)}{left}) {self.note}"
            print(plain(text)[:150], file=sys.stderr, flush=True)


@contextmanager
def _rich_bar(what: str, total: int) -> Iterator[Progress]:
    """rich's bar, loaded when there is a terminal to draw on: it takes 50 ms."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with RichProgress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        bar = progress.add_task(Text(what).plain.replace("[", "\\["), total=total, note="")

        class Bar(Progress):
            def grow(self, n: int) -> None:
                progress.update(bar, total=(progress.tasks[0].total or 0) + n)

            def step(self, n: int = 1, note: str = "") -> None:
                progress.update(bar, advance=n)
                if note:
                    progress.update(bar, note=plain(note)[:60])

        yield Bar()


def show(result: Result) -> None:
    """Print a result: on a terminal its tables are drawn, elsewhere the text is printed."""
    if not result.text:
        return
    if not result.tables or not is_rich(sys.stdout):
        print(plain(_localize_verdicts(result.text)))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(highlight=False)
    rest = result.text
    for each in result.tables:
        before, separator, rest_after = rest.partition(each)
        if not separator:
            continue
        if before.strip("\n"):
            console.print(Text(plain(_localize_verdicts(before.strip("\n")))))
        drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        for name, number in zip(each.head, _numeric(each.rows, each.head), strict=True):
            drawn.add_column(Text(name), justify="right" if number else "left", overflow="fold")
        for row in each.rows:
            drawn.add_row(*(Text(plain(cell)) for cell in row))
        console.print(drawn)
        rest = rest_after
    if rest.strip("\n"):
        console.print(Text(plain(_localize_verdicts(rest.strip("\n")))))
