"""The index on disk: one SQLite file (WAL), and search structures that are derived from it.

A file's chunks, terms and vectors are written in one transaction, so that a kill at any time leaves
complete files only. The derived files carry the generation of the database in their names and may
be deleted at any time.
"""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onecard import fsio, paths
from onecard.errors import DataError, NotFound, SettingsError
from onecard.tasks.rag import bm25
from onecard.tasks.rag.chunking import Passage

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, bytes INT, mtime_ns INT, sha256 TEXT, title TEXT, kind TEXT,
    encoding TEXT, links TEXT, meta TEXT, fault TEXT
);
CREATE TABLE IF NOT EXISTS chunks (
    id INTEGER PRIMARY KEY, path TEXT, ordinal INT, head TEXT, text TEXT, line INT, last_line INT,
    page INT, sha256 BLOB, terms BLOB, n_terms INT
);
CREATE INDEX IF NOT EXISTS chunks_by_path ON chunks (path);
CREATE INDEX IF NOT EXISTS chunks_by_sha ON chunks (sha256);
CREATE TABLE IF NOT EXISTS described (path TEXT PRIMARY KEY, signature TEXT);
CREATE TABLE IF NOT EXISTS vectors (sha256 BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID;
"""
CHUNK_COLUMNS = "id, path, head, text, line, last_line, page"
"""Columns of a Chunk; the database has named a chunk's title `head` since version 0.1."""


TITLE_SEPARATOR = " > "


@dataclass(frozen=True)
class Chunk:
    id: int
    path: str
    title: str
    """Title of the document and headings, as `Manual > Install > Linux`."""
    text: str
    line: int
    last_line: int
    page: int

    def location(self) -> str:
        """The path with its page or lines, for a citation."""
        return self.path + location_suffix(self.page, self.line, self.last_line)

    def titled_text(self) -> str:
        return titled(self.title, self.text)


def location_suffix(page: int, line: int, last_line: int) -> str:
    """As ` p. 3`, `:12-20` or `:12`; empty for a picture, which has no lines."""
    if not page and not line:
        return ""
    if page:
        return f" p. {page}"
    return f":{line}-{last_line}" if last_line > line else f":{line}"


def titled(title: str, text: str) -> str:
    """A chunk as it is embedded, reranked and shown to the model: text under its title."""
    return f"{title}\n{text}"


class Store:
    """An open index: one process may write, many may read."""

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self.folder = folder
        path = folder / "index.sqlite"
        if not create and not path.exists():
            raise NotFound(
                f"there is no index in {folder}",
                why="it has no index.sqlite",
                fix=f"make one first: onecard rag index FOLDER --index {folder}",
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # check_same_thread: a server answers from worker threads, one at a time
            self.db = sqlite3.connect(
                path, isolation_level=None, timeout=30, check_same_thread=False
            )
            self.db.execute("PRAGMA journal_mode = WAL")
            # in WAL mode a crash loses at most the last commits, never consistency
            self.db.execute("PRAGMA synchronous = NORMAL")
            self.db.executescript(SCHEMA)
        except sqlite3.DatabaseError as fault:
            raise DataError(
                f"{path} is no index",
                why=str(fault),
                fix=f"remove the folder {folder} and index again",
            ) from None
        except OSError as fault:
            raise DataError(
                f"{folder} cannot be written",
                why=fault.strerror or str(fault),
                fix="choose another --index folder",
            ) from None

    def close(self) -> None:
        self.db.close()

    def meta(self, key: str, default: str = "") -> str:
        row = self.db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else default

    def set_meta(self, key: str, value: str) -> None:
        self.db.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, value),
        )

    def build_settings(self) -> dict[str, str]:
        """Of the last indexing: embedding_model, chunk_tokens and what else changes passages."""
        settings: dict[str, str] = json.loads(self.meta("made_with", "{}"))
        return settings

    def set_build_settings(self, settings: dict[str, str]) -> None:
        """After a change, every file counts as changed.

        Raises SettingsError for another embedding model: its vectors do not compare.
        """
        current = self.build_settings()
        if current and current["embedding_model"] != settings["embedding_model"]:
            raise SettingsError(
                f"this index was made with {current['embedding_model']}, not "
                f"{settings['embedding_model']}",
                why="vectors of two models do not compare",
                fix=f"--index another folder, or remove {self.folder}",
            )
        if current != settings:
            self.db.execute("BEGIN IMMEDIATE")
            self.db.execute("UPDATE files SET bytes = -1, sha256 = ''")
            self.set_meta("made_with", json.dumps(settings))
            self.db.execute("COMMIT")

    def roots(self) -> list[Path]:
        """The folders and files that were indexed last."""
        return [Path(path) for path in self.meta("roots").split("\n") if path]

    @property
    def generation(self) -> int:
        """Number of writes so far: derived files of another generation are stale."""
        return int(self.meta("generation", "0"))

    def files(self) -> dict[str, tuple[int, int, str, str, str]]:
        """path -> (bytes, mtime_ns, sha256, fault, signature of its descriptions)."""
        query = (
            "SELECT path, bytes, mtime_ns, sha256, fault, ifnull(signature, '') "
            "FROM files LEFT JOIN described USING (path)"
        )
        return {row[0]: tuple(row[1:]) for row in self.db.execute(query)}

    def has_file(self, path: str) -> bool:
        """Whether a file is in the index and could be read."""
        query = "SELECT 1 FROM files WHERE path = ? AND fault = ''"
        return self.db.execute(query, (path,)).fetchone() is not None

    def has_file_like(self, path: str) -> bool:
        """Whether a path, or the end of one as `docs/a.md`, is in the index."""
        query = "SELECT 1 FROM files WHERE path = ? OR path LIKE ?"
        ending = "%/" + path.lstrip("./")
        return self.db.execute(query, (path, ending)).fetchone() is not None

    def known_vectors(self, digests: Iterable[bytes]) -> set[bytes]:
        """Those of the digests that have a vector."""
        query = "SELECT 1 FROM vectors WHERE sha256 = ?"
        return {d for d in digests if self.db.execute(query, (d,)).fetchone()}

    def write(
        self,
        files: Sequence["FileRows"],
        vectors: dict[bytes, np.ndarray],
        removed: Iterable[str] = (),
    ) -> None:
        """Replace files with their chunks, add vectors, delete `removed`: one transaction.

        Raises DataError, as for a full disk.
        """
        try:
            self.db.execute("BEGIN IMMEDIATE")
            for path in [*removed, *(file.path for file in files)]:
                self.db.execute("DELETE FROM chunks WHERE path = ?", (path,))
                self.db.execute("DELETE FROM files WHERE path = ?", (path,))
                self.db.execute("DELETE FROM described WHERE path = ?", (path,))
            self.db.executemany(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?)",
                [
                    (digest, vector.astype(np.float32).tobytes())
                    for digest, vector in vectors.items()
                ],
            )
            for file in files:
                if file.signature:
                    self.db.execute(
                        "INSERT INTO described VALUES (?, ?)", (file.path, file.signature)
                    )
                self.db.execute(
                    "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", file.row()
                )
                self.db.executemany(
                    "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", file.chunk_rows()
                )
            self.set_meta("generation", str(self.generation + 1))
            self.db.execute("COMMIT")
        except sqlite3.Error as fault:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise DataError(
                f"the index in {self.folder} cannot be written",
                why=str(fault),
                fix="free some disk space and run it again: nothing is lost",
            ) from None

    def touch(self, path: str, mtime_ns: int) -> None:
        self.db.execute("UPDATE files SET mtime_ns = ? WHERE path = ?", (mtime_ns, path))

    def delete_unused_vectors(self) -> None:
        self.db.execute("DELETE FROM vectors WHERE sha256 NOT IN (SELECT sha256 FROM chunks)")

    def counts(self) -> dict[str, int]:
        """Numbers of files (without those that cannot be read), chunks and vectors."""

        def count(source: str) -> int:
            return int(self.db.execute(f"SELECT count(*) FROM {source}").fetchone()[0])

        return {
            "files": count("files WHERE fault = ''"),
            "chunks": count("chunks"),
            "vectors": count("vectors"),
        }

    def digest(self) -> str:
        """sha256 of all chunks and vectors: the same files give the same digest in any order."""
        total = hashlib.sha256()
        for row in self.db.execute(
            "SELECT c.id, c.path, c.text, v.vector FROM chunks c JOIN vectors v USING (sha256) "
            "ORDER BY c.id"
        ):
            total.update(repr(row[:3]).encode("utf-8", "surrogatepass") + row[3])
        return total.hexdigest()

    def chunks(self, ids: Sequence[int]) -> list[Chunk]:
        """The chunks of these ids, in the same order; unknown ids are skipped."""
        query = f"SELECT {CHUNK_COLUMNS} FROM chunks WHERE id = ?"
        rows = [self.db.execute(query, (int(i),)).fetchone() for i in ids]
        return [Chunk(*row) for row in rows if row]

    def described_text(self, path: str) -> str | None:
        """What the index holds of a file with descriptions; None for another file."""
        query = "SELECT 1 FROM described WHERE path = ?"
        if self.db.execute(query, (path,)).fetchone() is None:
            return None
        query = "SELECT text FROM chunks WHERE path = ? ORDER BY ordinal"
        return "\n\n".join(row[0] for row in self.db.execute(query, (path,)))

    def all_chunks(self) -> list[Chunk]:
        """Every chunk, in the order of paths and of the text."""
        query = f"SELECT {CHUNK_COLUMNS} FROM chunks ORDER BY path, ordinal"
        return [Chunk(*row) for row in self.db.execute(query)]

    def ids(self) -> np.ndarray:
        """Ids of all chunks, ascending, (N,) int64: the rows of every derived structure."""
        rows = self.db.execute("SELECT id FROM chunks ORDER BY id")
        return np.array([row[0] for row in rows], dtype=np.int64)

    def vectors(self) -> np.ndarray:
        """(N, dim) fp32 in the order of `ids`."""
        query = "SELECT v.vector FROM chunks c JOIN vectors v USING (sha256) ORDER BY c.id"
        blobs = [row[0] for row in self.db.execute(query)]
        if not blobs:
            return np.empty((0, 0), dtype=np.float32)
        return np.frombuffer(b"".join(blobs), dtype=np.float32).reshape(len(blobs), -1)

    def bm25_index(self) -> bm25.BM25Index:
        """The inverted index of this generation, from its file or built anew."""
        path = self.folder / f"lexical-{self.generation}.npz"
        try:
            return bm25.BM25Index.load(path)
        except (OSError, ValueError, KeyError, EOFError):
            pass
        rows = self.db.execute("SELECT terms, n_terms FROM chunks ORDER BY id").fetchall()
        index = bm25.BM25Index.build([row[0] for row in rows], [row[1] for row in rows])
        self.save_derived(path, "lexical-*.npz", index.save)
        return index

    def save_derived(self, path: Path, pattern: str, save: Callable[[Path], None]) -> None:
        """Save a derived file and delete those of older generations (`pattern`).

        A full disk is no error: the next start builds it again.
        """
        for stale in self.folder.glob(pattern):
            if stale != path:
                stale.unlink(missing_ok=True)
        try:
            save(path)
        except DataError:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class FileRows:
    """A file's row with those of its chunks, as they are written."""

    path: str
    n_bytes: int
    mtime_ns: int
    sha256: str
    title: str
    kind: str
    encoding: str
    links: list[str]
    meta: dict[str, Any]
    passages: list[Passage]
    fault: str = ""
    """Why it cannot be read: what, why and fix in three lines; empty for a readable file."""
    signature: str = ""
    """Of its descriptions (describer.py); empty for none."""

    def chunk_title(self, passage: Passage) -> str:
        """Title of the document and headings, since questions name both."""
        headings = [name for name in passage.heading if name != self.title]
        return TITLE_SEPARATOR.join([self.title, *headings])

    def digests(self) -> list[bytes]:
        """sha256 of each chunk's titled text: equal texts share one vector."""
        texts = [titled(self.chunk_title(p), p.text) for p in self.passages]
        return [hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in texts]

    def row(self) -> tuple[Any, ...]:
        return (
            self.path,
            self.n_bytes,
            self.mtime_ns,
            self.sha256,
            self.title,
            self.kind,
            self.encoding,
            json.dumps(self.links, ensure_ascii=False),
            json.dumps(self.meta, default=str, ensure_ascii=False),
            self.fault,
        )

    def chunk_rows(self) -> list[tuple[Any, ...]]:
        rows = []
        for ordinal, (passage, digest) in enumerate(
            zip(self.passages, self.digests(), strict=True)
        ):
            name = f"{self.path}\0{ordinal}\0".encode("utf-8", "surrogatepass") + digest
            chunk_id = int.from_bytes(hashlib.sha256(name).digest()[:8], "big") >> 1
            title = self.chunk_title(passage)
            text = passage.text.encode("utf-8", "replace").decode()
            packed, n_terms = bm25.pack_terms(title, text)
            rows.append(
                (
                    chunk_id,
                    self.path,
                    ordinal,
                    title,
                    text,
                    passage.line,
                    passage.last_line,
                    passage.page,
                    digest,
                    packed,
                    n_terms,
                )
            )
        return rows


def default_folder(first: str) -> Path:
    """The folder in the cache for an index of `first`, the first folder that is indexed."""
    stem = Path(first).name or "root"
    return paths.home() / "indexes" / f"{stem}-{hashlib.sha256(first.encode()).hexdigest()[:8]}"


def last_used() -> Path | None:
    """The index that was written last; None if there is none."""
    try:
        return Path((paths.home() / "indexes" / "last").read_text(encoding="utf-8").strip())
    except OSError:
        return None


def set_last_used(folder: Path) -> None:
    fsio.write_text(paths.home() / "indexes" / "last", f"{folder}\n")
