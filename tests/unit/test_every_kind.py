"""What holds for every kind: a new folder gets these tests without writing one."""

import ast
import tomllib
from pathlib import Path

import pytest

from onecard import api, config, flags, tasks
from onecard.memory import devices

EVERY = sorted(tasks.all_tasks())
HOME = Path(tasks.__path__[0])
ROOT = HOME.parents[2]
PRESETS = [(name, preset) for name in EVERY for preset in api.presets(name)]


@pytest.mark.parametrize("name", EVERY)
def test_folder_has_the_usual_rooms(name):
    for place in ("__init__.py", "config.py", "memory.py", "evals.py", "README.md", "presets"):
        assert (HOME / name / place).exists(), f"{name} lacks {place}"
    assert {"8gb", "12gb", "16gb", "24gb", "cpu"} <= set(api.presets(name))


@pytest.mark.parametrize("name", EVERY)
def test_every_field_is_described(name):
    for field, info in tasks.get(name).settings.model_fields.items():
        assert info.description, f"{name}.{field} has no docstring"


@pytest.mark.parametrize("name", EVERY)
def test_every_verb_points_at_a_function_with_two_arguments(name):
    kind = tasks.get(name)
    for verb in kind.commands.values():
        module, _, function = verb.target.partition(":")
        tree = ast.parse((HOME / name / f"{module}.py").read_text())
        found = [
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and node.name == function
        ]
        assert found and len(found[0].args.args) == 2, verb.target
        assert set(verb.fields) <= set(kind.settings.model_fields)
        assert not verb.positional or verb.positional in kind.settings.model_fields


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_preset_fits_the_card_it_is_named_for(name, preset):
    named = "cpu" if preset == "cpu" else preset
    plan = api.plan(name, api.configure(name, preset=preset), card=named)
    assert plan.terms and plan.fits, plan.render()
    if preset != "cpu":
        size = int(preset.removesuffix("gb"))
        assert plan.total_bytes > 0.5 * size * 1024**3, (
            "a preset that leaves half of the card empty is none"
        )


@pytest.mark.parametrize("name", EVERY)
def test_flags_come_from_the_fields_and_back(name):
    schema = tasks.get(name).settings
    settings = schema()
    words = flags.as_words(
        {k: v for k, v in settings.model_dump(mode="json").items() if v not in ("", [], ())}
    )
    again = config.load(schema, ("", flags.parse(words, schema, []).settings))
    assert again == settings


@pytest.mark.parametrize("name", EVERY)
def test_the_extra_exists(name):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    wanted = tasks.get(name).extra or name
    assert wanted in extras, (
        f'add to pyproject.toml, [project.optional-dependencies]: {wanted} = ["..."]'
    )


@pytest.mark.parametrize("name", EVERY)
def test_readme_names_what_exists(name):
    text = (HOME / name / "README.md").read_text()
    assert f"onecard {name}" in text and "|" in text


def test_the_table_of_kinds_in_the_readme_is_the_generated_one():
    text = (ROOT / "README.md").read_text()
    for kind in tasks.all_tasks().values():
        assert f"| [{kind.name}](src/onecard/kinds/{kind.name}/README.md) | {kind.says} |" in text


def test_every_named_card_is_found():
    for key, facts in devices.named().items():
        assert devices.find(key).name == facts["name"]
        assert devices.find(facts["name"]).total_bytes == facts["memory_gib"] * 1024**3
    assert len(devices.named()) >= 10
