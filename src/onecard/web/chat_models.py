"""Models that a person can talk with, and their servers: one language model at a time, so that the
next one has the memory of the last."""

import importlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from onecard import api, paths
from onecard.errors import OneCardError
from onecard.web import jobs, services
from onecard.web.jobs import Job

TALKS = ("chat", "vision")
"""Services that answer a conversation."""
CATALOG_TASKS = ("chat", "text")
CACHE_S = 15
MAX_RUNS = 60
"""Newest runs whose results are offered."""
IDLE_S = 30
"""Another page may have used a server that we did not start; unused for so long, it may end."""
_CACHE: dict[str, tuple[float, list[dict[str, Any]]]] = {}
_LOCK = threading.Lock()
_STARTING = threading.Lock()
_OURS: set[str] = set()
"""Jobs of servers that this process started for conversations."""
_USERS: Counter[str] = Counter()
"""Job -> answers of this process that are being made with it."""


def listing(service: str) -> list[dict[str, Any]]:
    """Rows of name, group (auto, here, run, catalogue), bytes and summary."""
    with _LOCK:
        row = _CACHE.get(service)
        if row is None or time.monotonic() - row[0] > CACHE_S:
            make = _vision_rows if service == "vision" else _chat_rows
            row = _CACHE[service] = (time.monotonic(), [_row("auto", "auto"), *make()])
        return row[1]


def _row(name: str, group: str, n_bytes: int = 0, summary: str = "") -> dict[str, Any]:
    return {"name": name, "group": group, "bytes": n_bytes, "summary": summary}


def _chat_rows() -> Iterator[dict[str, Any]]:
    stored = api.models().listing().data["models"]
    here = [row for row in stored if row["here"] and row["task"] in (*CATALOG_TASKS, "")]
    for row in here:
        if row["task"] or any((paths.models() / row["name"]).glob("*.gguf")):
            yield _row(row["name"], "here", row["bytes"], row["summary"])
    yield from _runs("chat")
    for row in stored:
        if row["task"] in CATALOG_TASKS and not row["here"]:
            yield _row(row["name"], "catalogue", 0, row["summary"])


def _vision_rows() -> Iterator[dict[str, Any]]:
    for row in api.models().listing().data["models"]:
        folder = paths.models() / row["name"]
        if not row["task"] and row["here"] and _sees(folder):
            yield _row(row["name"], "here", row["bytes"], row["summary"])
    yield from _runs("vision")
    for name in _catalogued("vision"):
        yield _row(name, "catalogue")


def _catalogued(service: str) -> list[str]:
    """Names that the task of a service knows the repositories of."""
    names: set[str] = set()
    for task, _, _ in services.providers(service):
        with suppress(ImportError):
            module = importlib.import_module(f"onecard.tasks.{task.name}.model_names")
            names |= set(getattr(module, "REPOSITORIES", ()))
    return sorted(names)


def _sees(folder: Path) -> bool:
    """Whether a folder holds a vision-language model: a config with both halves, or llama.cpp's
    pair of files."""
    if any(folder.glob("*mmproj*.gguf")):
        return True
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "vision_config" in config


def _runs(service: str) -> Iterator[dict[str, Any]]:
    """Results of trainings: those of the service's own task, and for text every GGUF."""
    own = {task.name for task, _, _ in services.providers(service)}
    for run in api.runs(limit=MAX_RUNS):
        path = Path(api.run_model(run.id) or ".")
        if service == "chat" and path.suffix == ".gguf" and path.is_file():
            yield _row(f"run:{run.id}", "run", path.stat().st_size, run.note or run.task)
        elif run.task in own and any((run.folder / "artifacts").rglob("*.safetensors")):
            yield _row(f"run:{run.id}", "run", 0, run.note or run.task)


# Servers


@contextmanager
def server(service: str, model: str, n_ctx: int) -> Iterator[Job]:
    """The job of a model's server, new or running; it is not ended while the block works. Other
    language models that nobody uses are ended first.

    Raises SettingsError, NotFound.
    """
    with _STARTING:
        wanted = {"model": model, "n_ctx": n_ctx}
        if not any(_serves(job, service, wanted) for job in services.running()):
            _end_idle()
        job = services.start(service, wanted)
        with _LOCK:
            _USERS[job.id] += 1
            _OURS.add(job.id)
    try:
        yield job
    finally:
        with _LOCK:
            _USERS[job.id] -= 1
            if _USERS[job.id] <= 0:
                del _USERS[job.id]


def status(service: str, model: str, n_ctx: int) -> dict[str, Any]:
    """Of a model's server: none, loading or ready; its job, its memory now and as planned."""
    wanted = {"model": model, "n_ctx": n_ctx}
    job = next((each for each in services.running() if _serves(each, service, wanted)), None)
    if job is None:
        return {"status": "none", "job": "", "bytes": 0, "planned_bytes": 0}
    pid = job.pid
    return {
        "status": "ready" if job.progress.get("url") else "loading",
        "job": job.id,
        "bytes": api.process_bytes(pid) if pid else 0,
        "planned_bytes": _planned_bytes(service, model, n_ctx),
    }


@lru_cache(maxsize=50)
def _planned_bytes(service: str, model: str, n_ctx: int) -> int:
    """0 where nothing is known of the model."""
    task, command, _ = services.provider(service)
    try:
        config = api.configure(task.name, command, values={"model": model, "n_ctx": n_ctx})
        return api.plan(task.name, config).total_bytes
    except OneCardError:
        return 0


def users(job: Job) -> int:
    """Answers that are being made with a server."""
    with _LOCK:
        return _USERS[job.id]


def _commands(service: str) -> set[tuple[str, str]]:
    return {(task.name, name) for task, name, _ in services.providers(service)}


def _serves(job: Job, service: str, wanted: dict[str, Any]) -> bool:
    about = job.about
    settings = about["settings"]
    return (about["task"], about["command"]) in _commands(service) and all(
        settings.get(name) == value for name, value in wanted.items()
    )


def _end_idle() -> None:
    """End the language models that nobody uses, and wait until their memory is free."""
    talking = {row for service in TALKS for row in _commands(service)}
    for job in services.running():
        if (job.about["task"], job.about["command"]) not in talking or _is_used(job):
            continue
        with suppress(OneCardError):  # it ended by itself
            jobs.stop(job)
            _wait_for_end(job)


def _is_used(job: Job) -> bool:
    """By an answer of ours, or lately by another page, as a blind comparison."""
    with _LOCK:
        if _USERS[job.id] > 0:
            return True
        if job.id in _OURS:
            return False
    try:
        return time.time() - (job.folder / "used").stat().st_mtime < IDLE_S
    except OSError:
        return False


def _wait_for_end(job: Job) -> None:
    """Its memory is free when the process has gone."""
    deadline = time.monotonic() + 15
    while job.pid and time.monotonic() < deadline:
        time.sleep(0.05)
