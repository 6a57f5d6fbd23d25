"""`onecard rag search`: the best passages, without a language model."""

from typing import Any

from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.rag.configs import QueryConfig
from onecard.tasks.rag.retrieve import Hit, Retriever
from onecard.tasks.rag.session import question_of

MAX_LINES_SHOWN = 12


def search(config: QueryConfig, run: Run) -> Result:
    """Raises SettingsError without a question, NotFound without an index."""
    retriever = Retriever(config, run.reporter)
    hits = retriever.search(question_of(config))
    retriever.close()
    text = "\n\n".join(_render(n, hit) for n, hit in enumerate(hits, 1))
    return Result(
        {"passages": [hit_as_dict(hit) for hit in hits]}, text or "no passage has these words"
    )


def _render(n: int, hit: Hit) -> str:
    lines = [f"    {line}" for line in hit.chunk.text.split("\n")]
    if len(lines) > MAX_LINES_SHOWN:
        lines[MAX_LINES_SHOWN:] = [f"    ... {len(lines) - MAX_LINES_SHOWN} more lines"]
    heading = f"[{n}] {hit.score:.3f}  {hit.chunk.location()}  {hit.chunk.title}"
    return "\n".join([heading, *lines])


def hit_as_dict(hit: Hit) -> dict[str, Any]:
    """A passage as `--json` and the server give it."""
    chunk = hit.chunk
    return {
        "path": chunk.path,
        "line": chunk.line,
        "last_line": chunk.last_line,
        "page": chunk.page,
        "heading": chunk.title,
        "text": chunk.text,
        "score": round(hit.score, 6),
        "cosine": round(hit.dense, 6),
        "bm25": round(hit.lexical, 4),
        "coverage": round(hit.coverage, 4),
    }
