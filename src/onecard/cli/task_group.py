"""A task's commands as a click group: `onecard TASK COMMAND`, `onecard TASK plan [COMMAND]`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from onecard import api, tasks
from onecard.cli import output
from onecard.cli.app import CONTEXT, LazyGroup
from onecard.cli.commands.plan import plan_command
from onecard.cli.options import ConfigCommand
from onecard.config import Config
from onecard.i18n import gettext
from onecard.tasks.base import Task

PLAN = "what it will need, before anything is loaded"


class TaskGroup(LazyGroup):
    """One task."""

    def __init__(self, name: str) -> None:
        self.task = tasks.get(name)
        super().__init__(
            name=name,
            help=self.task.summary,
            invoke_without_command=True,
            context_settings=CONTEXT | {"ignore_unknown_options": True},
        )
        self.summaries = {key: row.summary for key, row in self.task.commands.items()}
        self.summaries["plan"] = PLAN

    def noun(self) -> str:
        return f"command of {self.task.name}"

    def load(self, name: str) -> click.Command | None:
        name = self.task.aliases.get(name, name)
        if name == "plan":
            return TaskPlanGroup(self.task)
        if name in self.task.commands:
            return task_command(self.task, name)
        return None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """`onecard chat --model X` is `onecard chat chat --model X`."""
        default = self.task.default_command
        asks_help = any(word in ("-h", "--help") for word in args[:1])
        if default and not asks_help and (not args or args[0].startswith("-")):
            args = [default, *args]
        if not args:
            args = ["--help"]
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        presets = ", ".join(api.presets(self.task.name))
        if presets:
            formatter.write_text(gettext("presets (--preset): {names}").format(names=presets))
        formatter.write_text(
            gettext("onecard {task} COMMAND --help  shows its settings").format(task=self.task.name)
        )


class TaskPlanGroup(LazyGroup):
    """`onecard TASK plan [COMMAND]`: without a command, the task's first short plan."""

    def __init__(self, task: Task) -> None:
        self.task = task
        super().__init__(
            name="plan",
            help=PLAN,
            invoke_without_command=True,
            context_settings=CONTEXT | {"ignore_unknown_options": True},
        )
        self.summaries = {
            key: gettext("what {command} will need").format(command=key)
            for key in [*task.commands, *(key for key in task.plans if key not in task.commands)]
        }

    def load(self, name: str) -> click.Command | None:
        name = self.task.aliases.get(name, name)
        if name in self.task.commands:
            command = self.task.commands[name]
            return plan_command(
                name,
                self.task,
                _schema(self.task, command.config),
                lambda **layers: api.configure(self.task.name, name, **layers),
            )
        if name in self.task.plans:
            return plan_command(
                name,
                self.task,
                _schema(self.task, self.task.plans[name].config),
                lambda **layers: api.configure_plan(name, **layers),
            )
        return None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or self.load(args[0]) is None:
            args = [next(iter(self.task.plans)), *args]
        return super().parse_args(ctx, args)


def _schema(task: Task, target: str) -> Callable[[], type[Config]]:
    return lambda: tasks.config_class(task, target)


def task_command(task: Task, name: str) -> ConfigCommand:
    """One command of a task."""
    row = task.commands[name]

    def run(values: dict[str, Any], flags: dict[str, Any]) -> None:
        positional = row.positional
        if positional and output.stdin_words(_as_list(values.get(positional))):
            values.pop(positional, None)
        config = api.configure(
            task.name,
            name,
            preset=flags.get("preset") or "",
            file=Path(flags["config"]) if flags.get("config") else None,
            values=values,
        )
        result = api.run(
            task.name,
            name,
            config,
            card=flags.get("card") or "auto",
            reporter=output.reporter(flags),
        )
        output.print_result(result, flags)

    def elsewhere(field: str) -> str:
        owners = [
            f"onecard {task.name} {key}"
            for key, other in task.commands.items()
            if field in tasks.config_class(task, other.config).model_fields
        ]
        return " and ".join(owners[:2])

    return ConfigCommand(
        name,
        _schema(task, row.config),
        run,
        help=row.summary,
        positional=row.positional,
        flags=output.common(),
        elsewhere=elsewhere,
    )


def _as_list(value: Any) -> list[str]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
