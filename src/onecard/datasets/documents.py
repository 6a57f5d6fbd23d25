"""Reading of files that others wrote: in a child process, with limits on time and memory.

A parser may loop, eat the memory or crash (a YAML file of 3 KB kills tree-sitter by SIGSEGV). In a
child that costs one file. One child reads many files and is started again after a crash; it loads
no heavy library, starts in 0.1 s and adds 0.1 ms to a file.
"""

import contextlib
import importlib.util
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import onecard
from onecard.datasets.blocks import Block, Document
from onecard.datasets.files import language
from onecard.errors import DataError, MissingExtra, unreadable_file
from onecard.units import size

MAX_FILE_S = 5
"""CPU time for a file of up to 1 MB; a larger one gets as much again for each MB."""
WALL_FACTOR = 4
"""Wall time for one second of CPU time: a busy machine or a slow disk is no fault of the file."""
MAX_MEMORY = 384 << 20
"""Bytes that a reader may take beyond those of the idle child, and MEMORY_PER_BYTE for each byte of
the file: a tree of HTML takes about ten times its text."""
MEMORY_PER_BYTE = 12
OCR_TIMES = 20
"""Time that scans get beyond text: about 3 s of CPU for a page of 0.1 to 0.5 MB."""
OCR_MEMORY = 4 << 30
"""Address space of the OCR engine; it takes 0.5 GB of it."""
PICTURE_TIMES = 4
"""Time that pictures get beyond text: a small file may hold 100 million pixels."""
PICTURE_MEMORY = 2 << 30
"""Address space of a picture's decoder: 100 million pixels with transparency take 1.4 GB."""
HEADER = struct.Struct("<Q")
"""Length of a reply in bytes, before it."""
MIN_REPLY = 64 << 20
"""Bytes of a reply that are always taken; a large file may give four times its bytes."""


class ReaderEnded(DataError):
    """The child crashed or was stopped."""


