"""Finding the documents and source files below folders, by name and size."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pathspec

from onecard.errors import NotFound

SKIPPED_FOLDERS = {"__pycache__", "node_modules", "site-packages", "dist", "build"}
DOCUMENT_SUFFIXES = {
    ".md",
    ".markdown",
    ".mdx",
    ".txt",
    ".rst",
    ".org",
    ".html",
    ".htm",
    ".pdf",
    ".docx",
    ".ipynb",
    ".jsonl",
    ".csv",
    ".tsv",
    ".tex",
    ".adoc",
}
GRAMMARS = {
    ".py": "python",
    ".pyi": "python",
    ".js": "javascript",
    ".jsx": "javascript",
    ".mjs": "javascript",
    ".ts": "typescript",
    ".tsx": "tsx",
    ".java": "java",
    ".c": "c",
    ".h": "c",
    ".cc": "cpp",
    ".cpp": "cpp",
    ".hpp": "cpp",
    ".cu": "cpp",
    ".cs": "csharp",
    ".go": "go",
    ".rs": "rust",
    ".rb": "ruby",
    ".php": "php",
    ".swift": "swift",
    ".kt": "kotlin",
    ".scala": "scala",
    ".lua": "lua",
    ".sh": "bash",
    ".bash": "bash",
    ".sql": "sql",
    ".r": "r",
    ".jl": "julia",
    ".toml": "toml",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".json": "json",
    ".css": "css",
    ".zig": "zig",
    ".dart": "dart",
    ".ex": "elixir",
    ".hs": "haskell",
}
"""Suffix of a source file -> its tree-sitter grammar."""
GRAMMARS_BY_NAME = {"Makefile": "make", "Dockerfile": "dockerfile"}


@dataclass(frozen=True)
class SourceFile:
    """A file to read, with the size and time that show a change."""

    path: Path
    bytes: int
    mtime_ns: int
    fault: str = ""
    """Why it cannot be read; empty for a readable file."""


def walk(roots: Sequence[Path]) -> Iterator[SourceFile]:
    """Documents and source files below the roots in alphabetical order, each once.

    Hidden files and those in a .gitignore are left out. Links are followed, a circle of links once.
    Raises NotFound for a missing root.
    """
    visited: set[str] = set()
    for root in roots:
        if not root.exists():
            raise NotFound(
                f"there is no folder {root}", why="nothing lies at that path", fix="check the path"
            )
        if root.is_file():
            yield from _file(root, visited)
        else:
            yield from _folder(root, [], visited)


def _folder(folder: Path, rules: list[tuple[Path, Any]], visited: set[str]) -> Iterator[SourceFile]:
    real = os.path.realpath(folder)
    if real in visited:
        return
    visited.add(real)
    ignore = folder / ".gitignore"
    try:
        if ignore.is_file():
            rules = [
                *rules,
                (
                    folder,
                    pathspec.PathSpec.from_lines(
                        "gitignore", ignore.read_text(errors="replace").splitlines()
                    ),
                ),
            ]
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return  # it vanished, or we may not read it
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith(".") or entry.name in SKIPPED_FOLDERS:
            continue
        try:
            is_folder = entry.is_dir()
        except OSError:
            continue
        if any(
            spec.match_file(path.relative_to(base).as_posix() + ("/" if is_folder else ""))
            for base, spec in rules
        ):
            continue
        if is_folder:
            if not (path / "pyvenv.cfg").exists():
                yield from _folder(path, rules, visited)
        elif language(path) or path.suffix.lower() in DOCUMENT_SUFFIXES:
            yield from _file(path, visited)


def _file(path: Path, visited: set[str]) -> Iterator[SourceFile]:
    real = os.path.realpath(path)
    if real in visited:
        return
    visited.add(real)
    try:
        facts = path.stat()
    except OSError as fault:
        if path.is_symlink():
            yield SourceFile(path, 0, 0, f"it is a link to nothing ({fault.strerror})")
        return  # else it vanished
    if not path.is_file():
        yield SourceFile(path, 0, 0, "it is not a regular file (a pipe, a socket or a device)")
    elif _undecodable(str(path)):
        yield SourceFile(path, 0, 0, "its name is not UTF-8")
    else:
        yield SourceFile(path, facts.st_size, facts.st_mtime_ns)


def _undecodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False


def language(path: Path) -> str:
    """The grammar of a code file; empty for other files."""
    return GRAMMARS.get(path.suffix.lower(), "") or GRAMMARS_BY_NAME.get(path.name, "")
