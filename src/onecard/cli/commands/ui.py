"""`onecard ui`: everything in a browser, on this machine."""

import importlib
from typing import Any

from onecard import config as configs
from onecard.cli import output, web_module
from onecard.cli.options import ConfigCommand
from onecard.config import Config, Layer
from onecard.reporting import Result


def _schema() -> type[Config]:
    return importlib.import_module("onecard.web.config").UiConfig  # type: ignore[no-any-return]


def _ui(values: dict[str, Any], flags: dict[str, Any]) -> None:
    config = configs.load(_schema(), Layer("", values))
    server = web_module.load("server", "the page")
    result: Result = server.serve(config, output.reporter(flags))
    output.print_result(result, flags)


command = ConfigCommand(
    "ui",
    _schema,
    _ui,
    help="Everything in a browser: plan, chat, notes, training with its proof, runs.",
    flags=output.common("json", "verbose", "traceback"),
)
