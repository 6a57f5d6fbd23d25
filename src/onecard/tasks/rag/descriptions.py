"""Descriptions of pictures and PDF pages as lines of JSON: what `onecard vlm describe` writes, and
what an index keeps of the answers that it was given.

A line is {"file": path, "page": 0 for a picture or the page from 1, "sha256": of the file, "text"}.
A description belongs to a file's bytes, wherever the file lies.
"""

import json
import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onecard.errors import DataError, NotFound

MAX_BYTES = 1 << 30
MAX_CHARS = 20_000
"""Of one description: a page of small print has 6,000."""
KEPT = "descriptions.jsonl"
SHOWN = 3

Pages = dict[int, str]
"""Page -> what is on it; 0 for a picture."""


@dataclass(frozen=True)
class Row:
    file: str
    page: int
    sha256: str
    text: str
    question: str = ""
    model: str = ""
    """As the settings name it; empty for whatever the server has."""
    cut_off_at: int = 0
    """Tokens after which the answer was cut off; 0 for a whole one."""


def read(path: Path) -> tuple[list[Row], int, int]:
    """(rows with a text, rows of pictures that could not be described, lines that are no
    description). A line that was cut off is one of the last. Raises NotFound, DataError."""
    rows: list[Row] = []
    n_failed = n_others = 0
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _refusal(path, f"it has more than {MAX_BYTES >> 20} MiB")
        with path.open("rb") as file:
            for line in file:
                value = _parsed(line)
                row = _row(value)
                if row:
                    rows.append(row)
                elif isinstance(value, dict) and value.get("error"):
                    n_failed += 1
                elif line.strip():
                    n_others += 1
    except FileNotFoundError:
        raise NotFound(
            f"there is no file {path}", why="nothing lies at that path", fix="check the path"
        ) from None
    except OSError as fault:
        raise _refusal(path, fault.strerror or str(fault)) from None
    return rows, n_failed, n_others


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _row(value: Any) -> Row | None:
    if not isinstance(value, dict):
        return None
    file, page, sha256, text = (value.get(name) for name in ("file", "page", "sha256", "text"))
    if not isinstance(file, str) or not isinstance(sha256, str) or not isinstance(text, str):
        return None
    if not isinstance(page, int) or isinstance(page, bool) or page < 0 or len(sha256) != 64:
        return None
    question, model = str(value.get("question", "")), str(value.get("model", ""))
    cut_off_at = value.get("cut_off_at", 0)
    n = cut_off_at if isinstance(cut_off_at, int) else 0
    return Row(file, page, sha256.lower(), clean(text), question, model, n)


def clean(text: str) -> str:
    """A model's words as text of a document: no control characters, of a bounded length."""
    kept = "".join(c for c in text.replace("\r\n", "\n") if c >= " " or c in "\n\t")
    return kept.encode("utf-8", "replace").decode().strip()[:MAX_CHARS]


def _refusal(path: Path, why: str) -> DataError:
    return DataError(
        f"{path} holds no descriptions",
        why=why,
        fix="a file that onecard vlm describe writes: descriptions.jsonl",
    )


