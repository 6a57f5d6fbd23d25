"""Files that work left outside its run's folder: in an `output_dir`, beside the model that was
exported, at a path that the result names."""

import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from onecard.errors import DataError
from onecard.web import jobs, shown
from onecard.web.jobs import Job
from onecard.web.roots import Roots

MAX_FILES = 500
MAX_LOOKED_AT = 20_000
"""Entries of an output folder that are looked at; it may be one with other things in it."""
FOLDER = "output_dir"


def of_job(roots: Roots, job: Job) -> list[dict[str, Any]]:
    """What a job wrote since it was queued."""
    about, run = job.about, job.run_folder
    own = Path(run) if run else job.folder
    settings = about.get("settings") or {}
    return _files(roots, _seconds(about.get("created")), settings, job.end.get("data"), own)


def of_run(roots: Roots, run: Any, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a run wrote; one that was started in a terminal has no job with a result."""
    job = jobs.of_run(run.id)
    result = job.end.get("data") if job else None
    return _files(roots, _seconds(run.about.get("started")), settings, result, run.folder)


def _seconds(text: Any) -> float:
    """Since 1970; infinite, so that no file counts, where it is no time."""
    try:
        return datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError:
        return math.inf


def _files(
    roots: Roots, since: float, settings: Mapping[str, Any], result: Any, own: Path
) -> list[dict[str, Any]]:
    """path, name, kind and bytes of files since a time (s) that are not below `own`."""
    rows: dict[Path, dict[str, Any]] = {}
    own = own.resolve()
    for name in [str(settings.get(FOLDER) or ""), *_paths(result)]:
        for path in _within(roots, name):
            facts = path.stat()
            if facts.st_mtime >= since and not path.is_relative_to(own):
                kind = shown.kind(path)
                row = {"path": str(path), "name": path.name, "kind": kind, "bytes": facts.st_size}
                rows.setdefault(path, row)
            if len(rows) >= MAX_FILES:
                return list(rows.values())
    return list(rows.values())


def _paths(value: Any) -> Iterator[str]:
    """Every text within a result that can be an absolute path."""
    if isinstance(value, str):
        if value.startswith(("/", "~")) and "\n" not in value and len(value) < 4096:
            yield value
    elif isinstance(value, Mapping):
        yield from (text for each in value.values() for text in _paths(each))
    elif isinstance(value, list | tuple):
        yield from (text for each in value for text in _paths(each))


def _within(roots: Roots, name: str) -> Iterator[Path]:
    """The file of a name, or the files of a folder, checkpoints and hidden ones left out."""
    try:
        path = roots.check(name) if name else None
        if path is None or not path.exists():
            return
        if path.is_file():
            yield path
            return
        for i, each in enumerate(sorted(path.rglob("*"))):
            inner = each.relative_to(path).as_posix()
            is_left_out = "checkpoint" in inner or "/." in f"/{inner}"
            if each.is_file() and not each.is_symlink() and not is_left_out:
                yield each
            if i >= MAX_LOOKED_AT:
                return
    except (OSError, DataError):  # outside the roots, or gone meanwhile
        return
