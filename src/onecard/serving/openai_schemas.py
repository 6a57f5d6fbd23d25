"""Objects of the OpenAI HTTP API that several servers answer with."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def model(name: str, created: int = 0) -> dict[str, Any]:
    """A row of /v1/models; `created` in seconds since 1970."""
    return {"id": name, "object": "model", "created": created, "owned_by": "onecard"}


def model_list(names: Sequence[str], created: int = 0) -> dict[str, Any]:
    return {"object": "list", "data": [model(name, created) for name in names]}


def completion_events(
    envelope: Mapping[str, Any],
    delta: Mapping[str, Any],
    finish_reason: str,
    last_fields: Mapping[str, Any] | None = None,
) -> str:
    """A chat completion that is complete already, as server-sent events.

    One event has the whole delta, a second the finish reason and `last_fields`. `envelope` holds
    id, created and model.
    """
    chunk = {**envelope, "object": "chat.completion.chunk"}
    content = {"index": 0, "delta": dict(delta), "finish_reason": None}
    end = {"index": 0, "delta": {}, "finish_reason": finish_reason}
    rows = [{**chunk, "choices": [content]}, {**chunk, "choices": [end], **(last_fields or {})}]
    events = [f"data: {json.dumps(row, ensure_ascii=False)}\n\n" for row in rows]
    return "".join([*events, "data: [DONE]\n\n"])
