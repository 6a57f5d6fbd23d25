"""Pictures and scanned pages as documents: their descriptions come from files, or from a model
behind an OpenAI-compatible address, which is asked while the folders are indexed.

A description is text like any other: the index holds it under the picture's name or the page's
number, and what it says is never an instruction.
"""

import hashlib
import importlib.util
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from onecard.cancellation import Cancellation
from onecard.datasets.blocks import Block, Document
from onecard.datasets.documents import DocumentReader
from onecard.datasets.files import SourceFile
from onecard.datasets.images import decode, pdf_pages
from onecard.datasets.readers import pdf
from onecard.errors import DataError, MissingExtra, OneCardError, unreadable_file
from onecard.reporting import Reporter
from onecard.tasks.rag.configs import IndexConfig
from onecard.tasks.rag.descriptions import KEPT, FileDescriptions, KeptDescriptions, Pages, Row
from onecard.tasks.rag.picture_server import PREPARED, PictureServer

PICTURE, PAGE = "described picture", "described page"
"""Headings of descriptions: a citation shows that a model said so, not the file."""
INCOMPLETE = "incomplete "
"""Beginning of the signature of a file whose descriptions are not all there: it is read again."""


@dataclass
class Reading:
    """A file that is being read: its document as far as it is known, and answers on their way."""

    file: SourceFile
    document: Document | None = None
    texts: Pages = field(default_factory=dict)
    answers: dict[int, "Future[str]"] = field(default_factory=dict)
    older: Pages = field(default_factory=dict)
    """Answers to other questions, for pages whose own answer does not come."""
    broken: dict[int, OneCardError] = field(default_factory=dict)
    """Pages that cannot be drawn, or a picture that cannot be decoded."""
    fault: DataError | None = None
    signature: str = ""


