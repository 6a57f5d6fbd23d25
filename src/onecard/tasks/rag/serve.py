"""`onecard rag serve`: the notes as a web page and as an OpenAI-compatible model named `notes`.

Questions are answered one at a time, since there is one model on one card; others wait.
"""

import time
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from onecard.errors import DataError
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.serving import guards, openai_schemas
from onecard.serving.app import listen
from onecard.serving.shell import in_thread, read_body, turn
from onecard.serving.turns import Turns
from onecard.tasks.rag import conversation
from onecard.tasks.rag.configs import ServeConfig
from onecard.tasks.rag.search import hit_as_dict
from onecard.tasks.rag.session import Session, open_session

PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the page: it loads nothing and talks to this server only."""

MAX_QUESTION_CHARS, MAX_CHAT_CHARS = 20_000, 400_000
"""Ten pages of question, and a long conversation: a search for more would hold up the others."""


def serve(config: ServeConfig, run: Run) -> Result:
    """Answer until Ctrl-C.

    Raises EngineError when the port is in use, before the model is loaded; NotFound without an
    index.
    """
    with listen(config) as server, open_session(config, run) as session:
        engine = session.client.engine if session.client else None
        server.run(
            application(session),
            f"your notes at {server.url}  (OpenAI API: {server.url}/v1, model: notes)",
            run.reporter,
            open_paths=("/", "/health"),
            on_timeout=engine.restart_if_hung if engine else None,
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
            Route("/v1/models/{name:path}", routes.model),
            Route("/v1/chat/completions", routes.chat, methods=["POST"]),
            Route("/v1/search", routes.search, methods=["POST"]),
        ],
        exception_handlers=guards.EXCEPTION_HANDLERS,
    )


class _Routes:
    def __init__(self, session: Session) -> None:
        self.session, self.turns, self.started = session, Turns(), int(time.time())
        self.html = Path(__file__).with_name("page.html").read_text(encoding="utf-8")

    async def page(self, request: Request) -> Response:
        headers = {"Content-Security-Policy": PAGE_POLICY, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(self.html, headers=headers)

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "passages": len(self.session.retriever.ids)})

    async def models(self, request: Request) -> Response:
        return JSONResponse(openai_schemas.model_list(["notes"], self.started))

    async def model(self, request: Request) -> Response:
        return openai_schemas.model_reply(request.path_params["name"], ["notes"], self.started)

    async def search(self, request: Request) -> Response:
        body = await read_body(request, self.turns, guards.parse_body)
        query, k = body.get("query"), body.get("top_k", self.session.config.top_k)
        if (
            not isinstance(query, str)
            or not 0 < len(query.strip()) <= MAX_QUESTION_CHARS
            or not isinstance(k, int)
            or isinstance(k, bool)
            or not 1 <= k <= 100
        ):
            text = (
                f"query must be a text of at most {MAX_QUESTION_CHARS} characters, top_k 1 to 100"
            )
            return guards.error(400, text)
        await turn(request, self.turns)
        hits = await in_thread(self.session.retriever.search, query, k)
        return JSONResponse({"passages": [hit_as_dict(hit) for hit in hits]})

    async def chat(self, request: Request) -> Response:
        body, messages = await read_body(request, self.turns, _conversation)
        await turn(request, self.turns)
        answer = await in_thread(self._answer, messages)
        usage = openai_schemas.usage(*answer.pop("n_tokens"))
        envelope = {"id": f"notes-{time.time_ns()}", "created": int(time.time()), "model": "notes"}
        message = {"role": "assistant", "content": answer["answer"]}
        citations = {"citations": answer["citations"]}
        if body.get("stream"):
            # the answer is complete before it is sent: its citations are verified first
            last_usage = usage if openai_schemas.wants_usage(body) else None
            events = openai_schemas.completion_events(
                envelope, message, "stop", citations, last_usage
            )
            return Response(events, media_type="text/event-stream")
        return JSONResponse(
            {
                **envelope,
                "object": "chat.completion",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                **citations,
                "question": answer["question"],
                "usage": usage,
            }
        )

    def _answer(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        turns = _turns(messages[:-1])
        answer, question = conversation.reply(self.session, messages[-1]["content"], turns)
        row = answer.as_dict()
        n_prompt = sum(self._n_tokens(message["content"]) for message in messages)
        return {
            **row,
            "question": question,
            "n_tokens": (n_prompt, self._n_tokens(row["answer"])),
        }

    def _n_tokens(self, text: str) -> int:
        """By the model's tokenizer; without a model, 4 characters a token."""
        client = self.session.client
        return client.count_tokens(text) if client else len(text) // 4 + 1


def _conversation(content: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The request of a body and its messages. Raises DataError."""
    body = guards.parse_body(content)
    messages = openai_schemas.text_messages(body)
    question, n_chars = messages[-1], sum(len(message["content"]) for message in messages)
    why = ""
    if question["role"] != "user" or not question["content"].strip():
        why = "they must end with a question of the user"
    elif n_chars > MAX_CHAT_CHARS:
        why = f"they have more than {MAX_CHAT_CHARS} characters"
    elif len(question["content"]) > MAX_QUESTION_CHARS:
        why = f"the question has more than {MAX_QUESTION_CHARS} characters"
    if why:
        raise DataError("the messages cannot be answered", why=why, fix="send other messages")
    return body, messages


def _turns(messages: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Each question with what was answered to it; a message without text is none."""
    turns: list[dict[str, str]] = []
    for message in messages:
        text = message["content"].strip()
        if message["role"] == "user" and text:
            turns.append({"question": text, "answer": ""})
        elif message["role"] == "assistant" and text and turns:
            turns[-1]["answer"] = f"{turns[-1]['answer']}\n{text}".strip()
    return turns
