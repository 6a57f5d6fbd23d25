"""Requests to a language model through the openai client, at any base URL.

Errors of the client become EngineError or DataError. The openai client uses httpx2, whose own
errors come through in the middle of a stream.
"""

import asyncio
import contextvars
import threading
from collections.abc import Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from queue import Queue
from types import MappingProxyType
from typing import Any, Protocol

import httpx
import httpx2
import openai

from onecard import cancellation
from onecard.cancellation import Cancellation
from onecard.errors import DataError, EngineError, OneCardError
from onecard.inference.config import LlmConfig

Message = Mapping[str, Any]
SERVER_CODES = (401, 403, 404, 408, 429, 502, 503, 504)


@dataclass(frozen=True)
class ToolCall:
    id: str
    name: str
    arguments: str
    """JSON text as the model wrote it: not yet checked."""


@dataclass
class Reply:
    text: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = ""
    """`stop`, or `length` where it was cut off; empty where the server does not tell."""


class Engine(Protocol):
    """A process of ours that serves the model."""

    @property
    def pid(self) -> int: ...

    @property
    def alive(self) -> bool: ...

    def restart_if_hung(self) -> None: ...

    def failure(self) -> EngineError | None:
        """Why a request failed, when the process is dead and does not come back soon."""


class Client:
    """One model at one address; `engine` is its process when we started it."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        model: str,
        config: LlmConfig,
        engine: Engine | None = None,
    ) -> None:
        self.base_url, self.api_key, self.model, self.config = base_url, api_key, model, config
        self.engine = engine
        self.openai = openai.OpenAI(
            base_url=base_url,
            api_key=api_key or "none",
            max_retries=2,
            timeout=openai.Timeout(600, connect=5),
        )

    def chat(
        self,
        messages: Sequence[Message],
        *,
        schema: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        max_tokens: int = 0,
        sampling: Mapping[str, float | int] = MappingProxyType({}),
    ) -> Reply:
        """One whole answer; `schema` forces JSON of that shape; `sampling`: temperature, top_p and
        seed that are not the settings'.

        Raises EngineError, and DataError when the prompt is too long.
        """
        options = {**self._options(schema, tools, max_tokens), **sampling}
        with self.translated_errors():
            completion: Any = self._completion(_plain(messages), options)
        message = completion.choices[0].message
        calls = [
            ToolCall(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or []
        ]
        usage = completion.usage
        return Reply(
            message.content or "",
            calls,
            usage.prompt_tokens if usage else 0,
            usage.completion_tokens if usage else 0,
            str(completion.choices[0].finish_reason or ""),
        )

    def _completion(self, messages: Any, options: dict[str, Any]) -> Any:
        """Within a server's request it can be cancelled: that closes the connection, and the engine
        stops. A blocking read cannot be ended from another thread; a coroutine can."""
        if not cancellation.CURRENT.get():
            return self.openai.chat.completions.create(messages=messages, **options)
        cancellation.check()
        return _wait_cancellable(self._complete_async(messages, options))

    async def _complete_async(self, messages: Any, options: dict[str, Any]) -> Any:
        async with self._async_client() as client:
            return await client.chat.completions.create(messages=messages, **options)

    def _async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=self.api_key or "none",
            max_retries=2,
            timeout=openai.Timeout(600, connect=5),
        )

    def stream(
        self,
        messages: Sequence[Message],
        *,
        schema: Mapping[str, Any] | None = None,
        max_tokens: int = 0,
        sampling: Mapping[str, float | int] = MappingProxyType({}),
        usage: bool = False,
    ) -> Generator[str, None, Reply]:
        """The answer in pieces as they come; closing the iterator stops the engine too. Its value
        is the whole, with the tokens where `usage` asks the server to tell them.

        Raises EngineError, and DataError when the prompt is too long.
        """
        options = {**self._options(schema, (), max_tokens), **sampling, "stream": True}
        if usage:
            options["stream_options"] = {"include_usage": True}
        pieces: list[str] = []
        reply = Reply()
        with self.translated_errors(), closing(self._events(_plain(messages), options)) as events:
            for event in events:
                cancellation.check()
                if event.usage:
                    reply.prompt_tokens = event.usage.prompt_tokens
                    reply.completion_tokens = event.usage.completion_tokens
                if not event.choices:
                    continue
                reply.finish_reason = str(event.choices[0].finish_reason or reply.finish_reason)
                if piece := event.choices[0].delta.content:
                    pieces.append(piece)
                    yield piece
        reply.text = "".join(pieces)
        return reply

    def _events(self, messages: Any, options: dict[str, Any]) -> Generator[Any, None, None]:
        """Within a server's request they are read by a coroutine, which can be cancelled before the
        first one comes: a long prompt takes seconds to read."""
        if not cancellation.CURRENT.get():
            with self.openai.chat.completions.create(messages=messages, **options) as events:
                yield from events
            return
        cancellation.check()
        stop, queue = Cancellation(), Queue[Any]()
        end = object()

        async def read() -> None:
            async with self._async_client() as client:
                events = await client.chat.completions.create(messages=messages, **options)
                async with events:
                    async for event in events:
                        queue.put(event)

        def work() -> None:
            cancellation.CURRENT.set(stop)
            try:
                _wait_cancellable(read())
                queue.put(end)
            except BaseException as fault:
                queue.put(fault)

        thread = threading.Thread(target=contextvars.Context().run, args=(work,), daemon=True)
        with cancellation.on_cancel(stop.cancel):
            thread.start()
            try:
                while (item := queue.get()) is not end:
                    if isinstance(item, BaseException):
                        raise item
                    yield item
            finally:
                stop.cancel()
                thread.join()

    def models(self) -> list[str]:
        """Names of the models that the server lists. Raises EngineError."""
        with self.translated_errors():
            return [row.id for row in self.openai.models.list()]

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, by llama.cpp's /tokenize.

        Another server has no such route: then 3 characters a token are assumed, which is too many
        rather than too few.
        """
        try:
            root = self.base_url.removesuffix("/v1")
            reply = httpx.post(
                f"{root}/tokenize",
                json={"content": text},
                headers={"Authorization": f"Bearer {self.api_key}"},
                timeout=30,
            )
            return len(reply.json()["tokens"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return len(text) // 3 + 1

    def _options(
        self, schema: Mapping[str, Any] | None, tools: Sequence[Mapping[str, Any]], max_tokens: int
    ) -> dict[str, Any]:
        s = self.config
        options: dict[str, Any] = {
            "model": self.model,
            "temperature": s.temperature,
            "top_p": s.top_p,
            "seed": s.seed,
            "max_tokens": max_tokens or s.max_tokens,
        }
        if s.repeat_penalty > 1:
            options["extra_body"] = {"repeat_penalty": s.repeat_penalty}
        if schema:
            options["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "reply", "schema": dict(schema), "strict": True},
            }
        if tools:
            options["tools"] = list(tools)
        return options

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Errors of the openai client within the block become ours."""
        try:
            yield
        except openai.APIConnectionError as fault:
            if self.engine and (failure := self.engine.failure()):
                raise failure from fault
            raise EngineError(
                f"no answer from {self.base_url}",
                why=str(fault.__cause__ or fault),
                fix="start the server, or leave --base_url out to use the embedded engine",
            ) from fault
        except openai.APIStatusError as fault:
            raise self._status_error(fault) from fault
        except (openai.OpenAIError, httpx2.HTTPError) as fault:
            if self.engine and (failure := self.engine.failure()):
                raise failure from fault
            raise EngineError(
                f"the answer of {self.base_url} broke off", why=str(fault)[:300], fix="ask again"
            ) from fault

    def _status_error(self, fault: openai.APIStatusError) -> OneCardError:
        message = fault.message
        if isinstance(fault.body, dict):
            message = str(fault.body.get("message", message))
        message = message[:400]
        if "context" in message and ("exceed" in message or "size" in message):
            return DataError(
                "the question and its context are too long for the model",
                why=message,
                fix=f"a larger --n_ctx (now {self.config.n_ctx}), or a shorter question",
            )
        fix = {
            401: f"set the key in ${self.config.api_key_env}",
            404: f"the server has no model '{self.model}'; see its list: {self.base_url}/models",
        }
        return EngineError(
            f"{self.base_url} refused the request ({fault.status_code})",
            why=message,
            fix=fix.get(fault.status_code, "see the server's log"),
        )


def has_gone(fault: OneCardError) -> bool:
    """Whether a failed request says that the server itself does not answer now, whatever it is
    asked: it is not there, refuses the key, has not the model, or has too much to do."""
    cause = fault.__cause__
    status = cause.status_code if isinstance(cause, openai.APIStatusError) else 0
    return isinstance(cause, openai.APIConnectionError) or status in SERVER_CODES


def _wait_cancellable(work: Coroutine[Any, Any, Any]) -> Any:
    """The coroutine's result, from a loop of this thread. Raises Cancelled."""

    async def watched() -> Any:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(work)

        def cancel() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)

        with cancellation.on_cancel(cancel):
            try:
                return await task
            except asyncio.CancelledError:
                raise cancellation.Cancelled from None

    return asyncio.run(watched())


def _plain(messages: Sequence[Message]) -> Any:
    """Messages as plain dictionaries: the openai client types them with one class a role."""
    return [dict(message) for message in messages]
