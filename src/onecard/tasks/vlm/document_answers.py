"""One question asked about many pictures and pages: a line of JSON for each, written as soon as it
is answered, so that a stopped command goes on where it was."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from onecard import fsio
from onecard.datasets.jsonl import to_jsonl
from onecard.errors import DataError, EngineError, SettingsError
from onecard.inference.client import has_gone
from onecard.reporting import Progress
from onecard.runs.record import Run
from onecard.tasks.vlm import picture_inputs
from onecard.tasks.vlm.configs import DescribeConfig, ExtractConfig
from onecard.tasks.vlm.engine import Answer, Engine, Question, with_pictures
from onecard.tasks.vlm.engines import open_engine
from onecard.tasks.vlm.picture_inputs import Document
from onecard.training import output_dir

ASKED = ".question.json"
"""What is asked in a folder: another question's answers are not mixed with them."""
MAX_FAULTS = 3
"""Failures of the engine in a row after which it is asked no more: it has gone."""
RowOf = Callable[[Answer], dict[str, Any]]
Key = tuple[str, int]
"""(absolute path, page)."""


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
    """(rows of the file: first those of earlier commands, then these documents in their order; the
    file). A document that cannot be read, or whose answer fails, has its reason in `error` and
    takes no other with it.

    Raises NotFound, SettingsError for a folder with another question's answers, EngineError where
    the model has gone, and what opening it raises.
    """
    documents = picture_inputs.documents_of(config.images)
    out = output_dir.resolve(config.output_dir, run)
    with output_dir.lock(out):
        path = out / file_name
        if not config.resume and path.exists():
            raise SettingsError(
                f"{path} exists",
                why="it holds answers of an earlier command",
                fix="--resume to go on, or --output_dir elsewhere",
            )
        _require_same_question(out, config, text, schema)
        rows = _read(path)
        with (
            open_engine(config, run.plan, run.reporter) as engine,
            run.reporter.progress("documents", 0) as bar,
        ):
            asking = _Asking(engine, config, text, schema, row_of)
            own = list(asking.rows(documents, rows, path, bar))
        for row in own:  # the last answer of each document, in the order of the documents
            rows.pop(_key(row), None)
        n_before = len(rows)
        rows |= {_key(row): row for row in own}
        _write(path, rows.values())
    if n_before:
        run.reporter.line(f"{path.name} keeps {n_before:,} answers of earlier commands")
    _tell_faults(own, run)
    return list(rows.values()), path


class _Asking:
    def __init__(
        self,
        engine: Engine,
        config: ExtractConfig | DescribeConfig,
        text: str,
        schema: Mapping[str, Any] | None,
        row_of: RowOf,
    ) -> None:
        self.engine, self.config, self.text = engine, config, text
        self.schema, self.row_of = schema, row_of
        self.n_faults = 0
        self._last = ("", "")
        """(path, sha256): the pages of one file come one after the other."""

    def rows(
        self,
        documents: Iterable[Document],
        before: Mapping[Key, dict[str, Any]],
        path: Path,
        bar: Progress,
    ) -> Iterator[dict[str, Any]]:
        """Of all documents; what is asked now is appended to the file."""
        _end_last_line(path)
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            for document in documents:
                bar.grow(1)
                place = self._place(document)
                row = before.get(_key(place))
                if row is None or not self._is_whole(row, place):
                    row = {**place, **self._answered(document)}
                    file.write(to_jsonl([row]))
                    file.flush()
                yield row
                bar.step(1, document.name)

    def _is_whole(self, row: Mapping[str, Any], place: Mapping[str, Any]) -> bool:
        """Whether an earlier answer stands: of the same bytes, and not cut off where there is more
        room now."""
        is_cut = row.get("cut_off") and row.get("max_tokens", 0) < self.config.max_tokens
        return not row.get("error") and not is_cut and row.get("sha256") == place.get("sha256")

    def _place(self, document: Document) -> dict[str, Any]:
        """Where an answer belongs; without a digest for a file that cannot be read."""
        path = str(document.path.absolute())
        if self._last[0] != path:
            self._last = (path, _digest(document.path))
        values = {"file": path, "page": document.page, "name": document.name}
        return {**values, **({"sha256": self._last[1]} if self._last[1] else {})}

    def _answered(self, document: Document) -> dict[str, Any]:
        """Raises EngineError for an engine that has gone."""
        if document.fault or not document.picture:
            fault = document.fault
            return {"error": fault.what, "why": fault.why} if fault else {"error": "it is empty"}
        pictures = (document.picture,)
        question = Question(with_pictures(self.text, pictures, self.config.system), pictures)
        try:
            answer = self.engine.answer(question, schema=self.schema)
        except DataError as fault:  # as of a picture that the model does not take
            return {"error": fault.what, "why": fault.why}
        except EngineError as fault:
            self.n_faults = self.n_faults + 1 if has_gone(fault) else 0
            if self.n_faults >= MAX_FAULTS:
                raise EngineError(
                    fault.what, why=fault.why, fix=f"{fault.fix}; then --resume: nothing is lost"
                ) from fault
            return {"error": fault.what, "why": fault.why}
        except Exception as fault:  # torch's is known by its name: torch need not be loaded here
            if type(fault).__name__ not in ("OutOfMemoryError", "MemoryError"):
                raise
            return {"error": "the memory does not hold it", "why": str(fault)[:200]}
        self.n_faults = 0
        row = self.row_of(answer)
        if answer.finish_reason == "length":
            row |= {"cut_off": True, "max_tokens": self.config.max_tokens}
        return row


def _require_same_question(
    out: Path,
    config: ExtractConfig | DescribeConfig,
    text: str,
    schema: Mapping[str, Any] | None,
) -> None:
    """A server's address may change: the same model may be served elsewhere."""
    question = {
        "question": text,
        "schema": schema,
        "system": config.system,
        "model": config.model,
        "server": bool(config.base_url),
    }
    path = out / ASKED
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            before = None
        if before != question:
            raise SettingsError(
                f"{out} holds answers to another question",
                why="question, schema or model differ",
                fix="--output_dir elsewhere",
            )
    fsio.write_text(path, json.dumps(question, ensure_ascii=False))


def _key(row: Mapping[str, Any]) -> Key:
    return str(row["file"]), int(row["page"])


def _digest(path: Path) -> str:
    """sha256 of a file; empty for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _read(path: Path) -> dict[Key, dict[str, Any]]:
    """Rows that are complete; a line that was cut off is passed over."""
    rows = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                row = json.loads(line)
                rows[_key(row)] = row
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
    return rows


def _end_last_line(path: Path) -> None:
    """After a kill within a line the next one begins anew."""
    if path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    fsio.write_text(path, to_jsonl(rows))


def _tell_faults(rows: list[dict[str, Any]], run: Run) -> None:
    """Raises DataError where no document could be read."""
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
