"""Drafts a question set from the user's own notes, for the user to correct.

Knows passages, no scores.
"""

import json
import random
from pathlib import Path
from typing import Any

from onecard import fsio
from onecard.errors import SettingsError
from onecard.inference.backends import language_model
from onecard.inference.client import Client
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.rag.answer import pieces
from onecard.tasks.rag.chunk import estimate_tokens
from onecard.tasks.rag.configs import Settings
from onecard.tasks.rag.retrieve import Retriever
from onecard.tasks.rag.store import Chunk
from onecard.tasks.rag.tokens import terms

SCHEMA = {
    "type": "object",
    "properties": {"question": {"type": "string", "maxLength": 200}},
    "required": ["question"],
}


def make(settings: Settings, run: Run) -> Result:
    """Write JSONL: each row a question, the sentence that answers it as evidence and answer, and
    `checked: false`. Raises SettingsError."""
    if not settings.questions:
        raise SettingsError(
            "there is no file to write to",
            why="no name was given",
            fix="onecard rag make-questions questions.jsonl",
        )
    path = Path(settings.questions)
    if path.exists():
        raise SettingsError(
            f"{path} exists",
            why="questions that you corrected are never written over",
            fix="name another file",
        )
    retriever = Retriever(settings, run.reporter)
    chunks = [chunk for chunk in retriever.store.all_chunks() if estimate_tokens(chunk.text) >= 60]
    retriever.close()
    random.Random(settings.seed).shuffle(chunks)
    rows: list[dict[str, Any]] = []
    with (
        language_model(settings, run.plan, run.reporter) as client,
        run.reporter.progress("questions", settings.n_questions) as bar,
    ):
        for chunk in chunks:
            if len(rows) >= settings.n_questions:
                break
            if row := draft(chunk, client, len(rows)):
                rows.append(row)
                bar.step()
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    fsio.write_text(path, text)
    run.artifact("questions.jsonl", text)
    words = (
        f"{len(rows)} questions drafted in {path}. Read each: mend or delete what is poor, set "
        '"checked": true, and add some that your notes '
        'cannot answer with "answerable": false.'
    )
    return Result({"path": str(path), "n": len(rows)}, words)


def draft(chunk: Chunk, client: Client, number: int) -> dict[str, Any] | None:
    """A question about the fullest sentence of a passage; None when the model's question is no
    question about it."""
    sentences = [piece for piece in pieces(chunk.text) if 40 <= len(piece) <= 300] or [
        piece for piece in pieces(chunk.text) if len(piece) >= 15
    ]
    if not sentences:
        return None
    quote = max(sentences, key=lambda sentence: len(set(terms(sentence))))
    prompt = [
        {
            "role": "system",
            "content": "Write one question that the given sentence answers. Name the subject; do "
            "not say 'this' or 'the text'. Reply as JSON.",
        },
        {"role": "user", "content": f"Title: {chunk.head}\nSentence: {quote}"},
    ]
    try:
        question = str(
            json.loads(client.chat(prompt, schema=SCHEMA, max_tokens=120).text)["question"]
        ).strip()
    except (ValueError, KeyError, TypeError):
        return None
    shared = set(terms(question)) & set(terms(f"{chunk.head} {quote}"))
    if len(question) < 10 or not shared or question in quote:
        return None
    return {
        "id": f"q{number}",
        "question": question if question.endswith(("?", "？")) else question + "?",
        "answer": quote,
        "answerable": True,
        "checked": False,
        "evidence": [{"path": chunk.path, "quote": quote}],
    }
