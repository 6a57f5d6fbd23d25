"""Runs: plan, refuse what cannot fit, record, compare, repeat."""

import importlib
import logging
from pathlib import Path
from typing import Any, cast

from onecard import config as configs
from onecard import tasks
from onecard.api.planning import configure, plan_config
from onecard.config import Config
from onecard.errors import DoesNotFit, NotFound
from onecard.memory import devices, fallbacks
from onecard.memory.devices import Device
from onecard.memory.plan import Plan
from onecard.reporting import Reporter, Result
from onecard.runs import item_media, measured, record, store, trash
from onecard.runs.store import RunRecord
from onecard.tasks import loading
from onecard.tasks.base import Task
from onecard.training import oom_fallback
from onecard.units import gib

log = logging.getLogger(__name__)


def run(
    task: str,
    command: str,
    config: Config,
    *,
    card: str = "auto",
    reporter: Reporter | None = None,
) -> Result:
    """Plan, refuse what cannot fit, open a record, do the work.

    Raises what the work raises, and DoesNotFit.
    """
    the_task = tasks.get(task)
    the_command = tasks.command_of(the_task, command)
    command = the_task.aliases.get(command, command)
    reporter = reporter or Reporter()
    device = devices.find(card)
    config = _resolve_auto(the_task, config, device, reporter)
    config = _with_switches(the_task, config, device, reporter)
    planned = plan_config(the_task, config, device)
    log.info("planned %s of %s", gib(planned.total_bytes), gib(device.free_bytes))
    if not planned.fits:
        largest = planned.largest()
        raise DoesNotFit(
            f"{task} needs {gib(planned.total_bytes)}; {gib(device.free_bytes)} is free on "
            f"{device.name}",
            why=f"the largest part is {largest.name}, {gib(largest.bytes)}: {largest.reason}",
            fix=f"onecard {task} plan {command}  shows every part; make that one smaller, or free "
            "memory on the device",
        )
    if "torch" in the_command.requires:
        # a plan needs no model file
        from onecard.hub import checkpoints

        reporter.line("loading torch")
        checkpoints.quiet()
    work = loading.load(the_task, the_command)
    if not the_command.recorded:
        return cast(Result, work(config, record.Run(None, reporter, planned)))
    return _recorded(the_task, command, work, config, planned, reporter)


def _resolve_auto(task: Task, config: Config, device: Device, reporter: Reporter) -> Config:
    """A config whose model is named, so that a run can be repeated."""
    if getattr(config, "model", "") != "auto":
        return config
    module = tasks.memory(task)
    if not hasattr(module, "resolve_auto"):
        return config
    config, reason = module.resolve_auto(config, device, check_hub=True)
    if reason and device.type != "cpu":
        reporter.line(f"model auto: {getattr(config, 'model', '')}, {reason}")
    log.info("model auto: %s, %s", getattr(config, "model", ""), reason)
    return config


def _with_switches(task: Task, config: Config, device: Device, reporter: Reporter) -> Config:
    """The config, with memory switches on where it does not fit without them: those that a task
    names in `switches`, which change no result. Each is told with its cost."""
    memory = tasks.memory(task)
    if not hasattr(memory, "switches") or plan_config(task, config, device).fits:
        return config
    fitted = fallbacks.fit(config, device, memory.plan, memory.switches(config), closely=True)
    if not fitted.plan.fits:
        return config
    for row in fitted.fallbacks:
        reporter.line(f"to fit on {device.name}: {row.render()}")
    return cast(Config, fitted.config)


def _recorded(
    task: Task, command: str, work: Any, config: Config, planned: Plan, reporter: Reporter
) -> Result:
    memory = tasks.memory(task)
    the_run = record.start(task.name, command, config, planned, reporter, task.packages)
    if the_run.folder:
        reporter.record(the_run.folder)
    try:
        with the_run:
            the_run.track(getattr(config, "report_to", "none"), configs.public_values(config))
            changes = getattr(memory, "fallbacks", lambda config: ())
            result: Result = oom_fallback.run(
                work, config, the_run, planned.device, memory.plan, changes
            )
    finally:
        if the_run.folder:
            report(the_run.folder.name)
    text = f"{result.text}\nrun: {the_run.folder}".lstrip("\n")
    return Result({**result.data, "run": str(the_run.folder)}, text)


