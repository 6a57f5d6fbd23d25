"""An open index with an open language model: what ask, chat, serve and evaluate share."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from onecard.datasets.encoding import piped_text
from onecard.errors import SettingsError
from onecard.inference.backends import language_model
from onecard.inference.client import Client
from onecard.runs.record import Run
from onecard.tasks.rag import model_probe
from onecard.tasks.rag.answer import answer, written_answer
from onecard.tasks.rag.citations import CitedAnswer
from onecard.tasks.rag.configs import ChatConfig, QuestionConfig
from onecard.tasks.rag.retrieve import Hit, Retriever
from onecard.tasks.rag.tool_calling import ToolCalls, call_tools
from onecard.tasks.rag.tools import Tool, allowed_tools, builtin_tools


class Session:
    """Answers are quotations without a client, and where the model does not write them."""

    def __init__(
        self,
        config: ChatConfig,
        retriever: Retriever,
        client: Client | None,
        tools: Mapping[str, Tool],
        writes: bool = True,
    ) -> None:
        self.config, self.retriever, self.client, self.tools = config, retriever, client, tools
        self.writes = writes

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
        writer = self.client if self.writes else None
        reply = answer(question, hits, writer, embedder, config, calls.facts)
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
        writes = model_probe.known_result(config) if config.style == "auto" else True
        if config.style == "quote" or (writes is False and not tools):
            yield Session(config, retriever, None, {})
            return
        with language_model(config, run.plan, run.reporter) as client:
            if writes is None:
                writes = model_probe.probe(config, _writer(config, client), run.reporter)
            yield Session(config, retriever, client, tools, writes)
    finally:
        retriever.close()


def _writer(config: ChatConfig, client: Client) -> model_probe.Write:
    def write(question: str, hits: list[Hit]) -> str:
        reply = written_answer(question, hits, client, None, config)
        is_quotation = reply.text.startswith('"') or reply.abstained
        return "" if is_quotation else reply.text

    return write


def question_of(config: QuestionConfig) -> str:
    """The question of the command line, else of stdin. Raises SettingsError without one."""
    question = config.question or piped_text()
    if not question.strip():
        raise SettingsError(
            "there is no question",
            why="none is on the command line, and nothing was piped in",
            fix='onecard rag ask "How do I ...?"',
        )
    return question.strip()
