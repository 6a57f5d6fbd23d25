"""What is asked of a language model, through the openai client on any base URL. Knows no kind;
turns faults into EngineError.

The client speaks through httpx2, whose errors come through in the middle of a stream.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import httpx2
import openai

from onecard.errors import DataError, EngineError, OneCardError
from onecard.inference.config import EngineSettings

Message = Mapping[str, Any]


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


class Client:
    """One model at one address."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        model: str,
        settings: EngineSettings,
        why_dead: Any = None,
    ) -> None:
        self.base_url, self.api_key, self.model, self.settings = base_url, api_key, model, settings
        self._why_dead = why_dead
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
    ) -> Reply:
        """One whole answer. `schema` forces JSON of that shape. Raises EngineError."""
        with self._faults():
            done: Any = self.openai.chat.completions.create(
                messages=_plain(messages), **self._options(schema, tools, max_tokens)
            )
        message = done.choices[0].message
        calls = [
            ToolCall(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or []
        ]
        usage = done.usage
        return Reply(
            message.content or "",
            calls,
            usage.prompt_tokens if usage else 0,
            usage.completion_tokens if usage else 0,
        )

    def stream(self, messages: Sequence[Message], *, max_tokens: int = 0) -> Iterator[str]:
        """The answer in pieces, as they come.

        Closing the iterator stops the engine too. Raises EngineError.
        """
        with self._faults():
            events: Any = self.openai.chat.completions.create(
                messages=_plain(messages), stream=True, **self._options(None, (), max_tokens)
            )
            with events:
                for event in events:
                    if event.choices and (piece := event.choices[0].delta.content):
                        yield piece

    def count_tokens(self, text: str) -> int:
        """Tokens of a text: asked of llama.cpp; elsewhere estimated at 3 characters a token, which
        is on the safe side."""
        try:
            root = self.base_url.removesuffix("/v1")
            done = httpx.post(
                f"{root}/tokenize",
                json={"content": text},
                headers={"Authorization": f"Bearer {self.api_key}"},
                timeout=30,
            )
            return len(done.json()["tokens"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return len(text) // 3 + 1

    def _options(
        self, schema: Mapping[str, Any] | None, tools: Sequence[Mapping[str, Any]], max_tokens: int
    ) -> dict[str, Any]:
        s = self.settings
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
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except openai.APIConnectionError as fault:
            if self._why_dead and (dead := self._why_dead()):
                raise dead from fault
            raise EngineError(
                f"no answer from {self.base_url}",
                why=str(fault.__cause__ or fault),
                fix="start the server, or leave --base_url out to use the embedded engine",
            ) from fault
        except openai.APIStatusError as fault:
            raise self._status(fault) from fault
        except (openai.OpenAIError, httpx2.HTTPError) as fault:
            if self._why_dead and (dead := self._why_dead()):
                raise dead from fault
            raise EngineError(
                f"{self.base_url} did not answer whole", why=str(fault)[:300], fix="ask again"
            ) from fault

    def _status(self, fault: openai.APIStatusError) -> OneCardError:
        said = str(
            fault.body.get("message", fault.message)
            if isinstance(fault.body, dict)
            else fault.message
        )[:400]
        if "context" in said and ("exceed" in said or "size" in said):
            return DataError(
                "the question and its context are too long for the model",
                why=said,
                fix=f"a larger --n_ctx (now {self.settings.n_ctx}), or a shorter question",
            )
        fix = {
            401: f"set the key in ${self.settings.api_key_env}",
            404: f"the server has no model '{self.model}'; see its list: {self.base_url}/models",
        }
        return EngineError(
            f"{self.base_url} refused the request ({fault.status_code})",
            why=said,
            fix=fix.get(fault.status_code, "see the server's log"),
        )


def _plain(messages: Sequence[Message]) -> Any:
    """Messages as the client wants them; its own types have one class a role."""
    return [dict(message) for message in messages]
