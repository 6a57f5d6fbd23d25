"""One question asked about many pictures and pages: a line of JSON for each, written as soon as it
is answered, so that a stopped command goes on where it was."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onecard import fsio
from onecard.errors import DataError, SettingsError
from onecard.runs.record import Run
from onecard.tasks.vlm import picture_inputs
from onecard.tasks.vlm.configs import DescribeConfig, ExtractConfig
from onecard.tasks.vlm.engine import Answer, Engine, Question, with_pictures
from onecard.tasks.vlm.engines import open_engine
from onecard.tasks.vlm.picture_inputs import Document
from onecard.training import output_dir

ASKED = "question.json"
"""What is asked in a folder: another question's answers are not mixed with them."""
RowOf = Callable[[Answer], dict[str, Any]]


def require_sources(images: tuple[str, ...], command: str) -> None:
    """Raises SettingsError for none."""
    if not images:
        raise SettingsError(
            "there are no pictures",
            why="no picture, PDF file or folder was named",
            fix=f"onecard vlm {command} FOLDER",
        )


def ask_all(
    config: ExtractConfig | DescribeConfig,
    run: Run,
    text: str,
    file_name: str,
    row_of: RowOf,
    schema: Mapping[str, Any] | None = None,
) -> tuple[list[dict[str, Any]], Path]:
    """(rows of all documents in their order, the file that holds them). A document that cannot be
    read, or whose answer fails, has its reason in `error` and takes no other with it.

    Raises NotFound, SettingsError for a folder with another question's answers, and what opening
    the model raises.
    """
    documents = picture_inputs.documents_of(config.images)
    out = output_dir.resolve(config.output_dir, run)
    with output_dir.lock(out):
        _require_same_question(out, config, text, schema)
        path = out / file_name
        done = _read(path) if config.resume else {}
        if not config.resume and path.exists():
            raise SettingsError(
                f"{path} exists",
                why="it holds answers of an earlier command",
                fix="--resume to go on, or --output_dir elsewhere",
            )
        rows: list[dict[str, Any]] = []
        with (
            open_engine(config, run.plan, run.reporter) as engine,
            run.reporter.progress("documents", 0) as bar,
            path.open("a", encoding="utf-8") as file,
        ):
            for document in documents:
                bar.grow(1)
                row = done.get(_key(document))
                if row is None or row.get("error"):
                    row = {
                        **_place(document),
                        **_answered(engine, document, config, text, schema, row_of),
                    }
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    file.flush()
                rows.append(row)
                bar.step(1, document.name)
        # the last answer of each document, in the order of the documents
        fsio.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    _tell_faults(rows, run)
    return rows, path


def _require_same_question(
    out: Path,
    config: ExtractConfig | DescribeConfig,
    text: str,
    schema: Mapping[str, Any] | None,
) -> None:
    question = {
        "question": text,
        "schema": schema,
        "system": config.system,
        "model": config.model,
        "base_url": config.base_url,
    }
    path = out / ASKED
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = None
        if before != question:
            raise SettingsError(
                f"{out} holds answers to another question",
                why="question, schema or model differ",
                fix="--output_dir elsewhere",
            )
    fsio.write_text(path, json.dumps(question, ensure_ascii=False))


def _key(document: Document) -> tuple[str, int]:
    return str(document.path.absolute()), document.page


def _place(document: Document) -> dict[str, Any]:
    values = {"file": str(document.path.absolute()), "page": document.page, "name": document.name}
    if not document.fault:
        values["sha256"] = hashlib.sha256(document.path.read_bytes()).hexdigest()
    return values


def _read(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Rows that are complete; a line that was cut off is passed over."""
    rows = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                rows[str(row["file"]), int(row["page"])] = row
            except (ValueError, KeyError, TypeError):
                continue
    return rows


def _answered(
    engine: Engine,
    document: Document,
    config: ExtractConfig | DescribeConfig,
    text: str,
    schema: Mapping[str, Any] | None,
    row_of: RowOf,
) -> dict[str, Any]:
    if document.fault:
        return {"error": str(document.fault.what), "why": document.fault.why}
    assert document.picture
    pictures = (document.picture,)
    try:
        answer = engine.answer(
            Question(with_pictures(text, pictures, config.system), pictures), schema=schema
        )
    except DataError as fault:  # as of a picture that the model does not take
        return {"error": str(fault.what), "why": fault.why}
    row = row_of(answer)
    if answer.finish_reason == "length":
        row["cut_off"] = True
    return row


def _tell_faults(rows: list[dict[str, Any]], run: Run) -> None:
    errors = [row for row in rows if row.get("error")]
    for row in errors[:5]:
        run.reporter.warn(f"{row['name']}: {row['error']}: {row.get('why', '')}")
    if len(errors) > 5:
        run.reporter.warn(f"and {len(errors) - 5} more")
    counts = Counter(bool(row.get("error")) for row in rows)
    if rows and not counts[False]:
        raise DataError(
            "no document could be read",
            why=f"all {len(rows):,} failed; the first: {errors[0]['error']}",
            fix="pictures or PDF files that open elsewhere",
        )
    if cut := sum(bool(row.get("cut_off")) for row in rows):
        run.reporter.warn(f"{cut:,} answers were cut off: --max_tokens with more")
