"""Objects of the OpenAI HTTP API that several servers answer with."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse

from onecard.errors import DataError
from onecard.serving.guards import error


def model(name: str, created: int = 0) -> dict[str, Any]:
    """A row of /v1/models; `created` in seconds since 1970."""
    return {"id": name, "object": "model", "created": created, "owned_by": "onecard"}


def model_list(names: Sequence[str], created: int = 0) -> dict[str, Any]:
    return {"object": "list", "data": [model(name, created) for name in names]}


def model_reply(name: str, names: Sequence[str], created: int = 0) -> JSONResponse:
    """/v1/models/{name}."""
    if name not in names:
        return error(404, f"there is no model {name} here, only {', '.join(names)}")
    return JSONResponse(model(name, created))


def usage(n_prompt: int, n_completion: int) -> dict[str, int]:
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": n_prompt + n_completion,
    }


def wants_usage(body: Mapping[str, Any]) -> bool:
    """Whether a stream is to end with its usage."""
    options = body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def text_messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages with their content as one text: parts are joined, null is empty.

    Raises DataError.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _invalid("messages", 'it must be a list of {"role": ..., "content": ...}')
    return [_text_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _text_message(message: Any, place: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise _invalid(place, "it is no object")
    if not isinstance(message.get("role"), str) or not message["role"]:
        raise _invalid(place, "its role is missing or no text")
    content = message.get("content")
    if content is None:
        content = ""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "input_text", "refusal"):
            raise _invalid(place, "only text can be read here, no image, sound or file")
        text = part.get("text", part.get("refusal"))
        if not isinstance(text, str):
            raise _invalid(place, "its content is neither a text nor a list of text parts")
        texts.append(text)
    return {**message, "content": "\n".join(texts)}


def _invalid(place: str, why: str) -> DataError:
    return DataError(f"{place} is not valid", why=why, fix="correct the list of messages")


def completion_events(
    envelope: Mapping[str, Any],
    delta: Mapping[str, Any],
    finish_reason: str,
    last_fields: Mapping[str, Any] | None = None,
    usage: Mapping[str, int] | None = None,
) -> str:
    """A chat completion that is complete already, as server-sent events.

    One event has the whole delta, a second the finish reason and `last_fields`, a third the `usage`
    where the client asked for it. `envelope` holds id, created and model.
    """
    chunk = {**envelope, "object": "chat.completion.chunk"}
    content = {"index": 0, "delta": dict(delta), "finish_reason": None}
    end = {"index": 0, "delta": {}, "finish_reason": finish_reason}
    rows = [{**chunk, "choices": [content]}, {**chunk, "choices": [end], **(last_fields or {})}]
    if usage:
        rows.append({**chunk, "choices": [], "usage": dict(usage)})
    events = [f"data: {json.dumps(row, ensure_ascii=False)}\n\n" for row in rows]
    return "".join([*events, "data: [DONE]\n\n"])
