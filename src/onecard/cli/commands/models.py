"""`onecard models`: list, pull, show, import, remove, convert, quantize."""

from collections.abc import Callable
from typing import Any

import click

from onecard import api
from onecard.cli import output
from onecard.cli.app import CONTEXT
from onecard.cli.help_format import HelpGroup
from onecard.reporting import Result

FLAGS = ("json", "verbose", "traceback")


def _command(
    name: str,
    help: str,
    run: Callable[..., Result],
    *params: click.Parameter,
    argument: str = "NAME",
) -> click.Command:
    def call(**values: Any) -> None:
        flags = {key: values.pop(key) for key in FLAGS}
        output.print_result(run(output.reporter(flags), **values), flags)

    arguments = [click.Argument(["name"], metavar=argument)] if argument else []
    rows = [*arguments, *params, *output.common(*FLAGS)]
    return click.Command(name, callback=call, params=rows, help=help)


def _option(name: str, help: str, default: str = "") -> click.Option:
    return click.Option([f"--{name}"], default=default, metavar="TEXT", help=help)


command = HelpGroup(
    "models",
    help="Models on this machine. A name is one of `onecard models list`, org/name of the hub, a "
    "file, a folder or an address.",
    invoke_without_command=True,
    context_settings=CONTEXT,
)


@command.result_callback()
@click.pass_context
def _none(ctx: click.Context, *args: Any, **values: Any) -> None:
    """Nothing is left to do after a command."""


def _list_by_default(**values: Any) -> None:
    if click.get_current_context().invoked_subcommand is None:
        output.print_result(api.models().listing(), values)


command.callback = _list_by_default
command.params = output.common(*FLAGS)
for each in (
    _command(
        "list",
        "Every model of the catalog and every one that lies here.",
        lambda reporter: api.models().listing(),
        argument="",
    ),
    _command(
        "pull",
        "Bring a model to this machine.",
        lambda reporter, name, quant: api.pull(name, quant, reporter),
        _option("quant", "the quantization, as q4_k_m"),
    ),
    _command(
        "show",
        "What is known of a model: licence, sizes by quantization, context.",
        lambda reporter, name: api.models().show(name),
    ),
    _command(
        "import",
        "Copy a GGUF file or a folder of safetensors into the model store.",
        lambda reporter, name, alias: api.models().import_model(name, alias, reporter),
        click.Option(["--name", "alias"], default="", metavar="TEXT", help="the name to give"),
        argument="FILE",
    ),
    _command(
        "remove",
        "Delete a model's folder from the model store; never a file of yours.",
        lambda reporter, name: api.models().remove(name, reporter),
    ),
    _command(
        "convert",
        "Safetensors to GGUF.",
        lambda reporter, name, out, outtype: api.convert(name, out, outtype, reporter),
        _option("out", "the file to write"),
        _option("outtype", "f32, f16, bf16 or q8_0", "f16"),
        argument="FOLDER",
    ),
    _command(
        "quantize",
        "A GGUF file in fewer bits.",
        lambda reporter, name, out, quant: api.quantize(name, out, quant, reporter),
        _option("out", "the file to write"),
        _option("quant", "the quantization", "q4_k_m"),
    ),
):
    command.add_command(each)
