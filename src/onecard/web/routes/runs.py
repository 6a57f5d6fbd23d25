"""Runs: list, look at, compare, note, throw away, vote."""

from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, Field

from onecard import api, paths
from onecard import config as configs
from onecard.errors import NotFound
from onecard.web import forms, jobs, shown
from onecard.web.routes.jobs import schema_of
from onecard.web.routes.machine import run_row

router = APIRouter(tags=["runs"])
MAX_EVENTS = 2000
"""Points of a curve that one answer gives: thinned evenly, the last one kept."""
MAX_ITEMS = 500
SAMPLES = 4
"""Pictures that a running training shows, the newest."""
MAX_COMPARED = 8


@router.get("/runs")
def listing(
    limit: int = 200, task: str = "", status: str = "", q: str = "", trash: bool = False
) -> list[dict[str, Any]]:
    """The newest first; `q` is looked for in id, settings and note."""
    rows = []
    limit = min(max(limit, 1), 2000)
    for run in api.trashed_runs() if trash else api.runs(limit=10_000):
        if task and run.task != task:
            continue
        if status and run.status != status:
            continue
        if q and not _matches(run, q.lower()):
            continue
        rows.append(run_row(run))
        if len(rows) >= limit:
            break
    return rows


def _matches(run: Any, words: str) -> bool:
    try:
        settings = str(run.settings()).lower()
    except Exception:  # a run without settings is still found by its id
        settings = ""
    return words in run.id.lower() or words in run.note.lower() or words in settings


@router.get("/runs/compare")
def compare(ids: str) -> dict[str, Any]:
    """Two or more runs (`ids` parted by commas): settings that differ, curves, scores with
    intervals, and each one tested against the first."""
    runs = [api.find_run(each) for each in ids.split(",")[:MAX_COMPARED] if each]
    if len(runs) < 2:
        raise NotFound(
            "there is nothing to compare", why=f"{len(runs)} run is named", fix="choose two or more"
        )
    settings = [run.settings() for run in runs]
    names = sorted({name for row in settings for name in row})
    differing = {
        name: [row.get(name) for row in settings]
        for name in names
        if len({str(row.get(name)) for row in settings}) > 1
    }
    return {
        "runs": [run_row(run) | {"curves": curves(run)} for run in runs],
        "settings": differing,
        "tests": [api.compare(runs[0].id, run.id).data["metrics"] for run in runs[1:]],
        "data_differs": any(runs[0].data_differs(run) for run in runs[1:]),
    }


@router.get("/runs/{run_id}")
def run(run_id: str) -> dict[str, Any]:
    """Everything of a run that a page shows; its events and items have paths of their own."""
    row = api.find_run(run_id)
    folder = row.folder
    job = jobs.of_run(row.id)
    model = api.run_model(row.id) if row.status == "done" else ""
    return {
        **run_row(row),
        "folder": str(folder),
        "settings": row.settings() if (folder / "settings.toml").exists() else {},
        "argv": row.argv,
        "plan": shown.json_file(folder / "plan.json"),
        "memory": shown.json_file(folder / "memory.json"),
        "env": shown.json_file(folder / "env.json"),
        "data": shown.json_file(folder / "data.json"),
        "changes": shown.json_file(folder / "changes.json"),
        "verdicts": shown.json_file(folder / "scores.json").get("verdicts", []),
        "error": shown.tail(folder / "traceback.txt"),
        "artifacts": shown.artifacts(folder),
        "measured_bytes": measured_bytes(row),
        "job": job.id if job else "",
        "can_resume": _can_resume(row),
        "can_vote": api.can_vote(row.id),
        "model": model if model.endswith(".gguf") else "",
        "next": forms.next_commands(row.task, row.command, row.id) if model else [],
    }


@router.get("/runs/{run_id}/events")
def events(run_id: str, after: int = -1) -> dict[str, Any]:
    """Its curves (name -> [[step, value]]) with points after a step, status and memory now."""
    row = api.find_run(run_id)
    return {
        "status": row.status,
        "curves": curves(row, after),
        "measured_bytes": measured_bytes(row),
        "planned_bytes": shown.json_file(row.folder / "plan.json").get("total_bytes"),
        "pictures": [f["name"] for f in shown.newest(row.folder, "image", SAMPLES)],
    }