class DocumentReader:
    """Reads files one after the other in a child process, which lives until `close`.

    One thread at a time.
    """

    def __init__(
        self,
        max_bytes: int = 50 << 20,
        max_seconds: float = MAX_FILE_S,
        *,
        ocr: bool = False,
        scans: bool = False,
    ) -> None:
        """`ocr` reads the scanned pages of PDFs; with `scans` a PDF without text is a document that
        names its empty pages. Raises MissingExtra where OCR's package is not installed."""
        if ocr and importlib.util.find_spec("rapidocr_onnxruntime") is None:
            raise MissingExtra(
                "--ocr needs a package that is not installed",
                why="rapidocr-onnxruntime reads the scans; its models lie in the package",
                fix="pip install 'onecard[ocr]'",
            )
        self.max_bytes, self.max_seconds, self.ocr, self.scans = max_bytes, max_seconds, ocr, scans
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "DocumentReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):
                    if pipe:
                        pipe.close()

    def read(self, path: Path) -> Document:
        """Raises DataError with the fault of the file and how to correct it.

        Code whose syntax tree ends the child is read once more, as text without its structure.
        """
        n_bytes = self._checked_size(path)
        try:
            return self._read(path, n_bytes, plain=False)
        except ReaderEnded as fault:
            if not language(path):
                raise
            document = self._read(path, n_bytes, plain=True)
            note = f"read as text, without functions and classes: {fault.why}"
            return replace(document, notes=[*document.notes, note])

    def _read(self, path: Path, n_bytes: int, *, plain: bool) -> Document:
        ocr = self.ocr and path.suffix.lower() == ".pdf"
        times, memory = (OCR_TIMES, OCR_MEMORY) if ocr else (1, 0)
        own = {"picture": False, "plain": plain, "ocr": ocr, "scans": self.scans}
        fields = self._reply(path, n_bytes, own, times, memory)["document"]
        blocks = [
            Block(text, line, last_line, tuple(heading), page)
            for text, line, last_line, heading, page in fields.pop("blocks")
        ]
        return Document(blocks=blocks, **fields)

    def picture(self, path: Path, page: int = 0) -> tuple[str, str]:
        """(data URI, sha256 of the file) of a picture, or of a PDF's page from 1. Raises
        DataError."""
        own = {"picture": True, "page": page}
        uri, sha256 = self._reply(
            path, self._checked_size(path), own, PICTURE_TIMES, PICTURE_MEMORY
        )["picture"]
        return uri, sha256

    def _reply(
        self, path: Path, n_bytes: int, own: dict[str, Any], times: float, memory: int
    ) -> dict[str, Any]:
        """What the child answers to a request about one file, with `times` the time and `memory`
        bytes more than text takes. Raises DataError."""
        n_mb = max(1.0, n_bytes / (1 << 20))
        request = {
            **own,
            "path": os.fspath(path),
            "seconds": self.max_seconds * n_mb * times,
            "memory": MAX_MEMORY + MEMORY_PER_BYTE * n_bytes + memory,
            "reply": max(MIN_REPLY, 4 * n_bytes),
        }
        if self._child is None:
            self._child = _start()
        reply = self._ask(self._child, request)
        if reply is None:
            code = self._child.wait()
            self.close()
            raise _crash(path, code, request)
        if reply["last"]:
            self.close()
        if fault := reply.get("fault"):
            what, why, fix = fault
            raise DataError(what, why=why, fix=fix)
        return reply

    def _checked_size(self, path: Path) -> int:
        try:
            n_bytes = path.stat().st_size
        except OSError as fault:
            raise unreadable_file(path, fault) from None
        if n_bytes > self.max_bytes:
            raise DataError(
                f"{path} is too large",
                why=f"{size(n_bytes)}, the limit is {size(self.max_bytes)}",
                fix="raise --max_file_mb, or cut it into parts",
            )
        return n_bytes

    def _ask(
        self, child: "subprocess.Popen[bytes]", request: dict[str, Any]
    ) -> dict[str, Any] | None:
        """The reply; None from a child that ended, at its limits or by itself."""
        assert child.stdin and child.stdout
        timer = threading.Timer(request["seconds"] * WALL_FACTOR, child.kill)
        timer.daemon = True
        timer.start()
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            header = child.stdout.read(HEADER.size)
            n_bytes = HEADER.unpack(header)[0] if len(header) == HEADER.size else -1
            if not 0 < n_bytes <= request["reply"]:
                child.kill()
                return None
            data = child.stdout.read(n_bytes)
            reply: dict[str, Any] | None = json.loads(data) if len(data) == n_bytes else None
            return reply
        except BrokenPipeError:
            return None
        except BaseException:  # Ctrl-C: what the child still writes belongs to this file
            self.close()
            raise
        finally:
            timer.cancel()


def read(path: Path, max_bytes: int = 50 << 20) -> Document:
    """One file, in a child of its own. Raises DataError."""
    with DocumentReader(max_bytes) as reader:
        return reader.read(path)


def _start() -> "subprocess.Popen[bytes]":
    # -P: a folder of notes may hold a json.py; a session of its own: Ctrl-C is the parent's
    search_path = [str(Path(onecard.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "onecard.datasets.reader_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, search_path)),
            "OPENBLAS_NUM_THREADS": "1",  # NumPy's threads would take 40 MB of address space each
        },
    )


def _crash(path: Path, code: int, request: dict[str, Any]) -> "ReaderEnded":
    if code in (-getattr(signal, "SIGXCPU", 0), -getattr(signal, "SIGKILL", 0)):
        return ReaderEnded(
            f"{path} takes too long",
            why=f"its reader was stopped after {request['seconds']:.0f} s",
            fix="raise --max_file_s, or cut it into parts",
        )
    names = {-number.value: number.name for number in signal.Signals}
    return ReaderEnded(
        f"{path} crashes its reader",
        why=f"the process that read it ended by {names.get(code, f'exit status {code}')}",
        fix="open it in its own program and save it again, or leave it out",
    )
