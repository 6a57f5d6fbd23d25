"""`onecard chat serve`: the OpenAI HTTP API for chat, completions, embeddings and rerank.

Requests for the language model pass through unchanged, so that the server costs next to nothing in
front of the engine. Embeddings and reranking are answered here.
"""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from onecard.errors import DataError, EngineError
from onecard.inference.backends import language_model
from onecard.inference.client import Client
from onecard.inference.embeddings import Embedder, open_embedder
from onecard.inference.rerankers import Reranker, SimilarityReranker, open_reranker
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.serving import guards, openai_schemas
from onecard.serving.app import listen
from onecard.serving.shell import in_thread, read_body, turn
from onecard.serving.turns import Turns
from onecard.tasks.chat import tool_calls
from onecard.tasks.chat.configs import ServeConfig

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RERANK = ("/v1/rerank", "/rerank", "/v2/rerank")
"""Jina's path, and those of TEI and llama.cpp, and of Cohere."""
NOT_ENFORCED = "X-Schema-Not-Enforced"
"""Header that names what of a schema the grammar passes over, so that the client checks it."""
STREAM_INTERVAL_S = 0.02
"""Shortest time between two chunks of a stream: each costs both ends a wake-up that slows the
engine's threads, and nobody reads faster."""
CHARS_PER_TOKEN = 100
"""Far above any text's mean: a request with more is refused before the engine's loop cuts it into
tokens, which holds up the others for a second a megabyte."""
MAX_TEXTS = 2048
"""Texts in one request for embeddings, as in OpenAI's API."""


def serve(config: ServeConfig, run: Run) -> Result:
    """Answer until Ctrl-C.

    Raises EngineError when the port is in use, before the model is loaded.
    """
    with (
        listen(config) as server,
        language_model(config, run.plan, run.reporter, n_parallel=config.n_parallel) as client,
    ):
        address = f"{server.url}/v1"
        server.run(
            application(client, config),
            f"OpenAI API at {address}",
            run.reporter,
            on_timeout=client.engine.restart_if_hung if client.engine else None,
        )
    return Result({"address": address})


def application(client: Client, config: ServeConfig) -> Starlette:
    """The routes, without the guard."""
    routes = _Routes(client, config)
    return Starlette(
        routes=[
            Route(CHAT, routes.language_model, methods=["POST"]),
            Route(COMPLETIONS, routes.language_model, methods=["POST"]),
            Route("/v1/models", routes.models),
            Route("/v1/models/{name:path}", routes.model),
            Route("/v1/embeddings", routes.embeddings, methods=["POST"]),
            *(Route(path, routes.rerank, methods=["POST"]) for path in RERANK),
            Route("/health", routes.health),
        ],
        exception_handlers=guards.EXCEPTION_HANDLERS,
    )


