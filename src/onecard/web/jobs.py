"""Jobs: work that was started from the page, each a folder and a process of its own.

<home>/jobs/<date>-<task>-<command>-<id>/
    job.json       task, command, card, settings: written when it is queued
    process.json   pid, start time, machine: written by the process when it begins
    progress.json  what is being done, how far; the run folder; the address of a server
    output.txt     what the work told
    end.json       done | failed | stopped | cancelled, with the result or the error

A folder is the truth: the page, the queue and a restarted server read nothing else. A job whose
process is gone without an end was killed.
"""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from onecard import api, fsio, paths, tasks
from onecard import config as configs
from onecard.errors import DataError, NotFound, SettingsError, not_found

ACTIVE = ("queued", "running")
MAX_OUTPUT = 200_000
"""Bytes of a log that one answer gives."""
KEPT = 300
"""Jobs that ended and stay on the disk: their runs stay anyway."""
MAX_FILE = 64 << 20
"""Bytes of a file of a job that are read: a larger one is none of ours."""
TEND_S = 1.0
"""Between two looks whether another server's queue still works."""
_TENDING = threading.Lock()
_tender: threading.Thread | None = None
ID = re.compile(r"[\w-]{1,200}")
"""What a job can be named: no path, and no longer than a file system takes."""


@dataclass(frozen=True)
class Job:
    """One job on the disk."""

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def about(self) -> dict[str, Any]:
        return fsio.read_json(self.folder / "job.json", MAX_FILE)

    @property
    def is_server(self) -> bool:
        return bool(self.about.get("server"))

    @property
    def progress(self) -> dict[str, Any]:
        return fsio.read_json(self.folder / "progress.json", MAX_FILE)

    @property
    def end(self) -> dict[str, Any]:
        return fsio.read_json(self.folder / "end.json", MAX_FILE)

    @property
    def run_folder(self) -> str:
        """Of the run that it records; empty where it records none."""
        return str(self.progress.get("run") or self.end.get("run") or "")

    @property
    def run(self) -> str:
        """The id of that run; empty for one that ended before it had anything to keep, which
        leaves no folder."""
        folder = Path(self.run_folder)
        return folder.name if self.run_folder and folder.is_dir() else ""

    @property
    def pid(self) -> int:
        """Of the process, while it lives; 0 otherwise."""
        process = fsio.read_json(self.folder / "process.json", MAX_FILE)
        pid, start = process.get("pid"), process.get("process_start")
        if isinstance(pid, int) and start and fsio.process_start(pid) == start:
            return pid
        return 0

    @property
    def status(self) -> str:
        """queued, running, done, failed, stopped, cancelled or killed."""
        if status := self._end_status():
            return status
        if not (self.folder / "process.json").exists():
            return "queued"
        if self.pid:
            return "running"
        # its last word may have come between the two looks
        return self._end_status() or "killed"

    def _end_status(self) -> str:
        """Of end.json, which also holds the whole result: read once, not at each look."""
        path = self.folder / "end.json"
        try:
            facts = path.stat()
        except OSError:
            return ""
        return _status_in(path, facts.st_mtime_ns, facts.st_size)

    def output(self, start: int = 0) -> tuple[str, int]:
        """The log from a byte on, and where the next look begins."""
        try:
            with (self.folder / "output.txt").open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                start = min(max(start, 0), size)
                start = max(start, size - MAX_OUTPUT)
                file.seek(start)
                content = file.read(MAX_OUTPUT)
        except OSError:
            return "", 0
        return content.decode("utf-8", "replace"), start + len(content)

    def as_dict(self) -> dict[str, Any]:
        about, progress, end = self.about, self.progress, self.end
        return {
            "id": self.id,
            "task": about.get("task", ""),
            "command": about.get("command", ""),
            "card": about.get("card", "auto"),
            "created": about.get("created", ""),
            "server": self.is_server,
            "status": self.status,
            "run": self.run,
            "progress": {k: progress[k] for k in ("what", "done", "total") if k in progress},
            "settings": about.get("settings", {}),
            "error": end.get("error"),
            "text": str(end.get("text", ""))[:MAX_OUTPUT],
            "ended": end.get("ended", ""),
        }


@lru_cache(maxsize=4 * KEPT)
def _status_in(path: Path, mtime_ns: int, n_bytes: int) -> str:
    """The status that an end.json of this time and size tells; empty for a broken one."""
    end = fsio.read_json(path, MAX_FILE)
    return str(end.get("status", "failed")) if end else ""


def root() -> Path:
    return paths.home() / "jobs"


def create(
    task: str,
    command: str,
    values: dict[str, Any],
    *,
    preset: str = "",
    card: str = "auto",
    server: bool = False,
) -> Job:
    """Write a job into the queue. Raises SettingsError with all faults, NotFound.

    Settings are checked now, so that a fault is told at once and not when its turn comes. Secrets
    are named (`env:NAME`, `file:PATH`), never written.
    """
    the_task = tasks.get(task)
    row = tasks.command_of(the_task, command)
    command = the_task.aliases.get(command, command)
    if row.terminal:
        raise SettingsError(
            f"{task} {command} talks with a person at a terminal",
            why="a job has none",
            fix=f"onecard {task} {command}",
        )
    if row.service and not server:
        raise SettingsError(
            f"{task} {command} is a server",
            why="a server would hold the queue for ever",
            fix="start it beside the queue: POST /api/services",
        )
    _refuse_secrets(tasks.config_class(the_task, row.config), values)
    api.configure(task, command, preset=preset, values=values)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = root() / f"{stamp}-{task}-{command}-{secrets.token_hex(3)}"
    about = {
        "task": task,
        "command": command,
        "preset": preset,
        "card": card,
        "server": server,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "order": time.time_ns(),
        "settings": values,
        "cwd": str(Path.cwd()),
    }
    with fsio.atomic_folder(folder) as draft:
        (draft / "job.json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")
        (draft / "output.txt").touch()
    return Job(folder)


