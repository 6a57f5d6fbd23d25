"""`onecard rag ask`: one question, one answer with verified citations."""

import time

from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.rag.configs import Settings
from onecard.tasks.rag.search import hit_as_dict
from onecard.tasks.rag.session import open_session, question_of


def ask(settings: Settings, run: Run) -> Result:
    """Raises SettingsError without a question, NotFound, EngineError."""
    question = question_of(settings)
    with open_session(settings, run) as session:
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
