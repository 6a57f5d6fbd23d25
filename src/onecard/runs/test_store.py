"""Runs are found by name, whatever lies beside them."""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from onecard import fsio
from onecard.errors import NotFound
from onecard.runs import record, store


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("ONECARD_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def write(runs, name, pid=1, settings="", **files):
    folder = runs / name
    (folder / "artifacts").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"task": "finetune", "pid": pid}))
    (folder / "settings.toml").write_text(settings)
    for file, text in files.items():
        (folder / f"{file}.json").write_text(text)
    return folder


def test_last_is_not_the_run_that_was_just_started(runs):
    write(runs, "20260101-a")
    own = write(runs, "20260102-b", pid=os.getpid())
    (own / "status").write_text("running\n")
    assert store.find("last").id == "20260101-a"


def test_the_last_model_is_of_the_newest_run_that_left_one(runs, tmp_path):
    out = tmp_path / "out"
    (out / "gguf").mkdir(parents=True)
    (out / "gguf" / "m.gguf").write_bytes(b"GGUF")
    write(runs, "20260101-a", settings=f'output_dir = "{out}"\n')
    write(runs, "20260102-b")
    assert store.result_model("last") == out / "gguf" / "m.gguf"
    assert store.result_model("20260101-a") == out / "gguf" / "m.gguf"
    with pytest.raises(NotFound, match="left no model"):
        store.result_model("20260102-b")


@pytest.mark.parametrize(
    "scores",
    ['{"metrics": [1]}', '{"metrics": {"f1": 3}}', '{"metrics": {"f1": {"value": "x"}}}', "[", "7"],
)
def test_ill_typed_scores_hide_no_other_run(runs, scores):
    write(runs, "20260101-a", scores='{"metrics": {"f1": {"value": 0.5}}}')
    write(runs, "20260102-b", scores=scores)
    assert [run.metrics for run in store.recent()] == [{}, {"f1": {"value": 0.5}}]


def unended(runs, pid, **about):
    """A run that wrote no end."""
    folder = write(runs, "20260101-a", pid=pid)
    rows = {"task": "chat", "pid": pid, **about}
    (folder / "run.json").write_text(json.dumps(rows))
    (folder / "status").write_text("running\n")
    return store.RunRecord(folder)


@pytest.fixture
def sleeper():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield child
    child.kill()
    child.wait()


def test_a_process_that_was_killed_and_not_yet_waited_for_does_not_run(runs, sleeper):
    start = fsio.process_start(sleeper.pid)
    run = unended(runs, sleeper.pid, process_start=start, machine=record.this_machine())
    assert run.status == "running"
    sleeper.kill()
    while psutil.Process(sleeper.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert run.status == "killed"


def test_a_record_without_a_process_start(runs, sleeper):
    run = unended(runs, sleeper.pid)
    assert run.status == "running"
    os.utime(run.folder / "run.json", (1e9, 1e9))  # the id was given again since
    assert run.status == "killed"


@pytest.mark.parametrize(
    ("pid", "status"), [(2**22 + 1, "killed"), ("7", "unknown"), (None, "unknown"), (-5, "killed")]
)
def test_ids_of_no_process(runs, pid, status):
    assert unended(runs, pid).status == status


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "running"),
        ({"host": "another"}, "unknown"),
        ({"boot": "another"}, "killed"),
        ({"pids": "another"}, "unknown"),
    ],
)
def test_process_ids_count_on_their_own_machine_only(runs, sleeper, changes, status):
    start = fsio.process_start(sleeper.pid)
    machine = {**record.this_machine(), **changes}
    assert unended(runs, sleeper.pid, process_start=start, machine=machine).status == status
