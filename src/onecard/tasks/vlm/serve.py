"""`onecard vlm serve`: the OpenAI HTTP API for questions about pictures, over any engine."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from onecard import cancellation
from onecard.errors import DataError, OneCardError
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.serving import guards, openai_schemas
from onecard.serving.app import listen
from onecard.serving.shell import in_thread, read_body, turn
from onecard.serving.turns import Turns
from onecard.tasks.vlm import chat_requests
from onecard.tasks.vlm.chat_requests import ChatRequest
from onecard.tasks.vlm.configs import ServeConfig
from onecard.tasks.vlm.engine import Answer, Engine
from onecard.tasks.vlm.engine_http import HttpEngine
from onecard.tasks.vlm.engines import open_engine
from onecard.tasks.vlm.picture_inputs import Bounds

NOT_ENFORCED = "X-Schema-Not-Enforced"
"""Header that names what of a request is passed over, so that the client checks it."""
STREAM_INTERVAL_S = 0.02
"""Shortest time between two chunks of a stream: each wakes up both ends, and nobody reads
faster."""
CHARS_PER_TOKEN = 100
"""Far above any text's mean: a request with more text is refused before the engine reads it."""


def serve(config: ServeConfig, run: Run) -> Result:
    """Answer until Ctrl-C.

    Raises EngineError when the port is in use, before the model is loaded.
    """
    with listen(config) as server, open_engine(config, run.plan, run.reporter) as engine:
        address = f"{server.url}/v1"
        process = engine.client.engine if isinstance(engine, HttpEngine) else None
        server.run(
            application(engine, config),
            f"OpenAI API with pictures at {address}",
            run.reporter,
            on_timeout=process.restart_if_hung if process else None,
        )
    return Result({"address": address})


def application(engine: Engine, config: ServeConfig) -> Starlette:
    """The routes, without the guard."""
    routes = _Routes(engine, config)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", routes.completion, methods=["POST"]),
            Route("/v1/models", routes.models),
            Route("/v1/models/{name:path}", routes.model),
            Route("/health", routes.health),
        ],
        exception_handlers=guards.EXCEPTION_HANDLERS,
    )


class _Routes:
    def __init__(self, engine: Engine, config: ServeConfig) -> None:
        self.engine, self.config = engine, config
        self.started = int(time.time())
        # a model in this process works on one question at a time
        self.turns = Turns(config.n_parallel if isinstance(engine, HttpEngine) else 1)
        self.bounds = Bounds(
            config.max_images, config.max_image_mib << 20, config.allow_url, local_files=False
        )

    async def completion(self, request: Request) -> Response:
        """There is one model: it answers whatever `model` names."""
        query = await read_body(request, self.turns, self._parsed)
        await turn(request, self.turns)
        headers = {NOT_ENFORCED: _header_text(query.unenforced)} if query.unenforced else {}
        envelope = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": self.engine.name,
        }
        if query.stream:
            pieces = _Pieces(self._stream, query)
            await pieces.begin()  # what goes wrong before the first piece has a status of its own
            return StreamingResponse(
                _events(pieces, envelope, query.usage),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-cache", **headers},
            )
        answer = await in_thread(self._answer, query)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": answer.text},
            "finish_reason": answer.finish_reason,
        }
        return JSONResponse(
            {**envelope, "object": "chat.completion", "choices": [choice], "usage": _usage(answer)},
            headers=headers,
        )

    def _parsed(self, content: bytes) -> ChatRequest:
        query = chat_requests.parse(content, self.config.system, self.config.max_images)
        n_chars = sum(len(each.text) for each in query.turns)
        if not self.config.base_url and n_chars > CHARS_PER_TOKEN * self.config.n_ctx:
            raise DataError(
                "the request is longer than the context",
                why=f"{n_chars:,} letters do not fit in {self.config.n_ctx} tokens",
                fix="a shorter request, or a server with a larger --n_ctx",
            )
        return query

    def _answer(self, query: ChatRequest) -> Answer:
        """In a thread. Raises DataError, EngineError, Cancelled."""
        if query.stops:  # an engine that goes on after its stop is ended at it
            stream = self._stream(query)
            while True:
                try:
                    next(stream)
                except StopIteration as end:
                    answer: Answer = end.value
                    return answer
        question = query.question(self.bounds)
        cancellation.check()
        return self.engine.answer(
            question, max_tokens=query.max_tokens, schema=query.schema, sampling=query.sampling
        )

    def _stream(self, query: ChatRequest) -> Generator[str, None, Answer]:
        question = query.question(self.bounds)
        cancellation.check()
        stream = self.engine.stream(
            question, max_tokens=query.max_tokens, schema=query.schema, sampling=query.sampling
        )
        return (yield from _until(stream, query.stops))

    async def models(self, request: Request) -> Response:
        return JSONResponse(openai_schemas.model_list([self.engine.name], self.started))

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        return openai_schemas.model_reply(name, [self.engine.name], self.started)

    async def health(self, request: Request) -> Response:
        process = self.engine.client.engine if isinstance(self.engine, HttpEngine) else None
        if process and not process.alive:
            return JSONResponse({"status": "the engine is started again"}, 503)
        return JSONResponse({"status": "ok"})


