"""`onecard rag chat`: a REPL over the notes that understands follow-up questions."""

import sys
from collections.abc import Sequence
from typing import Any

from onecard.errors import OneCardError
from onecard.inference.client import Client
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.rag.analyzer import terms
from onecard.tasks.rag.configs import ChatConfig
from onecard.tasks.rag.session import open_session

CHINESE_PRONOUNS = ("它", "這", "那", "这", "其")
"""Chinese has no spaces between words: these are looked for anywhere in the question."""
PRONOUNS = frozenset(
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
"""A question with one of these words, or with fewer than MIN_TERMS terms, is a follow-up."""
MIN_TERMS = 4
CONTEXT_TURNS = 2
"""Turns before a follow-up that the model sees when it rewrites it."""
MAX_REWRITE_CHARS = 300


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
                question = condense_question(text, turns, session.client)
                if question != text:
                    run.reporter.line(f"(understood as: {question})")
                answer, _, _ = session.ask(question)
                turns.append({"asked": text, "question": question, "answer": answer.text})
                run.reporter.stream(answer.render() + "\n\n")
            except KeyboardInterrupt:
                run.reporter.line("stopped")
            except OneCardError as fault:
                run.reporter.line(f"error: {fault}")
    return Result({"turns": turns})


def condense_question(question: str, turns: Sequence[dict[str, Any]], client: Client | None) -> str:
    """A follow-up question as a standalone one; any other question unchanged.

    The model's rewrite is used if it has all terms of the question and no term from outside the
    conversation. Otherwise the previous question is put in front.
    """
    if not turns or not _is_follow_up(question):
        return question
    if client is not None:
        rewrite = _rewrite(question, turns, client)
        own = set(terms(question)) - PRONOUNS
        known_terms = own | {
            term
            for turn in turns[-CONTEXT_TURNS:]
            for term in terms(turn["question"] + " " + turn["answer"])
        }
        new = set(terms(rewrite))
        if own <= new <= known_terms and len(new) > len(own) and len(rewrite) < MAX_REWRITE_CHARS:
            return rewrite
    return f"{turns[-1]['question'].rstrip('?？. ')}: {question}"


def _is_follow_up(question: str) -> bool:
    words = {word.strip("?,.!").lower() for word in question.split()}
    return (
        bool(words & PRONOUNS)
        or any(pronoun in question for pronoun in CHINESE_PRONOUNS)
        or len(set(terms(question))) < MIN_TERMS
    )


def _rewrite(question: str, turns: Sequence[dict[str, Any]], client: Client) -> str:
    """The model's standalone form of a follow-up question."""
    conversation = "\n".join(
        f"Question: {turn['question']}\nAnswer: {turn['answer'][:300]}"
        for turn in turns[-CONTEXT_TURNS:]
    )
    rules = (
        "Rewrite the last question so that it can be understood without the talk before it. "
        "Reply with the question alone."
    )
    messages = [
        {"role": "system", "content": rules},
        {"role": "user", "content": f"{conversation}\n\nLast question: {question}"},
    ]
    return client.chat(messages, max_tokens=80).text.strip().split("\n")[0]
