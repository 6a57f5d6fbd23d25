"""`onecard rag ask`: one question, one answer with verified citations."""

import time

from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.rag.configs import AskConfig
from onecard.tasks.rag.search import hit_as_dict
from onecard.tasks.rag.session import open_session, question_of


def ask(config: AskConfig, run: Run) -> Result:
    """Raises SettingsError without a question, NotFound, EngineError."""
    question = question_of(config)
    with open_session(config, run) as session:
        start = time.monotonic()
        answer, hits, calls = session.ask(question)
    data = {
        "question": question,
        **answer.as_dict(),
        "passages": [hit_as_dict(hit) for hit in hits],
        "tool_calls": calls.log,
        "seconds": round(time.monotonic() - start, 3),
    }
    return Result(data, answer.render())
