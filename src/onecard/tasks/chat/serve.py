"""The OpenAI HTTP API in front of the engine: chat, completions, embeddings, rerank, models. Knows
no prompt.

Language-model requests pass through unread, so that the front costs next to nothing; embeddings and
reranking are ours.
"""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from onecard.errors import DataError, EngineError
from onecard.inference import embeddings
from onecard.inference.backends import language_model
from onecard.inference.client import Client
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.serving import guards
from onecard.tasks.chat import tool_calls
from onecard.tasks.chat.configs import Settings

GATHER_S = 0.02
"""Shortest time between two pieces of a stream: each costs the two ends a wake-up that the engine's
threads pay for, and nobody reads faster."""
PASSED = ("/v1/chat/completions", "/v1/completions")


def serve(settings: Settings, run: Run) -> Result:
    """Listen until Ctrl-C.

    Raises EngineError when the port is in use, before the model is loaded.
    """
    token = guards.token_for(settings.host, settings.token)
    listener = guards.bind(settings.host, settings.port)
    with (
        listener,
        language_model(settings, run.plan, run.reporter, n_parallel=settings.n_parallel) as client,
    ):
        app = guards.Guard(application(client, settings), settings.host, token)
        address = f"{guards.address(listener)}/v1"
        run.reporter.line(f"OpenAI API at {address}" + (f"  token: {token}" if token else ""))
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(
            sockets=[listener]
        )
    return Result({"address": address})


def application(client: Client, settings: Settings) -> Starlette:
    """The routes, without the guard."""
    front = _Front(client, settings)
    return Starlette(
        routes=[
            *(Route(path, front.passed, methods=["POST"]) for path in PASSED),
            Route("/v1/models", front.models),
            Route("/v1/models/{name:path}", front.model),
            Route("/v1/embeddings", front.embeddings, methods=["POST"]),
            Route("/v1/rerank", front.rerank, methods=["POST"]),
            Route("/health", front.health),
        ],
        exception_handlers=guards.ON_FAULT,
    )


