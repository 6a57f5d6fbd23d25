"""Plans: the memory of settings on a device, and what to change so that they fit."""

import shlex
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from onecard import api
from onecard import config as configs
from onecard import tasks as task_list
from onecard.config import Config
from onecard.errors import DoesNotFit, SettingsError
from onecard.web import state

router = APIRouter(tags=["plans"])
MAX_VALUES = 300


class PlanRequest(BaseModel):
    """Either a short plan (`plan`: 'qlora') or a task with one of its commands."""

    plan: str = Field("", max_length=100)
    task: str = Field("", max_length=100)
    command: str = Field("", max_length=100)
    preset: str = Field("", max_length=100)
    card: str = Field("auto", max_length=100)
    values: dict[str, Any] = Field(default_factory=dict, max_length=MAX_VALUES)


@router.post("/plan")
def plan(request: Request, body: PlanRequest) -> dict[str, Any]:
    """The plan: terms in bytes with their reasons, verdict, device, choices (speed among them),
    and the command line that gives the same."""
    task, config = _config(request, body)
    planned = api.plan(task, config, card=body.card)
    return {**planned.as_dict(), "command": _command_line(body)}


@router.post("/fit")
def fit(request: Request, body: PlanRequest) -> dict[str, Any]:
    """Settings that fit: the changes, smallest loss first, with what each costs."""
    task, config = _config(request, body)
    try:
        data = api.fit(task, config, card=body.card).data
    except DoesNotFit as fault:
        planned = api.plan(task, config, card=body.card)
        error = {"what": fault.what, "why": fault.why, "fix": fault.fix}
        return {**planned.as_dict(), "settings": {}, "changes": [], "error": error}
    values = body.values | {
        name: value for row in data["changes"] for name, value in row["changes"].items()
    }
    return {**data, "command": _command_line(body.model_copy(update={"values": values}))}


@router.post("/plan/levers")
def levers(request: Request, body: PlanRequest) -> list[dict[str, Any]]:
    """The settings that move the plan, the strongest first, with the bytes that a doubling, a turn
    or another choice adds or saves."""
    task, config = _config(request, body)
    return api.plan_levers(task, config, card=body.card)


def _config(request: Request, body: PlanRequest) -> tuple[str, Config]:
    state.of(request).roots.check_values(body.values)
    if body.plan:
        task = api.plan_task(body.plan).name
        return task, api.configure_plan(body.plan, preset=body.preset, values=body.values)
    if not body.task:
        raise SettingsError(
            "there is nothing to plan",
            why="neither a plan nor a task is named",
            fix='send {"plan": "qlora", "values": {"model": "llama-3.1-8b"}}',
        )
    config = api.configure(body.task, body.command, preset=body.preset, values=body.values)
    return body.task, config


def _command_line(body: PlanRequest) -> str:
    """What a terminal takes for the same. Secrets are never in it."""
    words = ["onecard"]
    if body.plan:
        words += ["plan", body.plan]
        task = api.plan_task(body.plan)
        schema = task_list.config_class(task, task.plans[body.plan].config)
    else:
        task = task_list.get(body.task)
        words += [body.task, "plan", *([body.command] if body.command else [])]
        row = task.commands.get(body.command)
        target = row.config if row else next(iter(task.plans.values())).config
        schema = task_list.config_class(task, target)
    values = {
        name: value
        for name, value in body.values.items()
        if name in schema.model_fields and not configs.is_secret(schema.model_fields[name])
    }
    if body.plan and isinstance(values.get("model"), str):
        words.append(str(values.pop("model")))
    words += configs.as_flags({k: v for k, v in values.items() if not isinstance(v, dict)})
    if body.preset:
        words += ["--preset", body.preset]
    if body.card != "auto":
        words += ["--card", body.card]
    return shlex.join(words)
