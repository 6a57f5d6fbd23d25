"""Tools that a language model may call: Python functions with a schema, allowed one by one."""

import datetime
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from onecard import paths
from onecard.datasets import documents
from onecard.errors import DataError, SettingsError, not_found
from onecard.reporting import Reporter
from onecard.tasks.rag.calculator import calculate
from onecard.tasks.rag.retrieve import Hit, Retriever
from onecard.tasks.rag.store import Chunk

JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}
MAX_FILE_CHARS = 6000
"""Characters of a file that read_file gives: about 1,500 tokens of a context of 4,096."""


@dataclass(frozen=True)
class Tool:
    name: str
    summary: str
    """What it does, for the model and the user."""
    parameters: dict[str, Any]
    """JSON schema of the arguments."""
    call: Callable[..., str | list[Hit]]
    """A text is a fact for the answer; hits are passages to cite."""
    known_numbers_only: bool = False
    """Refuse a call when none of its numbers is in the question or in earlier results: a small
    model makes numbers up."""


def tool_from(
    function: Callable[..., str | list[Hit]], *, known_numbers_only: bool = False
) -> Tool:
    """A tool with the function's name, the first line of its docstring and a schema of its hints.

    Raises SettingsError for a function without a docstring or with other types.
    """
    hints = get_type_hints(function)
    hints.pop("return", None)
    unsupported = [name for name, kind in hints.items() if kind not in JSON_TYPES]
    if unsupported or not function.__doc__:
        raise SettingsError(
            f"the function {function.__name__} is no tool",
            why="it needs a docstring and plain types (str, int, float, bool)"
            + (f"; not {unsupported[0]}" if unsupported else ""),
            fix="write a docstring and give each argument one of these types",
        )
    signature = inspect.signature(function)
    properties = {
        name: {"type": JSON_TYPES[kind], **({"maxLength": 500} if kind is str else {})}
        for name, kind in hints.items()
    }
    schema = {
        "type": "object",
        "properties": properties,
        "required": [
            name for name, p in signature.parameters.items() if p.default is inspect.Parameter.empty
        ],
        "additionalProperties": False,
    }
    summary = function.__doc__.strip().split("\n")[0]
    return Tool(function.__name__, summary, schema, function, known_numbers_only)


def builtin_tools(retriever: Retriever) -> dict[str, Tool]:
    """search_notes, read_file, calculator and date, over one index."""

    def search_notes(query: str) -> list[Hit]:
        """Search the user's notes and code for passages about something."""
        return retriever.search(query)

    def read_file(path: str) -> list[Hit]:
        """Read one file of the user's indexed folders, by its path."""
        file = _indexed_file(path, retriever)
        if (described := retriever.store.described_text(str(file))) is not None:
            chunk = Chunk(0, str(file), file.stem, described[:MAX_FILE_CHARS], 0, 0, 0)
            return [Hit(chunk, 1.0, 1.0, 0.0, 1.0)]
        document = documents.read(file)
        text = "\n\n".join(block.text for block in document.blocks)[:MAX_FILE_CHARS]
        last = document.blocks[-1].last_line if document.blocks else 1
        return [Hit(Chunk(0, str(file), document.title, text, 1, last, 0), 1.0, 1.0, 0.0, 1.0)]

    def calculator(expression: str) -> str:
        """Work out an arithmetic expression of the question's own numbers."""
        return f"{expression} = {calculate(expression)}"

    def date() -> str:
        """Tell today's date and the day of the week."""
        return f"today is {datetime.date.today():%A, %Y-%m-%d}"

    tools = (
        tool_from(search_notes),
        tool_from(read_file),
        tool_from(calculator, known_numbers_only=True),
        tool_from(date),
    )
    return {tool.name: tool for tool in tools}


def _indexed_file(path: str, retriever: Retriever) -> Path:
    """The file, if it lies in an indexed folder and is in the index. Raises DataError."""
    for root in retriever.store.roots():
        folder = root if root.is_dir() else root.parent
        try:
            file = paths.safe_join(folder, path)
        except DataError:
            continue
        if retriever.store.has_file(str(file)):
            return file
    raise DataError(
        f"'{path[:100]}' is not in the index",
        why="only indexed files may be read",
        fix="search_notes gives the paths",
    )


def allowed_tools(
    names: Sequence[str], available: Mapping[str, Tool], reporter: Reporter
) -> dict[str, Tool]:
    """The tools of the settings; on a terminal the user confirms each.

    Raises NotFound for an unknown one.
    """
    allowed = {}
    for name in names:
        if name not in available:
            raise not_found("tool", name, available)
        question = f"may the model call {name}? ({available[name].summary})"
        if not reporter.interactive or reporter.confirm(question):
            allowed[name] = available[name]
    return allowed
