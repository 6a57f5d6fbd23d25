"""`onecard chat ask`: one question, one streamed answer."""

import time

from onecard.datasets.encoding import piped_text
from onecard.errors import SettingsError
from onecard.inference.backends import language_model
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.chat.configs import AskConfig


def ask(config: AskConfig, run: Run) -> Result:
    """Stream the answer to one question; piped text becomes its context.

    Raises SettingsError without a question.
    """
    context = piped_text()
    question = config.question or context
    if not question.strip():
        raise SettingsError(
            "there is no question",
            why="none is on the command line, and nothing was piped in",
            fix='onecard chat ask "What is a KV cache?"',
        )
    if config.question and context.strip():
        question = f"Context:\n{context.strip()}\n\nQuestion: {question}"
    messages = [
        {"role": "system", "content": config.system},
        {"role": "user", "content": question},
    ]
    start, pieces = time.monotonic(), []
    with language_model(config, run.plan, run.reporter) as client:
        for piece in client.stream(messages):
            pieces.append(piece)
            run.reporter.stream(piece)
    run.reporter.stream("\n")
    return Result(
        {
            "question": question,
            "answer": "".join(pieces),
            "model": config.model,
            "seconds": round(time.monotonic() - start, 3),
        }
    )
