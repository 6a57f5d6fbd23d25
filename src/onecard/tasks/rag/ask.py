"""Ask the notes: search, let the model call what the user allowed, answer with citations.

Reads top to bottom.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onecard.errors import SettingsError
from onecard.inference.backends import language_model
from onecard.inference.client import Client
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.rag import answer as answering
from onecard.tasks.rag import tools
from onecard.tasks.rag.configs import Settings
from onecard.tasks.rag.retrieve import Hit, Retriever


class Session:
    """An open index and, unless the style is 'quote', an open model: what ask, chat, serve and
    evaluate share."""

    def __init__(
        self,
        settings: Settings,
        retriever: Retriever,
        client: Client | None,
        allowed: dict[str, tools.Tool],
    ) -> None:
        self.settings, self.retriever, self.client, self.allowed = (
            settings,
            retriever,
            client,
            allowed,
        )

    def ask(
        self, question: str, settings: Settings | None = None
    ) -> tuple[answering.Answered, list[Hit], tools.Calls]:
        """The answer, the passages it may cite, and the calls made for it."""
        settings = settings or self.settings
        calls = tools.Calls()
        if self.allowed and self.client:
            calls = tools.choose_and_call(question, self.client, self.allowed, settings.max_rounds)
        hits = _merged(
            self.retriever.search(question, settings=settings), calls.hits, settings.top_k
        )
        embedder = self.retriever.embedder if settings.mode != "lexical" else None
        done = answering.answer(question, hits, self.client, embedder, settings, calls.facts)
        return done, hits, calls


def _merged(found: list[Hit], called: list[Hit], k: int) -> list[Hit]:
    """Passages that a tool brought stand behind those of the question itself, each once."""
    known = {(hit.chunk.path, hit.chunk.line) for hit in found}
    return [*found, *(hit for hit in called if (hit.chunk.path, hit.chunk.line) not in known)][
        : k + len(called[:k])
    ]


@contextmanager
def session(settings: Settings, run: Run) -> Iterator[Session]:
    """Opens index and model, closes both. Raises NotFound, EngineError."""
    retriever = Retriever(settings, run.reporter)
    try:
        allowed = tools.allow(settings.tools, tools.builtin(retriever), run.reporter)
        if settings.style == "quote":
            yield Session(settings, retriever, None, {})
        else:
            with language_model(settings, run.plan, run.reporter) as client:
                yield Session(settings, retriever, client, allowed)
    finally:
        retriever.close()


def _question(settings: Settings) -> str:
    question = settings.question or ("" if sys.stdin.isatty() else sys.stdin.read())
    if not question.strip():
        raise SettingsError(
            "there is no question",
            why="no word was given and nothing was piped in",
            fix='onecard rag ask "How do I ...?"',
        )
    return question.strip()


def ask(settings: Settings, run: Run) -> Result:
    """One question, one answer with its citations checked."""
    question = _question(settings)
    with session(settings, run) as opened:
        started = time.monotonic()
        done, hits, calls = opened.ask(question)
    data = {
        "question": question,
        **done.as_dict(),
        "passages": [as_dict(hit) for hit in hits],
        "tool_calls": calls.log,
        "seconds": round(time.monotonic() - started, 3),
    }
    return Result(data, done.render())


def search(settings: Settings, run: Run) -> Result:
    """The passages alone."""
    retriever = Retriever(settings, run.reporter)
    hits = retriever.search(_question(settings))
    retriever.close()
    blocks = [
        f"[{n}] {hit.score:.3f}  {hit.chunk.place()}  {hit.chunk.head}\n{_indented(hit.chunk.text)}"
        for n, hit in enumerate(hits, 1)
    ]
    return Result(
        {"passages": [as_dict(hit) for hit in hits]},
        "\n\n".join(blocks) or "no passage has these words",
    )


def _indented(text: str, most: int = 12) -> str:
    lines = text.split("\n")
    return "\n".join(f"    {line}" for line in lines[:most]) + (
        f"\n    ... {len(lines) - most} more lines" if len(lines) > most else ""
    )


def as_dict(hit: Hit) -> dict[str, Any]:
    c = hit.chunk
    return {
        "path": c.path,
        "line": c.line,
        "last_line": c.last_line,
        "page": c.page,
        "heading": c.head,
        "text": c.text,
        "score": round(hit.score, 6),
        "cosine": round(hit.dense, 6),
        "bm25": round(hit.lexical, 4),
        "coverage": round(hit.coverage, 4),
    }
