"""`onecard rag serve`: the notes as a web page and as an OpenAI-compatible model named `notes`.

Questions are answered one at a time, since there is one model on one card; others wait.
"""

import asyncio
import time
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.serving import guards, openai_schemas
from onecard.serving.app import listen
from onecard.tasks.rag.chat import condense_question
from onecard.tasks.rag.configs import ServeConfig
from onecard.tasks.rag.search import hit_as_dict
from onecard.tasks.rag.session import Session, open_session

PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the page: it loads nothing and talks to this server only."""


def serve(config: ServeConfig, run: Run) -> Result:
    """Answer until Ctrl-C.

    Raises EngineError when the port is in use, before the model is loaded; NotFound without an
    index.
    """
    with listen(config) as server, open_session(config, run) as session:
        server.run(
            application(session),
            f"your notes at {server.url}  (OpenAI API: {server.url}/v1, model: notes)",
            run.reporter,
            open_paths=("/", "/health"),
        )
        address = server.url
    return Result({"address": address})


def application(session: Session) -> Starlette:
    """The routes, without the guard."""
    routes = _Routes(session)
    return Starlette(
        routes=[
            Route("/", routes.page),
            Route("/health", routes.health),
            Route("/v1/models", routes.models),
            Route("/v1/chat/completions", routes.chat, methods=["POST"]),
            Route("/v1/search", routes.search, methods=["POST"]),
        ],
        exception_handlers=guards.EXCEPTION_HANDLERS,
    )


class _Routes:
    def __init__(self, session: Session) -> None:
        self.session, self.lock, self.started = session, asyncio.Lock(), int(time.time())
        self.html = Path(__file__).with_name("page.html").read_text(encoding="utf-8")

    async def page(self, request: Request) -> Response:
        headers = {"Content-Security-Policy": PAGE_POLICY, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(self.html, headers=headers)

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "passages": len(self.session.retriever.ids)})

    async def models(self, request: Request) -> Response:
        return JSONResponse(openai_schemas.model_list(["notes"], self.started))

    async def search(self, request: Request) -> Response:
        body = await guards.body(request)
        query, k = body.get("query"), body.get("top_k", self.session.config.top_k)
        if (
            not isinstance(query, str)
            or not query.strip()
            or not isinstance(k, int)
            or not 1 <= k <= 100
        ):
            return guards.error(400, "query must be a text and top_k 1 to 100")
        async with self.lock:
            hits = await run_in_threadpool(self.session.retriever.search, query, k)
        return JSONResponse({"passages": [hit_as_dict(hit) for hit in hits]})

    async def chat(self, request: Request) -> Response:
        body = await guards.body(request)
        messages = body.get("messages")
        if (
            not isinstance(messages, list)
            or not messages
            or not all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in messages)
            or messages[-1].get("role") != "user"
        ):
            return guards.error(
                400, "messages must end with one of the user, each with text as content"
            )
        async with self.lock:
            answer = await run_in_threadpool(self._answer, messages)
        envelope = {"id": f"notes-{time.time_ns()}", "created": int(time.time()), "model": "notes"}
        message = {"role": "assistant", "content": answer["answer"]}
        citations = {"citations": answer["citations"]}
        if body.get("stream"):
            # the answer is complete before it is sent: its citations are verified first
            events = openai_schemas.completion_events(envelope, message, "stop", citations)
            return Response(events, media_type="text/event-stream")
        return JSONResponse(
            {
                **envelope,
                "object": "chat.completion",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                **citations,
                "question": answer["question"],
                "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
            }
        )

    def _answer(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        texts = [m["content"] for m in messages if m["role"] in ("user", "assistant")]
        pairs = zip(texts[0:-1:2], texts[1:-1:2], strict=False)
        turns = [{"question": question, "answer": answer} for question, answer in pairs]
        question = condense_question(messages[-1]["content"], turns, self.session.client)
        answer, _, _ = self.session.ask(question)
        return {**answer.as_dict(), "question": question}
