"""`onecard runs`: list, show, compare, rerun, report. An ID may be shortened, or 'last'."""

from collections.abc import Callable
from typing import Any

import click

from onecard import api, paths
from onecard.cli import output
from onecard.cli.app import CONTEXT
from onecard.cli.help_format import HelpGroup
from onecard.errors import NotFound
from onecard.i18n import gettext
from onecard.reporting import Result, table

FLAGS = ("json", "verbose", "traceback")


def _list() -> Result:
    rows, cells = [], []
    for run in api.runs():
        best = [
            f"{name} {row['value']:.3f}"
            for name, row in list(run.metrics.items())[:3]
            if row.get("value") is not None
        ]
        rows.append(
            {
                "id": run.id,
                "status": run.status,
                "task": run.task,
                "command": run.command,
                "metrics": run.metrics,
            }
        )
        cells.append([run.id, run.status, run.command, ", ".join(best)])
    if not cells:
        text = gettext("no runs yet in {folder}").format(folder=paths.runs())
        return Result({"runs": rows}, text)
    drawn = table(cells, ["run", "status", "command", "scores"])
    return Result({"runs": rows}, drawn, (drawn,))


def _show(run_id: str) -> Result:
    run = api.find_run(run_id)
    try:
        text = (run.folder / "README.md").read_text(encoding="utf-8")
    except OSError:
        raise NotFound(
            f"run {run.id} has no README.md",
            why="it is still running or was killed",
            fix=f"onecard runs report {run.id}",
        ) from None
    data = {
        "id": run.id,
        "folder": str(run.folder),
        "status": run.status,
        "metrics": run.metrics,
        "settings": run.settings(),
    }
    folder = gettext("folder: {folder}").format(folder=run.folder)
    return Result(data, f"{text}\n{folder}")


def _report(run_id: str) -> Result:
    path = api.report(run_id)
    return Result({"path": str(path)}, str(path))


def _command(name: str, help: str, ids: tuple[str, ...], run: Callable[..., Result]) -> None:
    def call(**values: Any) -> None:
        flags = {key: values.pop(key) for key in FLAGS}
        if name == "rerun":
            values["reporter"] = output.reporter(flags)
        output.print_result(run(**values), flags)

    arguments: list[click.Parameter] = [click.Argument([each], metavar="ID") for each in ids]
    params = [*arguments, *output.common(*FLAGS)]
    command.add_command(click.Command(name, callback=call, params=params, help=help))


def _list_by_default(**values: Any) -> None:
    if click.get_current_context().invoked_subcommand is None:
        output.print_result(_list(), values)


command = HelpGroup(
    "runs",
    help="Past runs. An ID may be shortened, or 'last'.",
    invoke_without_command=True,
    callback=_list_by_default,
    params=output.common(*FLAGS),
    context_settings=CONTEXT,
)
_command("list", "The newest first.", (), _list)
_command("show", "One run: scores, settings, how to repeat it.", ("run_id",), _show)
_command("compare", "Two runs side by side, with a paired test.", ("old", "new"), api.compare)
_command("rerun", "The same work again, compared with the first.", ("run_id",), api.rerun)
_command("report", "Make the report of a run again.", ("run_id",), _report)
