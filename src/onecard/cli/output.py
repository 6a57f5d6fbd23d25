"""Options that every command has, and how a result is shown."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from onecard.i18n import LANGUAGES
from onecard.reporting import Reporter, Result, TerminalReporter, show

ALL = ("card", "preset", "config", "json", "verbose", "traceback")


def common(*names: str) -> list[click.Parameter]:
    """The options with these names, all without one; and --lang, which `cli/app.py` takes out of
    the line before, so that it may stand anywhere."""
    rows: dict[str, click.Parameter] = {
        "card": click.Option(
            ["--card"],
            metavar="NAME",
            help="the device to plan for: auto, cpu, 4070ti, 12gb ... (default: auto)",
        ),
        "preset": click.Option(
            ["--preset"], metavar="NAME", help="settings for a card: 8gb, 12gb, 16gb, 24gb or cpu"
        ),
        "config": click.Option(["--config"], metavar="FILE", help="a TOML file with settings"),
        "json": click.Option(["--json"], is_flag=True, help="print the result as JSON"),
        "verbose": click.Option(["-v", "--verbose"], count=True, help="log more; -vv logs all"),
        "traceback": click.Option(
            ["--traceback"], is_flag=True, help="show the traceback of an error"
        ),
    }
    language = click.Option(
        ["--lang"], type=click.Choice(list(LANGUAGES)), expose_value=False, hidden=True
    )
    return [*(rows[name] for name in names or ALL), language]


def reporter(flags: dict[str, Any]) -> Reporter:
    return Reporter() if flags.get("json") else TerminalReporter()


def print_result(result: Result, flags: dict[str, Any]) -> None:
    """As JSON or for a person. Half a surrogate is valid JSON as \\udc80."""
    if flags.get("json"):
        text = json.dumps(result.data, ensure_ascii=False, indent=2)
        click.echo(text.encode("utf-8", "backslashreplace").decode())
    else:
        show(result)


def stdin_words(words: Sequence[str]) -> bool:
    """Whether the positional words come on standard input."""
    return (not words or list(words) == ["-"]) and not sys.stdin.isatty()
