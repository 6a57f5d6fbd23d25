"""Runs are found by name, whatever lies beside them."""

import json
import os

import pytest

from onecard.errors import NotFound
from onecard.runs import store


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
    write(runs, "20260102-b", pid=os.getpid())
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
