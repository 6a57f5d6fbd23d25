"""Jobs: start, look at, stop, resume; the model servers too."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from onecard import api
from onecard import tasks as task_list
from onecard.errors import DataError, SettingsError
from onecard.web import forms, jobs, outputs, services, state

router = APIRouter(tags=["jobs"])


class JobRequest(BaseModel):
    task: str = Field(max_length=100)
    command: str = Field(max_length=100)
    preset: str = Field("", max_length=100)
    card: str = Field("auto", max_length=100)
    values: dict[str, Any] = Field(default_factory=dict, max_length=300)
    free_models: bool = False
    """End the model servers first, so that the work has their memory."""


@router.get("/jobs")
def listing(limit: int = 50, active: bool = False) -> list[dict[str, Any]]:
    """The newest first; with `active` those that run or wait, the oldest first."""
    limit = min(max(limit, 1), 1000)
    rows = jobs.active() if active else jobs.listing(limit)
    return [job.as_dict() for job in rows[:limit]]


@router.post("/jobs", status_code=201)
def create(request: Request, body: JobRequest) -> dict[str, Any]:
    """Put work into the queue. It runs in a process of its own and outlives page and server."""
    state.of(request).roots.check_values(body.values)
    _check_inputs(body)
    job = jobs.create(body.task, body.command, body.values, preset=body.preset, card=body.card)
    if body.free_models:
        services.stop_all()
    jobs.start_queue()
    return job.as_dict()


def _check_inputs(body: JobRequest) -> None:
    """What the work reads is missed now, not when its turn in the queue comes.

    Raises DataError. Names that are no plain path (`run:ID`, `shots/*.jpg`) are left to the work.
    """
    task = task_list.get(body.task)
    row = task_list.command_of(task, body.command)
    info = task_list.config_class(task, row.config).model_fields.get(row.positional)
    if info is None or forms.kind(row.positional, info) not in ("path", "paths"):
        return
    value = body.values.get(row.positional)
    for text in map(str, value if isinstance(value, list) else [value]):
        is_plain = text.startswith(("/", "~")) and not set(text) & set("*?[")
        if not _can_be_name(text) or (is_plain and not Path(text).expanduser().exists()):
            raise DataError(
                f"there is no file or folder '{text[:200]}'",
                why=f"{row.positional} names it, and nothing lies there",
                fix=f"choose one for {row.positional}",
            )


def _can_be_name(text: str) -> bool:
    try:
        Path(text).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, an unknown user, a null character
        return False
    return True


@router.get("/jobs/{job_id}")
def job(job_id: str, start: int = 0) -> dict[str, Any]:
    """A job with its log from byte `start` on; `next` is where the next look begins."""
    row = jobs.find(job_id)
    output, following = row.output(start)
    waiting = [each.id for each in jobs.active() if each.status == "queued" and not each.is_server]
    if row.status == "queued" and not row.is_server:
        jobs.start_queue()  # where its process was killed
    place = waiting.index(job_id) + 1 if job_id in waiting else 0
    facts = {**row.as_dict(), "output": output, "next": following, "place": place}
    if row.is_server and row.status == "running":
        facts |= {"url": str(row.progress.get("url") or ""), "token": services.token()}
    return facts


@router.get("/jobs/{job_id}/result")
def result(job_id: str) -> dict[str, Any]:
    """What the work returned, as `--json` prints it."""
    return jobs.result(jobs.find(job_id))


@router.get("/jobs/{job_id}/files")
def files(request: Request, job_id: str) -> list[dict[str, Any]]:
    """What it wrote outside its run's folder, below the page's roots: `GET /api/file` sends it."""
    return outputs.of_job(state.of(request).roots, jobs.find(job_id))


@router.post("/jobs/{job_id}/stop")
def stop(job_id: str) -> dict[str, Any]:
    """Ask it to end: a training writes a checkpoint. A second time ends it at once."""
    row = jobs.find(job_id)
    jobs.stop(row)
    return row.as_dict()


@router.post("/jobs/{job_id}/again", status_code=201)
def again(job_id: str) -> dict[str, Any]:
    """The same work once more, at the end of the queue."""
    job = jobs.find(job_id)
    about = job.about
    if job.is_server:
        command = task_list.command_of(task_list.get(about["task"]), about["command"])
        values, card = about["settings"], about["card"]
        return services.start(command.service, values, card=card, task=about["task"]).as_dict()
    row = jobs.create(
        about["task"],
        about["command"],
        about["settings"],
        preset=about["preset"],
        card=about["card"],
    )
    jobs.start_queue()
    return row.as_dict()


@router.get("/runs/{run_id}/outputs")
def run_outputs(request: Request, run_id: str) -> list[dict[str, Any]]:
    """What a run wrote outside its folder, below the page's roots: `GET /api/file` sends it."""
    run = api.find_run(run_id)
    return outputs.of_run(state.of(request).roots, run, settings_of(run))


@router.post("/runs/{run_id}/resume", status_code=201)
def resume(run_id: str) -> dict[str, Any]:
    """Go on with a training that was stopped or killed, from its last whole checkpoint."""
    run = api.find_run(run_id)
    schema = schema_of(run)
    if not {"resume", "output_dir"} <= set(schema.model_fields):
        raise SettingsError(
            f"{run.task} {run.command} cannot be resumed",
            why="it keeps no checkpoints",
            fix="run it again",
        )
    values = settings_of(run)
    values |= {
        "output_dir": values.get("output_dir") or str(run.folder / "artifacts"),
        "resume": True,
    }
    row = jobs.create(run.task, run.command, values, card="auto")
    jobs.start_queue()
    return row.as_dict()


@router.post("/runs/{run_id}/rerun", status_code=201)
def rerun(run_id: str) -> dict[str, Any]:
    """The same work with the same settings, as a run of its own."""
    run = api.find_run(run_id)
    row = jobs.create(run.task, run.command, settings_of(run), card="auto")
    jobs.start_queue()
    return row.as_dict()


def settings_of(run: Any) -> dict[str, Any]:
    """The settings of a run that its command still knows."""
    schema = schema_of(run)
    return {k: v for k, v in run.settings().items() if k in schema.model_fields}


def schema_of(run: Any) -> Any:
    task = task_list.get(run.task)
    return task_list.config_class(task, task_list.command_of(task, run.command).config)


class ServiceRequest(BaseModel):
    service: str = Field(max_length=50)
    task: str = Field("", max_length=100)
    values: dict[str, Any] = Field(default_factory=dict, max_length=300)
    card: str = Field("auto", max_length=100)


@router.post("/services", status_code=201)
def start_service(request: Request, body: ServiceRequest) -> dict[str, Any]:
    """Start a model's server, or find the one that runs with these settings."""
    state.of(request).roots.check_values(body.values)
    return services.start(body.service, body.values, card=body.card, task=body.task).as_dict()


@router.get("/services")
def service_list() -> list[dict[str, Any]]:
    """Servers that live, with whether they answer already."""
    return [{**job.as_dict(), "ready": bool(job.progress.get("url"))} for job in services.running()]


@router.post("/services/stop")
def stop_services() -> dict[str, int]:
    """End all of them and free their memory."""
    return {"stopped": services.stop_all()}
