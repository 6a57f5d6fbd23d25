"""A command's Config as a form: the fields with their kind, limits, help and default. There is no
second list: a new task or setting appears by itself."""

import time
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from onecard import api, i18n, tasks
from onecard import config as configs
from onecard.config import Config
from onecard.errors import NotFound
from onecard.tasks.base import Command, Task

LOOK_S = 60
"""Time after which a package that was installed meanwhile is seen."""
FOLDER_WORDS = ("dir", "folder", "folders", "root")
"""Last words of a setting's name whose path is a folder."""


def task_list() -> list[dict[str, Any]]:
    """Every task with its commands, plans and presets."""
    return [task_facts(task) for task in tasks.all_tasks().values()]


def task_facts(task: Task) -> dict[str, Any]:
    _ = i18n.gettext
    return {
        "name": task.name,
        "summary": _(task.summary),
        "commands": [_command_facts(task, name, row) for name, row in task.commands.items()],
        "plans": [
            {
                "name": name,
                "summary": _(row.summary),
                "example": row.example,
                "command": planned_command(task, name),
                "values": dict(row.values),
            }
            for name, row in task.plans.items()
        ],
        "presets": api.presets(task.name),
        "trains": trains(task),
    }


@lru_cache(maxsize=500)
def _fields(task: str, config: str) -> frozenset[str]:
    return frozenset(tasks.config_class(tasks.get(task), config).model_fields)


def planned_command(task: Task, plan: str) -> str:
    """The command that does what a plan plans: the one that its name ends with, else the one whose
    settings are the most like its own; the first one of equals. Empty where there is none."""
    rows = {name: row for name, row in task.commands.items() if not row.terminal}
    last_word = plan.split("-")[-1]
    if last_word in rows:
        return last_word
    fields = _fields(task.name, task.plans[plan].config)

    def likeness(name: str) -> float:
        others = _fields(task.name, rows[name].config)
        return len(fields & others) / len(fields | others)

    return max(rows, key=likeness, default="")


def only_planned(task: Task, plan: str) -> list[str]:
    """The settings of a plan that its command does not have: a start goes without them."""
    row = task.commands.get(planned_command(task, plan))
    fields = _fields(task.name, task.plans[plan].config)
    return sorted(fields - (_fields(task.name, row.config) if row else frozenset()))


def trains(task: Task) -> bool:
    """Whether the task has something to train: its page leads from the data to the proof."""
    return "train" in task.commands


@lru_cache(maxsize=500)
def _missing(task: str, command: str, period: int) -> tuple[list[str], str]:
    """Looked up anew in each period: the metadata of all packages take half a second."""
    return api.missing_packages(task, command)


def _command_facts(task: Task, name: str, row: Command) -> dict[str, Any]:
    lacking, fix = _missing(task.name, name, int(time.monotonic() / LOOK_S))
    return {
        "name": name,
        "summary": i18n.gettext(row.summary),
        "positional": row.positional,
        "recorded": row.recorded,
        "service": row.service,
        "terminal": row.terminal,
        "missing": lacking,
        "fix": fix,
    }


def form(schema: type[Config], positional: str = "") -> list[dict[str, Any]]:
    """The groups of a form: heading and fields, the positional one first of all."""
    help_of = configs.describe(schema)
    groups: list[dict[str, Any]] = []
    for heading, names in configs.groups(schema).items():
        fields = [field_facts(name, schema.model_fields[name], help_of[name]) for name in names]
        fields.sort(key=lambda field: field["name"] != positional)
        groups.append({"heading": i18n.gettext(heading), "fields": fields})
    groups.sort(key=lambda group: all(f["name"] != positional for f in group["fields"]))
    return groups


def field_facts(name: str, info: FieldInfo, text: str) -> dict[str, Any]:
    """One setting: kind is one of bool, int, float, choice, choices, list, path, paths, secret,
    text, table."""
    facts: dict[str, Any] = {
        "name": name,
        "kind": kind(name, info),
        "help": i18n.gettext(text),
        "required": info.is_required(),
        "default": _default(info),
        "choices": _choices(info),
    }
    for mark in info.metadata:
        for word in ("ge", "gt", "le", "lt"):
            if (limit := getattr(mark, word, None)) is not None:
                facts[word] = limit
    if facts["kind"] in ("path", "paths"):
        facts["folder"] = name.split("_")[-1] in FOLDER_WORDS
    return facts


def _choices(info: FieldInfo) -> list[Any]:
    """The values themselves: a choice of 0, 1, 2 takes no '0'."""
    literals = [each for each in _types(info.annotation) if get_origin(each) is Literal]
    values = [value for each in literals for value in get_args(each)]
    return values or list(configs.choices(info))


def kind(name: str, info: FieldInfo) -> str:
    types = _types(info.annotation)
    has_choices = bool(configs.choices(info))
    if configs.is_secret(info):
        return "secret"
    if configs.is_list(info):
        if has_choices:
            return "choices"
        return "paths" if _is_path(name, info, types) else "list"
    if has_choices:
        return "choice"
    for word, python in (("bool", bool), ("int", int), ("float", float)):
        if python in types:
            return word
    if any(get_origin(each) is dict or each is dict for each in types):
        return "table"
    return "path" if _is_path(name, info, types) else "text"


PATH_WORDS = {"dir", "file", "path", "folder", "folders", "dataset", "data", "source", "index"}
PATH_WORDS |= {"audio", "images", "pictures", "questions", "notes", "documents", "corpus", "root"}


def _is_path(name: str, info: FieldInfo, types: tuple[Any, ...]) -> bool:
    if any(getattr(mark, "func", None) is configs.absolute_path for mark in info.metadata):
        return True
    if any("Path" in str(each) for each in types):
        return True
    return bool({*name.split("_")} & PATH_WORDS) and str in _flat(types)


def _flat(types: tuple[Any, ...]) -> set[Any]:
    out: set[Any] = set()
    for each in types:
        out |= _flat(get_args(each)) if get_args(each) else {each}
    return out


def _types(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Union or "UnionType" in type(annotation).__name__:
        return get_args(annotation)
    return (annotation,)


def _default(info: FieldInfo) -> Any:
    """As JSON; None for a required field and for secrets."""
    if configs.is_secret(info) or info.is_required():
        return None
    value = info.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return None
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return value if isinstance(value, str | int | float | bool | list | dict) else str(value or "")


def next_commands(task_name: str, command: str, run_id: str) -> list[dict[str, Any]]:
    """The task's commands that can go on with a run, with the values that name it: by `run_id`, or
    as the `model` of a command that uses one."""
    try:
        task = tasks.get(task_name)
    except NotFound:  # a run of a task that is gone
        return []
    rows = []
    for name, row in task.commands.items():
        schema = tasks.config_class(task, row.config)
        if name == command or row.terminal:
            continue
        if "run_id" in schema.model_fields:
            rows.append({"name": name, "values": {"run_id": run_id}})
        elif "model" in schema.model_fields and trains(task) and name not in ("train", "check"):
            rows.append({"name": name, "values": {"model": f"run:{run_id}"}})
    return rows
