"""`onecard fit`: the largest of everything that fits on this device."""

from typing import Any

import click

from onecard import api
from onecard.cli import output
from onecard.i18n import gettext
from onecard.reporting import Result


def _fit(**flags: Any) -> None:
    result = api.fit_card(flags.get("card") or "auto")
    heading = "each row's plan:"
    text = result.text.replace(f"\n{heading}\n", f"\n{gettext(heading)}\n")
    output.print_result(Result(result.data, text, result.tables), flags)


command = click.Command(
    "fit",
    callback=_fit,
    params=output.common("card", "json", "verbose", "traceback"),
    help="The largest of everything that fits on this device, over all tasks.",
)
