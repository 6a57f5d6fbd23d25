"""`onecard explain-oom FILE`: what an out-of-memory message means, and what to change."""

from pathlib import Path
from typing import Any

import click

from onecard import api
from onecard.cli import output
from onecard.cli.options import ConfigCommand
from onecard.config import Config


class FileConfig(Config):
    """Out of memory."""

    file: str = ""
    """A text file with a traceback, or a run's folder."""


class ExplainCommand(click.Command):
    """With --plan the options of that plan are accepted too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        args = [word.replace("--workload", "--plan", 1) for word in args]
        name = ""
        if "--plan" in args:
            at = args.index("--plan")
            name = args[at + 1] if at + 1 < len(args) else ""
            args = args[:at] + args[at + 2 :]
        file = next((word for word in args if not word.startswith("-")), "")
        if file:
            args.remove(file)
        ctx.params |= {"file": file, "name": name, "args": args}
        if {"-h", "--help"} & set(args) or not file:
            click.echo(self.get_help(ctx))
            ctx.exit(0)
        return []

    def invoke(self, ctx: click.Context) -> None:
        file, name, args = (ctx.params[key] for key in ("file", "name", "args"))

        def schema() -> type[Config]:
            return type(api.configure_plan(name)) if name else FileConfig

        def run(values: dict[str, Any], flags: dict[str, Any]) -> None:
            path = Path(file).expanduser()
            card = flags.get("card") or "auto"
            output.print_result(api.explain_oom(path, name, values, card=card), flags)

        inner = ConfigCommand("explain-oom", schema, run, flags=output.common())
        inner.main(args, standalone_mode=False)


command = ExplainCommand(
    "explain-oom",
    help="Reads a traceback and names the part that grew: onecard explain-oom FILE|RUN_FOLDER. "
    "With --plan NAME and its settings (onecard plan lists them) it tells what to change next: "
    "onecard explain-oom FILE --plan qlora --model llama-3.1-8b",
)
