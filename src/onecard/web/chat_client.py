"""Asks a model's server over HTTP and reads its stream. Knows no conversation."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from onecard.errors import DataError, EngineError
from onecard.redaction import redact
from onecard.web.services import Service

MAX_LINE = 4 << 20
"""Bytes of one event."""
MAX_WAIT_S = 600
"""Longest time that a full server is asked again."""
TOO_LONG = ("exceeds the available context", "longer than the context", "too long", "do not fit")


class TooLong(DataError):
    """The conversation is longer than the model's context; n_tokens is 0 where it is not told."""

    def __init__(self, why: str, n_tokens: int, n_ctx: int) -> None:
        super().__init__(
            "the question is longer than the model's context",
            why=why,
            fix="a shorter question, or a larger context in the settings",
        )
        self.n_tokens, self.n_ctx = n_tokens, n_ctx


@dataclass
class Stream:
    """What came with the pieces."""

    finish: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=dict)


class ModelClient:
    """Connections to all servers; one for each page's server."""

    def __init__(self) -> None:
        self._http: aiohttp.ClientSession | None = None

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:  # it needs the running event loop
            self._http = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=None),
                connector=aiohttp.TCPConnector(limit=0),
            )
        return self._http

    async def model_name(self, service: Service) -> str:
        """Of the model that answers; empty where the server does not say."""
        try:
            async with self._session().get(
                f"{service.url}/v1/models", headers=service.headers
            ) as reply:
                rows = (await reply.json())["data"]
                return str(rows[0]["id"])[:200]
        except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError):
            return ""

    async def stream(
        self, service: Service, body: dict[str, Any], client: str, told: Stream
    ) -> AsyncIterator[tuple[str, str]]:
        """Pieces of the answer as (kind, text), kind thinking or text; closing it ends the model's
        work. `client`: whose turn it takes at the server.

        Raises TooLong, DataError for a request that the server refuses, EngineError.
        """
        reply = await self._post(service, body, client)
        try:
            async with reply:
                async for row in _rows(reply):
                    if "error" in row:
                        raise _engine_error(_message_of(row))
                    told.usage = row.get("usage") or told.usage
                    told.timings = row.get("timings") or told.timings
                    for choice in row.get("choices") or ():
                        told.finish = choice.get("finish_reason") or told.finish
                        delta = choice.get("delta") or {}
                        if text := delta.get("reasoning_content"):
                            yield "thinking", str(text)
                        if text := delta.get("content"):
                            yield "text", str(text)
        except (aiohttp.ClientError, TimeoutError, ValueError) as fault:
            raise _engine_error(str(fault) or type(fault).__name__) from None
        finally:
            reply.close()

    async def _post(
        self, service: Service, body: dict[str, Any], client: str
    ) -> aiohttp.ClientResponse:
        headers = {**service.headers, "User-Agent": f"onecard-ui/{client}"}
        waited = 0.0
        while True:
            try:
                reply = await self._session().post(
                    f"{service.url}/v1/chat/completions", json=body, headers=headers
                )
            except (aiohttp.ClientError, TimeoutError) as fault:
                raise _engine_error(str(fault) or type(fault).__name__) from None
            if reply.status == 200:
                return reply
            async with reply:
                text = (await reply.content.read(1 << 16)).decode("utf-8", "replace")
            if reply.status == 429 and waited < MAX_WAIT_S:
                pause = min(max(float(_number(reply.headers.get("Retry-After"))), 1.0), 10.0)
                waited += pause
                await asyncio.sleep(pause)
                continue
            raise _refusal(reply.status, text)

    async def transcribe(
        self, service: Service, sound: bytes, language: str, client: str
    ) -> dict[str, Any]:
        """The transcript of a recording. Raises DataError, EngineError."""
        form = aiohttp.FormData()
        form.add_field("file", sound, filename="recording", content_type="audio/webm")
        form.add_field("response_format", "verbose_json")
        if language:
            form.add_field("language", language)
        headers = {**service.headers, "User-Agent": f"onecard-ui/{client}"}
        address = f"{service.url}/v1/audio/transcriptions"
        try:
            async with self._session().post(address, data=form, headers=headers) as reply:
                if reply.status != 200:
                    raise _refusal(reply.status, await reply.text())
                value = await reply.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as fault:
            raise _engine_error(str(fault) or type(fault).__name__) from None
        return value if isinstance(value, dict) else {}

    async def close(self) -> None:
        if self._http:
            await self._http.close()


async def _rows(reply: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The objects of a stream of server-sent events. Raises ValueError for what is none."""
    rest = b""
    while chunk := await reply.content.readany():
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE:
            raise ValueError("an event of the stream is too long")
        for line in lines:
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                return
            if line.startswith(b"data:") and data:
                row = json.loads(data)
                if isinstance(row, dict):
                    yield row


def _number(text: str | None) -> float:
    try:
        return float(text or 1)
    except ValueError:
        return 1.0


def _message_of(row: Any) -> str:
    error = row.get("error") if isinstance(row, dict) else None
    if isinstance(error, dict):
        return str(error.get("message") or error.get("what") or error)
    return str(error or row)


def _refusal(status: int, text: str) -> DataError | EngineError:
    row: Any = {}
    try:
        row = json.loads(text)
    except ValueError:
        row = {"error": text[:500] or f"status {status}"}
    message = redact(_message_of(row))[:1000]
    error = row.get("error") if isinstance(row, dict) else None
    if status == 400 and any(words in message for words in TOO_LONG):
        numbers = error if isinstance(error, dict) else {}
        return TooLong(
            message, int(numbers.get("n_prompt_tokens") or 0), int(numbers.get("n_ctx") or 0)
        )
    what, why, fix = _three(message)
    if status == 400:
        return DataError(
            what or "the model's server refused the question",
            why=why or message or f"status {status}",
            fix=fix or "change the question or the settings",
        )
    return EngineError(
        what or "the model's server failed",
        why=why or message or f"status {status}",
        fix=fix or "ask again; the log of its job tells more",
    )


def _three(message: str) -> tuple[str, str, str]:
    """What, why and fix of a refusal of ours that another server passed on as one text."""
    what, _, rest = message.partition("\n  why: ")
    why, _, fix = rest.partition("\n  fix: ")
    return (what, why, fix) if rest else ("", "", "")


def _engine_error(why: str) -> EngineError:
    return EngineError(
        "the model's server broke off",
        why=redact(why)[:500] or "it told no reason",
        fix="ask again: it is started anew; the log of its job tells more",
    )
