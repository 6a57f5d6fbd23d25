"""`onecard chat`: a REPL with history, multi-line input and /commands.

Ctrl-C stops the answer, not the program.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings

from onecard import fsio, paths
from onecard.datasets.encoding import decode
from onecard.errors import DataError, OneCardError
from onecard.inference.backends import language_model
from onecard.inference.client import Client
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.chat.configs import ChatConfig

HELP = """/system TEXT   set the system prompt; starts a new conversation
/clear         forget the conversation
/again         repeat the last question
/save FILE     write the conversation as JSON, or as Markdown for a name in .md
/load FILE     continue a saved conversation
/exit          leave (or Ctrl-D)
Enter sends; Alt-Enter, or a \\ at the end, starts a new line; Ctrl-C stops the answer."""
MESSAGE_TOKENS = 8
"""Allowance for the tokens that a chat template puts around a message."""

Message = dict[str, Any]


def chat(config: ChatConfig, run: Run) -> Result:
    """Read and answer until /exit or the end of input; an error is shown and the REPL goes on."""
    messages: list[Message] = [{"role": "system", "content": config.system}]
    turns = 0
    with language_model(config, run.plan, run.reporter) as client:
        run.reporter.line(HELP)
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
                    if not _run_command(text, messages, run):
                        break
                    if not text.startswith("/again"):
                        continue
                else:
                    messages.append({"role": "user", "content": text})
                turns += _answer(client, messages, config, run)
            except OneCardError as fault:
                run.reporter.line(f"error: {fault}")
                if messages[-1]["role"] == "user":
                    messages.pop()
    return Result({"turns": turns, "messages": messages})


def _answer(client: Client, messages: list[Message], config: ChatConfig, run: Run) -> int:
    """Stream one answer and append it; the number of answers, 0 without a question."""
    if messages[-1]["role"] != "user":
        run.reporter.line("there is no question yet")
        return 0
    pieces: list[str] = []
    # a long max_tokens is a limit, no wish: the conversation keeps half of the context
    fitting = fit_messages(
        messages, client, max(config.n_ctx - config.max_tokens, config.n_ctx // 2)
    )
    if n_dropped := len(messages) - len(fitting):
        run.reporter.line(f"(the context is full: the first {n_dropped} messages are left out)")
    stream = client.stream(fitting)
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


def fit_messages(messages: list[Message], client: Client, max_tokens: int) -> list[Message]:
    """The system prompt and as many of the last messages as fit; always the last question."""
    system, rest = messages[:1], messages[1:]
    used = client.count_tokens(system[0]["content"]) + 2 * MESSAGE_TOKENS
    recent: list[Message] = []
    for message in reversed(rest):
        used += client.count_tokens(message["content"]) + MESSAGE_TOKENS
        if recent and used > max_tokens:
            break
        recent.insert(0, message)
    while len(recent) > 1 and recent[0]["role"] == "assistant":
        recent.pop(0)
    return system + recent


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
        history=FileHistory(str(paths.home() / "chat-history")),
        key_bindings=keys,
        multiline=True,
        prompt_continuation="  ",
    )
    return lambda: session.prompt("> ")


def _run_command(text: str, messages: list[Message], run: Run) -> bool:
    """Execute a /command; False ends the REPL.

    Raises DataError for a file that cannot be read or written.
    """
    command, _, argument = text.partition(" ")
    argument = argument.strip()
    if command in ("/exit", "/quit", "/bye"):
        return False
    if command == "/system" and argument:
        messages[:] = [{"role": "system", "content": argument}]
        run.reporter.line("new conversation")
    elif command == "/clear":
        del messages[1:]
        run.reporter.line("new conversation")
    elif command == "/again":
        while len(messages) > 1 and messages[-1]["role"] != "user":
            messages.pop()
    elif command == "/save" and argument:
        path = Path(argument).expanduser()
        if path.exists() and not run.reporter.confirm(f"{path} exists: overwrite it?"):
            raise DataError(
                f"{path} exists", why="no file is overwritten unasked", fix="/save another name"
            )
        save(path, messages)
        run.reporter.line(f"saved to {argument}")
    elif command == "/load" and argument:
        messages[:] = load(Path(argument).expanduser())
        run.reporter.line(f"{len(messages) - 1} messages loaded")
    elif command == "/help":
        run.reporter.line(HELP)
    else:
        run.reporter.line(f"'{command}' is no command, or lacks an argument\n{HELP}")
    return True


def save(path: Path, messages: list[Message]) -> None:
    """Write JSON, or Markdown for a name that ends in .md, atomically. Raises DataError."""
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


def load(path: Path) -> list[Message]:
    """The messages of a saved conversation. Raises DataError."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["messages"]
        return [{"role": str(row["role"]), "content": str(row["content"])} for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise DataError(
            f"{path} is not a saved conversation",
            why=str(fault)[:200],
            fix="/load takes a .json file that /save wrote",
        ) from None
