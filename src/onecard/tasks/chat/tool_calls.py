"""Tool calls that a client demands (`tool_choice`: required, or a name), forced by a JSON schema.

With `tool_choice: auto` the engine leaves the choice to the model's own template. A small model
then writes prose; the schema permits nothing but a call.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from onecard.errors import DataError
from onecard.inference import schema_limits
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
    schema = _calls_schema(functions)
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


def _calls_schema(functions: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One of the calls. Each function's parameters lie whole under $defs, since a $ref of theirs
    counts from the top of the schema that it stands in."""
    definitions, calls = {}, []
    for i, (name, function) in enumerate(functions.items()):
        place = f"function{i}"
        parameters = function.get("parameters") or {"type": "object"}
        definitions[place] = _moved(parameters, f"#/$defs/{place}")
        calls.append(
            {
                "type": "object",
                "properties": {
                    "name": {"const": name},
                    "arguments": {"$ref": f"#/$defs/{place}"},
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return {"anyOf": calls, "$defs": definitions}


def _moved(schema: Any, place: str) -> Any:
    """The schema for another place in a larger one: its $refs follow it. Its depth was checked."""
    if isinstance(schema, list):
        return [_moved(child, place) for child in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(child, place) for key, child in schema.items()}
    if isinstance(ref := schema.get("$ref"), str) and ref.startswith("#"):
        moved["$ref"] = place + ref[1:]
    return moved


def unenforced(request: Mapping[str, Any]) -> list[str]:
    """What the schemas of a request ask for and the grammar does not enforce.

    Raises DataError for a schema that would hold up the engine.
    """
    warnings: list[str] = []
    for name, function in _functions(request.get("tools") or []).items():
        parameters = function.get("parameters") or {}
        warnings += schema_limits.check(parameters, f"the schema of the tool {name[:60]}")
    format = request.get("response_format")
    if format is not None and not isinstance(format, dict):
        raise DataError(
            "response_format is not valid",
            why="it is no object",
            fix='{"type": "json_schema", "json_schema": {"name": ..., "schema": {...}}}',
        )
    wrapped = (format or {}).get("json_schema")
    schemas = [
        (format or {}).get("schema"),
        wrapped.get("schema") if isinstance(wrapped, dict) else wrapped,
        request.get("json_schema"),
    ]
    for schema in schemas:
        if schema is not None:
            warnings += schema_limits.check(schema, "the schema")
    if request.get("grammar"):
        schema_limits.check_grammar(request["grammar"])
    return warnings


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
        content = messages[0].get("content") or ""
        if isinstance(content, list):  # parts; only text is let in
            content = "\n".join(part["text"] for part in content)
        messages[0]["content"] = f"{content}\n\n{instruction}"
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


def tool_call_reply(reply: Mapping[str, Any], unenforced: Sequence[str] = ()) -> dict[str, Any]:
    """The engine's reply with its JSON turned into tool_calls; `warnings` tells what of the schema
    was not enforced.

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
    warnings = {"warnings": [f"not enforced: {row}" for row in unenforced]} if unenforced else {}
    choices = [{**choice, "message": message, "finish_reason": "tool_calls"}]
    return {**reply, "choices": choices, **warnings}


def tool_call_events(reply: Mapping[str, Any], with_usage: bool = False) -> str:
    """The same reply as a stream."""
    envelope = {key: reply[key] for key in ("id", "created", "model") if key in reply}
    calls = reply["choices"][0]["message"]["tool_calls"]
    delta = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"index": i, **call} for i, call in enumerate(calls)],
    }
    warnings = {"warnings": reply["warnings"]} if "warnings" in reply else {}
    usage = reply.get("usage") if with_usage else None
    return completion_events(envelope, delta, "tool_calls", warnings, usage)