class _Front:
    def __init__(self, client: Client, settings: Settings) -> None:
        self.client, self.settings = client, settings
        self.root = client.base_url.removesuffix("/v1")
        self._http: aiohttp.ClientSession | None = None
        self._embedder: embeddings.Embedder | None = None
        self._reranker: embeddings.Reranker | None = None
        self.started = int(time.time())

    async def passed(self, request: Request) -> Response:
        """As it came, except for a demanded tool call, which we force.

        One model is served: it answers whatever `model` says.
        """
        asked = await guards.body(request)
        _checked(asked, request.url.path)
        if request.url.path == PASSED[0] and (forced := tool_calls.demanded(asked)):
            return await self._call(forced, bool(asked.get("stream")))
        reply = await self._send(request.url.path, await request.body())
        kind = reply.content_type
        if kind != "text/event-stream":
            async with reply:
                return Response(await reply.read(), reply.status, media_type=kind)
        return StreamingResponse(
            _pieces(reply), reply.status, media_type=kind, headers={"Cache-Control": "no-cache"}
        )

    async def _send(self, path: str, content: bytes) -> aiohttp.ClientResponse:
        """The engine's reply, not yet read. Raises EngineError."""
        if self._http is None:  # needs the running loop
            self._http = aiohttp.ClientSession(
                headers={
                    "Authorization": f"Bearer {self.client.api_key}",
                    "Content-Type": "application/json",
                },
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=600),
            )
        try:
            return await self._http.post(self.root + path, data=content)
        except (aiohttp.ClientError, TimeoutError) as fault:
            dead = self.client._why_dead() if self.client._why_dead else None
            raise dead or EngineError(
                "the engine does not answer",
                why=str(fault),
                fix="ask again; onecard doctor tells more",
            ) from None

    async def _call(self, forced: dict[str, Any], stream: bool) -> Response:
        reply = await self._send(PASSED[0], json.dumps(forced).encode())
        async with reply:
            content = await reply.read()
        if reply.status != 200:
            return Response(content, reply.status, media_type="application/json")
        done = tool_calls.as_call(json.loads(content))
        return (
            Response(tool_calls.as_events(done), media_type="text/event-stream")
            if stream
            else JSONResponse(done)
        )

    def _models(self) -> list[dict[str, Any]]:
        names = [
            self.client.model,
            self.settings.embedding_model,
            *([self.settings.rerank_model] if self.settings.rerank_model else []),
        ]
        return [
            {"id": name, "object": "model", "created": self.started, "owned_by": "onecard"}
            for name in names
        ]

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": self._models()})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        found = next((row for row in self._models() if row["id"] == name), None)
        return (
            JSONResponse(found)
            if found
            else guards.error(404, f"there is no model {name} here; see /v1/models")
        )

    async def health(self, request: Request) -> Response:
        dead = self.client._why_dead() if self.client._why_dead else None
        return JSONResponse(
            {"status": "ok"} if dead is None else {"status": str(dead)},
            200 if dead is None else 503,
        )

    def embedder(self) -> embeddings.Embedder:
        if self._embedder is None:  # 300 MB: loaded when the first client asks for it
            self._embedder = embeddings.open_embedder(self.settings.embedding_model)
        return self._embedder

    async def embeddings(self, request: Request) -> Response:
        asked = await guards.body(request)
        texts, name = asked.get("input"), asked.get("model") or "default"
        texts = [texts] if isinstance(texts, str) else texts
        if (
            not isinstance(texts, list)
            or not texts
            or not all(isinstance(text, str) and text for text in texts)
        ):
            return guards.error(
                400,
                "input must be a text or a list of texts, none of them empty; token ids are "
                "another model's",
            )
        if len(texts) > 2048:
            return guards.error(400, f"{len(texts)} texts at once; at most 2048")
        if name not in (
            "default",
            self.settings.embedding_model,
        ):  # vectors of another model would not compare with what the client holds
            return guards.error(
                404,
                f"there is no embedding model {name} here, only {self.settings.embedding_model}",
            )
        if asked.get("dimensions") not in (None, self.embedder().dim):
            return guards.error(
                400,
                f"dimensions must be {self.embedder().dim}: {self.settings.embedding_model} cannot "
                "be cut shorter",
            )
        vectors = await _thread(
            lambda: (
                self.embedder().queries(texts)
                if asked.get("input_type") == "query"
                else self.embedder().passages(texts)
            )
        )
        as_text = asked.get("encoding_format") == "base64"
        rows = [
            {
                "object": "embedding",
                "index": i,
                "embedding": base64.b64encode(v.tobytes()).decode() if as_text else v.tolist(),
            }
            for i, v in enumerate(vectors)
        ]
        used = sum(len(text) // 4 + 1 for text in texts)
        return JSONResponse(
            {
                "object": "list",
                "data": rows,
                "model": self.embedder().name,
                "usage": {"prompt_tokens": used, "total_tokens": used},
            }
        )

    async def rerank(self, request: Request) -> Response:
        asked = await guards.body(request)
        query, texts = asked.get("query"), asked.get("documents")
        texts = (
            [row.get("text") if isinstance(row, dict) else row for row in texts]
            if isinstance(texts, list)
            else texts
        )
        if (
            not isinstance(query, str)
            or not isinstance(texts, list)
            or not texts
            or not all(isinstance(text, str) for text in texts)
        ):
            return guards.error(400, "query must be a text and documents a list of texts")
        top = asked.get("top_n", len(texts))
        if not isinstance(top, int) or isinstance(top, bool) or top < 1:
            return guards.error(400, "top_n must be a whole number from 1")
        if self._reranker is None:
            name = self.settings.rerank_model
            self._reranker = (
                embeddings.open_reranker(name)
                if name
                else embeddings.SimilarityReranker(self.embedder())
            )
        reranker = self._reranker
        scores = await _thread(lambda: reranker.scores(query, texts))
        order = sorted(range(len(texts)), key=lambda i: -float(scores[i]))[:top]
        shown = [
            {"document": {"text": texts[i]}} if asked.get("return_documents") else {} for i in order
        ]
        return JSONResponse(
            {
                "model": reranker.name,
                "results": [
                    {"index": i, "relevance_score": float(scores[i]), **more}
                    for i, more in zip(order, shown, strict=True)
                ],
            }
        )


def _checked(asked: dict[str, Any], path: str) -> None:
    """Refuse what the engine would answer with an error of its own making. Raises DataError."""
    if asked.get("n", 1) != 1:
        raise DataError(
            "n must be 1",
            why="one answer is made at a time",
            fix="send the request n times with other seeds",
        )
    if path != PASSED[0]:
        return
    messages = asked.get("messages")
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in messages)
    ):
        raise DataError(
            "messages do not hold",
            why='they must be a list of {"role": ..., "content": ...}, at least one',
            fix="mend the list of messages",
        )
    parts = [part for m in messages if isinstance(m.get("content"), list) for part in m["content"]]
    if not all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
        raise DataError(
            "this model reads text alone",
            why="a message holds an image or a sound",
            fix="send text parts only",
        )


async def _thread(call: Any) -> Any:
    from starlette.concurrency import run_in_threadpool

    return await run_in_threadpool(call)


async def _pieces(reply: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The engine's bytes, gathered for GATHER_S; closing it, when the client went away, stops the
    engine's work too."""
    try:
        while piece := await reply.content.readany():
            yield piece
            await asyncio.sleep(GATHER_S)
    except (aiohttp.ClientError, TimeoutError) as fault:
        yield f"data: {json.dumps({'error': {'message': f'the engine ended in the middle of its answer: {fault}', 'code': 502}})}\n\n".encode()
    finally:
        reply.close()
