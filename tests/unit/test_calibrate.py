"""What runs teach, and what happens when memory runs out."""

import json

import pytest

from onecard import api, tasks
from onecard.cli.app import main
from onecard.config import Settings
from onecard.errors import DoesNotFit
from onecard.memory import calibration, devices, workloads
from onecard.memory.plan import Plan, Term
from onecard.memory.workloads import TuneSettings
from onecard.memory.workloads_nets import VisionSettings
from onecard.reporting import Reporter, Result
from onecard.tasks.base import Command, Task
from onecard.units import GIB, MIB


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.setenv("ONECARD_HOME", str(tmp_path))


def on_card(n, context=400 * MIB, segments=1.08, name="RTX 4070 Ti"):
    return [
        {
            "card": name,
            "kind": "detect",
            "planned_bytes": 6 * GIB + i * MIB,
            "allocated_bytes": 5 * GIB,
            "reserved_bytes": round(5 * GIB * segments),
            "device_bytes": round(5 * GIB * segments) + context,
            "peak_rss_bytes": GIB,
        }
        for i in range(n)
    ]


def test_constants_of_a_card_are_learned_and_used():
    learned = calibration.learn(on_card(6))
    assert learned["RTX 4070 Ti"]["context_bytes"] == 400 * MIB and learned["RTX 4070 Ti"][
        "segments"
    ] == pytest.approx(0.08, abs=1e-3)
    held = devices.find("4070ti")
    before = workloads.get("detect").plan(VisionSettings(model="yolov8n"), held)
    calibration.save(learned)
    after = workloads.get("detect").plan(VisionSettings(model="yolov8n"), held)
    context = {term.name: term for term in after.terms}["CUDA context"]
    assert context.bytes == 400 * MIB and "6 runs" in context.reason
    assert after.band == learned["RTX 4070 Ti"]["bands"]["detect"] != before.band
    assert (
        workloads.get("qlora")
        .plan(TuneSettings(model="smollm2-135m"), devices.find("12gb"))
        .terms[-1]
        .bytes
        == 500 * MIB
    )  # another card has learned nothing


def test_too_few_runs_make_no_band():
    assert calibration.learn(on_card(4))["RTX 4070 Ti"]["bands"] == {}


def test_a_cpu_teaches_what_the_program_itself_takes():
    rows = [
        {
            "card": "CPU",
            "kind": "rag",
            "planned_bytes": 200 * MIB,
            "peak_rss_bytes": 500 * MIB + i * MIB,
        }
        for i in range(5)
    ]
    learned = calibration.learn(rows)["CPU"]
    assert learned["program_bytes"] == 302 * MIB and learned["bands"] == {
        "rag": calibration.NARROWEST
    }


def test_a_spoilt_file_changes_nothing():
    calibration.file().write_text("{not json")
    assert calibration.of(devices.find("4070ti")) == {}


def test_without_runs_it_says_what_to_do(capsys):
    assert main(["plan", "--calibrate"]) == 6
    assert "run something first" in capsys.readouterr().err
    assert main(["plan", "--check"]) == 0


class Toy(Settings):
    batch: int = 8
    """Samples."""


def a_kind(work, smaller):
    def plan(s, held):
        return Plan((Term("activations", s.batch * MIB, f"{s.batch} samples"),), held)

    return Task(
        "toy", "a toy", Toy, plan, {"train": Command("work:train", "trains")}, smaller=smaller
    ), work


@pytest.fixture
def toy(monkeypatch):
    def use(
        work,
        smaller=lambda s: (
            [({"batch": s.batch // 2}, "the same mathematics")] if s.batch > 1 else []
        ),
    ):
        kind, work = a_kind(work, smaller)
        monkeypatch.setattr(tasks, "get", lambda name: kind)
        monkeypatch.setattr(tasks, "work", lambda *_: work)
        monkeypatch.setattr(api, "report", lambda run_id: None)

    return use


class OutOfMemoryError(RuntimeError):
    """torch's is known by its name, so that torch need not be loaded."""


def test_work_goes_on_with_the_next_rung(toy):
    seen = []

    def work(settings, run):
        seen.append(settings.batch)
        run.data("rows", rows=1, sha256="0")
        if settings.batch > 2:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return Result({"batch": settings.batch}, "done")

    toy(work)
    done = api.run("toy", "train", Toy(), card="cpu", reporter=Reporter())
    assert (
        seen == [8, 4, 2]
        and done.data["batch"] == 2
        and [c["changes"] for c in done.data["memory_changes"]] == [{"batch": 4}, {"batch": 2}]
    )
    past = api.runs()[0]
    kept = json.loads((past.folder / "changes.json").read_text())
    assert (
        kept["settings"]["batch"] == 2
        and kept["planned_bytes"] == 2 * MIB
        and past.status == "done"
    )
    assert json.loads((past.folder / "memory.json").read_text())["planned_bytes"] == 2 * MIB


def test_without_a_rung_left_it_is_told_what_lacked(toy):
    def work(settings, run):
        run.data("rows", rows=1, sha256="0")
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    toy(work)
    with pytest.raises(DoesNotFit) as told:
        api.run("toy", "train", Toy(batch=2), card="cpu", reporter=Reporter())
    assert "explain-oom" in told.value.fix and "activations" in told.value.why
    past = api.runs()[0]
    assert past.status == "failed" and main(["explain-oom", str(past.folder)]) == 0


def test_other_faults_pass_through(toy):
    def work(settings, run):
        raise RuntimeError("something else")

    toy(work)
    with pytest.raises(RuntimeError, match="something else"):
        api.run("toy", "train", Toy(), card="cpu", reporter=Reporter())
