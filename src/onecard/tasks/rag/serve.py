"""Your notes as a page and as an OpenAI-compatible model named `notes`. Knows no store and no
prompt.

One question is answered at a time (one model, one card); others wait their turn.
"""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.serving import guards
from onecard.tasks.rag.ask import Session, as_dict, session
from onecard.tasks.rag.chat import condense_question
from onecard.tasks.rag.configs import Settings


def serve(settings: Settings, run: Run) -> Result:
    """Listen until Ctrl-C.

    Raises EngineError when the port is in use, NotFound without an index.
    """
    token = guards.token_for(settings.host, settings.token)
    listener = guards.bind(settings.host, settings.port)
    with listener, session(settings, run) as opened:
        app = guards.Guard(application(opened), settings.host, token, open_paths=("/", "/health"))
        address = guards.address(listener)
        run.reporter.line(
            f"your notes at {address}  (OpenAI API: {address}/v1, model: notes)"
            + (f"  token: {token}" if token else "")
        )
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(
            sockets=[listener]
        )
    return Result({"address": address})


def application(opened: Session) -> Starlette:
    """The routes, without the guard."""
    front = _Front(opened)
    return Starlette(
        routes=[
            Route("/", front.page),
            Route("/health", front.health),
            Route("/v1/models", front.models),
            Route("/v1/chat/completions", front.chat, methods=["POST"]),
            Route("/v1/search", front.search, methods=["POST"]),
        ],
        exception_handlers=guards.ON_FAULT,
    )


class _Front:
    def __init__(self, opened: Session) -> None:
        self.opened, self.turn, self.started = opened, asyncio.Lock(), int(time.time())
        self.html = Path(__file__).with_name("page.html").read_text(encoding="utf-8")

    async def page(self, request: Request) -> Response:
        rules = (
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return HTMLResponse(
            self.html,
            headers={"Content-Security-Policy": rules, "X-Content-Type-Options": "nosniff"},
        )

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "passages": len(self.opened.retriever.ids)})

    async def models(self, request: Request) -> Response:
        return JSONResponse(
            {
                "object": "list",
                "data": [
                    {
                        "id": "notes",
                        "object": "model",
                        "created": self.started,
                        "owned_by": "onecard",
                    }
                ],
            }
        )

    async def search(self, request: Request) -> Response:
        asked = await guards.body(request)
        query, k = asked.get("query"), asked.get("top_k", self.opened.settings.top_k)
        if (
            not isinstance(query, str)
            or not query.strip()
            or not isinstance(k, int)
            or not 1 <= k <= 100
        ):
            return guards.error(400, "query must be a text and top_k 1 to 100")
        async with self.turn:
            hits = await run_in_threadpool(self.opened.retriever.search, query, k)
        return JSONResponse({"passages": [as_dict(hit) for hit in hits]})

    async def chat(self, request: Request) -> Response:
        asked = await guards.body(request)
        messages = asked.get("messages")
        if (
            not isinstance(messages, list)
            or not messages
            or not all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in messages)
            or messages[-1].get("role") != "user"
        ):
            return guards.error(
                400, "messages must end with one of the user, each with text as content"
            )
        async with self.turn:
            done = await run_in_threadpool(self._answer, messages)
        head = {"id": f"notes-{time.time_ns()}", "created": int(time.time()), "model": "notes"}
        if not asked.get("stream"):
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": done["answer"]},
                "finish_reason": "stop",
            }
            return JSONResponse(
                {
                    **head,
                    "object": "chat.completion",
                    "choices": [choice],
                    "citations": done["citations"],
                    "question": done["question"],
                    "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
                }
            )
        return StreamingResponse(_events(head, done), media_type="text/event-stream")

    def _answer(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        said = [m["content"] for m in messages if m["role"] in ("user", "assistant")]
        turns = [
            {"question": q, "answer": a} for q, a in zip(said[0:-1:2], said[1:-1:2], strict=False)
        ]
        question = condense_question(messages[-1]["content"], turns, self.opened.client)
        done, _, _ = self.opened.ask(question)
        return {**done.as_dict(), "answer": done.text, "question": question}


async def _events(head: dict[str, Any], done: dict[str, Any]) -> Any:
    """The answer as a stream: it is whole before it is sent, since its citations are checked first."""
    for delta, reason in (({"role": "assistant", "content": done["answer"]}, None), ({}, "stop")):
        row = {
            **head,
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        }
        if reason:
            row["citations"] = done["citations"]
        yield f"data: {json.dumps(row, ensure_ascii=False)}\n\n"
    yield "data: [DONE]\n\n"
