"""What runs teach, and what happens when memory runs out."""

import json

import pytest

from onecard import api, tasks
from onecard.api import running
from onecard.cli.app import main
from onecard.config import Config
from onecard.errors import DoesNotFit
from onecard.memory import calibration, devices
from onecard.memory.plan import Plan, Term
from onecard.reporting import Reporter, Result
from onecard.tasks import loading
from onecard.tasks.base import Command, Task
from onecard.units import GIB, MIB


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

    def plan(name, model, card):
        config = api.configure_plan(name, values={"model": model})
        return api.plan(api.plan_task(name).name, config, card=card)

    before = plan("detect", "yolov8n", "4070ti")
    calibration.save(learned)
    after = plan("detect", "yolov8n", "4070ti")
    context = {term.name: term for term in after.terms}["CUDA context"]
    assert context.bytes == 400 * MIB
    assert "6 runs" in context.reason
    assert after.band == learned["RTX 4070 Ti"]["bands"]["detect"] != before.band
    # another card has learned nothing
    assert plan("qlora", "smollm2-135m", "12gb").terms[-1].bytes == 500 * MIB


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
    calibration.file().parent.mkdir(parents=True, exist_ok=True)
    calibration.file().write_text("{not json")
    assert calibration.of(devices.find("4070ti")) == {}


def test_without_runs_it_says_what_to_do(capsys):
    assert main(["plan", "--calibrate"]) == 6
    assert "run something first" in capsys.readouterr().err
    assert main(["plan", "--check"]) == 0


class Toy(Config):
    """Toy."""

    batch: int = 8
    """Samples."""


class Memory:
    """A task's memory.py: each sample takes one MiB."""

    def __init__(self, fallbacks):
        self.fallbacks = fallbacks

    @staticmethod
    def plan(config, device):
        reason = f"{config.batch} samples"
        return Plan((Term("activations", config.batch * MIB, reason),), device)


def halve_batch(config):
    if config.batch > 1:
        yield {"batch": config.batch // 2}, "the same mathematics"


@pytest.fixture
def toy(monkeypatch):
    def use(work, fallbacks=halve_batch):
        command = Command("train:train", "trains", "configs:Toy")
        task = Task("toy", "a toy", {"train": command}, {})
        monkeypatch.setattr(tasks, "get", lambda name: task)
        monkeypatch.setattr(loading, "load", lambda *_: work)
        monkeypatch.setattr(tasks, "memory", lambda task: Memory(fallbacks))
        monkeypatch.setattr(running, "report", lambda run_id: None)

    return use


class OutOfMemoryError(RuntimeError):
    """torch's is known by its name, so that torch need not be loaded."""


def test_work_goes_on_with_the_next_fallback(toy):
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


def test_without_a_fallback_left_it_is_told_what_lacked(toy):
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
