"""The JSON API against its own OpenAPI: requests that schemathesis makes of every operation, wrong
ones and right ones, are answered as documented, and none with a server's error."""

import itertools
import json
import re

import made_pdfs
import pytest

pytest.importorskip("schemathesis", reason="installed by make test")
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
EXAMPLES = 4
"""Requests of each operation that are right, and as many that are wrong; half of them with names
that exist."""
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
WORK = (
    *("/api/doctor/fix", "/api/doctor", "/api/transcriptions", "/api/services"),
    *("/api/notes", "/api/notes/open", "/api/notes/ask", "/api/notes/search"),
    *("/api/jobs/{job_id}/again", "/api/runs/{run_id}/rerun", "/api/runs/{run_id}/resume"),
)
"""Operations that install packages, load models or start a process each; asked once below."""


@pytest.fixture(scope="module")
def files(workbench):
    """Files of every kind below the page's root."""
    folder = workbench.files
    (folder / "rows.csv").write_text("a,b\n1,2\n")
    (folder / "rows.jsonl").write_text('{"a": 1}\nno json\n')
    (folder / "page.md").write_text("# Head\n\nText\n")
    (folder / "nothing.pdf").write_bytes(b"%PDF-1.4\nno pdf")
    (folder / "page.pdf").write_bytes(made_pdfs.page([(72, 700, 12, "A page of text.")]))
    (folder / "binary.bin").write_bytes(bytes(range(256)))
    names = ("rows.csv", "rows.jsonl", "page.md", "nothing.pdf", "page.pdf", "binary.bin", ".")
    return itertools.cycle(str(folder / name) for name in names)


def things(workbench, files):
    """Names that exist, made anew for each operation, as some remove them: a run with broken files
    in it, a job that ended, a conversation, an upload."""
    run = workbench.home / "runs" / "20260101-000000-tinylm-abcdef"
    (run / "artifacts").mkdir(parents=True, exist_ok=True)
    about = {"task": "tinylm", "command": "train", "status": "done", "started": "2026-01-01"}
    (run / "run.json").write_text(json.dumps(about))
    (run / "artifacts" / "a.txt").write_text("text")
    (run / "events.jsonl").write_text('{"step": 1, "loss": 2.5}\n{"step": "x"}\n[1]\nno json\n')
    (run / "data.json").write_text('{"questions": 1, "b": [1]}')
    (run / "settings.toml").write_text('max_steps = 3\nno_such = "x"\n')
    items = ('{"id": "a", "scores": {"f1": 1, "base_f1": 2}}', '{"id": 1, "answers": [1]}')
    (run / "artifacts" / "items.jsonl").write_text("\n".join(items))
    (run / "scores.json").write_text('{"metrics": [1, 2], "verdicts": {"a": 1}}')
    (run / "plan.json").write_text("[]")
    job = workbench.home / "jobs" / "20260101-000000-rag-indexes-abcdef"
    job.mkdir(parents=True, exist_ok=True)
    about = {"task": "rag", "command": "indexes", "preset": "", "card": "auto", "settings": {}}
    (job / "job.json").write_text(json.dumps(about))
    (job / "end.json").write_text('{"status": "done", "text": "x", "data": {"a": 1}}')
    (job / "output.txt").write_bytes(b"log \xff\n")
    rows = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    saved = {"title": "a", "messages": rows}
    chat = workbench.api.post("/chats/import", json=saved).json()["chats"][0]["id"]
    messages = workbench.api.get(f"/chats/{chat}/messages").json()["messages"]
    return {
        "run_id": itertools.cycle([run.name]),
        "job_id": itertools.cycle([job.name]),
        "chat": itertools.cycle([chat]),
        "message": itertools.cycle([row["id"] for row in messages]),
        "upload": itertools.cycle([workbench.api.post("/uploads", json={}).json()["id"]]),
        "path": files,
        "ids": itertools.cycle([f"{run.name},{run.name}"]),
        "name": itertools.cycle(["tinylm", "qlora", "artifacts/a.txt", "plan.json"]),
        "command": itertools.cycle(["train"]),
        "preset": itertools.cycle(["8gb", "cpu"]),
        "plan": itertools.cycle(["qlora", "rag"]),
        "task": itertools.cycle(["", "tinylm"]),
    }


