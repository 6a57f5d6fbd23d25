"""A tool call that a client demands (`tool_choice`: required, or one by name), forced by a JSON
schema. Knows the OpenAI API's form only.

The engine leaves the choice to the model's own template, and a small model then writes prose: the
schema leaves it no other way.
"""

import json
import secrets
from collections.abc import Mapping
from typing import Any

from onecard.errors import DataError

LONGEST_CALL = 512
"""Tokens of a forced call where the client names no limit."""


def demanded(asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """The request that forces the call; None where the model may choose.

    Raises DataError for tools or a choice that do not hold.
    """
    tools, choice = asked.get("tools") or [], asked.get("tool_choice", "auto")
    held = _functions(tools)
    if choice in ("auto", "none", None):
        return None
    named = (
        choice.get("function", {}).get("name")
        if isinstance(choice, dict) and isinstance(choice.get("function"), dict)
        else None
    )
    if choice != "required" and named not in held:
        raise DataError(
            f"tool_choice {json.dumps(choice)[:80]} does not hold",
            why=f"the tools are: {', '.join(held) or 'none'}",
            fix="auto, none, required, or the name of one of the tools",
        )
    if not held:
        raise DataError(
            "tool_choice required without tools", why="tools is empty", fix="give at least one tool"
        )
    chosen = {named: held[named]} if named else held
    shapes = [
        {
            "type": "object",
            "properties": {
                "name": {"const": name},
                "arguments": f.get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for name, f in chosen.items()
    ]
    told = (
        "Call one of these functions. Reply with JSON alone: its name and its arguments.\n"
        + "\n".join(json.dumps(f) for f in chosen.values())
    )
    messages = [dict(message) for message in asked["messages"]]
    if messages[0].get("role") == "system":
        messages[0]["content"] = f"{messages[0].get('content')}\n\n{told}"
    else:
        messages.insert(0, {"role": "system", "content": told})
    kept = {
        key: value
        for key, value in asked.items()
        if key not in ("tools", "tool_choice", "stream", "stream_options", "parallel_tool_calls")
    }
    schema = {"name": "call", "schema": {"anyOf": shapes}, "strict": True}
    limit = (
        {}
        if "max_tokens" in asked or "max_completion_tokens" in asked
        else {"max_tokens": LONGEST_CALL}
    )
    return {
        **kept,
        **limit,
        "messages": messages,
        "response_format": {"type": "json_schema", "json_schema": schema},
    }


def _functions(tools: Any) -> dict[str, dict[str, Any]]:
    """name -> function. Raises DataError."""
    rows = (
        [tool.get("function") if isinstance(tool, dict) else None for tool in tools]
        if isinstance(tools, list)
        else [None]
    )
    if not all(
        isinstance(row, dict)
        and isinstance(row.get("name"), str)
        and row["name"]
        and isinstance(row.get("parameters") or {}, dict)
        for row in rows
    ):
        raise DataError(
            "tools do not hold",
            why='each must be {"type": "function", "function": {"name": ..., "parameters": {...}}}',
            fix="mend the list of tools",
        )
    return {row["name"]: row for row in rows if row}


def as_call(reply: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's reply with its JSON turned into tool_calls.

    Raises DataError when the answer was cut off.
    """
    choice = reply["choices"][0]
    try:
        call = json.loads(choice["message"]["content"])
    except ValueError:
        raise DataError(
            "the call was cut off",
            why=f"it did not end within the limit: {str(choice['message']['content'])[:100]}",
            fix="a larger max_tokens",
        ) from None
    function = {
        "name": call["name"],
        "arguments": json.dumps(call["arguments"], ensure_ascii=False),
    }
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
        ],
    }
    return {**reply, "choices": [{**choice, "message": message, "finish_reason": "tool_calls"}]}


def as_events(reply: Mapping[str, Any]) -> str:
    """The same as a stream: one event with the call, one with the end."""
    head = {
        **{key: reply[key] for key in ("id", "created", "model") if key in reply},
        "object": "chat.completion.chunk",
    }
    message = reply["choices"][0]["message"]
    delta = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"index": i, **call} for i, call in enumerate(message["tool_calls"])],
    }
    rows = [
        {**head, "choices": [{"index": 0, "delta": d, "finish_reason": reason}]}
        for d, reason in ((delta, None), ({}, "tool_calls"))
    ]
    return (
        "".join(f"data: {json.dumps(row, ensure_ascii=False)}\n\n" for row in rows)
        + "data: [DONE]\n\n"
    )
