"""A run is a folder, and the folder is the truth. Knows no task.

<date>-<task>-<id>/
    run.json  settings.toml  plan.json  env.json   written before the work starts
    data.json                                      fingerprints of what was read
    events.jsonl                                   one line a step: {"step": 12, "loss": 1.93}
    scores.json  memory.json  artifacts/           written by the work
    artifacts/items.jsonl                          one line an evaluated item
    README.md  notebook.ipynb  report.html         made by runs.report when the work ends
    status                                         running | done | failed | stopped

run.json holds the process id and its start time: a run whose process is gone was killed. Nothing is
written before secrets are blotted out (config.redact).
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import secrets
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import tomli_w

from onecard import config as configs
from onecard import fsio, paths
from onecard.config import Config
from onecard.errors import OneCardError
from onecard.fsio import read_json as read_json
from onecard.memory.plan import Plan
from onecard.redaction import redact
from onecard.reporting import Reporter
from onecard.runs import tracking

PACKAGES = ("onecard", "numpy", "pydantic")
"""Distributions of every run, beside those of its task."""


def peak_rss_bytes(pid: int | str = "self") -> int:
    """Highest resident memory of a process so far; 0 for one that is gone.

    From the kernel's own mark where there is one: getrusage's is inherited from a large parent.
    """
    try:
        rows = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(row.split()[1]) * 1024 for row in rows if row.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if pid == "self" else 0


def peak_bytes() -> int:
    """Highest of this process so far: torch's allocator on a card, resident memory otherwise. torch
    is asked where it was loaded, and not loaded for it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return peak_rss_bytes()


