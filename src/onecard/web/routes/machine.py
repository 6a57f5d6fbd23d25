"""The device, what fits on it, and what doctor says."""

import json
import subprocess
import sys
import threading
import time
from typing import Any

import psutil
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from onecard import api, i18n
from onecard.errors import EngineError, SettingsError
from onecard.web import jobs

router = APIRouter(tags=["machine"])
CACHE_S = 300
"""Doctor and the fit table change with what is installed, not with the minute."""
PIP = "pip install '"
"""A fix of doctor that the page may carry out."""
_CACHE: dict[str, tuple[float, Any]] = {}
_LOCK = threading.Lock()


@router.get("/device")
def device() -> dict[str, Any]:
    """The device with its memory, free right now, and the computer's."""
    facts = api.device().as_dict()
    memory = psutil.virtual_memory()
    return {
        **facts,
        "ram_total_bytes": memory.total,
        "ram_free_bytes": memory.available,
        "cpu_percent": psutil.cpu_percent(),
        "cpu_count": psutil.cpu_count(),
    }


@router.get("/fit")
def fit(card: str = "auto") -> dict[str, Any]:
    """What fits on a device, over all tasks: one row a workload, with the command of its plan."""
    data: dict[str, Any] = _cached(f"fit {card}", lambda: api.fit_card(card).data)
    _ = i18n.gettext
    return {**data, "rows": [{**row, "summary": _(row["summary"])} for row in data["rows"]]}


@router.get("/doctor")
def doctor(fresh: bool = False) -> dict[str, Any]:
    """What this machine has and lacks, each fault with its fix."""
    data: dict[str, Any] = _cached("doctor", _doctor, fresh=fresh)
    rows = [{**row, "can_fix": _is_safe(row["fix"])} for row in data["checks"]]
    return {**data, "checks": rows}


def _doctor() -> dict[str, Any]:
    """In a process of its own: what it looks at may load half a gigabyte."""
    words = [sys.executable, "-m", "onecard", "doctor", "--json"]
    child = subprocess.run(words, capture_output=True, text=True, timeout=120)
    try:
        data: dict[str, Any] = json.loads(child.stdout)
    except ValueError:
        raise EngineError(
            "doctor failed",
            why=child.stderr.strip()[-300:] or "it told nothing",
            fix="onecard doctor",
        ) from None
    return data


def _is_safe(fix: str) -> bool:
    """Whether it only adds an extra of onecard itself."""
    return fix.startswith(f"{PIP}onecard[") and fix.endswith("]'") and fix.count("'") == 2


class Fix(BaseModel):
    fix: str = Field(max_length=300)


@router.post("/doctor/fix")
def mend(body: Fix) -> dict[str, Any]:
    """Carry out a fix that doctor names and that is safe. Returns what pip told."""
    data = _cached("doctor", _doctor)
    known = {row["fix"] for row in data["checks"]}
    if body.fix not in known or not _is_safe(body.fix):
        raise SettingsError(
            "this fix is not carried out from the page",
            why="only extras of onecard that doctor names are installed",
            fix="run it in a terminal",
        )
    extra = body.fix.removeprefix(PIP).removesuffix("'")
    words = [sys.executable, "-m", "pip", "install", extra]
    child = subprocess.run(words, capture_output=True, text=True, timeout=3600)
    with _LOCK:
        _CACHE.clear()
    return {"done": child.returncode == 0, "output": (child.stdout + child.stderr)[-5000:]}


@router.get("/models/names")
def model_names() -> dict[str, list[str]]:
    """Names to offer where a model or a device is asked for: catalogued ones and those that lie
    here. Any other name that the command line takes is taken too."""
    return {"models": api.model_names(), "cards": api.card_names()}


@router.get("/overview")
def overview(request: Request) -> dict[str, Any]:
    """For the first page: what runs, what waits, the last runs."""
    active = [job.as_dict() for job in jobs.active()]
    rows = [run_row(run) for run in api.runs(limit=8)]
    return {"jobs": active, "runs": rows}


def run_row(run: Any) -> dict[str, Any]:
    about = run.about
    return {
        "id": run.id,
        "task": run.task,
        "command": run.command,
        "status": run.status,
        "started": about.get("started", ""),
        "metrics": run.metrics,
        "note": run.note,
    }


def _cached(name: str, make: Any, *, fresh: bool = False) -> Any:
    with _LOCK:
        row = _CACHE.get(name)
        if row is None or fresh or time.monotonic() - row[0] > CACHE_S:
            row = _CACHE[name] = (time.monotonic(), make())
            if len(_CACHE) > 50:
                _CACHE.pop(next(iter(_CACHE)))
        return row[1]
