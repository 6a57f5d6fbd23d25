"""`onecard completion`: installs shell completion for bash, zsh or fish by one command."""

import os
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from onecard import fsio
from onecard.cli import output
from onecard.errors import SettingsError
from onecard.reporting import Result

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_ONECARD_COMPLETE"


def script(shell: str) -> str:
    """The completion script of a shell."""
    from onecard.cli.app import App  # the app loads this module when the command is asked for

    completion_class = get_completion_class(shell)
    assert completion_class is not None
    completion = completion_class(App(), {}, "onecard", VARIABLE)
    return completion.source_template % completion.source_vars()


def target(shell: str) -> Path:
    """Where the shell looks for it."""
    home = Path.home()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return {
        "bash": data / "bash-completion" / "completions" / "onecard",
        "zsh": data / "zsh" / "site-functions" / "_onecard",
        "fish": config / "fish" / "completions" / "onecard.fish",
    }[shell]


def _complete(shell: str, print_: bool, **flags: Any) -> None:
    shell = shell or Path(os.environ.get("SHELL", "")).name
    if shell not in SHELLS:
        raise SettingsError(
            f"there is no completion for the shell '{shell}'",
            why=f"completion is there for {', '.join(SHELLS)}",
            fix="onecard completion bash",
        )
    if print_:
        click.echo(script(shell))
        return
    path = target(shell)
    fsio.write_text(path, script(shell))
    then = "open a new shell"
    if shell == "zsh":
        then = f"add to ~/.zshrc before compinit: fpath=({path.parent} $fpath)"
    data = {"shell": shell, "path": str(path)}
    output.print_result(Result(data, f"completion for {shell} lies in {path}\nnow: {then}"), flags)


command = click.Command(
    "completion",
    callback=_complete,
    params=[
        click.Argument(["shell"], required=False, default="", metavar="[bash|zsh|fish]"),
        click.Option(["--print", "print_"], is_flag=True, help="print the script only"),
        *output.common("json", "verbose", "traceback"),
    ],
    help="Install completion for your shell (bash, zsh or fish).",
)
