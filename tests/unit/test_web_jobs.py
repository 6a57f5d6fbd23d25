"""Forms of every command, jobs as folders, and the paths that a page may name: without a server."""

import json
import os

import pytest

from onecard import api, tasks
from onecard import config as configs
from onecard.errors import DataError, NotFound, OneCardError, SettingsError
from onecard.web import forms, jobs
from onecard.web.roots import Roots

COMMANDS = [(task.name, name) for task in tasks.all_tasks().values() for name in task.commands]
PLANS = sorted(api.plans())


def fields_of(schema):
    return [field for group in forms.form(schema) for field in group["fields"]]


def schema_of(task, command):
    the_task = tasks.get(task)
    return tasks.config_class(the_task, the_task.commands[command].config)


@pytest.mark.parametrize("task, command", COMMANDS)
def test_a_form_has_every_setting_once_with_its_help(task, command):
    schema = schema_of(task, command)
    fields = fields_of(schema)
    assert sorted(field["name"] for field in fields) == sorted(schema.model_fields)
    assert all(field["help"] for field in fields)
    json.dumps(fields)


@pytest.mark.parametrize("task, command", COMMANDS)
def test_the_defaults_of_a_form_are_those_of_the_command(task, command):
    """A page that sends every value back as it got it changes nothing."""
    schema = schema_of(task, command)
    sent = {f["name"]: f["default"] for f in fields_of(schema) if f["default"] is not None}
    required = {name: "x" for name, info in schema.model_fields.items() if info.is_required()}
    by_form = configs.load(schema, configs.Layer("", {**required, **sent}))
    by_itself = configs.load(schema, configs.Layer("", required))
    assert by_form == by_itself


@pytest.mark.parametrize("task, command", COMMANDS)
def test_every_choice_of_a_form_is_taken(task, command):
    schema = schema_of(task, command)
    for field in fields_of(schema):
        for value in field["choices"] if field["kind"] == "choice" else ():
            try:
                configs.load(schema, configs.Layer("", {field["name"]: value}))
            except SettingsError as fault:  # two settings may exclude each other
                assert "input should be" not in fault.why, (field["name"], value)


@pytest.mark.parametrize("name", PLANS)
def test_the_levers_of_a_plan_move_it(name):
    task, row = api.plan_task(name), api.plans()[name]
    config = api.configure_plan(name, values={"model": row.example} if row.example else {})
    levers = api.plan_levers(task.name, config, card="12gb")
    assert levers
    sizes = [abs(lever["bytes"]) for lever in levers]
    assert sizes == sorted(sizes, reverse=True)
    assert all(sizes)


def test_what_follows_a_training_names_the_run():
    rows = {row["name"]: row["values"] for row in forms.next_commands("finetune", "train", "r1")}
    assert rows["export"] == {"run_id": "r1"}
    assert "check" not in rows
    assert forms.next_commands("gone", "train", "r1") == []


# Jobs


@pytest.mark.parametrize("task, command", [("finetune", "check"), ("tinylm", "train")])
def test_a_job_waits_until_it_is_cancelled(own_home, task, command):
    job = jobs.create(task, command, {"dataset": "x.jsonl"})
    assert job.status == "queued"
    assert [each.id for each in jobs.active()] == [job.id]
    jobs.stop(job)
    assert job.status == "cancelled"
    assert jobs.active() == []
    with pytest.raises(OneCardError):
        jobs.stop(job)


@pytest.mark.parametrize(
    "task, command, values",
    [
        ("chat", "chat", {}),
        ("finetune", "train", {"no_such": 1}),
        ("finetune", "train", {"lora_r": 0}),
        ("nothing", "train", {}),
        ("finetune", "nothing", {}),
        ("chat", "serve", {"token": "typed-into-the-page-0123456789"}),
    ],
)
def test_a_job_that_cannot_run_is_refused_before_it_waits(own_home, task, command, values):
    with pytest.raises(OneCardError):
        jobs.create(task, command, values)
    assert jobs.listing() == []


