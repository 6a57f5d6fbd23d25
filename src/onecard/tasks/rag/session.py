"""An open index with an open language model: what ask, chat, serve and evaluate share."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from onecard.errors import SettingsError
from onecard.inference.backends import language_model
from onecard.inference.client import Client
from onecard.runs.record import Run
from onecard.tasks.rag.answer import answer
from onecard.tasks.rag.citations import CitedAnswer
from onecard.tasks.rag.configs import ChatConfig, QuestionConfig
from onecard.tasks.rag.retrieve import Hit, Retriever
from onecard.tasks.rag.tool_calling import ToolCalls, call_tools
from onecard.tasks.rag.tools import Tool, allowed_tools, builtin_tools


class Session:
    """Without a client (style 'quote') answers are quotations."""

    def __init__(
        self,
        config: ChatConfig,
        retriever: Retriever,
        client: Client | None,
        tools: Mapping[str, Tool],
    ) -> None:
        self.config, self.retriever, self.client, self.tools = config, retriever, client, tools

    def ask(
        self, question: str, config: ChatConfig | None = None
    ) -> tuple[CitedAnswer, list[Hit], ToolCalls]:
        """The answer, the passages that it may cite, and the tool calls before it."""
        config = config or self.config
        calls = ToolCalls()
        if self.tools and self.client:
            calls = call_tools(question, self.client, self.tools, config.max_rounds)
        hits = _merged(self.retriever.search(question, config=config), calls.hits, config.top_k)
        embedder = self.retriever.embedder if config.mode != "lexical" else None
        reply = answer(question, hits, self.client, embedder, config, calls.facts)
        return reply, hits, calls


def _merged(hits: list[Hit], tool_hits: list[Hit], k: int) -> list[Hit]:
    """Passages of the question, then at most k new ones that tools brought."""
    places = {(hit.chunk.path, hit.chunk.line) for hit in hits}
    new = [hit for hit in tool_hits if (hit.chunk.path, hit.chunk.line) not in places]
    return [*hits, *new][: k + len(tool_hits[:k])]


@contextmanager
def open_session(config: ChatConfig, run: Run) -> Iterator[Session]:
    """Opens index and model, and closes both. Raises NotFound, EngineError."""
    retriever = Retriever(config, run.reporter)
    try:
        tools = allowed_tools(config.tools, builtin_tools(retriever), run.reporter)
        if config.style == "quote":
            yield Session(config, retriever, None, {})
        else:
            with language_model(config, run.plan, run.reporter) as client:
                yield Session(config, retriever, client, tools)
    finally:
        retriever.close()


def question_of(config: QuestionConfig) -> str:
    """The question of the command line, else of stdin. Raises SettingsError without one."""
    question = config.question or ("" if sys.stdin.isatty() else sys.stdin.read())
    if not question.strip():
        raise SettingsError(
            "there is no question",
            why="none is on the command line, and nothing was piped in",
            fix='onecard rag ask "How do I ...?"',
        )
    return question.strip()