class FileDescriptions:
    """Rows of files of the settings, and which of them the files of a pass used."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises NotFound, DataError for a file without descriptions."""
        self.notes: list[str] = []
        self._rows: dict[str, dict[str, Pages]] = defaultdict(dict)
        """Digest -> path -> pages."""
        self._digests: dict[str, set[str]] = defaultdict(set)
        """Path -> digests."""
        self._names: set[str] = set()
        self._used: set[str] = set()
        for path in paths:
            rows, n_failed, n_others = read(path)
            if not rows:
                raise _refusal(path, f"{n_failed + n_others} lines, and none has sha256 and text")
            if n_failed:
                self.notes.append(f"{path.name}: {n_failed:,} rows have no description, an error")
            if n_others:
                self.notes.append(f"{path.name}: {n_others:,} lines are no descriptions")
            for row in rows:
                self._add(row)

    def _add(self, row: Row) -> None:
        """Of two rows for one page the later counts."""
        real = os.path.realpath(row.file) if "\0" not in row.file else row.file
        self._rows[row.sha256].setdefault(real, {})[row.page] = row.text
        self._digests[real].add(row.sha256)
        self._names.add(Path(row.file).name)

    def may_have(self, path: Path) -> bool:
        """Whether a file's bytes are worth to be looked at."""
        return path.name in self._names or os.path.realpath(path) in self._digests

    def pages(self, path: Path, sha256: str) -> Pages:
        """Those of the file itself, else of another with the same bytes; empty for none."""
        by_path = self._rows.get(sha256)
        if not by_path:
            return {}
        self._used.add(sha256)
        pages = by_path.get(os.path.realpath(path)) or next(iter(by_path.values()))
        return {page: text for page, text in pages.items() if text}

    def unused(self, files: Iterable[Path], roots: Sequence[Path]) -> list[str]:
        """What to tell of descriptions that no file of this pass has."""
        there = {os.path.realpath(file) for file in files}
        folders = [os.path.realpath(root) for root in roots]
        stale: list[str] = []
        missing: list[str] = []
        outside: list[str] = []
        for real, digests in self._digests.items():
            if digests & self._used:
                continue
            if real in there:
                stale.append(real)
            elif any(
                real == each or real.startswith(each.rstrip(os.sep) + os.sep) for each in folders
            ):
                missing.append(real)
            else:
                outside.append(real)
        return [
            f"left out: descriptions of {_named(paths)}, {why}"
            for paths, why in (
                (stale, "which changed since they were described: describe them again"),
                (missing, "which are not there, or are left out"),
                (outside, "which lie outside of the indexed folders"),
            )
            if paths
        ]


def _named(paths: Sequence[str]) -> str:
    """As "3 files (a.png, b.png ...)"."""
    names = ", ".join(Path(path).name for path in paths[:SHOWN])
    more = " ..." if len(paths) > SHOWN else ""
    return f"{len(paths):,} file{'s' if len(paths) > 1 else ''} ({names}{more})"


class KeptDescriptions:
    """The answers of a server, in a file of the index, each written as soon as it comes: nothing is
    asked twice. Threads may add."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / KEPT
        self._lock = threading.Lock()
        self._rows: dict[tuple[str, int, str, str], Row] = {}
        self._latest: dict[tuple[str, int], str] = {}
        try:
            rows = read(self.path)[0]
        except NotFound:
            rows = []
        for row in rows:
            self._keep(row)

    def _keep(self, row: Row) -> None:
        self._rows[row.sha256, row.page, row.question, row.model] = row
        self._latest[row.sha256, row.page] = row.text

    def find(
        self, sha256: str, page: int, question: str, model: str, max_tokens: int
    ) -> str | None:
        """None also for an answer that was cut off where there is more room now."""
        row = self._rows.get((sha256, page, question, model))
        return row.text if row and not 0 < row.cut_off_at < max_tokens else None

    def latest(self, sha256: str, page: int) -> str | None:
        """The last answer to any question."""
        return self._latest.get((sha256, page))

    def add(self, row: Row, **more: Any) -> None:
        """Raises DataError, as for a full disk."""
        line = json.dumps({**vars(row), **more}, ensure_ascii=False) + "\n"
        data = line.encode("utf-8", "backslashreplace")
        with self._lock:
            try:
                with self.path.open("a+b") as file:
                    if file.tell() and not _ends_a_line(file):
                        data = b"\n" + data  # after a kill in the middle of a line
                    file.write(data)
            except OSError as fault:
                raise DataError(
                    f"{self.path} cannot be written",
                    why=fault.strerror or str(fault),
                    fix="free some disk space and run it again: nothing is lost",
                ) from None
            self._keep(row)


def _ends_a_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
