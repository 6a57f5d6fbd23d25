"""`onecard mcp`: tools of this machine for other assistants, over the Model Context Protocol."""

import importlib
from typing import Any

from onecard import config as configs
from onecard.cli import output, web_module
from onecard.cli.options import ConfigCommand
from onecard.config import Config, Layer


def _schema() -> type[Config]:
    config: type[Config] = importlib.import_module("onecard.web.mcp_config").McpConfig
    return config


def _mcp(values: dict[str, Any], flags: dict[str, Any]) -> None:
    config = configs.load(_schema(), Layer("", values))
    server = web_module.load("mcp_server", "this server")
    # no result is printed: standard output belongs to the protocol
    server.serve(config, output.reporter(flags))


command = ConfigCommand(
    "mcp",
    _schema,
    _mcp,
    help="Tools for other assistants (MCP): search notes, transcribe, ask pictures, plan.",
    flags=output.common("verbose", "traceback"),
)
