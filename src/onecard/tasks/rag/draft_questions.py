"""`onecard rag draft-questions`: a question set drafted from the notes, for the user to correct."""

import json
from pathlib import Path
from typing import Any

from onecard import fsio
from onecard.datasets import jsonl, synthetic
from onecard.errors import SettingsError
from onecard.inference.backends import language_model
from onecard.inference.client import Client
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.rag.analyzer import terms
from onecard.tasks.rag.chunking import estimate_tokens
from onecard.tasks.rag.configs import DraftQuestionsConfig
from onecard.tasks.rag.retrieve import Retriever
from onecard.tasks.rag.store import Chunk
from onecard.tasks.rag.units import split_sentences

SCHEMA = {
    "type": "object",
    "properties": {"question": {"type": "string", "maxLength": 200}},
    "required": ["question"],
}
MIN_CHUNK_TOKENS = 60
"""Shorter chunks rarely have a sentence that is worth a question."""


def draft_questions(config: DraftQuestionsConfig, run: Run) -> Result:
    """Write JSONL: question, the sentence that answers it (answer and evidence), checked: false.

    Raises SettingsError without a file name, or for a file that exists.
    """
    if not config.questions:
        raise SettingsError(
            "there is no file to write to",
            why="no name was given",
            fix="onecard rag draft-questions questions.jsonl",
        )
    path = Path(config.questions)
    synthetic.refuse_overwrite(path, "questions", fix="name another file")
    retriever = Retriever(config, run.reporter)
    chunks = [
        chunk
        for chunk in retriever.store.all_chunks()
        if estimate_tokens(chunk.text) >= MIN_CHUNK_TOKENS
    ]
    retriever.close()
    with (
        language_model(config, run.plan, run.reporter) as client,
        run.reporter.progress("questions", config.num_questions) as bar,
    ):
        rows = synthetic.draft_rows(
            chunks,
            lambda chunk, number: draft_question(chunk, client, number),
            n=config.num_questions,
            seed=config.seed,
            bar=bar,
        )
    text = jsonl.to_jsonl(rows)
    fsio.write_text(path, text)
    run.artifact("questions.jsonl", text)
    summary = (
        f"{len(rows)} questions drafted in {path}. Read each: correct or delete what is poor, set "
        '"checked": true, and add some that your notes cannot answer with "answerable": false.'
    )
    return Result({"path": str(path), "n": len(rows)}, summary)


def draft_question(chunk: Chunk, client: Client, number: int) -> dict[str, Any] | None:
    """A row about the sentence of a chunk with the most terms.

    None if the model's question has no term of the sentence or its title, or is a copy of it.
    """
    sentences = split_sentences(chunk.text)
    sentences = [s for s in sentences if 40 <= len(s) <= 300] or [
        s for s in sentences if len(s) >= 15
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
        {"role": "user", "content": f"Title: {chunk.title}\nSentence: {quote}"},
    ]
    try:
        reply = client.chat(prompt, schema=SCHEMA, max_tokens=120).text
        question = str(json.loads(reply)["question"]).strip()
    except (ValueError, KeyError, TypeError):
        return None
    shared = set(terms(question)) & set(terms(f"{chunk.title} {quote}"))
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
