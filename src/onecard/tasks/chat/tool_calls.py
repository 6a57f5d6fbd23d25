"""Tool calls that a client demands (`tool_choice`: required, or a name), forced by a JSON schema.

With `tool_choice: auto` the engine leaves the choice to the model's own template. A small model
then writes prose; the schema permits nothing but a call.
"""

import json
import secrets
from collections.abc import Mapping
from typing import Any

from onecard.errors import DataError
from onecard.serving.openai_schemas import completion_events

MAX_CALL_TOKENS = 512
"""Tokens of a forced call where the client sets no limit."""
REPLACED_FIELDS = ("tools", "tool_choice", "stream", "stream_options", "parallel_tool_calls")
"""Fields of the request that the forced request does not pass on."""


def forced_request(request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The chat request that forces the demanded call; None if the model may choose.

    Raises DataError for invalid tools or an invalid choice.
    """
    choice = request.get("tool_choice", "auto")
    functions = _functions(request.get("tools") or [])
    if choice in ("auto", "none", None):
        return None
    name = _named_function(choice)
    if choice != "required" and name not in functions:
        raise DataError(
            f"tool_choice {json.dumps(choice)[:80]} is not valid",
            why=f"the tools are: {', '.join(functions) or 'none'}",
            fix="auto, none, required, or the name of one of the tools",
        )
    if not functions:
        raise DataError(
            "tool_choice required without tools", why="tools is empty", fix="give at least one tool"
        )
    if name:
        functions = {name: functions[name]}
    schema = {"anyOf": [_call_schema(name, function) for name, function in functions.items()]}
    limit: dict[str, Any] = {}
    if "max_tokens" not in request and "max_completion_tokens" not in request:
        limit = {"max_tokens": MAX_CALL_TOKENS}
    return {
        **{key: value for key, value in request.items() if key not in REPLACED_FIELDS},
        **limit,
        "messages": _with_instruction(request["messages"], functions),
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "call", "schema": schema, "strict": True},
        },
    }


def _named_function(choice: Any) -> str | None:
    """The name in {"type": "function", "function": {"name": ...}}."""
    function = choice.get("function") if isinstance(choice, dict) else None
    return function.get("name") if isinstance(function, dict) else None


def _call_schema(name: str, function: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "name": {"const": name},
            "arguments": function.get("parameters") or {"type": "object"},
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _with_instruction(
    messages: list[dict[str, Any]], functions: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The messages with the functions described in the system prompt."""
    descriptions = "\n".join(json.dumps(function) for function in functions.values())
    instruction = (
        "Call one of these functions. Reply with JSON alone: its name and its arguments.\n"
        + descriptions
    )
    messages = [dict(message) for message in messages]
    if messages[0].get("role") == "system":
        messages[0]["content"] = f"{messages[0].get('content')}\n\n{instruction}"
        return messages
    return [{"role": "system", "content": instruction}, *messages]


def _functions(tools: Any) -> dict[str, dict[str, Any]]:
    """Name -> function. Raises DataError."""
    rows = tools if isinstance(tools, list) else [None]
    functions = [row.get("function") if isinstance(row, dict) else None for row in rows]
    if not all(
        isinstance(function, dict)
        and isinstance(function.get("name"), str)
        and function["name"]
        and isinstance(function.get("parameters") or {}, dict)
        for function in functions
    ):
        raise DataError(
            "tools are not valid",
            why='each must be {"type": "function", "function": {"name": ..., "parameters": {...}}}',
            fix="correct the list of tools",
        )
    return {function["name"]: function for function in functions if function}


def tool_call_reply(reply: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's reply with its JSON turned into tool_calls.

    Raises DataError for an answer that was cut off.
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


def tool_call_events(reply: Mapping[str, Any]) -> str:
    """The same reply as a stream."""
    envelope = {key: reply[key] for key in ("id", "created", "model") if key in reply}
    calls = reply["choices"][0]["message"]["tool_calls"]
    delta = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"index": i, **call} for i, call in enumerate(calls)],
    }
    return completion_events(envelope, delta, "tool_calls")
