"""What .gitignore leaves out: asked of git itself, else by pathspec.

git knows the rules of the whole repository, also above an indexed folder, and that files in the
repository are never ignored. A folder that is no repository is looked at with an empty one beside.
"""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any, Protocol

import pathspec

CHECK = ("check-ignore", "--stdin", "-z", "-v", "-n")
ANSWER_S = 20
"""Longest wait for one answer: a pattern of many stars may keep git busy for ever."""
MAX_STARS = 3
"""Stars in one part of a pattern that pathspec is given: its regex tries every division."""


class Ignore(Protocol):
    """The rules that hold in one repository."""

    def ignores(self, path: str, *, is_folder: bool) -> bool:
        """`path` is absolute and no part of it but the last is a link."""

    def enter(self, folder: str) -> None:
        """Take in the rules of a folder before its entries are asked for."""

    def close(self) -> None: ...


def open_rules(folder: str) -> Ignore:
    """The rules for a folder (a real path without links)."""
    if shutil.which("git"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return GitRules(folder)
    return FileRules(folder)


class GitRules:
    """`git check-ignore` as a child that answers one path after the other."""

    def __init__(self, folder: str) -> None:
        self._fallback: FileRules | None = None
        self._folder = folder
        self._empty: tempfile.TemporaryDirectory[str] | None = None
        self._environment = {n: text for n, text in os.environ.items() if n[:4] != "GIT_"}
        top = self._run("-C", folder, "rev-parse", "--show-toplevel")
        top_folder = os.fsdecode(top.stdout).rstrip("\n")
        if top.returncode == 0:
            self._child = self._start("-C", top_folder)
            if top_folder == folder or self._ask(os.fsencode(folder)) is False:
                return
            self._end_child()  # the folder is ignored, yet the user names it
        self._empty = tempfile.TemporaryDirectory(prefix="onecard-git-")
        self._run("init", "--quiet", "--bare", self._empty.name).check_returncode()
        self._child = self._start(
            "-C", folder, f"--git-dir={self._empty.name}", f"--work-tree={folder}"
        )

    def _run(self, *words: str) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            ["git", *words], capture_output=True, env=self._environment, timeout=ANSWER_S
        )

    def _start(self, *where: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            # no program that the repository's settings name is run
            ["git", "-c", "core.fsmonitor=false", "-c", "core.bare=false", *where, *CHECK],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=self._environment,
        )

    def enter(self, folder: str) -> None:
        if self._fallback:
            self._fallback.enter(folder)

    def ignores(self, path: str, *, is_folder: bool) -> bool:
        if self._fallback is None:
            answer = self._ask(os.fsencode(path))
            if answer is not None:
                return answer
            self._end_child()
            self._fallback = FileRules(self._folder)
            self._fallback.enter_above(path)
        return self._fallback.ignores(path, is_folder=is_folder)

    def _ask(self, path: bytes) -> bool | None:
        """None from a git that ended: an unusual repository."""
        assert self._child.stdin and self._child.stdout
        timer = threading.Timer(ANSWER_S, self._child.kill)
        timer.daemon = True
        timer.start()
        try:
            self._child.stdin.write(path + b"\0")
            self._child.stdin.flush()
            fields = [self._field() for _ in range(4)]
        except (BrokenPipeError, EOFError):
            return None
        finally:
            timer.cancel()
        pattern = fields[2]
        return bool(pattern) and not pattern.startswith(b"!")

    def _field(self) -> bytes:
        """source, line, pattern or path: each ends with a NUL."""
        assert self._child.stdout
        field = bytearray()
        while (byte := self._child.stdout.read(1)) != b"\0":
            if not byte:
                raise EOFError
            field += byte
        return bytes(field)

    def close(self) -> None:
        self._end_child()

    def _end_child(self) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()
        if self._empty:
            self._empty.cleanup()


class FileRules:
    """The .gitignore files from the repository's top to the folder, without git."""

    def __init__(self, folder: str) -> None:
        self._specs: dict[str, Any] = {}
        top = Path(folder)
        for parent in (top, *top.parents):
            if (parent / ".git").exists():
                top = parent
                break
        self._top = str(top)
        self.enter_above(f"{folder}{os.sep}x")
        if self._top != folder and self.ignores(folder, is_folder=True):
            self._top = folder  # it is ignored, yet the user names it

    def enter_above(self, path: str) -> None:
        """Take in the rules of all folders from the top to that of `path`."""
        for parent in Path(path).parents:
            self.enter(str(parent))
            if str(parent) == self._top:
                break

    def enter(self, folder: str) -> None:
        file = Path(folder) / ".gitignore"
        if folder in self._specs or not file.is_file():
            return
        lines = []
        with contextlib.suppress(OSError):
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        self._specs[folder] = pathspec.GitIgnoreSpec.from_lines(filter(_is_pattern, lines))

    def ignores(self, path: str, *, is_folder: bool) -> bool:
        """The innermost file with a matching line decides; its last such line."""
        ending = "/" if is_folder else ""
        for parent in Path(path).parents:
            spec = self._specs.get(str(parent))
            if spec is not None:
                name = Path(path).relative_to(parent).as_posix() + ending
                include = spec.check_file(name).include
                if include is not None:
                    return bool(include)
            if str(parent) == self._top:
                break
        return False

    def close(self) -> None:
        pass


def _is_pattern(line: str) -> bool:
    """Not for `!` and the like, and not for one of too many stars."""
    if any(part.count("*") > MAX_STARS for part in re.split(r"/|\*\*", line)):
        return False
    try:
        pathspec.GitIgnoreSpec.from_lines([line])
    except (ValueError, re.error, IndexError):
        return False
    return True