@pytest.fixture(scope="module")
def openapi(workbench):
    schema = schemathesis.openapi.from_url(f"{workbench.url}/api/openapi.json")
    return schema.exclude(path=list(WORK))


def test_every_operation_answers_as_documented(openapi, workbench, files):
    faults, statuses = [], {}
    turns = itertools.count()

    def ask(case):
        if next(turns) % 2:
            for values in (case.path_parameters, case.query, case.body):
                for name in set(values if isinstance(values, dict) else ()) & set(known):
                    values[name] = next(known[name])
        try:
            reply = case.call_and_validate(checks=CHECKS)
            statuses.setdefault(case.operation.label, set()).add(reply.status_code)
        except BaseExceptionGroup as fault:
            rows = "\n".join(map(str, fault.exceptions))
            faults.append(f"{case.method} {case.formatted_path}\n{rows}"[:2000])

    operations = [row.ok() for row in openapi.get_all_operations()]
    assert len(operations) > 40
    for operation in operations:
        known = things(workbench, files)
        for mode in GenerationMode:
            strategy = operation.as_strategy(generation_mode=mode)
            try:
                BOUNDED(given(strategy)(ask))()
            except Unsatisfiable:  # every request of this operation is right
                continue
    assert not faults, "\n\n".join(faults[:20])
    # most operations did their work too, and not only refuse
    assert sum(min(codes) < 300 for codes in statuses.values()) > 0.6 * len(statuses), statuses


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/doctor/fix", {"fix": "x" * 301}),
        ("POST", "/doctor/fix", {"fix": "\ud800"}),
        ("GET", "/doctor?fresh=maybe", None),
        ("POST", "/services", {"service": "nothing"}),
        ("POST", "/services", {"service": "chat", "values": {"no_such": [{}]}}),
        ("POST", "/services", {"service": "chat", "task": "rag"}),
        ("POST", "/notes/ask", {"question": ""}),
        ("POST", "/notes/ask", {"question": "a", "values": {"top_k": "many"}}),
        ("POST", "/notes/search", {"question": "a", "turns": [{"question": 1}]}),
        ("POST", "/notes/open", {"question": "a", "index": "\0"}),
        ("POST", "/transcriptions?language=--x1", None),
        ("POST", "/transcriptions", None),
        ("POST", "/jobs/nothing/again", None),
        ("POST", "/runs/nothing/rerun", None),
        ("POST", "/runs/nothing/resume", None),
    ],
)
def test_what_starts_work_refuses_what_is_wrong(workbench, method, path, body):
    reply = workbench.api.request(method, path, content=json.dumps(body) if body else None)
    assert 400 <= reply.status_code < 500, reply.text
    assert set(reply.json()["error"]) == {"what", "why", "fix"}


@pytest.mark.parametrize("path", ["/notes", "/doctor", "/overview", "/services"])
def test_what_starts_a_process_answers(workbench, path):
    assert workbench.api.get(path).status_code == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{", b"\xff\xfe", b'"text"', b"[" * 100_000],
)
def test_a_body_that_is_no_object_is_refused(workbench, body):
    for path in ("/jobs", "/plan", "/rows", "/uploads", "/login", "/chats", "/notes/questions"):
        reply = workbench.api.post(path, content=body, headers={"Content-Type": "application/json"})
        assert 400 <= reply.status_code < 500, (path, reply.status_code)


def test_the_server_has_not_failed(workbench):
    assert not [line for line in workbench.log if "Traceback" in line], "".join(workbench.log)


def test_errors_are_documented(workbench):
    operations = workbench.api.get("/openapi.json").json()["paths"]
    assert len(operations) > 40
    for path, methods in operations.items():
        for method, row in methods.items():
            assert "4XX" in row["responses"], (method, path)
            assert not re.search(r"HTTPValidationError", json.dumps(row)), (method, path)
