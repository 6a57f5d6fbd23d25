"""The OpenAI HTTP API in front of the engine: chat, completions, embeddings, rerank, models. Knows no prompt.

Language-model requests pass through byte by byte, so that the front costs next to nothing; embeddings and reranking are ours.
"""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from onecard.engines import embed, http_guard
from onecard.engines.client import Client
from onecard.engines.open import language_model
from onecard.errors import OneCardError
from onecard.kinds.chat.config import Settings
from onecard.runs.record import Run
from onecard.screen import Answer

PASSED = ("/v1/chat/completions", "/v1/completions")


def serve(settings: Settings, run: Run) -> Answer:
    """Listen until Ctrl-C. Raises EngineError when the port is in use, before the model is loaded."""
    token = http_guard.token_for(settings.host, settings.token)
    listener = http_guard.bind(settings.host, settings.port)
    with listener, language_model(settings, run.plan, run.screen, n_parallel=settings.n_parallel) as client:
        app = http_guard.Guard(application(client, settings), settings.host, token)
        address = f"http://{settings.host}:{listener.getsockname()[1]}/v1"
        run.screen.line(f"OpenAI API at {address}" + (f"  token: {token}" if token else ""))
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])
    return Answer({"address": address})


def application(client: Client, settings: Settings) -> Starlette:
    """The routes, without the guard."""
    front = _Front(client, settings)
    return Starlette(routes=[
        *(Route(path, front.passed, methods=["POST"]) for path in PASSED),
        Route("/v1/models", front.models), Route("/v1/embeddings", front.embeddings, methods=["POST"]),
        Route("/v1/rerank", front.rerank, methods=["POST"]), Route("/health", front.health),
    ], exception_handlers={OneCardError: _told})


async def _told(request: Request, fault: Exception) -> Response:
    status = 400 if isinstance(fault, OneCardError) and fault.code in (2, 5, 6) else 502
    return _error(status, str(fault))


def _error(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": {"message": text, "type": "invalid_request_error" if status < 500 else "server_error", "code": status}}, status)


class _Front:
    def __init__(self, client: Client, settings: Settings) -> None:
        self.client, self.settings = client, settings
        self.root = client.base_url.removesuffix("/v1")
        self.http = httpx.AsyncClient(timeout=httpx.Timeout(600, connect=5), headers={"Authorization": f"Bearer {client.api_key}"})
        self._embedder: embed.Embedder | None = None
        self._reranker: embed.Reranker | None = None

    async def passed(self, request: Request) -> Response:
        body = await request.body()
        try:
            if not isinstance(json.loads(body), dict):
                return _error(400, "the body is no JSON object")
        except ValueError as fault:
            return _error(400, f"the body is no JSON: {fault}")
        sent = self.http.build_request("POST", self.root + request.url.path, content=body, headers={"Content-Type": "application/json"})
        try:
            reply = await self.http.send(sent, stream=True)
        except httpx.HTTPError as fault:
            dead = self.client._why_dead() if self.client._why_dead else None
            return _error(502, str(dead or f"the engine does not answer: {fault}"))
        kind = reply.headers.get("content-type", "application/json")
        if not kind.startswith("text/event-stream"):
            content = await reply.aread()
            await reply.aclose()
            return Response(content, reply.status_code, media_type=kind)
        return StreamingResponse(_pieces(reply), reply.status_code, media_type=kind, headers={"Cache-Control": "no-cache"})

    async def models(self, request: Request) -> Response:
        names = [self.client.model, self.settings.embedding_model, *([self.settings.rerank_model] if self.settings.rerank_model else [])]
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model", "owned_by": "onecard"} for name in names]})

    async def health(self, request: Request) -> Response:
        dead = self.client._why_dead() if self.client._why_dead else None
        return JSONResponse({"status": "ok"} if dead is None else {"status": str(dead)}, 200 if dead is None else 503)

    def embedder(self) -> embed.Embedder:
        if self._embedder is None:  # 300 MB: loaded when the first client asks for it
            self._embedder = embed.open_embedder(self.settings.embedding_model)
        return self._embedder

    async def embeddings(self, request: Request) -> Response:
        asked = await _body(request)
        texts = asked.get("input")
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            return _error(400, "input must be a text or a list of texts")
        if len(texts) > 2048:
            return _error(400, f"{len(texts)} texts at once; at most 2048")
        vectors = await _thread(lambda: self.embedder().queries(texts) if asked.get("input_type") == "query" else self.embedder().passages(texts))
        as_text = asked.get("encoding_format") == "base64"
        rows = [{"object": "embedding", "index": i, "embedding": base64.b64encode(v.tobytes()).decode() if as_text else v.tolist()} for i, v in enumerate(vectors)]
        used = sum(len(text) // 4 + 1 for text in texts)
        return JSONResponse({"object": "list", "data": rows, "model": self.embedder().name, "usage": {"prompt_tokens": used, "total_tokens": used}})

    async def rerank(self, request: Request) -> Response:
        asked = await _body(request)
        query, texts = asked.get("query"), asked.get("documents")
        texts = [row.get("text") if isinstance(row, dict) else row for row in texts] if isinstance(texts, list) else texts
        if not isinstance(query, str) or not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            return _error(400, "query must be a text and documents a list of texts")
        if self._reranker is None:
            name = self.settings.rerank_model
            self._reranker = embed.open_reranker(name) if name else embed.SimilarityReranker(self.embedder())
        reranker = self._reranker
        scores = await _thread(lambda: reranker.scores(query, texts))
        top = asked.get("top_n") or len(texts)
        order = sorted(range(len(texts)), key=lambda i: -float(scores[i]))[: int(top)]
        return JSONResponse({"model": reranker.name, "results": [{"index": i, "relevance_score": float(scores[i])} for i in order]})


async def _body(request: Request) -> dict[str, Any]:
    try:
        value = json.loads(await request.body())
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


async def _thread(call: Any) -> Any:
    from starlette.concurrency import run_in_threadpool

    return await run_in_threadpool(call)


async def _pieces(reply: httpx.Response) -> AsyncIterator[bytes]:
    """The engine's bytes as they come; closing it, when the client went away, stops the engine's work too."""
    try:
        async for piece in reply.aiter_raw():
            yield piece
    except httpx.HTTPError as fault:
        yield f'data: {json.dumps({"error": {"message": f"the engine ended in the middle of its answer: {fault}", "code": 502}})}\n\n'.encode()
    finally:
        await reply.aclose()
