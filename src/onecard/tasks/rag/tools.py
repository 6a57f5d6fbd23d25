"""Functions that the model may call: declared in Python, allowed one by one by the user, checked
before each call. Knows no answer.

What a document says never reaches the context in which the model chooses a tool: that context holds
the user's question, the
calls made and whether they found something. So a document cannot ask for a call.
"""

import ast
import datetime
import inspect
import json
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from onecard import paths
from onecard.datasets import documents
from onecard.errors import DataError, EngineError, OneCardError, SettingsError, not_found
from onecard.inference.client import Client
from onecard.reporting import Reporter
from onecard.tasks.rag.retrieve import Hit, Retriever
from onecard.tasks.rag.store import Chunk

TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


@dataclass(frozen=True)
class Tool:
    name: str
    says: str
    parameters: dict[str, Any]
    """JSON schema of the arguments."""
    call: Callable[..., str | list[Hit]]
    """Text is a fact for the answer; hits are passages to cite."""
    own_numbers: bool = False
    """Refuse a call whose numbers stand neither in the question nor in what was found: a small
    model makes them up."""


def declare(function: Callable[..., str | list[Hit]], *, own_numbers: bool = False) -> Tool:
    """A tool from a function: its name, its docstring, and a schema from its type hints.

    Raises SettingsError.
    """
    hints = get_type_hints(function)
    hints.pop("return", None)
    wrong = [name for name, kind in hints.items() if kind not in TYPES]
    if wrong or not function.__doc__:
        raise SettingsError(
            f"the function {function.__name__} is no tool",
            why="it needs a docstring and plain types (str, int, float, bool)"
            + (f"; not {wrong[0]}" if wrong else ""),
            fix="write a docstring and give each argument one of these types",
        )
    signature = inspect.signature(function)
    required = [
        name for name, p in signature.parameters.items() if p.default is inspect.Parameter.empty
    ]
    properties = {
        name: {"type": TYPES[kind], **({"maxLength": 500} if kind is str else {})}
        for name, kind in hints.items()
    }
    schema = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    return Tool(
        function.__name__, function.__doc__.strip().split("\n")[0], schema, function, own_numbers
    )


def builtin(retriever: Retriever) -> dict[str, Tool]:
    """The tools that come with onecard, over one index."""

    def search_notes(query: str) -> list[Hit]:
        """Search the user's notes and code for passages about something."""
        return retriever.search(query)

    def read_file(path: str) -> list[Hit]:
        """Read one file of the user's indexed folders, by its path."""
        found = _inside_roots(path, retriever)
        document = documents.read(found)
        text = "\n\n".join(block.text for block in document.blocks)[:6000]
        last = document.blocks[-1].last_line if document.blocks else 1
        return [Hit(Chunk(0, str(found), document.title, text, 1, last, 0), 1.0, 1.0, 0.0, 1.0)]

    def calculator(expression: str) -> str:
        """Work out an arithmetic expression of the question's own numbers."""
        return f"{expression} = {calculate(expression)}"

    def date() -> str:
        """Tell today's date and the day of the week."""
        return f"today is {datetime.date.today():%A, %Y-%m-%d}"

    made = (
        declare(search_notes),
        declare(read_file),
        declare(calculator, own_numbers=True),
        declare(date),
    )
    return {tool.name: tool for tool in made}


def _inside_roots(path: str, retriever: Retriever) -> Path:
    """The file, if it lies in an indexed folder and is in the index. Raises DataError."""
    for root in retriever.roots():
        folder = root if root.is_dir() else root.parent
        try:
            found = paths.safe_join(folder, path)
        except DataError:
            continue
        if retriever.store.db.execute(
            "SELECT 1 FROM files WHERE path = ? AND fault = ''", (str(found),)
        ).fetchone():
            return found
    raise DataError(
        f"'{path[:100]}' is not in the index",
        why="only indexed files may be read",
        fix="search_notes tells the paths",
    )


OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sqrt": math.sqrt,
    "log": math.log,
    "exp": math.exp,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "abs": abs,
    "round": round,
    "min": min,
    "max": max,
}


def calculate(expression: str) -> float:
    """Numbers, + - * / // % **, brackets and a few functions; nothing else is run. Raises
    DataError.

    >>> calculate("12 * (3 + 4)"), calculate("2 ** 10")
    (84, 1024)
    """

    def value(node: ast.AST) -> Any:
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, int | float)
            and not isinstance(node.value, bool)
        ):
            return node.value
        if isinstance(node, ast.Name) and node.id in ("pi", "e"):
            return getattr(math, node.id)
        if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.operand))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            base, power = value(node.left), value(node.right)
            if abs(power) > 1000 or abs(base) > 1e100:
                raise ValueError("too large a power")
            return base**power
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in FUNCTIONS
            and not node.keywords
        ):
            return FUNCTIONS[node.func.id](*map(value, node.args))
        raise ValueError("only arithmetic")

    try:
        if len(expression) > 300:
            raise ValueError("too long")
        result = value(ast.parse(expression.replace("^", "**"), mode="eval").body)
        return result if isinstance(result, int) else round(float(result), 10)
    except (
        ValueError,
        SyntaxError,
        TypeError,
        ZeroDivisionError,
        OverflowError,
        RecursionError,
        MemoryError,
    ) as fault:
        raise DataError(
            f"'{expression[:80]}' cannot be worked out",
            why=str(fault)[:100],
            fix="numbers, + - * / // % **, brackets, and: " + ", ".join(FUNCTIONS),
        ) from None


