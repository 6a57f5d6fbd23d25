"""What holds for every task: a new folder gets these tests without writing one."""

import ast
import tomllib
from pathlib import Path

import click
import pytest

from onecard import api, config, tasks
from onecard.cli.options import ConfigCommand
from onecard.memory import devices
from onecard.memory.plan import Plan

EVERY = tasks.names()
HOME = Path(tasks.__path__[0])
ROOT = HOME.parents[2]
PRESETS = [(name, preset) for name in EVERY for preset in api.presets(name)]
CONFIGS = [
    (name, target, schema)
    for name in EVERY
    for target, schema in tasks.configs(tasks.get(name)).items()
]
COMMANDS = [(name, command) for name in EVERY for command in tasks.get(name).commands]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("name", EVERY)
def test_the_folder_has_its_files(name):
    for file in ("__init__.py", "configs.py", "memory.py", "README.md", "presets"):
        assert (HOME / name / file).exists(), f"{name} lacks {file}"
    assert {"8gb", "12gb", "16gb", "24gb", "cpu"} <= set(api.presets(name))


@pytest.mark.parametrize(
    ("name", "schema"), [(name, schema) for name, _, schema in CONFIGS], ids=lambda x: str(x)
)
def test_every_field_is_described(name, schema):
    for field, text in config.describe(schema).items():
        assert text.endswith((".", ":")) or text.endswith(")."), f"{name}: {schema}.{field}: {text}"


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_a_command_points_at_a_function_of_config_and_run(name, command):
    row = tasks.get(name).commands[command]
    module, _, function = row.target.partition(":")
    tree = ast.parse((HOME / name / f"{module}.py").read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert function in functions, row.target
    assert [arg.arg for arg in functions[function].args.args] == ["config", "run"]
    fields = tasks.config_class(tasks.get(name), row.config).model_fields
    assert not row.positional or row.positional in fields


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_a_command_can_be_planned(name, command):
    plan = api.plan(name, api.configure(name, command), card="cpu")
    assert isinstance(plan, Plan)


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_emptied_lists_survive_the_way_through_a_command_line(name, command):
    row = tasks.get(name).commands[command]
    schema = tasks.config_class(tasks.get(name), row.config)
    lists = [field for field, info in schema.model_fields.items() if config.is_list(info)]
    empty = [
        field
        for field in lists
        if not any(hasattr(mark, "min_length") for mark in schema.model_fields[field].metadata)
    ]
    values = {field: [] for field in empty}
    taken = {}
    parser = ConfigCommand("x", lambda: schema, lambda settings, flags: taken.update(settings))
    with click.Context(parser) as context:
        parser.parse_args(context, config.as_flags(values))
        parser.invoke(context)
    settings = config.load(schema, config.Layer("", taken))
    assert {field: tuple(getattr(settings, field)) for field in empty} == dict.fromkeys(empty, ())


@pytest.mark.parametrize("short", api.plans())
def test_a_short_plan_works_with_its_example(short):
    task, row = api.plan_task(short), api.plans()[short]
    values = {"model": row.example} if row.example else {}
    plan = api.plan(task.name, api.configure_plan(short, values=values), card="24gb")
    assert plan.total_bytes > 0
    assert all(term.reason for term in plan.terms)


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_a_preset_fits_the_card_it_is_named_for(name, preset):
    plan = api.plan(name, api.configure(name, preset=preset), card=preset)
    assert plan.terms, f"{name} {preset}"
    assert plan.fits, plan.render()
    if preset != "cpu":
        size = int(preset.removesuffix("gb"))
        half_empty = "a preset that leaves half of the card empty is none"
        assert plan.total_bytes > 0.5 * size * 1024**3, half_empty


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_settings_make_flags_and_back(name, command):
    schema = tasks.config_class(tasks.get(name), tasks.get(name).commands[command].config)
    values = {key: value for key, value in config.public_values(schema()).items() if value != []}
    assert config.load(schema, config.Layer("", values)) == schema()


@pytest.mark.parametrize("name", EVERY)
def test_the_extra_installs_what_the_task_needs(name):
    task = tasks.get(name)
    wanted = task.extra or name
    plain = {_bare(row) for row in _project()["dependencies"]}
    needed = set(task.packages) | {each for row in task.commands.values() for each in row.requires}
    lacking = sorted(needed - plain - INDIRECT - {_bare(row) for row in EXTRAS.get(wanted, [])})
    rows = ", ".join(f'"{each}"' for each in lacking)
    assert wanted in EXTRAS and not lacking, (
        f"add to pyproject.toml, [project.optional-dependencies]: {wanted} = [{rows}]"
    )


INDIRECT = {"accelerate", "tokenizers", "safetensors", "ctranslate2", "silero-vad"} | {
    "ultralytics"
}
"""Packages that others of the same extra bring, or that are an extra of their own for their
licence; their versions are kept in a run."""


def _bare(requirement: str) -> str:
    for sign in "<>=~![; ":
        requirement = requirement.split(sign)[0]
    return requirement


def _project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("name", EVERY)
def test_the_extra_named_all_holds_the_task(name):
    task = tasks.get(name)
    wanted = task.extra or name
    named = EXTRAS["all"][0].partition("[")[2].rstrip("]").split(",")
    assert wanted in named, f"add {wanted} to the extra `all` in pyproject.toml"


@pytest.mark.parametrize("name", EVERY)
def test_the_readme_names_what_exists(name):
    text = (HOME / name / "README.md").read_text()
    assert f"onecard {name}" in text or "onecard plan" in text


def test_rows_of_the_readme_are_the_tasks_own_summaries():
    """A row that is there is right; a new task need not touch the README."""
    rows = [
        line.split("|")[1:3]
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("| [")
    ]
    assert len(rows) >= 5
    for link, summary in rows:
        name = link.split("[")[1].split("]")[0]
        assert summary.strip() == tasks.get(name).summary


def test_every_named_card_is_found():
    assert len(devices.named()) >= 10
    for key, facts in devices.named().items():
        assert devices.find(key).name == facts["name"]
        assert devices.find(facts["name"]).total_bytes == facts["memory_gib"] * 1024**3
