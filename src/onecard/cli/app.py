"""The command line: lazy click groups. With reporting.py the one place that prints, and the one
that exits. No work is done here.

`onecard --help` and shell completion import no task's configs, no pydantic and no numpy: a group
lists names and one-line summaries, and loads a command when it is asked for.
"""

import importlib
import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from onecard import __version__, fsio, i18n, paths, tasks
from onecard.cli.help_format import HelpContext, localize
from onecard.errors import OneCardError, SettingsError, not_found
from onecard.i18n import gettext
from onecard.redaction import SECRET_NAME, redact

ABOVE = {
    "ui": "everything in a browser: plan, chat, notes, training with its proof, runs",
    "mcp": "tools of this machine for other assistants, over the Model Context Protocol",
    "plan": "what a workload will need, before anything is loaded: onecard plan qlora llama-3.1-8b",
    "plan-bench": "the plan against a table of published measurements",
    "fit": "the largest of everything that fits on this card",
    "explain-oom": "what an out-of-memory message means, and what to change",
    "doctor": "what this machine has, what is missing, and how to mend it",
    "models": "list, pull, show, import, remove, convert, quantize models",
    "runs": "list, show, compare, rerun, report runs",
    "completion": "install shell completion for bash, zsh or fish",
}
"""Commands above the tasks: name -> summary. Each is a module of cli/commands."""

GONE = {
    "kinds": "onecard --help lists the tasks",
}
"""Commands of onecard 0.1 and what to do instead."""