@dataclass
class Calls:
    """What the model called: passages and facts found, and how many calls were valid."""

    hits: list[Hit] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    made: int = 0
    valid: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)


def allow(
    names: Sequence[str], available: Mapping[str, Tool], reporter: Reporter
) -> dict[str, Tool]:
    """The tools that the user named; each is confirmed once where a person sits.

    Raises NotFound for an unknown one.
    """
    chosen = {}
    for name in names:
        if name not in available:
            raise not_found("tool", name, available)
        if not reporter.interactive or reporter.confirm(
            f"may the model call {name}? ({available[name].says})"
        ):
            chosen[name] = available[name]
    return chosen


def choose_and_call(
    question: str, client: Client, tools: Mapping[str, Tool], max_rounds: int
) -> Calls:
    """Let the model call tools, at most `max_rounds` times.

    Raises EngineError only when the model does not answer at all.
    """
    calls = Calls()
    options = [
        {
            "type": "object",
            "properties": {"tool": {"const": tool.name}, "arguments": tool.parameters},
            "required": ["tool", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools.values()
    ]
    options.append(
        {
            "type": "object",
            "properties": {"tool": {"const": "answer"}},
            "required": ["tool"],
            "additionalProperties": False,
        }
    )
    listed = "\n".join(
        f"- {tool.name}({', '.join(tool.parameters['properties'])}): {tool.says}"
        for tool in tools.values()
    )
    rules = (
        f"Choose the next tool for the user's question, as JSON.\nTools:\n{listed}\n- answer: "
        "nothing more is needed"
    )
    seen: set[str] = set()
    for _ in range(max_rounds):
        done = (
            "\n".join(
                f"called {row['tool']}({json.dumps(row['arguments'])}): {row['outcome']}"
                for row in calls.log
            )
            or "nothing was called yet"
        )
        reply = client.chat(
            [
                {"role": "system", "content": rules},
                {"role": "user", "content": f"Question: {question}\n\nSo far: {done}"},
            ],
            schema={"anyOf": options},
            max_tokens=200,
        ).text
        asked = _parsed(reply)
        if asked and asked.get("tool") == "answer":
            break
        calls.made += 1
        fault = _fault(asked, tools) or _made_up(asked, tools, f"{question}\n{done}")
        key = json.dumps(asked, sort_keys=True)
        if asked is None or fault:
            calls.log.append(
                {
                    "tool": str((asked or {}).get("tool"))[:40],
                    "arguments": {},
                    "outcome": f"not valid: {fault}",
                }
            )
            continue
        calls.valid += 1
        if key in seen:
            break
        seen.add(key)
        calls.log.append(
            {
                "tool": asked["tool"],
                "arguments": asked["arguments"],
                "outcome": _run(tools[asked["tool"]], asked["arguments"], calls),
            }
        )
    return calls


def _parsed(reply: str) -> dict[str, Any] | None:
    try:
        value = json.loads(reply)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _fault(asked: dict[str, Any] | None, tools: Mapping[str, Tool]) -> str:
    """Why a call is not valid; empty when it is."""
    if asked is None:
        return "no JSON object"
    tool = tools.get(str(asked.get("tool")))
    if tool is None:
        return "no such tool, or not allowed"
    arguments, schema = asked.get("arguments"), tool.parameters
    if not isinstance(arguments, dict):
        return "no arguments"
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool}
    for name, value in arguments.items():
        if name not in schema["properties"] or not isinstance(
            value,
            kinds[schema["properties"][name]["type"]],  # type: ignore[arg-type]
        ):
            return f"argument {name[:40]}"
    lacking = [name for name in schema["required"] if name not in arguments]
    return f"lacks {lacking[0]}" if lacking else ""


NUMBER = re.compile(r"\d+(?:\.\d+)?")
SPELT = re.compile(
    r"(?i)\b(one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|\w+ty|hundred|thousand|million|half|double|dozen)\b|[零一二三四五六七八九十百千萬万]"
)


def _made_up(asked: dict[str, Any] | None, tools: Mapping[str, Tool], known: str) -> str:
    """Why a call's numbers are not the user's; empty when one of them is, or when the question
    spells its numbers out."""
    if asked is None or not tools[asked["tool"]].own_numbers or SPELT.search(known):
        return ""
    numbers = {n for value in asked["arguments"].values() for n in NUMBER.findall(str(value))}
    return (
        ""
        if not numbers or numbers & set(NUMBER.findall(known))
        else "its numbers do not stand in the question"
    )


def _run(tool: Tool, arguments: dict[str, Any], calls: Calls) -> str:
    """Call it; the outcome in words that hold nothing of a document."""
    try:
        got = tool.call(**arguments)
    except EngineError:
        raise
    except OneCardError as fault:
        return f"failed: {fault.what[:80]}"
    if isinstance(got, str):
        calls.facts.append(got)
        return got
    known = {hit.chunk.id for hit in calls.hits}
    calls.hits += [hit for hit in got if hit.chunk.id not in known or not hit.chunk.id]
    return f"{len(got)} passages found"