def _usage(answer: Answer) -> dict[str, Any] | None:
    """None where the engine does not count, and for an answer that was ended at a stop."""
    if not answer.prompt_tokens:
        return None
    counts = openai_schemas.usage(answer.prompt_tokens, answer.completion_tokens)
    if not answer.picture_tokens:
        return counts
    return {**counts, "prompt_tokens_details": {"image_tokens": answer.picture_tokens}}


def _header_text(rows: tuple[str, ...]) -> str:
    text = "; ".join(rows)[:1000].encode("ascii", "replace").decode()
    return text.replace("\r", " ").replace("\n", " ")


def _until(
    stream: Generator[str, None, Answer], stops: tuple[str, ...]
) -> Generator[str, None, Answer]:
    """The pieces up to the first stop; what could be a stop's beginning is held back."""
    text, sent = "", 0
    longest = max(map(len, stops), default=1)
    try:
        while True:
            try:
                text += next(stream)
            except StopIteration as end:
                answer: Answer = end.value
                if len(text) > sent:
                    yield text[sent:]
                return answer
            begins = [i for stop in stops if (i := text.find(stop, max(sent - longest, 0))) >= 0]
            if begins:
                if min(begins) > sent:
                    yield text[sent : min(begins)]
                return Answer(text[: min(begins)])
            safe = len(text) - (longest - 1 if stops else 0)
            if safe > sent:
                yield text[sent:safe]
                sent = safe
    finally:
        stream.close()


class _Pieces:
    """A stream of the engine, read in a thread and handed to the event loop."""

    def __init__(
        self, stream: Callable[[ChatRequest], Generator[str, None, Answer]], query: ChatRequest
    ) -> None:
        self.stream, self.query = stream, query
        self.queue: asyncio.Queue[str | Answer | BaseException] = asyncio.Queue()
        self.first: str | Answer = ""

    async def begin(self) -> None:
        """Start, and wait for the first piece. Raises what the engine raises before it."""
        loop = asyncio.get_running_loop()

        def put(item: str | Answer | BaseException) -> None:
            loop.call_soon_threadsafe(self.queue.put_nowait, item)

        def work() -> None:
            try:
                stream = self.stream(self.query)
                while True:
                    try:
                        piece = next(stream)
                    except StopIteration as end:
                        put(end.value)
                        return
                    cancellation.check()
                    put(piece)
            except BaseException as fault:
                put(fault)

        self.task = asyncio.ensure_future(in_thread(work))
        item = await self.queue.get()
        if isinstance(item, BaseException):
            raise item
        self.first = item

    async def items(self) -> AsyncIterator[str | Answer]:
        """Pieces, then the whole answer. Raises what the engine raises."""
        yield self.first
        while not isinstance(self.first, Answer):
            item = await self.queue.get()
            if isinstance(item, BaseException):
                raise item
            yield item
            if isinstance(item, Answer):
                return
            await asyncio.sleep(STREAM_INTERVAL_S if self.queue.empty() else 0)


async def _events(pieces: _Pieces, envelope: dict[str, Any], usage: bool) -> AsyncIterator[str]:
    """Server-sent events of a chat completion."""
    chunk = {**envelope, "object": "chat.completion.chunk"}

    def event(delta: dict[str, Any], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return _line({**chunk, "choices": [choice]})

    yield event({"role": "assistant", "content": ""})
    try:
        async for item in pieces.items():
            if isinstance(item, str):
                yield event({"content": item})
                continue
            yield event({}, item.finish_reason)
            if usage and (counts := _usage(item)):
                yield _line({**chunk, "choices": [], "usage": counts})
    except OneCardError as fault:
        yield _line({"error": {"message": str(fault), "code": 502}})
    yield "data: [DONE]\n\n"


def _line(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