class _Routes:
    def __init__(self, client: Client, config: ServeConfig) -> None:
        self.client, self.config = client, config
        self.root = client.base_url.removesuffix("/v1")
        self._http: aiohttp.ClientSession | None = None
        self._embedder: Embedder | None = None
        self._reranker: Reranker | None = None
        self.started = int(time.time())
        self.turns, self.vector_turns = Turns(config.n_parallel), Turns()

    async def language_model(self, request: Request) -> Response:
        """Passed on unchanged, except for a demanded tool call, which is forced by a schema.

        There is one model: it answers whatever `model` names.
        """
        content = await request.body()
        if self.client.engine and len(content) > CHARS_PER_TOKEN * self.config.n_ctx:
            raise DataError(
                "the request is longer than the context",
                why=f"{len(content):,} bytes do not fit in {self.config.n_ctx} tokens",
                fix="a shorter request, or a server with a larger --n_ctx",
            )
        read = _read_chat if request.url.path == CHAT else _read_completion
        body, unenforced, forced = await read_body(request, self.turns, read)
        await turn(request, self.turns)
        if forced:
            return await self._tool_call(forced, body, unenforced)
        reply = await self._post_to_engine(request.url.path, content)
        media_type = reply.content_type
        headers = {NOT_ENFORCED: _header_text(unenforced)} if unenforced else {}
        if media_type != "text/event-stream":
            async with reply:
                content = await reply.read()
                return Response(content, _status_of(reply), headers, media_type=media_type)
        return StreamingResponse(
            _chunks(reply),
            reply.status,
            media_type=media_type,
            headers={"Cache-Control": "no-cache", **headers},
        )

    async def _post_to_engine(self, path: str, content: bytes) -> aiohttp.ClientResponse:
        """The engine's reply, not yet read. Raises EngineError."""
        if self._http is None:  # not in __init__: it needs the running event loop
            self._http = aiohttp.ClientSession(
                headers={
                    "Authorization": f"Bearer {self.client.api_key}",
                    "Content-Type": "application/json",
                },
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=None),
                connector=aiohttp.TCPConnector(limit=0),
            )
        try:
            return await self._http.post(self.root + path, data=content)
        except aiohttp.ClientConnectorError:
            # it restarts: what it never saw may be sent again
            if failure := await in_thread(self._engine_failure):
                raise failure from None
            return await self._post_again(path, content)
        except (aiohttp.ClientError, TimeoutError) as fault:
            raise await in_thread(self._engine_failure) or _no_answer(fault) from None

    async def _post_again(self, path: str, content: bytes) -> aiohttp.ClientResponse:
        assert self._http
        try:
            return await self._http.post(self.root + path, data=content)
        except (aiohttp.ClientError, TimeoutError) as fault:
            raise _no_answer(fault) from None

    def _engine_failure(self) -> EngineError | None:
        """Blocks while the engine restarts."""
        return self.client.engine.failure() if self.client.engine else None

    async def _tool_call(
        self, forced: dict[str, Any], body: dict[str, Any], unenforced: list[str]
    ) -> Response:
        reply = await self._post_to_engine(CHAT, json.dumps(forced).encode())
        async with reply:
            content = await reply.read()
        if reply.status != 200:
            return Response(content, _status_of(reply), media_type="application/json")
        call = tool_calls.tool_call_reply(json.loads(content), unenforced)
        headers = {NOT_ENFORCED: _header_text(unenforced)} if unenforced else {}
        if body.get("stream"):
            events = tool_calls.tool_call_events(call, openai_schemas.wants_usage(body))
            return Response(events, headers=headers, media_type="text/event-stream")
        return JSONResponse(call, headers=headers)

    def _model_names(self) -> list[str]:
        names = (self.client.model, self.config.embedding_model, self.config.rerank_model)
        return [name for name in names if name]

    async def models(self, request: Request) -> Response:
        return JSONResponse(openai_schemas.model_list(self._model_names(), self.started))

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        return openai_schemas.model_reply(name, self._model_names(), self.started)

    async def health(self, request: Request) -> Response:
        engine = self.client.engine
        if engine and not engine.alive:
            return JSONResponse({"status": "the engine is started again"}, 503)
        return JSONResponse({"status": "ok"})

    def embedder(self) -> Embedder:
        if self._embedder is None:  # 300 MB: loaded for the first request
            self._embedder = open_embedder(self.config.embedding_model)
        return self._embedder

    def reranker(self) -> Reranker:
        if self._reranker is None:
            name = self.config.rerank_model
            self._reranker = open_reranker(name) if name else SimilarityReranker(self.embedder())
        return self._reranker

    async def embeddings(self, request: Request) -> Response:
        body = await read_body(request, self.vector_turns, guards.parse_body)
        texts: Any = body.get("input")
        texts = [texts] if isinstance(texts, str) else texts
        if refusal := self._embedding_refusal(body, texts):
            return guards.error(*refusal)
        await turn(request, self.vector_turns)
        embedder = await in_thread(self.embedder)
        if body.get("dimensions") not in (None, embedder.dim):
            ours = self.config.embedding_model
            text = f"dimensions must be {embedder.dim}: {ours} cannot be cut shorter"
            return guards.error(400, text)
        embed = embedder.queries if body.get("input_type") == "query" else embedder.passages
        vectors = await in_thread(embed, texts)
        as_base64 = body.get("encoding_format") == "base64"
        rows = [
            {"object": "embedding", "index": i, "embedding": _encoded(vector, as_base64)}
            for i, vector in enumerate(vectors)
        ]
        n_tokens = sum(len(text) // 4 + 1 for text in texts)
        return JSONResponse(
            {
                "object": "list",
                "data": rows,
                "model": embedder.name,
                "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
            }
        )

    def _embedding_refusal(self, body: dict[str, Any], texts: Any) -> tuple[int, str] | None:
        """(status, message) for a request that cannot be answered."""
        ours = self.config.embedding_model
        name = body.get("model") or "default"
        if (
            not isinstance(texts, list)
            or not texts
            or not all(isinstance(text, str) and text for text in texts)
        ):
            return (
                400,
                "input must be a text or a list of texts, none of them empty; token ids belong to "
                "another model's vocabulary",
            )
        if len(texts) > MAX_TEXTS:
            return 400, f"{len(texts)} texts at once; at most {MAX_TEXTS}"
        # vectors of another model would not compare with those that the client has
        if name not in ("default", ours):
            return 404, f"there is no embedding model {name} here, only {ours}"
        return None

    async def rerank(self, request: Request) -> Response:
        body = await read_body(request, self.vector_turns, guards.parse_body)
        query, documents = body.get("query"), body.get("documents")
        texts: list[Any] = []
        if isinstance(documents, list):
            texts = [row.get("text") if isinstance(row, dict) else row for row in documents]
        if (
            not isinstance(query, str)
            or not texts
            or not all(isinstance(text, str) for text in texts)
        ):
            return guards.error(400, "query must be a text and documents a list of texts")
        if len(texts) > MAX_TEXTS:
            return guards.error(400, f"{len(texts)} documents at once; at most {MAX_TEXTS}")
        top_n = body.get("top_n")
        top_n = len(texts) if top_n is None else top_n
        if not isinstance(top_n, int) or isinstance(top_n, bool) or top_n < 1:
            return guards.error(400, "top_n must be a whole number from 1")
        await turn(request, self.vector_turns)
        reranker = await in_thread(self.reranker)
        scores = await in_thread(reranker.scores, query, texts)
        results = []
        for i in sorted(range(len(texts)), key=lambda i: -float(scores[i]))[:top_n]:
            result: dict[str, Any] = {"index": i, "relevance_score": float(scores[i])}
            if body.get("return_documents"):
                result["document"] = {"text": texts[i]}
            results.append(result)
        return JSONResponse({"model": reranker.name, "results": results})


def _encoded(vector: np.ndarray, as_base64: bool) -> Any:
    """A vector as a list, or its fp32 bytes in base64, which OpenAI's client asks for."""
    return base64.b64encode(vector.tobytes()).decode() if as_base64 else vector.tolist()


_Request = tuple[dict[str, Any], list[str], dict[str, Any] | None]
"""The body of a request, what of its schema is not enforced, and what is sent in its place where a
tool call is demanded."""


def _read_chat(content: bytes) -> _Request:
    """Raises DataError."""
    body, unenforced, _ = _read_completion(content)
    openai_schemas.text_messages(body)
    return body, unenforced, tool_calls.forced_request(body)


def _read_completion(content: bytes) -> _Request:
    """Refuses what the engine would answer with an unclear error. Raises DataError."""
    body = guards.parse_body(content)
    n = body.get("n")
    if n is not None and (n != 1 or isinstance(n, bool)):
        raise DataError(
            "n must be 1",
            why="the engine generates one answer a request",
            fix="send the request n times with different seeds",
        )
    return body, tool_calls.unenforced(body), None


def _no_answer(fault: Exception) -> EngineError:
    return EngineError(
        "the engine does not answer", why=str(fault), fix="ask again; onecard doctor tells more"
    )


def _status_of(reply: aiohttp.ClientResponse) -> int:
    """The engine answers 500 to what is the request's own fault, as a grammar that does not parse;
    a dead engine answers nothing."""
    return 400 if reply.status == 500 else reply.status


def _header_text(rows: list[str]) -> str:
    return "; ".join(rows)[:1000].encode("ascii", "replace").decode()


async def _chunks(reply: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The engine's stream, in chunks of at least STREAM_INTERVAL_S.

    Closing it, as when the client hangs up, stops the engine's work.
    """
    try:
        while chunk := await reply.content.readany():
            yield chunk
            await asyncio.sleep(STREAM_INTERVAL_S)
    except (aiohttp.ClientError, TimeoutError) as fault:
        message = f"the engine ended in the middle of its answer: {fault}"
        error = {"error": {"message": message, "code": 502}}
        yield f"data: {json.dumps(error)}\n\n".encode()
    finally:
        reply.close()
