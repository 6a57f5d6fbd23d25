"""Finding the documents and source files below folders, by name and size."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onecard.datasets.gitignore import Ignore, open_rules
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
    ".log",
    ".xml",
    ".xhtml",
    ".epub",
    ".eml",
    ".rtf",
    ".odt",
    ".odp",
    ".ods",
    ".pptx",
    ".xlsx",
    ".ndjson",
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


LOCK_FILE = re.compile(
    r".*\.lock(\.json)?|.*[-.]lock\.(json|ya?ml)|npm-shrinkwrap\.json|go\.sum", re.IGNORECASE
)
MINIFIED = re.compile(r".*[.-](min|bundle)\.(js|mjs|css)", re.IGNORECASE)
PLAIN_NAMES = re.compile(
    r"(README|LICEN[CS]E|COPYING|NOTICE|CHANGE(S|LOG)|HISTORY|NEWS|AUTHORS|CONTRIBUT(ING|ORS)"
    r"|INSTALL|TODO|NOTES)([-_.][A-Z]{2,10})?"
)
"""Text files without an ending."""


@dataclass(frozen=True)
class SourceFile:
    """A file to read, with the size and time that show a change."""

    path: Path
    bytes: int
    mtime_ns: int
    fault: str = ""
    """Why it cannot be read; empty for a readable file."""


@dataclass
class Walk:
    """Settings of a walk, and what it left out."""

    follow_links: bool = False
    """Whether links to files and folders outside of the roots are followed."""
    also: Callable[[Path], bool] | None = None
    """Which files are taken beside documents and source code, as pictures."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason -> number of files and folders; a folder that is left out is not looked into."""
    unreadable: list[Path] = field(default_factory=list)
    """Folders that could not be listed, and links to nothing: what lay there may come back."""
    _visited: set[str] = field(default_factory=set)
    _roots: list[str] = field(default_factory=list)

    def files(self, roots: Sequence[Path]) -> Iterator[SourceFile]:
        """Documents and source files below the roots in alphabetical order, each once.

        Hidden files, lock files, minified code and what git ignores are left out. Raises NotFound
        for a missing root.
        """
        self._roots = [os.path.realpath(root) for root in roots]
        for root in roots:
            if not root.exists():
                raise NotFound(
                    f"there is no folder {root}",
                    why="nothing lies at that path",
                    fix="check the path",
                )
            if root.is_file():
                yield from self._file(root)
            else:
                yield from self._repository(root)

    def _repository(self, folder: Path) -> Iterator[SourceFile]:
        """A folder under the rules of its own repository."""
        rules = open_rules(os.path.realpath(folder))
        try:
            yield from self._folder(folder, rules)
        finally:
            rules.close()

    def _folder(self, folder: Path, rules: Ignore) -> Iterator[SourceFile]:
        real = os.path.realpath(folder)
        if real in self._visited:
            return
        self._visited.add(real)
        rules.enter(real)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:  # it vanished, or we may not read it
            self.unreadable.append(folder)
            self.left_out["folders that cannot be read"] += 1
            return
        for entry in entries:
            path = Path(entry.path)
            try:
                is_folder = entry.is_dir()
            except OSError:
                continue
            if reason := self._reason(path, entry, is_folder, f"{real}{os.sep}{entry.name}", rules):
                self.left_out[reason] += 1
            elif not is_folder:
                yield from self._file(path)
            elif entry.is_symlink() or (path / ".git").exists():
                yield from self._repository(path)
            else:
                yield from self._folder(path, rules)

    def _reason(
        self, path: Path, entry: "os.DirEntry[str]", is_folder: bool, real: str, rules: Ignore
    ) -> str:
        """Why an entry is left out; empty for one to read."""
        if entry.name.startswith("."):
            return "hidden"
        if entry.name in SKIPPED_FOLDERS or (is_folder and (path / "pyvenv.cfg").exists()):
            return "folders of packages and builds"
        if not is_folder:
            if not is_readable(path) and not (self.also and self.also(path)):
                return f"{path.suffix.lower()} files" if path.suffix else "files without an ending"
            if LOCK_FILE.fullmatch(entry.name):
                return "lock files"
            if MINIFIED.fullmatch(entry.name):
                return "minified code"
        if entry.is_symlink() and not self.follow_links and self._leads_out(path):
            return "links that lead out of the folder (--follow_links follows them)"
        if rules.ignores(real, is_folder=is_folder):
            return "ignored by .gitignore"
        return ""

    def _leads_out(self, path: Path) -> bool:
        target = os.path.realpath(path)
        return not any(
            target == root or target.startswith(root.rstrip(os.sep) + os.sep)
            for root in self._roots
        )

    def _file(self, path: Path) -> Iterator[SourceFile]:
        real = os.path.realpath(path)
        if real in self._visited:
            return
        self._visited.add(real)
        try:
            facts = path.stat()
        except OSError as fault:
            if path.is_symlink():
                self.unreadable.append(path)
                yield SourceFile(path, 0, 0, f"it is a link to nothing ({fault.strerror})")
            return  # else it vanished
        if not path.is_file():
            why = "it is not a regular file (a pipe, a socket or a device)"
            yield SourceFile(path, 0, 0, why)
        elif _undecodable(str(path)):
            yield SourceFile(path, 0, 0, "its name is not UTF-8")
        else:
            yield SourceFile(path, facts.st_size, facts.st_mtime_ns)


def walk(roots: Sequence[Path], *, follow_links: bool = True) -> Iterator[SourceFile]:
    """Documents and source files below the roots, each once. Raises NotFound for a missing root."""
    return Walk(follow_links).files(roots)


def _undecodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False


def is_readable(path: Path) -> bool:
    """Whether its name is that of a document or of source code."""
    suffix = path.suffix.lower()
    if not suffix and PLAIN_NAMES.fullmatch(path.name):
        return True
    return suffix in DOCUMENT_SUFFIXES or bool(language(path))


def language(path: Path) -> str:
    """The grammar of a code file; empty for other files."""
    return GRAMMARS.get(path.suffix.lower(), "") or GRAMMARS_BY_NAME.get(path.name, "")
