"""`onecard vlm chat`: a REPL about pictures, which stay in the conversation.

Ctrl-C stops the answer, not the program.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onecard.datasets.images.picture_uris import data_uri
from onecard.errors import DataError
from onecard.inference import repl
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.vlm import picture_inputs
from onecard.tasks.vlm.chat_requests import unmarked
from onecard.tasks.vlm.configs import ChatConfig
from onecard.tasks.vlm.engine import Answer, Engine, Picture, Question
from onecard.tasks.vlm.engines import open_engine
from onecard.tasks.vlm.items import MARKER, Role, Turn, without_markers
from onecard.tasks.vlm.picture_inputs import Bounds

HELP = """/image FILE    add a picture to the next question; several, a folder or a PDF too
/system TEXT   set the system prompt; starts a new conversation
/clear         forget the conversation and its pictures
/again         repeat the last question
/save FILE     write the conversation as JSON, or as Markdown for a name in .md
/load FILE     continue a saved conversation
/exit          leave (or Ctrl-D)
Enter sends; Alt-Enter, or a \\ at the end, starts a new line; Ctrl-C stops the answer."""
CHARS_PER_TOKEN = 3
"""Fewer than any text's mean: too many tokens are assumed rather than too few."""
TURN_TOKENS = 8
"""Allowance for the tokens that a chat template puts around a turn."""
UNKNOWN_PICTURE = 576
"""Tokens assumed of a picture where the engine does not tell: those of LLaVA-1.5."""
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True)
class Shown:
    """A picture with where it came from, for saving."""

    picture: Picture
    source: str = ""
    """Its path; empty for one that came as data."""


@dataclass
class Talk:
    """Turns with their pictures; the first turn may be the system's."""

    turns: list[tuple[Turn, tuple[Shown, ...]]] = field(default_factory=list)
    waiting: list[Shown] = field(default_factory=list)
    """Pictures of the next question."""

    @property
    def asks(self) -> bool:
        return bool(self.turns) and self.turns[-1][0].role == "user"

    def add_question(self, text: str) -> None:
        """Its pictures stand before its text; markers that were typed are words."""
        lines = [*[MARKER] * len(self.waiting), unmarked(text)]
        self.turns.append((Turn("user", "\n".join(lines)), tuple(self.waiting)))
        self.waiting = []

    def restart(self, system: str) -> None:
        self.turns = [(Turn("system", system), ())] if system else []
        self.waiting = []

    def question(self, turns: Sequence[tuple[Turn, tuple[Shown, ...]]]) -> Question:
        pictures = tuple(each.picture for _, shown in turns for each in shown)
        return Question(tuple(turn for turn, _ in turns), pictures)


def chat(config: ChatConfig, run: Run) -> Result:
    """Read and answer until /exit or the end of input; an error is shown and the REPL goes on.

    Raises NotFound, DataError for pictures of the command line, before the model is loaded.
    """
    bounds = Bounds(allow_url=config.allow_url)
    talk = Talk()
    talk.restart(config.system)
    talk.waiting = _shown(config.images, bounds, run)
    n_answers = 0
    with open_engine(config, run.plan, run.reporter) as engine:
        run.reporter.line(HELP)
        _tell(engine, talk.waiting, run)

        def step(text: str) -> bool:
            nonlocal n_answers
            if text.startswith("/"):
                if not _run_command(text, talk, engine, bounds, run):
                    return False
                if not text.startswith("/again"):
                    return True
            else:
                talk.add_question(text)
            n_answers += _answer(engine, talk, config, run)
            return True

        def forget() -> None:
            if talk.asks:  # its pictures may be asked about in another way
                talk.waiting = [*talk.turns.pop()[1], *talk.waiting]

        repl.loop(run.reporter, step, forget)
    return Result({"turns": n_answers, "messages": _messages(talk, inline=False)})


def _shown(sources: Sequence[str], bounds: Bounds, run: Run) -> list[Shown]:
    rows = []
    for source in sources:
        pictures = picture_inputs.pictures_of([source], bounds, run.reporter.line)
        is_one_file = len(pictures) == 1 and Path(source).is_file()
        is_picture = is_one_file and not source.lower().endswith(".pdf")
        path = str(Path(source).absolute()) if is_picture else ""
        rows += [Shown(picture, path) for picture in pictures]
    return rows


def _tell(engine: Engine, shown: Sequence[Shown], run: Run) -> None:
    for each in shown:
        picture = each.picture
        n_tokens = engine.picture_tokens(picture)
        known = f", {n_tokens} tokens" if n_tokens else ""
        run.reporter.line(
            f"{picture.name} ({picture.width}x{picture.height} px{known}) goes with the next "
            "question"
        )