class Run:
    """What a command is given beside its config: where to write, whom to report to.

    Without a folder nothing is kept.
    """

    def __init__(
        self, folder: Path | None, reporter: Reporter, plan: Plan, secrets: Sequence[str] = ()
    ) -> None:
        self.folder, self.reporter, self.plan = folder, reporter, plan
        self._secrets = tuple(secrets)
        self._started = time.monotonic()
        self._trackers: list[tracking.Tracker] = []
        self._data: dict[str, Any] = {}
        self._measured: dict[str, int] = {}
        self._begun = False

    @property
    def id(self) -> str:
        return self.folder.name if self.folder else ""

    def log(self, step: int, **values: float) -> None:
        """Append one line of values; names carry their unit: loss, tokens_per_s, peak_bytes."""
        if not self.folder:
            return
        self._begun = True
        row = {"step": step, "time_s": round(time.monotonic() - self._started, 3), **values}
        with (self.folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        for tracker in self._trackers:
            tracker.log(step, values)

    def data(self, name: str, *, rows: int, sha256: str, **more: Any) -> None:
        """Note what was read, by fingerprint, so that a later run can tell whether it read the
        same."""
        self._begun = True
        self._data[name] = {"rows": rows, "sha256": sha256, **more}
        self._json("data.json", self._data)

    def scores(self, metrics: Mapping[str, Mapping[str, Any]], **more: Any) -> None:
        """Keep the metrics: name -> {value, low, high, n}."""
        self._json("scores.json", {"metrics": metrics, **more})

    def items(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep one line an evaluated item: {id, scores: {metric: number}, ...}; comparisons pair on
        `id`."""
        if self.folder:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            self._write(self.artifacts / "items.jsonl", text)

    @property
    def artifacts(self) -> Path:
        """The folder for what the work makes. Only for a recorded run."""
        assert self.folder is not None
        return self.folder / "artifacts"

    def artifact(self, name: str, content: str) -> None:
        """Keep a text under artifacts/. Raises DataError for a name that leads out of it."""
        if self.folder:
            self._write(paths.safe_join(self.artifacts, name), content)

    def artifact_file(self, path: Path, name: str = "") -> None:
        """Keep a copy of a file under artifacts/, by its own name or another. Raises DataError."""
        if self.folder:
            with fsio.atomic_write(paths.safe_join(self.artifacts, name or path.name)) as draft:
                shutil.copyfile(path, draft)

    def _json(self, name: str, value: Any) -> None:
        if self.folder:
            text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
            self._write(self.folder / name, text)

    def _write(self, path: Path, text: str) -> None:
        """The one way into the run folder: secrets are blotted out on it."""
        fsio.write_text(path, redact(text, self._secrets))

    def measure(self, **more: int) -> None:
        """Write planned and measured bytes: resident memory always; torch's peaks and the driver's
        figure where a card was used; `more` from what a trainer counted itself."""
        peak = max(peak_rss_bytes(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
        self._measured |= {**_card_bytes(self.plan), **more}
        self._json(
            "memory.json",
            {
                "planned_bytes": self.plan.total_bytes,
                "peak_rss_bytes": peak,
                **self._measured,
                "wall_s": round(time.monotonic() - self._started, 3),
            },
        )

    def changed(self, taken: Sequence[Mapping[str, Any]], config: Config, plan: Plan) -> None:
        """Memory ran out and settings were changed: keep what, and the new plan beside the old."""
        self.plan = plan
        self._json(
            "changes.json",
            {
                "changes": list(taken),
                "settings": configs.public_values(config),
                "planned_bytes": plan.total_bytes,
            },
        )
        changes = ", ".join(f"{key}={value}" for key, value in taken[-1]["changes"].items())
        cost = taken[-1]["cost"]
        self.reporter.warn(f"memory ran out; changed {changes} ({cost}) and going on")

    def track(self, report_to: str, settings: Mapping[str, Any]) -> None:
        """Send steps and scores to a tracker as well: trackio, tensorboard, wandb, mlflow; 'none'
        for nothing."""
        if self.folder and report_to != "none":
            self._trackers.append(tracking.start(report_to, self.folder, settings))

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.folder:
            return
        if isinstance(fault, OneCardError) and not self._begun:
            # refused before anything was read: no run
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None
            return
        status = "done" if fault is None else "failed"
        if isinstance(fault, KeyboardInterrupt):
            status = "stopped"
        self.measure()
        if fault is not None and kind is not None:
            text = "".join(traceback.format_exception(kind, fault, trace))
            self._write(self.folder / "traceback.txt", text)
        for tracker in self._trackers:
            scores = read_json(self.folder / "scores.json").get("metrics", {})
            tracker.finish(
                {name: row["value"] for name, row in scores.items() if row.get("value") is not None}
            )
        fsio.write_text(self.folder / "status", status + "\n")


def _card_bytes(plan: Plan) -> dict[str, int]:
    """Peaks of this process on the card, where torch was loaded and used one.

    The driver's figure: what it shows now beyond what others held when the plan was made, with the
    segments at their highest.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return {}
    reserved = int(torch.cuda.max_memory_reserved())
    free, total = torch.cuda.mem_get_info()
    others = (
        plan.device.total_bytes - plan.device.free_bytes
        if plan.device.real and plan.device.type == "cuda"
        else 0
    )
    return {
        "allocated_bytes": int(torch.cuda.max_memory_allocated()),
        "reserved_bytes": reserved,
        "device_bytes": int(total - free) - others - int(torch.cuda.memory_reserved()) + reserved,
    }


def start(
    task: str,
    command: str,
    config: Config,
    plan: Plan,
    reporter: Reporter,
    packages: Sequence[str] = (),
) -> Run:
    """Make the folder and write settings, plan and environment into it before any work.

    `packages`: the distributions of the task, whose versions are kept. The command line is made
    from the config, not from what was typed: a secret that was typed is not in it.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = paths.runs() / f"{stamp}-{task}-{secrets.token_hex(2)}"
    (folder / "artifacts").mkdir(parents=True)
    run = Run(folder, reporter, plan, configs.secrets_of(config))
    values = configs.public_values(config)
    chosen = {name: value for name, value in values.items() if name in config.model_fields_set}
    run._json(
        "run.json",
        {
            "task": task,
            "command": command,
            "argv": ["onecard", task, command, *configs.as_flags(chosen)],
            "cwd": str(Path.cwd()),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "pid": os.getpid(),
            "process_start": fsio.process_start(os.getpid()),
            "machine": this_machine(),
        },
    )
    run._write(folder / "settings.toml", tomli_w.dumps(values))
    run._json("plan.json", plan.as_dict())
    run._json("env.json", environment(plan, packages))
    fsio.write_text(folder / "status", "running\n")
    return run


def this_machine() -> dict[str, str]:
    """What a process id counts in: the machine, its boot, and the container's own numbering."""
    rows = {"host": platform.node()}
    for name, path in (("boot", "/proc/sys/kernel/random/boot_id"), ("pids", "/proc/self/ns/pid")):
        try:
            file = Path(path)
            rows[name] = str(file.readlink()) if name == "pids" else file.read_text().strip()
        except OSError:
            continue
    return rows


def environment(plan: Plan, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Device, driver, Python, package versions and the state of the git tree of the code."""
    versions = {}
    for name in sorted({*PACKAGES, *packages}):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "device": plan.device.as_dict(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "packages": versions,
        "git": _git_state(),
    }


def _git_state() -> dict[str, Any]:
    def ask(*words: str) -> str:
        folder = str(Path(__file__).parent)
        git = subprocess.run(
            ["git", "-C", folder, *words], capture_output=True, text=True, timeout=5
        )
        return git.stdout.strip() if git.returncode == 0 else ""

    try:
        commit = ask("rev-parse", "HEAD")
        changed = bool(ask("status", "--porcelain", "--untracked-files=no"))
        return {"commit": commit, "changed": changed} if commit else {}
    except (OSError, subprocess.TimeoutExpired):
        return {}


def fingerprint(path: Path) -> str:
    """sha256 of a file's bytes, or of all files in a folder with their names, in hex."""
    if path.is_dir():
        lines = [
            f"{file.relative_to(path).as_posix()} {fingerprint(file)}"
            for file in sorted(path.rglob("*"))
            if file.is_file()
        ]
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
