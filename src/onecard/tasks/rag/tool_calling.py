"""The loop in which the model calls tools before it answers.

No text of a document ever enters the prompt in which the model chooses a tool: it has the question,
the calls so far and whether they found something. So a document cannot cause a call.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onecard.errors import EngineError, OneCardError
from onecard.inference.client import Client
from onecard.tasks.rag.retrieve import Hit
from onecard.tasks.rag.tools import Tool

PYTHON_TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}
NUMBER = re.compile(r"\d+(?:\.\d+)?")
NUMBER_WORD = re.compile(
    r"(?i)\b(one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|\w+ty|hundred"
    r"|thousand|million|half|double|dozen)\b|[零一二三四五六七八九十百千萬万]"
)


@dataclass
class ToolCalls:
    """The calls of the model and their results."""

    hits: list[Hit] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    n_calls: int = 0
    n_valid: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)
    """tool, arguments and outcome of each call."""


def call_tools(
    question: str, client: Client, tools: Mapping[str, Tool], max_rounds: int
) -> ToolCalls:
    """Let the model call tools until it wants to answer, at most `max_rounds` times.

    Raises EngineError only when the model does not answer at all.
    """
    calls = ToolCalls()
    schema = _schema(tools)
    rules = _rules(tools)
    previous: set[str] = set()
    for _ in range(max_rounds):
        history = "\n".join(
            f"called {row['tool']}({json.dumps(row['arguments'])}): {row['outcome']}"
            for row in calls.log
        )
        history = history or "nothing was called yet"
        messages = [
            {"role": "system", "content": rules},
            {"role": "user", "content": f"Question: {question}\n\nSo far: {history}"},
        ]
        call = _parse(client.chat(messages, schema=schema, max_tokens=200).text)
        if call and call.get("tool") == "answer":
            break
        calls.n_calls += 1
        fault = call_fault(call, tools) or _number_fault(call, tools, f"{question}\n{history}")
        if call is None or fault:
            name = str((call or {}).get("tool"))[:40]
            calls.log.append({"tool": name, "arguments": {}, "outcome": f"not valid: {fault}"})
            continue
        calls.n_valid += 1
        key = json.dumps(call, sort_keys=True)
        if key in previous:
            break
        previous.add(key)
        outcome = _run(tools[call["tool"]], call["arguments"], calls)
        calls.log.append({"tool": call["tool"], "arguments": call["arguments"], "outcome": outcome})
    return calls


def _schema(tools: Mapping[str, Tool]) -> dict[str, Any]:
    """A call of one of the tools, or of `answer`, which ends the loop."""

    def call(name: str, **arguments: Any) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {"tool": {"const": name}, **arguments},
            "required": ["tool", *arguments],
            "additionalProperties": False,
        }

    options = [call(tool.name, arguments=tool.parameters) for tool in tools.values()]
    return {"anyOf": [*options, call("answer")]}


def _rules(tools: Mapping[str, Tool]) -> str:
    listed = "\n".join(
        f"- {tool.name}({', '.join(tool.parameters['properties'])}): {tool.summary}"
        for tool in tools.values()
    )
    return (
        f"Choose the next tool for the user's question, as JSON.\nTools:\n{listed}\n- answer: "
        "nothing more is needed"
    )


def _parse(reply: str) -> dict[str, Any] | None:
    try:
        value = json.loads(reply)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def call_fault(call: dict[str, Any] | None, tools: Mapping[str, Tool]) -> str:
    """Why a call is not valid, or ""."""
    if call is None:
        return "no JSON object"
    tool = tools.get(str(call.get("tool")))
    if tool is None:
        return "no such tool, or not allowed"
    arguments, schema = call.get("arguments"), tool.parameters
    if not isinstance(arguments, dict):
        return "no arguments"
    for name, value in arguments.items():
        expected = schema["properties"].get(name)
        if expected is None or not isinstance(value, PYTHON_TYPES[expected["type"]]):
            return f"argument {name[:40]}"
    missing = [name for name in schema["required"] if name not in arguments]
    return f"lacks {missing[0]}" if missing else ""


def _number_fault(call: dict[str, Any] | None, tools: Mapping[str, Tool], known_text: str) -> str:
    """Why a call's numbers look made up, or "".

    One of them in the known text is enough, and a text that spells numbers out is not checked.
    """
    if call is None or not tools[call["tool"]].known_numbers_only:
        return ""
    if NUMBER_WORD.search(known_text):
        return ""
    numbers = {n for value in call["arguments"].values() for n in NUMBER.findall(str(value))}
    if not numbers or numbers & set(NUMBER.findall(known_text)):
        return ""
    return "its numbers are not in the question"


def _run(tool: Tool, arguments: dict[str, Any], calls: ToolCalls) -> str:
    """Call a tool and collect its result; the outcome has no text of a document."""
    try:
        result = tool.call(**arguments)
    except EngineError:
        raise
    except OneCardError as fault:
        return f"failed: {fault.what[:80]}"
    if isinstance(result, str):
        calls.facts.append(result)
        return result
    ids = {hit.chunk.id for hit in calls.hits}
    calls.hits += [hit for hit in result if hit.chunk.id not in ids or not hit.chunk.id]
    return f"{len(result)} passages found"
