"""Model servers that the page uses: a task's own `serve` as a job beside the queue. They are found
by what they answer (`Command.service`), reached over HTTP on this machine, and shared by everybody
who asks for the same settings."""

import hashlib
import json
import os
import threading
import time
from dataclasses import dataclass
from typing import Any

from onecard import tasks
from onecard.errors import EngineError, NotFound
from onecard.tasks.base import Command, Task
from onecard.web import access, jobs
from onecard.web.jobs import Job

START_S = 600
"""Longest time until a server answers: a model may have to be downloaded first."""
TOKEN = "ONECARD_SERVICE_TOKEN"
"""Environment variable with the token that the servers demand of us, so that no other user of this
machine can use them."""
_STARTING = threading.Lock()


@dataclass(frozen=True)
class Service:
    """A server that answers."""

    url: str
    token: str
    job: Job

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


def providers(service: str) -> list[tuple[Task, str, Command]]:
    """The commands that answer so, over all tasks: (task, name of the command, command)."""
    return [
        (task, name, row)
        for task in tasks.all_tasks().values()
        for name, row in task.commands.items()
        if row.service == service
    ]


def provider(service: str, task: str = "") -> tuple[Task, str, Command]:
    """The first one, or that of a task. Raises NotFound."""
    rows = [row for row in providers(service) if task in ("", row[0].name)]
    if not rows:
        raise NotFound(
            f"no task answers '{service}'",
            why="none of the installed tasks has such a server",
            fix="onecard --help lists the tasks",
        )
    return rows[0]


def token() -> str:
    """Of this home: a restarted page finds its servers again."""
    if TOKEN not in os.environ:
        os.environ[TOKEN] = hashlib.sha256(b"service " + access.server_key()).hexdigest()
    return os.environ[TOKEN]


def start(service: str, values: dict[str, Any], *, card: str = "auto", task: str = "") -> Job:
    """The job of a server with these settings: one that runs, else a new one.

    Raises SettingsError, NotFound.
    """
    owner, command, _ = provider(service, task)
    token()
    values = {**values, "token": f"env:{TOKEN}", "port": 0}
    with _STARTING:
        for job in running():
            about = job.about
            same = (about["task"], about["command"], about["card"]) == (owner.name, command, card)
            if same and _key(about["settings"]) == _key(values):
                return job
        job = jobs.create(owner.name, command, values, card=card, server=True)
        process = jobs.spawn(job)
        threading.Thread(target=_reap, args=(process, job), daemon=True).start()
    return job


def _reap(process: Any, job: Job) -> None:
    """Its exit is taken, so that no zombie stays; an end without a word is told."""
    process.wait()
    if not job.end and (job.folder / "stop").exists():
        jobs.write_end(job.folder, "stopped")
    elif not job.end:
        error = {
            "what": "the model's server ended",
            "why": f"exit status {process.returncode}",
            "fix": "its log has more; a smaller model may fit",
        }
        jobs.write_end(job.folder, "failed", error=error)


def _key(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=str)


def running() -> list[Job]:
    """Servers that live or are about to."""
    return [job for job in jobs.active() if job.is_server]


def ready(job: Job) -> Service | None:
    """The server of a job that answers, None while it loads. Raises EngineError when it failed."""
    url = job.progress.get("url")
    status = job.status
    if status in jobs.ACTIVE:
        if not url:
            return None
        (job.folder / "used").touch()
        return Service(str(url), token(), job)
    error = job.end.get("error") or {}
    text, _ = job.output()
    last = (text.strip().splitlines() or ["it told nothing"])[-1]
    raise EngineError(
        error.get("what") or f"the server of {job.about.get('task')} is {status}",
        why=error.get("why") or last[:300],
        fix=error.get("fix") or "ask again: it is started anew",
    )


def wait(job: Job, limit_s: float = START_S) -> Service:
    """Blocks until the server answers. Raises EngineError."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if service := ready(job):
            return service
        time.sleep(0.1)
    raise EngineError(
        f"the server of {job.about.get('task')} does not answer",
        why=f"it was started {limit_s:.0f} s ago",
        fix="look at its log, stop it, and try again",
    )


def stop_all() -> int:
    """End every server, so that a training has the memory; the number of them."""
    rows = running()
    for job in rows:
        jobs.stop(job)
    return len(rows)
