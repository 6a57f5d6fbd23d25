"""`onecard rag chat`: a REPL over the notes that understands follow-up questions."""

import sys
from typing import Any

from onecard.errors import OneCardError
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.rag import conversation
from onecard.tasks.rag.configs import ChatConfig
from onecard.tasks.rag.session import open_session


def chat(config: ChatConfig, run: Run) -> Result:
    """Answer until /exit or the end of input; an error is shown and the REPL goes on."""
    turns: list[dict[str, Any]] = []
    with open_session(config, run) as session:
        run.reporter.line("ask your notes; /exit or Ctrl-D ends, Ctrl-C stops an answer")
        while True:
            try:
                if run.reporter.interactive:
                    run.reporter.stream("> ")
                line = sys.stdin.readline()
                text = line.encode("utf-8", "surrogateescape").decode("utf-8", "replace").strip()
                if not line or text in ("/exit", "/quit"):
                    break
                if not text:
                    continue
                answer, question = conversation.reply(session, text, turns)
                if question not in (text, ""):
                    run.reporter.line(f"(understood as: {question})")
                turns.append({"asked": text, "question": question, "answer": answer.text})
                run.reporter.stream(answer.render() + "\n\n")
            except KeyboardInterrupt:
                run.reporter.line("stopped")
            except OneCardError as fault:
                run.reporter.line(f"error: {fault}")
    return Result({"turns": turns})