class Describer:
    """What the settings say of pictures, for one index; without them it changes nothing."""

    def __init__(self, config: IndexConfig, folder: Path, reporter: Reporter) -> None:
        """Raises MissingExtra."""
        self.config, self.folder, self.reporter = config, folder, reporter
        self.files = FileDescriptions([])
        self.kept: KeptDescriptions | None = None
        self.own_files = {
            os.path.realpath(each) for each in (*config.descriptions, str(folder / KEPT))
        }
        self.server: PictureServer | None = None
        self.answered: list[Path] = []
        """Files of the server's answers in this pass, one for each."""
        self.cut_off: list[Path] = []
        self._pending: dict[tuple[str, int], Future[str]] = {}
        """(sha256, page) -> the answer that is awaited: a copy is not asked about again."""
        self.failures: Counter[str] = Counter()
        """Reason -> pictures and pages that were not described, in this pass."""
        if config.describe_url and importlib.util.find_spec("pypdfium2") is None:
            raise MissingExtra(
                "--describe_url needs a package that is not installed",
                why="pypdfium2 draws the pages of PDF files",
                fix="pip install 'onecard[vlm]'",
            )

    @property
    def enabled(self) -> bool:
        return bool(self.config.descriptions or self.config.describe_url)

    @property
    def n_ahead(self) -> int:
        """Files that are read before the one whose answers are waited for."""
        return PREPARED if self.config.describe_url else 0

    # Which files

    def takes(self, path: Path) -> bool:
        """Whether a walk takes a file because of its pictures."""
        return self.enabled and decode.is_picture(path)

    def left_out(self, file: SourceFile, sha256: str) -> str:
        """Why a file of the walk is not indexed; empty for one that is. `sha256`: of a file that
        did not change since it was indexed."""
        path = file.path
        if not self.enabled:
            return ""
        if os.path.realpath(path) in self.own_files:
            return "files of descriptions"
        if not decode.is_picture(path) or self.config.describe_url:
            return ""
        try:
            if self.files.may_have(path) and self.files.pages(path, sha256 or _digest(path)):
                return ""
        except DataError:  # it vanished, or may not be read
            pass
        return "pictures without a description"

    def expected(self, path: Path, sha256: str) -> str:
        """The signature of a file: what its descriptions come from. With another one than before it
        is read again; empty for files without descriptions. `sha256`: empty for a file with a
        fault."""
        is_picture = decode.is_picture(path)
        if not self.enabled or not (is_picture or pdf_pages.is_pdf(path)):
            return ""
        try:
            if not sha256 and self.files.may_have(path):
                sha256 = _digest(path)
        except DataError:  # it vanished, or may not be read: that is told elsewhere
            pass
        pages = self.files.pages(path, sha256)
        config = self.config
        own = (config.describe_question, config.describe_model, config.describe_max_tokens)
        server = [*own, config.describe_pages]
        asks = config.describe_url and not (is_picture and pages)
        parts = [sorted(pages.items()), server if asks else None]
        return _signature(parts) if pages or asks else ""

    # Reading

    @contextmanager
    def session(self) -> Iterator[None]:
        """One pass, with the descriptions as they are now. Requests on their way when it is left
        are given up; what was answered is kept.

        Raises NotFound, DataError for files without descriptions.
        """
        for each in (self.answered, self.cut_off, self.failures, self._pending):
            each.clear()
        self.files = FileDescriptions([Path(name) for name in self.config.descriptions])
        if not self.config.describe_url:
            yield
            return
        self.kept = KeptDescriptions(self.folder)
        self.server = PictureServer(self.config, Cancellation(), self.reporter)
        try:
            yield
        finally:
            self.server.close()

    def begin(self, file: SourceFile, reader: DocumentReader) -> Reading:
        """Read a file as far as it goes without waiting for an answer."""
        reading = Reading(file)
        try:
            if self.takes(file.path):
                reading.document = _picture_document(file.path)
                self._describe(reading, [0], reader)
            else:
                reading.document = reader.read(file.path)
                if self.enabled and pdf_pages.is_pdf(file.path):
                    self._describe(reading, self._pages(reading.document), reader)
        except DataError as fault:
            reading.fault = fault
        return reading

    def _pages(self, document: Document) -> Sequence[int]:
        """Pages that the server is asked about."""
        if self.config.describe_pages == "all":
            return range(1, document.n_pages + 1)
        return document.empty_pages

    def _describe(self, reading: Reading, pages: Sequence[int], reader: DocumentReader) -> None:
        document, path = reading.document, reading.file.path
        assert document
        reading.texts = self.files.pages(path, document.sha256)
        if not self.kept:
            return
        config = self.config
        own = (config.describe_question, config.describe_model, config.describe_max_tokens)
        for page in pages:
            if page in reading.texts:
                continue
            text = self.kept.find(document.sha256, page, *own)
            if text is None:
                self._ask(reading, page, reader)
            else:
                reading.texts[page] = text

    def _ask(self, reading: Reading, page: int, reader: DocumentReader) -> None:
        assert self.server and self.kept and reading.document
        path, sha256 = reading.file.path, reading.document.sha256
        key = sha256, page
        if key in self._pending:
            reading.answers[page] = self._pending[key]
            return
        if (older := self.kept.latest(sha256, page)) is not None:
            reading.older[page] = older
        if not self.server.is_ready():
            refusal: Future[str] = Future()
            refusal.set_exception(self.server.ended)
            reading.answers[page] = refusal
            return
        try:
            uri, current = reader.picture(path, page)
        except DataError as fault:
            reading.broken[page] = fault
            return
        if current != sha256:
            raise DataError(
                f"{path} changes while it is read",
                why="its bytes are others than a moment ago",
                fix="index again when it is complete",
            )
        row = partial(Row, str(path), page, sha256)
        self._pending[key] = self.server.ask(uri, partial(self._keep, row))
        reading.answers[page] = self._pending[key]

    def _keep(self, row: "partial[Row]", text: str, model: str, cut_off: bool) -> None:
        """In a thread."""
        assert self.kept
        config = self.config
        limit = config.describe_max_tokens if cut_off else 0
        whole = row(text, config.describe_question, config.describe_model, limit)
        self.kept.add(whole, answered_by=model)
        self.answered.append(Path(row.args[0]))
        if cut_off:
            self.cut_off.append(Path(row.args[0]))

    def finish(self, reading: Reading) -> None:
        """Wait for the answers, and complete document, fault and signature."""
        failures: dict[int, OneCardError] = {}
        for page, future in reading.answers.items():
            try:
                reading.texts[page] = future.result()
            except OneCardError as fault:
                failures[page] = fault
                self.failures[f"{fault.what}: {fault.why}"] += 1
                if page in reading.older:
                    reading.texts[page] = reading.older[page]
        if reading.document and not reading.fault and self.enabled:
            self._complete(reading, failures)
        path, sha256 = reading.file.path, ""
        if reading.document and not reading.fault:
            sha256 = reading.document.sha256
        reading.signature = self.expected(path, sha256)
        if failures:
            reading.signature = INCOMPLETE + _signature(sorted(reading.texts.items()))

    def _complete(self, reading: Reading, failures: dict[int, OneCardError]) -> None:
        """The document with its descriptions, or the fault of one that has neither."""
        document, path = reading.document, reading.file.path
        assert document
        if document.kind not in ("picture", "pdf"):
            return
        texts = {page: text for page, text in reading.texts.items() if text}
        own = [_block(page, text) for page, text in sorted(texts.items())]
        blocks = sorted([*document.blocks, *own], key=lambda block: block.page)
        notes = list(document.notes)
        faults = {**reading.broken, **failures}
        if blocks and faults:
            reason = next(iter(faults.values()))
            notes.append(f"{pdf.pages(sorted(faults))} not described: {reason.what}: {reason.why}")
        silent = [page for page in document.empty_pages if page not in {*texts, *faults}]
        if blocks and silent:
            notes.append(f"{pdf.pages(silent)} of {document.n_pages} hold no text")
        reading.document = replace(document, blocks=blocks, notes=notes)
        if not blocks:
            reading.fault = _without_text(path, document, faults)


def _without_text(path: Path, document: Document, faults: dict[int, OneCardError]) -> DataError:
    if faults:
        reason = next(iter(faults.values()))
        if document.kind == "picture" and isinstance(reason, DataError):
            return reason
        return DataError(
            f"{path} is not described", why=f"{reason.what}: {reason.why}", fix=reason.fix
        )
    if document.kind == "picture":
        why = "the model's answer is empty"
        return DataError(f"{path} is not described", why=why, fix="another --describe_question")
    return DataError(
        f"{path} has no text",
        why=f"its {document.n_pages} pages are pictures",
        fix="read them by OCR: --ocr, or have them described: --describe_url",
    )


def _picture_document(path: Path) -> Document:
    """Raises DataError."""
    return Document(path.stem, "picture", [], sha256=_digest(path))


def _block(page: int, text: str) -> Block:
    """A picture has no lines that could be cited."""
    n_lines = text.count("\n") + 1 if page else 0
    return Block(text, min(1, n_lines), n_lines, (PAGE if page else PICTURE,), page)


def _digest(path: Path) -> str:
    """sha256 of a file. Raises DataError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as fault:
        raise unreadable_file(path, fault) from None


def _signature(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
