"""`onecard fit`: the largest of everything that fits on this device."""

from typing import Any

import click

from onecard import api
from onecard.cli import output


def _fit(**flags: Any) -> None:
    output.print_result(api.fit_card(flags.get("card") or "auto"), flags)


command = click.Command(
    "fit",
    callback=_fit,
    params=output.common("card", "json", "verbose", "traceback"),
    help="The largest of everything that fits on this device, over all tasks.",
)
