"""`onecard doctor`: what this machine has, what is missing, and how to mend it."""

from typing import Any

import click

from onecard import api
from onecard.cli import output
from onecard.i18n import gettext
from onecard.reporting import Result


def _doctor(**flags: Any) -> None:
    result = api.doctor()
    bad = result.data["bad"]
    verdict = gettext("{n} to mend").format(n=bad) if bad else gettext("all is well")
    text = "\n\n".join([*map(str, result.tables), verdict])
    output.print_result(Result(result.data, text, result.tables), flags)


command = click.Command(
    "doctor",
    callback=_doctor,
    params=output.common("json", "verbose", "traceback"),
    help="What this machine has, what is missing, and the command that mends it.",
)