def test_a_secret_is_named_and_not_written(own_home, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "correct-horse-battery-staple")
    job = jobs.create("chat", "serve", {"token": "env:MY_TOKEN"}, server=True)
    assert "correct-horse" not in (job.folder / "job.json").read_text()


def test_a_job_whose_process_is_gone_was_killed(own_home):
    job = jobs.create("finetune", "check", {"dataset": "x.jsonl"})
    process = {"pid": os.getpid(), "process_start": "long ago"}
    (job.folder / "process.json").write_text(json.dumps(process))
    assert job.status == "killed"


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\x00", '{"status": "done"'])
def test_a_broken_file_of_a_job_hides_no_other(own_home, content):
    broken = jobs.create("finetune", "check", {"dataset": "x.jsonl"})
    for name in ("job.json", "process.json", "progress.json", "end.json"):
        (broken.folder / name).write_text(content)
    good = jobs.create("finetune", "check", {"dataset": "y.jsonl"})
    assert {row["id"] for row in (job.as_dict() for job in jobs.listing())} == {
        broken.id,
        good.id,
    }


@pytest.mark.parametrize("name", ["", ".", "..", "../jobs", "a/b", "/etc", "x" * 300, "\x00"])
def test_only_a_job_of_the_folder_is_found(own_home, name):
    jobs.create("finetune", "check", {"dataset": "x.jsonl"})
    with pytest.raises(NotFound):
        jobs.find(name)


def test_a_log_is_read_from_where_the_last_look_ended(own_home):
    job = jobs.create("finetune", "check", {"dataset": "x.jsonl"})
    (job.folder / "output.txt").write_bytes("one 中".encode())
    text, following = job.output()
    assert (text, following) == ("one 中", 7)
    assert job.output(following) == ("", 7)
    assert job.output(10**12) == ("", 7)
    (job.folder / "output.txt").write_bytes(b"x" * (jobs.MAX_OUTPUT + 10))
    assert len(job.output()[0]) == jobs.MAX_OUTPUT


def test_old_jobs_are_removed_and_waiting_ones_stay(own_home, monkeypatch):
    monkeypatch.setattr(jobs, "KEPT", 2)
    waiting = jobs.create("finetune", "check", {"dataset": "x.jsonl"})
    for _ in range(4):
        jobs.write_end(jobs.create("finetune", "check", {"dataset": "x.jsonl"}).folder, "done")
    jobs.prune()
    assert len(jobs.listing()) == 3
    assert waiting.status == "queued"


# Paths


@pytest.fixture
def roots(tmp_path, own_home):
    (tmp_path / "open" / "sub").mkdir(parents=True)
    (tmp_path / "open" / ".ssh").mkdir()
    (tmp_path / "closed").mkdir()
    (tmp_path / "open" / "link").symlink_to(tmp_path / "closed")
    return Roots([str(tmp_path / "open")])


@pytest.mark.parametrize("name", ["open", "open/sub", "open/sub/../sub/new.txt"])
def test_what_lies_below_a_root_may_be_named(roots, tmp_path, name):
    assert roots.check(str(tmp_path / name))


@pytest.mark.parametrize(
    "name",
    [
        "closed",
        "open/../closed",
        "open/link/x",
        "open/.ssh/id",
        "",
        "open/sub/../../closed",
        "\x00",
    ],
)
def test_what_lies_elsewhere_may_not(roots, tmp_path, name):
    with pytest.raises(DataError):
        roots.check(f"{tmp_path}/{name}")


@pytest.mark.parametrize(
    "values",
    [
        {"dataset": "/etc/passwd"},
        {"folders": ["ok", "/etc"]},
        {"token": "file:/etc/shadow"},
        {"model": "~root/x"},
        {"index": "../../etc"},
    ],
)
def test_a_setting_that_names_a_path_elsewhere_is_refused(roots, values):
    with pytest.raises(DataError):
        roots.check_values(values)


@pytest.mark.parametrize(
    "values",
    [{"model": "meta-llama/Llama-3.1-8B"}, {"base_url": "http://127.0.0.1:1/v1"}, {"n": 3}, {}],
)
def test_a_name_of_a_model_is_no_path(roots, values):
    roots.check_values(values)
