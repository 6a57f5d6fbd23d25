"""A talk over the notes: each follow-up question is made to stand alone before it is searched with.

Knows no store.
"""

import sys
from collections.abc import Sequence
from typing import Any

from onecard.errors import OneCardError
from onecard.inference.client import Client
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.rag.ask import session
from onecard.tasks.rag.configs import Settings
from onecard.tasks.rag.tokens import terms

POINTERS = frozenset(
    [
        "it",
        "its",
        "this",
        "that",
        "these",
        "those",
        "they",
        "them",
        "their",
        "he",
        "she",
        "him",
        "her",
        "his",
        "one",
        "ones",
        "there",
        "then",
        "so",
        "same",
        "other",
        "else",
        "more",
        "它",
        "他",
        "她",
        "這",
        "那",
        "这",
        "其",
        "他們",
        "它們",
    ]
)
"""Words that point back: a question with one of them, or of fewer than four words that carry
meaning, does not stand alone."""


def talk(settings: Settings, run: Run) -> Result:
    """Until /exit or the end of input. A failed answer is told and the talk goes on."""
    turns: list[dict[str, Any]] = []
    with session(settings, run) as opened:
        run.reporter.line("ask your notes; /exit or Ctrl-D ends, Ctrl-C stops an answer")
        while True:
            try:
                if run.reporter.interactive:
                    run.reporter.stream("> ")
                line = sys.stdin.readline()
                if not line or line.strip() in ("/exit", "/quit"):
                    break
                if not line.strip():
                    continue
                question = condense_question(line.strip(), turns, opened.client)
                if question != line.strip():
                    run.reporter.line(f"(understood as: {question})")
                done, _, _ = opened.ask(question)
                turns.append({"asked": line.strip(), "question": question, "answer": done.text})
                run.reporter.stream(done.render() + "\n\n")
            except KeyboardInterrupt:
                run.reporter.line("stopped")
            except OneCardError as fault:
                run.reporter.line(f"error: {fault}")
    return Result({"turns": turns})


def condense_question(question: str, turns: Sequence[dict[str, Any]], client: Client | None) -> str:
    """The question with what it points back to put in. The model's rewriting is taken only if it
    keeps the question's own
    terms and adds none from elsewhere; else the last question is put in front."""
    words = {word.strip("?,.!").lower() for word in question.split()}
    if not turns or (
        not words & POINTERS
        and not any(p in question for p in ("它", "這", "那", "这", "其"))
        and len(set(terms(question))) >= 4
    ):
        return question
    before = turns[-1]["question"]
    if client is not None:
        told = "\n".join(
            f"Question: {turn['question']}\nAnswer: {turn['answer'][:300]}" for turn in turns[-2:]
        )
        rules = (
            "Rewrite the last question so that it can be understood without the talk before it. "
            "Reply with the question alone."
        )
        said = (
            client.chat(
                [
                    {"role": "system", "content": rules},
                    {"role": "user", "content": f"{told}\n\nLast question: {question}"},
                ],
                max_tokens=80,
            )
            .text.strip()
            .split("\n")[0]
        )
        new, own = set(terms(said)), set(terms(question)) - POINTERS
        known = own | {
            term for turn in turns[-2:] for term in terms(turn["question"] + " " + turn["answer"])
        }
        if own <= new <= known and len(new) > len(own) and len(said) < 300:
            return said
    return f"{before.rstrip('?？. ')}: {question}"
