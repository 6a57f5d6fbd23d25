"""`onecard chat`: a REPL with history, multi-line input and /commands.

Ctrl-C stops the answer, not the program.
"""

from pathlib import Path
from typing import Any

from onecard.errors import DataError
from onecard.inference import repl
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

        def step(text: str) -> bool:
            nonlocal turns
            if text.startswith("/"):
                if not _run_command(text, messages, run):
                    return False
                if not text.startswith("/again"):
                    return True
            else:
                messages.append({"role": "user", "content": text})
            turns += _answer(client, messages, config, run)
            return True

        def forget() -> None:
            if messages[-1]["role"] == "user":
                messages.pop()

        repl.loop(run.reporter, step, forget)
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
        stream.close()
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


def _run_command(text: str, messages: list[Message], run: Run) -> bool:
    """Execute a /command; False ends the REPL.

    Raises DataError for a file that cannot be read or written.
    """
    command, _, argument = text.partition(" ")
    argument = argument.strip()
    if command in repl.END:
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
        repl.save(Path(argument).expanduser(), messages, run.reporter)
        run.reporter.line(f"saved to {argument}")
    elif command == "/load" and argument:
        messages[:] = load(Path(argument).expanduser())
        run.reporter.line(f"{len(messages) - 1} messages loaded")
    elif command == "/help":
        run.reporter.line(HELP)
    else:
        run.reporter.line(f"'{command}' is no command, or lacks an argument\n{HELP}")
    return True


def load(path: Path) -> list[Message]:
    """The messages of a saved conversation. Raises DataError, also for one with pictures."""
    messages = repl.load(path)
    if any(not isinstance(message["content"], str) for message in messages):
        raise DataError(
            f"{path} is a conversation about pictures",
            why="a language model reads text only",
            fix="onecard vlm chat, then /load",
        )
    return messages
