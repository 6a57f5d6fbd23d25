"""`onecard plan SHORT MODEL`: what a workload will need, before anything is loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from onecard import api, tasks
from onecard.cli import output
from onecard.cli.app import CONTEXT, LazyGroup
from onecard.cli.options import ConfigCommand
from onecard.config import Config
from onecard.i18n import gettext
from onecard.reporting import Result
from onecard.tasks.base import Task


def plan_command(
    name: str,
    task: Task,
    schema: Callable[[], type[Config]],
    configure: Callable[..., Config],
) -> ConfigCommand:
    """A plan of one Config: the model is the word without a flag."""

    def run(values: dict[str, Any], flags: dict[str, Any]) -> None:
        config = configure(
            preset=flags.get("preset") or "",
            file=Path(flags["config"]) if flags.get("config") else None,
            values=values,
        )
        card = flags.get("card") or "auto"
        if flags.get("trace"):
            result = api.trace(task.name, config)
        elif flags.get("compare"):
            result = api.compare_plan(task.name, config, card=card)
        elif flags.get("fit"):
            result = api.fit(task.name, config, card=card)
        else:
            plan = api.plan(task.name, config, card=card)
            result = Result(plan.as_dict(), plan.render(), (plan.table(),))
        output.print_result(result, flags)

    positional = "model" if "model" in schema().model_fields else ""
    return ConfigCommand(
        name,
        schema,
        run,
        help=gettext("what it will need: {task}").format(task=gettext(task.summary)),
        positional=positional,
        metavar="MODEL",
        flags=[
            click.Option(
                ["--fit"],
                is_flag=True,
                help="change what must be changed until it fits, smallest loss first",
            ),
            click.Option(
                ["--compare"],
                is_flag=True,
                help="beside it what other programs' formulas say of the same case",
            ),
            click.Option(
                ["--trace"],
                is_flag=True,
                help="run one step of the real model class on fake tensors beside the formulas",
            ),
            *output.common(),
        ],
    )


class PlanGroup(LazyGroup):
    """Short names over all tasks, and what past runs measured."""

    def __init__(self) -> None:
        super().__init__(
            name="plan",
            help="what a workload will need, before anything is loaded",
            invoke_without_command=True,
            context_settings=CONTEXT,
        )
        self.params = [
            click.Option(
                ["--check"], is_flag=True, help="planned against measured of every past run"
            ),
            click.Option(
                ["--calibrate"],
                is_flag=True,
                help="learn this device's own constants from past runs",
            ),
            *output.common("json", "verbose", "traceback"),
        ]
        self.callback = self._call
        self._summaries: dict[str, str] = {}

    @property
    def summaries(self) -> dict[str, str]:  # type: ignore[override]
        if not self._summaries:
            self._summaries = {name: row.summary for name, row in api.plans().items()}
        return self._summaries

    def noun(self) -> str:
        return "plan"

    def load(self, name: str) -> click.Command | None:
        candidates = sorted(tasks.names(), key=lambda task: not name.startswith(task))
        task = next((each for each in candidates if name in tasks.get(each).plans), None)
        if task is None:
            return None
        the_task = tasks.get(task)
        target = the_task.plans[name].config

        def schema() -> type[Config]:
            return tasks.config_class(the_task, target)  # type: ignore[no-any-return]

        return plan_command(
            name, the_task, schema, lambda **layers: api.configure_plan(name, **layers)
        )

    def _call(self, **flags: Any) -> None:
        ctx = click.get_current_context()
        if flags.get("check"):
            output.print_result(api.plan_check(), flags)
        elif flags.get("calibrate"):
            output.print_result(api.plan_calibrate(), flags)
        elif ctx.invoked_subcommand is None:
            click.echo(ctx.get_help())


command = PlanGroup()
