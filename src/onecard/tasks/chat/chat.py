"""The talk in the terminal: history, several lines, commands, and Ctrl-C that stops the answer and
not the program."""

import json
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings

from onecard import fsio, paths
from onecard.errors import DataError, OneCardError
from onecard.inference.backends import language_model
from onecard.inference.client import Client
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.chat.configs import Settings

COMMANDS = """/system TEXT   a new instruction; the talk starts anew     /clear        forget the talk
/save FILE     write the talk as JSON (or .md)             /load FILE    go on with a saved talk
/again         ask the last question once more             /exit         leave (or Ctrl-D)
Enter sends; Alt-Enter, or a \\ at the end, starts a new line; Ctrl-C stops the answer."""


def talk(settings: Settings, run: Run) -> Result:
    """Until /exit or the end of input. A failed answer is told and the talk goes on."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": settings.system}]
    turns = 0
    with language_model(settings, run.plan, run.reporter) as client:
        run.reporter.line(COMMANDS)
        read = _reader(run.reporter.interactive)
        while True:
            try:
                text = read().strip()
            except KeyboardInterrupt:
                continue
            except EOFError:
                break
            if not text:
                continue
            try:
                if text.startswith("/"):
                    if not _command(text, messages, run):
                        break
                    if not text.startswith("/again"):
                        continue
                else:
                    messages.append({"role": "user", "content": text})
                turns += _answer(client, messages, settings, run)
            except OneCardError as fault:
                run.reporter.line(f"error: {fault}")
                if messages[-1]["role"] == "user":
                    messages.pop()
    return Result({"turns": turns, "messages": messages})


def _answer(client: Client, messages: list[dict[str, Any]], settings: Settings, run: Run) -> int:
    """Stream one answer and keep it; 0 when there was nothing to answer."""
    if messages[-1]["role"] != "user":
        run.reporter.line("nothing was asked yet")
        return 0
    pieces: list[str] = []
    asked = shorten(messages, client, settings.n_ctx - settings.max_tokens)
    if len(asked) < len(messages):
        run.reporter.line(
            f"(the first {len(messages) - len(asked)} messages no longer fit and are left out)"
        )
    stream = client.stream(asked)
    try:
        for piece in stream:
            pieces.append(piece)
            run.reporter.stream(piece)
    except KeyboardInterrupt:
        run.reporter.stream(" [stopped]")
    finally:
        stream.close()  # type: ignore[attr-defined]
    run.reporter.stream("\n")
    messages.append({"role": "assistant", "content": "".join(pieces)})
    return 1


def shorten(messages: list[dict[str, Any]], client: Client, room: int) -> list[dict[str, Any]]:
    """The instruction, and as many of the last messages as fit into `room` tokens; the question
    always."""
    head, rest = messages[:1], messages[1:]
    used = client.count_tokens(head[0]["content"]) + 16
    kept: list[dict[str, Any]] = []
    for message in reversed(rest):
        used += (
            client.count_tokens(message["content"]) + 8
        )  # the template's own words around a message
        if kept and used > room:
            break
        kept.insert(0, message)
    while len(kept) > 1 and kept[0]["role"] == "assistant":
        kept.pop(0)
    return head + kept


def _reader(interactive: bool) -> Any:
    if not interactive:
        return lambda: input()
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
        history=FileHistory(str(paths.home() / "chat-history")),
        key_bindings=keys,
        multiline=True,
        prompt_continuation="  ",
    )
    return lambda: session.prompt("> ")


def _command(text: str, messages: list[dict[str, Any]], run: Run) -> bool:
    """Carry out a /command; False ends the talk.

    Raises DataError for a file that cannot be read or written.
    """
    word, _, rest = text.partition(" ")
    rest = rest.strip()
    if word in ("/exit", "/quit", "/bye"):
        return False
    if word == "/system" and rest:
        messages[:] = [{"role": "system", "content": rest}]
        run.reporter.line("the talk starts anew")
    elif word == "/clear":
        del messages[1:]
        run.reporter.line("forgotten")
    elif word == "/again":
        while len(messages) > 1 and messages[-1]["role"] != "user":
            messages.pop()
    elif word == "/save" and rest:
        path = Path(rest).expanduser()
        if path.exists() and not run.reporter.confirm(f"{path} exists: write over it?"):
            raise DataError(
                f"{path} exists", why="nothing is written over unasked", fix="/save another name"
            )
        save(path, messages)
        run.reporter.line(f"saved to {rest}")
    elif word == "/load" and rest:
        messages[:] = load(Path(rest).expanduser())
        run.reporter.line(f"{len(messages) - 1} messages loaded")
    else:
        run.reporter.line(
            COMMANDS if word == "/help" else f"'{word}' is no command, or lacks a word\n{COMMANDS}"
        )
    return True


def save(path: Path, messages: list[dict[str, Any]]) -> None:
    """As JSON, or as Markdown for a name that ends in .md; whole or not at all.

    Raises DataError.
    """
    if not path.absolute().parent.is_dir():
        raise DataError(
            f"{path} cannot be written",
            why=f"there is no folder {path.parent}",
            fix="make the folder, or save elsewhere",
        )
    if path.suffix == ".md":
        text = "\n\n".join(f"**{m['role']}**\n\n{m['content']}" for m in messages) + "\n"
    else:
        text = json.dumps({"messages": messages}, indent=1, ensure_ascii=False) + "\n"
    fsio.write_text(path, text)


def load(path: Path) -> list[dict[str, Any]]:
    """The messages of a saved talk. Raises DataError."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["messages"]
        return [{"role": str(row["role"]), "content": str(row["content"])} for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise DataError(
            f"{path} is no saved talk",
            why=str(fault)[:200],
            fix="/load takes a .json file that /save wrote",
        ) from None