def curves(run: Any, after: int = -1) -> dict[str, list[list[float]]]:
    """name -> points, thinned to MAX_EVENTS."""
    out: dict[str, list[list[float]]] = {}
    for row in run.events():
        step = row.get("step")
        if not isinstance(step, int | float) or step <= after:
            continue
        for name, value in row.items():
            if name not in ("step", "time_s") and isinstance(value, int | float):
                out.setdefault(name, []).append([step, value])
    for name, points in out.items():
        if len(points) > MAX_EVENTS:
            stride = -(-len(points) // MAX_EVENTS)
            out[name] = [*points[:-1:stride], points[-1]]
    return out


def measured_bytes(run: Any) -> int:
    """Memory of a running run's process now, else the peak that it kept."""
    if run.status == "running":
        return int(api.process_bytes(int(run.about.get("pid") or 0)))
    memory = shown.json_file(run.folder / "memory.json")
    for name in ("device_bytes", "reserved_bytes", "peak_rss_bytes"):
        if isinstance(memory.get(name), int):
            return int(memory[name])
    return 0


@router.get("/runs/{run_id}/items")
def items(run_id: str, start: int = 0, limit: int = 100) -> dict[str, Any]:
    """Evaluated items, those whose score changed most first."""
    rows = list(api.find_run(run_id).items().values())
    rows.sort(key=shown.change, reverse=True)
    start, limit = max(start, 0), min(max(limit, 1), MAX_ITEMS)
    page = [{**row, "media": api.item_endings(row)} for row in rows[start : start + limit]]
    return {"total": len(rows), "items": page}


@router.get("/runs/{run_id}/items/media")
def item_media(run_id: str, item: str, name: str = "media") -> Response:
    """The picture or sound of an item, or an answer that is a picture, by the answer's name."""
    return shown.file_reply(api.item_file(run_id, item, name), name="item")


class Note(BaseModel):
    text: str = Field(max_length=100_000)


@router.put("/runs/{run_id}/note")
def note(run_id: str, body: Note) -> dict[str, str]:
    row = api.find_run(run_id)
    row.set_note(body.text.encode("utf-8", "replace").decode())
    return {"note": row.note}


@router.delete("/runs/{run_id}")
def trash(run_id: str) -> dict[str, str]:
    """Into the trash, from where it can be restored for thirty days."""
    return {"trashed": api.trash_run(run_id)}


@router.post("/runs/{run_id}/restore")
def restore(run_id: str) -> dict[str, str]:
    return {"restored": api.restore_run(run_id).id}


@router.post("/runs/{run_id}/report")
def report(run_id: str) -> dict[str, str]:
    """Make README, notebook and report again."""
    return {"path": str(api.report(run_id))}


@router.get("/runs/{run_id}/files/{name:path}", response_class=Response)
def file(run_id: str, name: str, download: bool = False) -> Response:
    """A file of the run's folder."""
    row = api.find_run(run_id)
    path = paths.safe_join(row.folder, name)
    return shown.file_reply(path, download=download)


@router.get("/runs/{run_id}/blind")
def ballot(run_id: str) -> dict[str, Any]:
    """Items with two answers in random order. Which is the base's is not told."""
    return api.ballot(run_id)


class Vote(BaseModel):
    item: str = Field(max_length=1000)
    choice: Literal["left", "right", "tie"]


@router.post("/runs/{run_id}/blind")
def vote(run_id: str, body: Vote) -> dict[str, bool]:
    api.vote(run_id, body.item, body.choice)
    return {"kept": True}


@router.get("/runs/{run_id}/blind/media")
def ballot_media(
    run_id: str, item: str, side: Literal["media", "left", "right"] = "media"
) -> Response:
    """The picture or sound that an item is of, or the picture on a side, without its name."""
    return shown.file_reply(api.vote_media(run_id, item, side), name="item")


@router.get("/runs/{run_id}/blind/verdict")
def verdict(run_id: str) -> dict[str, Any]:
    """The votes so far as a paired test."""
    return api.vote_verdict(run_id)


def _can_resume(run: Any) -> bool:
    if run.status not in ("stopped", "killed", "failed"):
        return False
    try:
        schema = schema_of(run)
    except NotFound:
        return False
    return {"resume", "output_dir"} <= set(schema.model_fields) and _has_checkpoint(run)


def _has_checkpoint(run: Any) -> bool:
    named = str(run.settings().get("output_dir") or "") or str(run.folder / "artifacts")
    return any(Path(configs.absolute_path(named)).glob("**/*checkpoint*"))