def _refuse_secrets(schema: type[configs.Config], values: dict[str, Any]) -> None:
    for name, info in schema.model_fields.items():
        value = values.get(name)
        if configs.is_secret(info) and value and not str(value).startswith(("env:", "file:")):
            raise SettingsError(
                f"{name} is a secret and may not be typed into the page",
                why="what a job is started with lies on the disk",
                fix=f"{name}: env:NAME of a variable the server was started with, or file:PATH",
            )


def listing(limit: int = 200) -> list[Job]:
    """The newest first."""
    folders = [path.parent for path in root().glob("*/job.json")] if root().is_dir() else []
    return [Job(folder) for folder in sorted(folders, key=lambda f: f.name, reverse=True)[:limit]]


def active() -> list[Job]:
    """Queued and running ones, the oldest first; servers included."""
    rows = [job for job in listing(10_000) if job.status in ACTIVE]
    return sorted(rows, key=lambda job: job.about.get("order", 0))


def find(job_id: str) -> Job:
    """Raises NotFound."""
    if ID.fullmatch(job_id) and (root() / job_id / "job.json").is_file():
        return Job(root() / job_id)
    raise not_found("job", job_id, [job.id for job in listing()])


def of_run(run_id: str) -> Job | None:
    """The newest job that made or resumed a run; None for one that was started in a terminal."""
    return next((job for job in listing() if job.run == run_id), None)


def start_queue() -> None:
    """Have the queue's own process work. There is one, however often this is called: a page that
    looks at a job that waits calls it every second."""
    global _tender
    with _TENDING:
        if _tender is None:
            _tender = threading.Thread(target=_tend_queue, daemon=True)
            _tender.start()


def _tend_queue() -> None:
    """A thread while jobs wait: starts the process, and again where it was killed; its exit is
    taken, so that no zombie stays."""
    global _tender
    while True:
        with _TENDING:
            if not any(job.status == "queued" and not job.is_server for job in active()):
                _tender = None
                return
        if _is_worked():
            time.sleep(TEND_S)
        else:
            _spawn("onecard.web.job_queue", [], None).wait()


def _is_worked() -> bool:
    """Whether a queue's process holds the lock: another server's, or one of before a restart."""
    try:
        with FileLock(queue_lock(), timeout=0):
            return False
    except Timeout:
        return True


def queue_lock() -> Path:
    root().mkdir(parents=True, exist_ok=True)
    return root() / "queue.lock"


def spawn(job: Job) -> "subprocess.Popen[bytes]":
    """The process of a job, in a session of its own: it outlives whoever started it."""
    return _spawn("onecard.web.job_process", [str(job.folder)], job.folder / "output.txt")


def _spawn(module: str, words: list[str], output: Path | None) -> "subprocess.Popen[bytes]":
    stream = output.open("ab") if output else subprocess.DEVNULL
    try:
        return subprocess.Popen(
            # -P: no file of the folder it starts in takes the place of a library
            [sys.executable, "-P", "-m", module, *words],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # threads that wait for each other would take the cores from the page and its models
            env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ},
        )
    finally:
        if output and stream is not subprocess.DEVNULL:
            stream.close()  # type: ignore[union-attr]


def stop(job: Job) -> None:
    """Ask a job to end: a training writes a checkpoint first. A second time ends it at once; what
    waits in the queue is cancelled. Raises DataError for one that has ended."""
    status = job.status
    if status == "queued":
        write_end(job.folder, "cancelled")
        return
    pid = job.pid
    if status != "running" or not pid:
        raise DataError(
            f"job {job.id} does not run",
            why=f"it is {status}",
            fix="start it again, or resume its training",
        )
    mark = job.folder / "stop"
    again = mark.exists() and time.time() - mark.stat().st_mtime > 1
    mark.touch()
    os.kill(pid, signal.SIGTERM if again and not job.is_server else signal.SIGINT)


def write_end(folder: Path, status: str, **more: Any) -> None:
    row = {"status": status, "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **more}
    text = json.dumps(row, ensure_ascii=False, default=str)
    fsio.write_text(folder / "end.json", text.encode("utf-8", "backslashreplace").decode())


def result(job: Job) -> dict[str, Any]:
    """What the work returned, as `--json` prints it. Raises NotFound before its end."""
    end = job.end
    if "data" not in end:
        raise NotFound(
            f"job {job.id} has no result",
            why=f"it is {job.status}",
            fix="wait for its end, or read its log",
        )
    data: dict[str, Any] = end["data"]
    return data


def prune() -> None:
    """Remove the folders of the oldest jobs that ended, beyond KEPT."""
    ended = [job for job in listing(10_000) if job.status not in ACTIVE]
    for job in ended[KEPT:]:
        shutil.rmtree(job.folder, ignore_errors=True)
