"""`onecard vlm ask`: one question about pictures, one streamed answer."""

import json
from pathlib import Path
from typing import Any

from onecard.datasets.encoding import piped_text
from onecard.errors import DataError, SettingsError
from onecard.evaluation.metrics.json_fields import parse_json, schema_faults
from onecard.inference import schema_limits
from onecard.reporting import Reporter, Result
from onecard.runs.record import Run
from onecard.tasks.vlm import picture_inputs
from onecard.tasks.vlm.chat_requests import unmarked
from onecard.tasks.vlm.configs import AskConfig
from onecard.tasks.vlm.engine import Answer, Engine, Picture, Question, with_pictures
from onecard.tasks.vlm.engines import open_engine
from onecard.tasks.vlm.picture_inputs import Bounds

EXAMPLE = 'onecard vlm ask cat.jpg "What is on the table?"'
MAX_SCHEMA_BYTES = 1 << 20


def ask(config: AskConfig, run: Run) -> Result:
    """Stream the answer; faults of a demanded schema are told with it.

    Raises SettingsError without a question, NotFound and DataError for pictures that cannot be
    read, before the model is loaded.
    """
    sources, words = split_words(config.images, config.question)
    schema = read_schema(config.schema_file)
    text = with_context(words, unmarked(piped_text()))
    pictures = picture_inputs.pictures_of(
        sources, Bounds(allow_url=config.allow_url), run.reporter.line
    )
    if not pictures:
        run.reporter.line("no picture is given: the question is answered from its text alone")
    turns = with_pictures(text, pictures, config.system)
    question = Question(turns, tuple(pictures))
    with open_engine(config, run.plan, run.reporter) as engine:
        tell_sizes(engine, pictures, run.reporter)
        answer = streamed(engine, question, schema, run.reporter)
    values: dict[str, Any] = {
        "question": text,
        "images": [picture.name for picture in pictures],
        "answer": answer.text,
        "model": engine.name,
        "prompt_tokens": answer.prompt_tokens,
        "picture_tokens": answer.picture_tokens,
        "completion_tokens": answer.completion_tokens,
        "seconds": round(answer.seconds, 3),
        "finish_reason": answer.finish_reason,
    }
    if schema is not None:
        values["fields"] = parse_json(answer.text)
        values["schema_faults"] = faults_of(answer.text, schema)
        for fault in values["schema_faults"]:
            run.reporter.warn(f"the answer breaks the schema: {fault}")
    if answer.finish_reason == "length":
        run.reporter.warn("the answer was cut off: --max_tokens with more")
    return Result(values)


def split_words(words: tuple[str, ...], question: str = "") -> tuple[list[str], str]:
    """(what stands for pictures, the question): the last word that is no picture is the question.

    Raises NotFound for a word that was meant for a picture, SettingsError for two questions.
    """
    sources: list[str] = []
    others: list[str] = []
    for word in words:
        (sources if picture_inputs.is_picture_source(word) else others).append(word)
    missing = [word for word in others if picture_inputs.looks_like_file(word)]
    if missing:
        raise picture_inputs.missing_picture(missing[0])
    if not question and others:
        question = others.pop()
    if others:
        raise SettingsError(
            f"'{others[0][:80]}' is neither a picture nor the question",
            why=f"the question is '{question[:80]}'",
            fix=f"put the question in quotation marks: {EXAMPLE}",
        )
    return sources, question


def with_context(question: str, context: str) -> str:
    """Piped text becomes the context of the question, or the question itself.

    Raises SettingsError for neither.
    """
    if not question.strip() and not context.strip():
        raise SettingsError(
            "there is no question",
            why="none is on the command line, and nothing was piped in",
            fix=EXAMPLE,
        )
    if not context.strip():
        return question
    if not question.strip():
        return context
    return f"Context:\n{context.strip()}\n\nQuestion: {question}"


def read_schema(name: str) -> dict[str, Any] | None:
    """None for no name. Raises DataError for a file that is no JSON schema, or asks for what cannot
    be checked."""
    if not name:
        return None
    path = Path(name)
    try:
        if path.stat().st_size > MAX_SCHEMA_BYTES:
            raise ValueError(f"it has more than {MAX_SCHEMA_BYTES >> 20} MiB")
        schema = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as fault:
        raise DataError(
            f"{path} is no JSON schema", why=str(fault)[:200], fix="a JSON file with an object"
        ) from None
    schema_limits.check(schema, str(path))
    if not isinstance(schema, dict):
        raise DataError(
            f"{path} is no JSON schema", why="it is no object", fix='{"type": "object", ...}'
        )
    schema_faults({}, schema)  # raises for keywords that cannot be checked
    return schema


def faults_of(text: str, schema: dict[str, Any]) -> list[str]:
    value = parse_json(text)
    return ["it holds no JSON"] if value is None else schema_faults(value, schema)


def tell_sizes(engine: Engine, pictures: list[Picture], reporter: Reporter) -> None:
    """A line a picture with what it becomes."""
    for picture in pictures:
        n_tokens = engine.picture_tokens(picture)
        known = f"{n_tokens} tokens" if n_tokens else "the server does not tell its tokens"
        reporter.line(f"{picture.name}: {picture.width}x{picture.height} px -> {known}")


def streamed(
    engine: Engine, question: Question, schema: dict[str, Any] | None, reporter: Reporter
) -> Answer:
    """The answer, shown as it comes. Ctrl-C ends it and the command."""
    stream = engine.stream(question, schema=schema)
    try:
        while True:
            reporter.stream(next(stream))
    except StopIteration as end:
        answer: Answer = end.value
    finally:
        stream.close()
        reporter.stream("\n")
    return answer