def runs(limit: int = 50) -> list[RunRecord]:
    """The newest first, as RunRecord."""
    return store.recent(limit)


def find_run(run_id: str) -> RunRecord:
    """A RunRecord by its id, a part of it, or 'last'. Raises NotFound."""
    return store.find(run_id)


def trash_run(run_id: str) -> str:
    """Move a run into the trash; its id. Raises NotFound, DataError for one that runs."""
    return trash.put(store.find(run_id)).name


def restore_run(run_id: str) -> RunRecord:
    """Take a run out of the trash. Raises NotFound."""
    return trash.restore(run_id)


def trashed_runs() -> list[RunRecord]:
    """Runs in the trash, the newest first."""
    return trash.listing()


def ballot(run_id: str) -> dict[str, Any]:
    """A run's items with two answers each in random order. Raises NotFound."""
    return cast(dict[str, Any], _lazy("blind").ballot(store.find(run_id)))


def can_vote(run_id: str) -> bool:
    """Whether a run's items hold two answers each. Raises NotFound."""
    return bool(_lazy("blind").has_pairs(store.find(run_id)))


def item_endings(row: dict[str, Any]) -> dict[str, str]:
    """What of an item of a run can be shown: `media` or the name of an answer, and its file's
    ending."""
    return item_media.endings(row)


def item_file(run_id: str, item: str, name: str) -> Path:
    """The picture or sound of an item (`media`), or the picture that an answer is. Raises
    NotFound."""
    return item_media.find(store.find(run_id), item, name)


def run_model(run_id: str) -> str:
    """The model that a run left, a GGUF file or a folder; empty where it left none."""
    run = store.find(run_id)
    try:
        return str(store.result_model(run.id))
    except NotFound:
        named = record.read_json(run.folder / "artifacts" / "result.json").get("model")
        return named if isinstance(named, str) else ""


def vote(run_id: str, item: str, choice: str) -> None:
    """Keep a vote: left, right or tie. Raises NotFound, DataError."""
    _lazy("blind").vote(store.find(run_id), item, choice)


def vote_media(run_id: str, item: str, side: str) -> Path:
    """The picture or sound of an item: side is media, left or right. Raises NotFound."""
    return cast(Path, _lazy("blind").media(store.find(run_id), item, side))


def vote_verdict(run_id: str) -> dict[str, Any]:
    """The votes on a run as a paired test. Raises NotFound."""
    return cast(dict[str, Any], _lazy("blind").verdict(store.find(run_id)))


def process_bytes(pid: int) -> int:
    """Memory of a process and its children now: on the card where they hold any, else resident."""
    return devices.process_bytes(pid)


def report(run_id: str) -> Path:
    """Make README.md, notebook.ipynb and report.html of a run again; the path of the page.

    Raises NotFound.
    """
    past = store.find(run_id)
    _lazy("report").write(past)
    return past.folder / "report.html"


def compare(old: str, new: str) -> Result:
    """Two runs side by side with a paired test. Raises NotFound."""
    return cast(Result, _lazy("compare").compare(store.find(old), store.find(new)))


def _lazy(module: str) -> Any:
    """A module of runs/ that loads matplotlib or scipy."""
    return importlib.import_module(f"onecard.runs.{module}")


def rerun(run_id: str, *, reporter: Reporter | None = None) -> Result:
    """The same work with the same settings, as a run of its own, compared with the first.

    Raises NotFound, SettingsError.
    """
    past = store.find(run_id)
    task, command = past.task, past.command
    config = configure(task, command, file=past.folder / "settings.toml")
    result = run(task, command, config, reporter=reporter)
    against = compare(past.id, Path(result.data["run"]).name)
    data = {**result.data, "against": against.data}
    return Result(data, f"{result.text}\n\n{against.text}")


def plan_check() -> Result:
    """Planned against measured peak of every past run that kept both."""
    return measured.check()


def plan_calibrate() -> Result:
    """Learn each device's own constants from the runs on it. Raises NotFound."""
    return measured.calibrate()
