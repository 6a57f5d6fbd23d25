"""`onecard plan-bench FILE.csv`: the plan against published measurements."""

from pathlib import Path
from typing import Any

import click

from onecard import api
from onecard.cli import output
from onecard.cli.app import CONTEXT


def _call(file: str, **flags: Any) -> None:
    output.print_result(api.plan_bench(Path(file).expanduser()), flags)


command = click.Command(
    "plan-bench",
    callback=_call,
    help="Plans every row of a table of measurements and prints planned beside measured. "
    "Columns: id, task, command, model, settings (a JSON object of the command's own settings), "
    "device, component (peak, weights, kv, compute, state, total), kind (allocated, reserved, log, "
    "nvidia-smi, claimed), measured_value, unit, source, build.",
    params=[click.Argument(["file"]), *output.common("json", "verbose", "traceback")],
    context_settings=CONTEXT,
)
