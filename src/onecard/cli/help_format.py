"""Help texts in the current language. Chinese is wrapped by its width on the screen, and no line
begins with a closing mark; English is click's own form.
"""

import re
from collections.abc import Iterable

import click

from onecard.i18n import ENGLISH, current, gettext
from onecard.reporting import display_width

_OPENING, _CLOSING = "（「『《〈【", "，。、；：？！）」』》〉】…"
_WIDE = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uff60"
_PIECE = re.compile(rf"[{_OPENING}]*(?:[^\s{_WIDE}]+|[{_WIDE}])[{_CLOSING}]*|\s+")
"""What stays on one line: a word, or one Chinese character with its marks."""


class HelpFormatter(click.HelpFormatter):
    """Translates headings and texts; what is no message stays as it is."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args, prefix or f"{gettext('Usage:')} ")

    def write_heading(self, heading: str) -> None:
        super().write_heading(gettext(heading))

    def write_text(self, text: str) -> None:
        text = gettext(text)
        if current() == ENGLISH:
            super().write_text(text)
            return
        indent = " " * (self.current_indent + len(text) - len(text.lstrip()))
        lines = wrap(text, self.width - len(indent))
        self.write("".join(f"{indent}{line}\n" for line in lines))

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        rows = [(first, gettext(second)) for first, second in rows]
        if current() == ENGLISH:
            super().write_dl(rows, col_max, col_spacing)
            return
        widest = max((display_width(first) for first, _ in rows), default=0)
        column = min(widest, col_max) + col_spacing
        indent, hang = " " * self.current_indent, " " * (self.current_indent + column)
        for first, second in rows:
            lines = wrap(second, max(self.width - column - 2, 10))
            gap = column - display_width(first)
            if gap < col_spacing and lines:
                self.write(f"{indent}{first}\n{hang}{lines[0]}\n")
            else:
                self.write(f"{indent}{first}{' ' * gap}{''.join(lines[:1])}".rstrip() + "\n")
            self.write("".join(f"{hang}{line}\n" for line in lines[1:]))


class HelpContext(click.Context):
    """The context of every command of ours."""

    formatter_class = HelpFormatter


class HelpGroup(click.Group):
    """A group whose summaries are translated whole; click cuts them first, in English."""

    context_class = HelpContext

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if current() == ENGLISH:
            super().format_commands(ctx, formatter)
            return
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, row.help or "") for name, row in sorted(self.commands.items())]
            )


def localize(command: click.Command) -> click.Command:
    """Have a command of click's own classes, and those below it, speak the current language."""
    command.context_class = HelpContext
    for each in getattr(command, "commands", {}).values():
        localize(each)
    return command


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` columns; a Chinese character takes two.

    >>> wrap("設定檔，共四行。", 8)
    ['設定檔，', '共四行。']
    """
    lines, line = [], ""
    for piece in _PIECE.findall(text):
        if line and display_width((line + piece).rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += piece if line or not piece.isspace() else ""
    return [*lines, line.rstrip()] if line.strip() else lines