def _answer(engine: Engine, talk: Talk, config: ChatConfig, run: Run) -> int:
    """Stream one answer and append it; the number of answers, 0 without a question."""
    if not talk.asks:
        run.reporter.line("there is no question yet")
        return 0
    # a long max_tokens is a limit, no wish: the conversation keeps half of the context
    room = max(config.n_ctx - config.max_tokens, config.n_ctx // 2)
    fitting = fit_turns(talk.turns, engine, room)
    if n_dropped := len(talk.turns) - len(fitting):
        n_pictures = sum(len(s) for _, s in talk.turns) - sum(len(s) for _, s in fitting)
        with_pictures = f" with {n_pictures} pictures" if n_pictures else ""
        run.reporter.line(
            f"(the context is full: the first {n_dropped} messages{with_pictures} are left out)"
        )
    pieces: list[str] = []
    stream = engine.stream(talk.question(fitting))
    try:
        while True:
            piece = next(stream)
            pieces.append(piece)
            run.reporter.stream(piece)
    except StopIteration as end:
        _tell_tokens(end.value, run)
    except KeyboardInterrupt:
        run.reporter.stream(" [stopped]\n")
    finally:
        stream.close()
    talk.turns.append((Turn("assistant", unmarked("".join(pieces))), ()))
    return 1


def _tell_tokens(answer: Answer, run: Run) -> None:
    run.reporter.stream("\n")
    if answer.prompt_tokens:
        of_pictures = f" ({answer.picture_tokens} of pictures)" if answer.picture_tokens else ""
        run.reporter.line(
            f"[{answer.prompt_tokens}{of_pictures} + {answer.completion_tokens} tokens, "
            f"{answer.seconds:.1f} s]"
        )


def fit_turns(
    turns: Sequence[tuple[Turn, tuple[Shown, ...]]], engine: Engine, max_tokens: int
) -> list[tuple[Turn, tuple[Shown, ...]]]:
    """The system prompt and as many of the last turns as fit, pictures counted; always the last
    question. What is kept begins with a question."""
    n_system = int(bool(turns) and turns[0][0].role == "system")
    used = sum(_tokens(turn, shown, engine) for turn, shown in turns[:n_system])
    recent: list[tuple[Turn, tuple[Shown, ...]]] = []
    for turn, shown in reversed(turns[n_system:]):
        used += _tokens(turn, shown, engine)
        if recent and used > max_tokens:
            break
        recent.insert(0, (turn, shown))
    while len(recent) > 1 and recent[0][0].role == "assistant":
        recent.pop(0)
    return [*turns[:n_system], *recent]


def _tokens(turn: Turn, shown: Sequence[Shown], engine: Engine) -> int:
    of_pictures = sum(engine.picture_tokens(each.picture) or UNKNOWN_PICTURE for each in shown)
    return len(turn.text.encode()) // CHARS_PER_TOKEN + TURN_TOKENS + of_pictures


def _run_command(text: str, talk: Talk, engine: Engine, bounds: Bounds, run: Run) -> bool:
    """Execute a /command; False ends the REPL.

    Raises NotFound and DataError for a file that cannot be read or written.
    """
    command, _, argument = text.partition(" ")
    argument = argument.strip().strip("\"'")
    if command in repl.END:
        return False
    if command in ("/image", "/images") and argument:
        shown = _shown([argument], bounds, run)
        _tell(engine, shown, run)
        talk.waiting += shown
    elif command == "/system" and argument:
        talk.restart(argument)
        run.reporter.line("new conversation")
    elif command == "/clear":
        system = talk.turns[0][0] if talk.turns else None
        talk.restart(system.text if system and system.role == "system" else "")
        run.reporter.line("new conversation")
    elif command == "/again":
        while talk.turns and talk.turns[-1][0].role == "assistant":
            talk.turns.pop()
    elif command == "/save" and argument:
        path = Path(argument).expanduser()
        repl.save(path, _messages(talk, inline=path.suffix != ".md"), run.reporter)
        run.reporter.line(f"saved to {argument}")
    elif command == "/load" and argument:
        talk.turns = load(Path(argument).expanduser(), bounds)
        talk.waiting = []
        run.reporter.line(f"{len(talk.turns)} messages loaded")
    elif command == "/help":
        run.reporter.line(HELP)
    else:
        run.reporter.line(f"'{command}' is no command, or lacks an argument\n{HELP}")
    return True


# Saved conversations


def _messages(talk: Talk, *, inline: bool) -> list[dict[str, Any]]:
    """As OpenAI's API has them: a picture by its path, or with its pixels where it has none and
    `inline`."""
    rows: list[dict[str, Any]] = []
    for turn, shown in talk.turns:
        if not shown:
            rows.append({"role": turn.role, "content": turn.text})
            continue
        content: list[dict[str, Any]] = []
        for each in shown:
            url = each.source or (data_uri(each.picture.rgb) if inline else each.picture.name)
            content.append({"type": "image_url", "image_url": {"url": url}})
        content.append({"type": "text", "text": without_markers(turn.text)})
        rows.append({"role": turn.role, "content": content})
    return rows


def load(path: Path, bounds: Bounds) -> list[tuple[Turn, tuple[Shown, ...]]]:
    """A saved conversation with its pictures, read again. Raises DataError, NotFound."""
    turns = []
    for message in repl.load(path):
        role = next((role for role in ROLES if role == message["role"]), None)
        if role is None:
            raise DataError(
                f"{path} is not a saved conversation",
                why=f"it has a message of the role {message['role'][:40]!r}",
                fix="/load takes a .json file that /save wrote",
            )
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        texts, shown = [], []
        for part in parts:
            if part.get("type") == "text":
                texts.append(unmarked(str(part.get("text", ""))))
                continue
            image = part.get("image_url")
            url = str(image.get("url", "")) if isinstance(image, dict) else ""
            picture = picture_inputs.picture_of(url, bounds)
            shown.append(Shown(picture, "" if url.startswith("data:") else url))
        lines = [*[MARKER] * len(shown), "\n".join(texts)]
        turns.append((Turn(role, "\n".join(lines)), tuple(shown)))
    return turns
