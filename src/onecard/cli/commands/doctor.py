"""`onecard doctor`: what this machine has, what is missing, and how to mend it."""

from typing import Any

import click

from onecard import api
from onecard.cli import output


def _doctor(**flags: Any) -> None:
    output.print_result(api.doctor(), flags)


command = click.Command(
    "doctor",
    callback=_doctor,
    params=output.common("json", "verbose", "traceback"),
    help="What this machine has, what is missing, and the command that mends it.",
)
