"""The tasks, their commands and the forms of their settings."""

from typing import Any

from fastapi import APIRouter

from onecard import api, glossary, i18n
from onecard import config as configs
from onecard import tasks as task_list
from onecard.web import forms

router = APIRouter(tags=["tasks"])


@router.get("/tasks")
def tasks() -> list[dict[str, Any]]:
    """Every task with its commands, plans and presets."""
    return forms.task_list()


@router.get("/tasks/{name}")
def task(name: str) -> dict[str, Any]:
    return forms.task_facts(task_list.get(name))


@router.get("/tasks/{name}/commands/{command}")
def command(name: str, command: str) -> dict[str, Any]:
    """The form of a command: groups of fields."""
    the_task = task_list.get(name)
    row = task_list.command_of(the_task, command)
    schema = task_list.config_class(the_task, row.config)
    return {
        "task": name,
        "command": command,
        "summary": i18n.gettext(row.summary),
        "groups": forms.form(schema, row.positional),
    }


@router.get("/plans/{name}")
def plan_form(name: str) -> dict[str, Any]:
    """The form of a short plan, as 'qlora'; its own values are the defaults."""
    the_task = api.plan_task(name)
    row = the_task.plans[name]
    schema = task_list.config_class(the_task, row.config)
    groups = forms.form(schema)
    # the plan's own settings are what-ifs: those of the work itself come first
    groups.sort(key=lambda group: group["heading"] == i18n.gettext(configs.heading(schema)))
    for group in groups:
        for field in group["fields"]:
            if field["name"] in row.values:
                field["default"] = row.values[field["name"]]
    return {
        "task": the_task.name,
        "plan": name,
        "summary": i18n.gettext(row.summary),
        "example": row.example,
        "only_planned": forms.only_planned(the_task, name),
        "groups": groups,
    }


@router.get("/tasks/{name}/presets/{preset}")
def preset(name: str, preset: str) -> dict[str, Any]:
    """The values of a preset."""
    return api.preset_values(name, preset)


@router.get("/glossary")
def terms() -> list[dict[str, Any]]:
    """The terms with their meanings, in the page's language."""
    return [
        {
            "term": row.term,
            "name": row.localized().term,
            "aliases": list(row.aliases),
            "definition": row.localized().definition,
        }
        for row in glossary.terms()
    ]