class LazyGroup(click.Group):
    """A group whose commands are loaded when they are asked for."""

    context_class = HelpContext
    summaries: dict[str, str]

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.summaries)

    def load(self, name: str) -> click.Command | None:
        raise NotImplementedError

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return self.load(name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Raises NotFound with the nearest command."""
        command = self.load(args[0])
        if command is None:
            raise not_found(self.noun(), args[0], self.known(), f"{ctx.command_path} --help")
        return args[0], command, args[1:]

    def noun(self) -> str:
        return "command"

    def known(self) -> list[str]:
        return list(self.summaries)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("commands"):
            formatter.write_dl(list(self.summaries.items()))


class App(LazyGroup):
    """`onecard`."""

    def __init__(self) -> None:
        super().__init__(name="onecard", no_args_is_help=True, context_settings=CONTEXT)
        self.summaries = dict.fromkeys([*tasks.names(), *ABOVE], "")
        self.params = [
            click.Option(
                ["--version"],
                is_flag=True,
                is_eager=True,
                callback=_version,
                expose_value=False,
                help="print the version",
            ),
            # taken out of the line by `main`; here for shell completion
            click.Option(["--lang"], type=click.Choice(list(i18n.LANGUAGES)), expose_value=False),
        ]

    def load(self, name: str) -> click.Command | None:
        if name in GONE:
            raise SettingsError(
                f"onecard {name} is gone", why="it belonged to onecard 0.1", fix=GONE[name]
            )
        if name in ABOVE:
            module = importlib.import_module(f"onecard.cli.commands.{name.replace('-', '_')}")
            return localize(module.command)
        if name in tasks.names():
            group = importlib.import_module("onecard.cli.task_group").TaskGroup(name)
            return group  # type: ignore[no-any-return]
        return None

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_text(
            gettext(
                "onecard {version}: AI projects on one consumer graphics card, planned, run and "
                "proven"
            ).format(version=__version__)
        )
        formatter.write_paragraph()
        formatter.write_text("usage: onecard TASK COMMAND [WORDS] [--setting VALUE ...]")
        formatter.write_text("       onecard TASK plan [COMMAND]      onecard TASK --help")
        rows = [(name, tasks.get(name).summary) for name in tasks.names()]
        with formatter.section("tasks"):
            formatter.write_dl(rows)
        with formatter.section("above the tasks"):
            formatter.write_dl(list(ABOVE.items()))
        formatter.write_paragraph()
        formatter.write_text('try: onecard chat ask "What is a KV cache?"')
        formatter.write_text('     onecard rag index ~/notes && onecard rag ask "..."')
        formatter.write_text(
            "language: --lang en or --lang zh_TW; else ONECARD_LANG, or the locale"
        )


CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"onecard {__version__}")
        ctx.exit(0)


def entry() -> None:
    """The console script."""
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code."""
    # pydantic looks through all installed packages for plugins: 16 ms of every start
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    words = list(sys.argv[1:] if argv is None else argv)
    _open_streams()
    _set_logging(words)
    with i18n.use(i18n.from_locale(os.environ)):
        return _run(words)


def _run(words: list[str]) -> int:
    try:
        words, language = _language(words)
        i18n.use(language or i18n.current())
        App().main(words, prog_name="onecard", standalone_mode=False)
        return 0
    except (KeyboardInterrupt, click.Abort):
        print(f"\n{gettext('stopped')}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OneCardError as fault:
        return _tell(fault, words)
    except click.ClickException as fault:
        error = SettingsError(
            "the command line is not understood",
            why=fault.format_message(),
            fix="--help lists every option",
        )
        return _tell(error, words)
    except Exception as fault:
        return _tell(_unexpected(fault), words)


def _language(words: list[str]) -> tuple[list[str], str]:
    """The line without `--lang zh_TW`, wherever it stands before `--`, and the language.

    Raises SettingsError.
    """
    language = ""
    rest: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, has_value, value = word.partition("=")
        if word == "--":
            return [*rest, word, *left], language
        if name != "--lang":
            rest.append(word)
            continue
        if not has_value:
            value = left.pop(0) if left else ""
        language = i18n.match(value) or ""
        if not language:
            raise SettingsError(
                f"--lang {value} is not valid".replace("  ", " "),
                why=f"onecard speaks {' and '.join(i18n.LANGUAGES)}",
                fix="--lang en or --lang zh_TW",
            )
    return rest, language


def _open_streams() -> None:
    """A closed stdin or stdout (`<&-`, a service without them) is None in Python: an empty one
    takes its place. Lines that are not UTF-8 are no error: their wrong bytes stay as they were."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
        elif name == "stdin" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")


def _unexpected(fault: Exception) -> OneCardError:
    kept = paths.home() / "last-error.txt"
    try:
        fsio.write_text(kept, redact(traceback.format_exc(), _environment_secrets()))
    except OneCardError:
        kept = Path("nowhere: the disk is full")
    message = redact(f"{type(fault).__name__}: {str(fault)[:300]}")
    return OneCardError(
        f"onecard failed: {message}", why="this should not happen", fix=f"report it with {kept}"
    )


def _environment_secrets() -> list[str]:
    """Values of environment variables that are named like secrets; a library's error may quote
    one. Short ones are common words, and hiding those would garble the text.
    """
    return [v for name, v in os.environ.items() if SECRET_NAME.search(name) and len(v) >= 8]


def _set_logging(words: Sequence[str]) -> None:
    count = sum(2 if word == "-vv" else 1 for word in words if word in ("-v", "-vv", "--verbose"))
    level = {0: logging.WARNING, 1: logging.INFO}.get(count, logging.DEBUG)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("onecard").setLevel(level)


def _tell(fault: OneCardError, words: Sequence[str]) -> int:
    """Print an error for a person, and as JSON where that was asked for."""
    reporting = importlib.import_module("onecard.reporting")
    if "--traceback" in words:
        print(redact(traceback.format_exc(), _environment_secrets()), file=sys.stderr)
    what, why, fix = (redact(text) for text in (fault.what, fault.why, fault.fix))
    if "--json" in words:
        error = {"what": what, "why": why, "fix": fix, "code": fault.code}
        click.echo(json.dumps({"error": error}, ensure_ascii=False))
    why_label, fix_label, label = gettext("why:"), gettext("fix:"), gettext("error:")
    what, why, fix = gettext(what), gettext(why), gettext(fix)
    text = reporting.plain(f"{what}\n  {why_label} {why}\n  {fix_label} {fix}")
    if reporting.is_rich(sys.stderr):
        label = f"\x1b[1;31m{label}\x1b[0m"
    print(f"{label} {text}", file=sys.stderr)
    return fault.code
