"""What every REPL shares: reading with history and several lines, the loop, saved conversations.

Knows no model.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings

from onecard import fsio, paths
from onecard.datasets.encoding import decode
from onecard.errors import DataError, OneCardError
from onecard.reporting import Reporter

HISTORY = "chat-history"
"""File in the home with what was typed."""
END = ("/exit", "/quit", "/bye")
MAX_SAVED = 512 << 20
"""Bytes of a saved conversation, pictures in it included."""


def loop(reporter: Reporter, step: Callable[[str], bool], forget: Callable[[], object]) -> None:
    """Call `step` with each input until it returns False or the input ends. An error is shown,
    `forget` takes back the question that it came from, and the loop goes on. Ctrl-C at the prompt
    drops the line."""
    read = _reader(reporter.interactive)
    while True:
        try:
            text = read().strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if not text:
            continue
        try:
            if not step(text):
                return
        except OneCardError as fault:
            reporter.line(f"error: {fault}")
            forget()


def readable(line: str) -> str:
    """A line from a pipe in its own encoding: what is not UTF-8 came as half surrogates."""
    data = line.encode("utf-8", "surrogateescape")
    return decode(data, Path("standard input"))[0] if not line.isascii() else line


def _reader(interactive: bool) -> Callable[[], str]:
    """A function that reads one input, from a terminal with editing and history."""
    if not interactive:
        return lambda: readable(input())
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("enter")
    def _(event: Any) -> None:
        buffer = event.current_buffer
        if buffer.document.current_line.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    paths.home().mkdir(parents=True, exist_ok=True)
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(paths.home() / HISTORY)),
        key_bindings=keys,
        multiline=True,
        prompt_continuation="  ",
    )
    return lambda: session.prompt("> ")


# Saved conversations


def save(path: Path, messages: Sequence[Mapping[str, Any]], reporter: Reporter) -> None:
    """Write JSON, or Markdown for a name that ends in .md, atomically; a file that exists is
    overwritten only where the person says so. A message's content is a text or OpenAI's list of
    parts.

    Raises DataError.
    """
    if path.exists() and not reporter.confirm(f"{path} exists: overwrite it?"):
        raise DataError(
            f"{path} exists", why="no file is overwritten unasked", fix="/save another name"
        )
    if not path.absolute().parent.is_dir():
        raise DataError(
            f"{path} cannot be written",
            why=f"there is no folder {path.parent}",
            fix="make the folder, or save elsewhere",
        )
    if path.suffix == ".md":
        text = "\n\n".join(f"**{m['role']}**\n\n{_text_of(m['content'])}" for m in messages) + "\n"
    else:
        text = json.dumps({"messages": list(messages)}, indent=1, ensure_ascii=False) + "\n"
    fsio.write_text(path, text)


def _text_of(content: Any) -> str:
    """The text of a message; a picture in it as Markdown's, one in the message itself as a note."""
    if isinstance(content, str):
        return content
    lines = []
    for part in content:
        url = part.get("image_url", {}).get("url", "")
        if part.get("type") == "text":
            lines.append(str(part["text"]))
        else:
            lines.append("*(a picture)*" if url.startswith("data:") else f"![]({url})")
    return "\n\n".join(lines)


def load(path: Path) -> list[dict[str, Any]]:
    """The messages of a saved conversation, with role and content, which is a text or a list.

    Raises DataError.
    """
    try:
        if path.stat().st_size > MAX_SAVED:
            raise ValueError(f"it has more than {MAX_SAVED >> 20} MiB")
        rows = json.loads(path.read_text(encoding="utf-8"))["messages"]
        messages = []
        for row in rows:
            content = row["content"]
            is_list = isinstance(content, list) and all(isinstance(each, dict) for each in content)
            messages.append(
                {"role": str(row["role"]), "content": content if is_list else str(content)}
            )
        return messages
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as fault:
        raise DataError(
            f"{path} is not a saved conversation",
            why=str(fault)[:200],
            fix="/load takes a .json file that /save wrote",
        ) from None
