"""Notes: indexes, questions with cited answers, the passage behind a citation, thumbs."""

import json
import subprocess
import sys
import threading
from typing import Annotated, Any, Literal

import httpx
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from onecard.errors import EngineError
from onecard.web import note_questions, passages, services, state

router = APIRouter(tags=["notes"])
ANSWER_S = 900
MAX_TURNS = 30
Line = Annotated[int, Query(ge=0, le=10**9)]
Quote = Annotated[str, Query(max_length=2000)]
"""As part of an address it takes up to twelve bytes a character; a request's head has 128 KiB."""
_LISTING = threading.Lock()


@router.get("/notes")
def indexes() -> dict[str, Any]:
    """The indexes of this machine, the one used last first, and the task that makes them."""
    task, _, _ = services.provider("notes")
    words = [sys.executable, "-m", "onecard", task.name, "indexes", "--json"]
    with _LISTING:  # a process each: not many at once
        child = subprocess.run(words, capture_output=True, text=True, timeout=60)
    try:
        rows = json.loads(child.stdout)["indexes"]
    except (ValueError, KeyError):
        raise EngineError(
            "the indexes cannot be listed",
            why=child.stderr.strip()[-300:] or "the command told nothing",
            fix=f"onecard {task.name} indexes",
        ) from None
    for row in rows:
        row["questions"] = len(note_questions.rows(row["index"]))
    return {"task": task.name, "indexes": rows}


class Turn(BaseModel):
    question: str = Field(max_length=20_000)
    answer: str = Field("", max_length=100_000)


class Ask(BaseModel):
    question: str = Field(min_length=1, max_length=20_000)
    index: str = Field("", max_length=4096)
    turns: list[Turn] = Field(default_factory=list, max_length=MAX_TURNS)
    """Earlier questions of the conversation with their answers: a follow-up is understood."""
    values: dict[str, Any] = Field(default_factory=dict, max_length=100)
    """Settings of the notes' server: model, style, top_k ..."""


@router.post("/notes/open", status_code=201)
def start(request: Request, body: Ask) -> dict[str, Any]:
    """Start the server of an index before the first question; its job."""
    return services.start("notes", _values(request, body)).as_dict()


@router.post("/notes/ask")
def ask(request: Request, body: Ask) -> dict[str, Any]:
    """The answer with its verified citations. Waits for the server of the index to load."""
    service = services.wait(services.start("notes", _values(request, body)))
    messages: list[dict[str, str]] = []
    for turn in body.turns:
        messages += [
            {"role": "user", "content": _text(turn.question)},
            {"role": "assistant", "content": _text(turn.answer)},
        ]
    messages.append({"role": "user", "content": _text(body.question)})
    reply = _post(service, "/v1/chat/completions", {"messages": messages})
    return {
        "question": reply.get("question", body.question),
        "answer": reply["choices"][0]["message"]["content"],
        "citations": reply.get("citations", []),
        "usage": reply.get("usage", {}),
    }


@router.post("/notes/search")
def search(request: Request, body: Ask) -> list[dict[str, Any]]:
    """The passages alone, best first."""
    service = services.wait(services.start("notes", _values(request, body)))
    reply = _post(service, "/v1/search", {"query": _text(body.question)})
    rows: list[dict[str, Any]] = reply["passages"]
    return rows


def _values(request: Request, body: Ask) -> dict[str, Any]:
    values = {**body.values, **({"index": body.index} if body.index else {})}
    state.of(request).roots.check_values(values)
    return values


def _text(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _post(service: services.Service, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Raises EngineError with what the server told."""
    try:
        reply = httpx.post(service.url + path, json=body, headers=service.headers, timeout=ANSWER_S)
        data: dict[str, Any] = reply.json()
    except (httpx.HTTPError, ValueError) as fault:
        raise EngineError(
            "the server of the notes does not answer",
            why=str(fault) or type(fault).__name__,
            fix="look at its log under Jobs, and ask again",
        ) from None
    if reply.status_code != 200:
        message = str(data.get("error", {}).get("message", reply.status_code))
        raise EngineError("the notes cannot answer", why=message, fix="ask otherwise")
    return data


@router.get("/passage")
def passage(
    request: Request,
    path: str,
    line: Line = 0,
    last_line: Line = 0,
    page: Line = 0,
    quote: Quote = "",
) -> dict[str, Any]:
    """A cited document around the passage: `kind` is lines, markdown, blocks or pdf."""
    return passages.passage(state.of(request).roots.check(path), line, last_line, page, quote)


@router.get("/passage/page.png", response_class=Response)
def page_picture(
    request: Request,
    path: str,
    page: Line = 1,
    quote: Quote = "",
) -> Response:
    """A page of a PDF as a picture."""
    view = passages.pdf_page(state.of(request).roots.check(path), max(page, 1), quote)
    return Response(view.png, media_type="image/png")


class Thumb(BaseModel):
    """Up keeps answer and citations; down asks for the right answer, or that there is none."""

    index: str = Field("", max_length=4096)
    question: str = Field(min_length=1, max_length=20_000)
    thumb: Literal["up", "down"]
    answer: str = Field("", max_length=100_000)
    citations: list[dict[str, Any]] = Field(default_factory=list, max_length=100)
    answerable: bool = True


@router.post("/notes/questions", status_code=201)
def thumb(body: Thumb) -> dict[str, Any]:
    """Keep a question with its judged answer in the index's question set."""
    row: dict[str, Any] = {"question": _text(body.question).strip() or "?", "thumb": body.thumb}
    if not body.answerable:
        row["answerable"] = False
    elif body.answer.strip():
        row["answer"] = _text(body.answer)
    if body.thumb == "up" and body.answerable:
        evidence = [_evidence(each) for each in body.citations if isinstance(each.get("path"), str)]
        row["evidence"] = [each for each in evidence if each["path"]]
    rows = note_questions.keep(body.index, row)
    return {"path": str(note_questions.path_of(body.index)), "rows": rows}


def _evidence(citation: dict[str, Any]) -> dict[str, str]:
    return {name: _text(str(citation.get(name) or ""))[:4000] for name in ("path", "quote")}


@router.get("/notes/questions")
def questions(index: str = "") -> dict[str, Any]:
    """The question set of an index, ready for its evaluation."""
    path = note_questions.path_of(index)
    return {"path": str(path), "rows": note_questions.rows(index)}


@router.delete("/notes/questions/{row_id}")
def forget(row_id: str, index: str = "") -> dict[str, Any]:
    return {"rows": note_questions.remove(index, row_id)}
