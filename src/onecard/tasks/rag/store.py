"""The index on the disk: one SQLite file (WAL) is the truth; what searches fast is made from it and
may be lost. Knows no embedder.

Every chunk, its terms and its vector are written in one transaction with the file they come from,
so that a kill at any time
leaves whole files only. The arrays beside it carry the generation of the database they were made
from.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onecard import fsio, paths
from onecard.errors import DataError, NotFound, SettingsError
from onecard.tasks.rag import lexical
from onecard.tasks.rag.chunk import Passage

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, bytes INT, mtime_ns INT, sha256 TEXT, title TEXT, kind TEXT, encoding TEXT, links TEXT, meta TEXT, fault TEXT);
CREATE TABLE IF NOT EXISTS chunks (id INTEGER PRIMARY KEY, path TEXT, ordinal INT, head TEXT, text TEXT, line INT, last_line INT, page INT, sha256 BLOB, terms BLOB, n_terms INT);
CREATE INDEX IF NOT EXISTS chunks_by_path ON chunks (path);
CREATE INDEX IF NOT EXISTS chunks_by_sha ON chunks (sha256);
CREATE TABLE IF NOT EXISTS vectors (sha256 BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID;
"""
FORMAT = "1"


@dataclass(frozen=True)
class Chunk:
    id: int
    path: str
    head: str
    text: str
    line: int
    last_line: int
    page: int

    def place(self) -> str:
        """Where it stands, for a citation: the path with its page or lines, and the heading."""
        where = (
            f" p. {self.page}"
            if self.page
            else f":{self.line}-{self.last_line}"
            if self.last_line > self.line
            else f":{self.line}"
        )
        return self.path + where

    @property
    def heading(self) -> str:
        return self.head.partition("\n")[2] or self.head


def embed_text(head: str, text: str) -> str:
    """What is embedded: the passage under its title and headings."""
    return f"{head}\n{text}"


class Store:
    """Open for one process to write or many to read."""

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self.folder = folder
        path = folder / "index.sqlite"
        if not create and not path.exists():
            raise NotFound(
                f"there is no index in {folder}",
                why="it holds no index.sqlite",
                fix=f"make one first: onecard rag index FOLDER --index {folder}",
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.db = sqlite3.connect(
                path, isolation_level=None, timeout=30, check_same_thread=False
            )  # a server answers from worker threads, one at a time
            self.db.execute("PRAGMA journal_mode = WAL")
            self.db.execute(
                "PRAGMA synchronous = NORMAL"
            )  # in WAL a crash loses at most the last commits, never consistency
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

    def agree(self, wanted: dict[str, str]) -> None:
        """Take these settings; files made with others count as changed.

        Raises SettingsError for another embedder's vectors.
        """
        held = json.loads(self.meta("made_with", "{}"))
        if held and held["embedding_model"] != wanted["embedding_model"]:
            raise SettingsError(
                f"this index was made with {held['embedding_model']}, not "
                f"{wanted['embedding_model']}",
                why="vectors of two models do not compare",
                fix=f"--index another folder, or remove {self.folder}",
            )
        if held != wanted:
            self.db.execute("BEGIN IMMEDIATE")
            self.db.execute("UPDATE files SET bytes = -1, sha256 = ''")
            self.set_meta("made_with", json.dumps(wanted))
            self.db.execute("COMMIT")

    @property
    def generation(self) -> int:
        return int(self.meta("generation", "0"))

    def files(self) -> dict[str, tuple[int, int, str, str]]:
        """path -> (bytes, mtime_ns, sha256, fault)."""
        return {
            row[0]: (row[1], row[2], row[3], row[4])
            for row in self.db.execute("SELECT path, bytes, mtime_ns, sha256, fault FROM files")
        }

    def known_vectors(self, digests: Iterable[bytes]) -> set[bytes]:
        return {
            digest
            for digest in digests
            if self.db.execute("SELECT 1 FROM vectors WHERE sha256 = ?", (digest,)).fetchone()
        }

    def write(
        self,
        files: Sequence["FileRows"],
        vectors: dict[bytes, np.ndarray],
        removed: Iterable[str] = (),
    ) -> None:
        """Files with their chunks and new vectors, and files that are gone: all or nothing.

        Raises DataError when the disk is full.
        """
        try:
            self.db.execute("BEGIN IMMEDIATE")
            for path in [*removed, *(file.path for file in files)]:
                self.db.execute("DELETE FROM chunks WHERE path = ?", (path,))
                self.db.execute("DELETE FROM files WHERE path = ?", (path,))
            self.db.executemany(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?)",
                [
                    (digest, vector.astype(np.float32).tobytes())
                    for digest, vector in vectors.items()
                ],
            )
            for file in files:
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

    def sweep(self) -> None:
        """Forget vectors that no chunk has any more."""
        self.db.execute("DELETE FROM vectors WHERE sha256 NOT IN (SELECT sha256 FROM chunks)")

    def counts(self) -> dict[str, int]:
        one = self.db.execute
        return {
            "files": one("SELECT count(*) FROM files WHERE fault = ''").fetchone()[0],
            "chunks": one("SELECT count(*) FROM chunks").fetchone()[0],
            "vectors": one("SELECT count(*) FROM vectors").fetchone()[0],
        }

    def digest(self) -> str:
        """sha256 over all that can be found, the same for the same files however they got in."""
        total = hashlib.sha256()
        for row in self.db.execute(
            "SELECT c.id, c.path, c.text, v.vector FROM chunks c JOIN vectors v USING (sha256) "
            "ORDER BY c.id"
        ):
            total.update(repr(row[:3]).encode("utf-8", "surrogatepass") + row[3])
        return total.hexdigest()

    def chunks(self, ids: Sequence[int]) -> list[Chunk]:
        """In the order of `ids`."""
        found = {}
        for i in ids:
            row = self.db.execute(
                "SELECT id, path, head, text, line, last_line, page FROM chunks WHERE id = ?",
                (int(i),),
            ).fetchone()
            if row:
                found[row[0]] = Chunk(*row)
        return [found[int(i)] for i in ids if int(i) in found]

    def all_chunks(self) -> list[Chunk]:
        return [
            Chunk(*row)
            for row in self.db.execute(
                "SELECT id, path, head, text, line, last_line, page FROM chunks ORDER BY path, "
                "ordinal"
            )
        ]

    def ids(self) -> np.ndarray:
        """Every chunk's id, ascending: the index's order. (N,) int64."""
        return np.array(
            [row[0] for row in self.db.execute("SELECT id FROM chunks ORDER BY id")], dtype=np.int64
        )

    def vectors(self) -> np.ndarray:
        """(N, dim) fp32 in the index's order."""
        blobs = [
            row[0]
            for row in self.db.execute(
                "SELECT v.vector FROM chunks c JOIN vectors v USING (sha256) ORDER BY c.id"
            )
        ]
        return (
            np.frombuffer(b"".join(blobs), dtype=np.float32).reshape(len(blobs), -1)
            if blobs
            else np.empty((0, 0), dtype=np.float32)
        )

    def lexical(self) -> lexical.Lexical:
        """The inverted arrays of this generation: from the disk, else made from the truth and kept."""
        path = self.folder / f"lexical-{self.generation}.npz"
        try:
            return lexical.Lexical.load(path)
        except (OSError, ValueError, KeyError, EOFError):
            pass
        rows = self.db.execute("SELECT terms, n_terms FROM chunks ORDER BY id").fetchall()
        built = lexical.Lexical.build([row[0] for row in rows], [row[1] for row in rows])
        self._keep(path, "lexical-*.npz", built.save)
        return built

    def _keep(self, path: Path, old: str, save: Any) -> None:
        """A derived file in place of the last generation's; a full disk only costs the next start
        its time."""
        for stale in self.folder.glob(old):
            if stale != path:
                stale.unlink(missing_ok=True)
        try:
            save(path)
        except DataError:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class FileRows:
    """One file as it goes into the database."""

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

    def head(self, passage: Passage) -> str:
        """Title and headings; the path's words stand in it, since questions name files."""
        trail = [name for name in passage.heading if name != self.title]
        return " > ".join([self.title, *trail])

    def digests(self) -> list[bytes]:
        return [
            hashlib.sha256(embed_text(self.head(p), p.text).encode("utf-8", "replace")).digest()
            for p in self.passages
        ]

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
            head, clean = self.head(passage), passage.text.encode("utf-8", "replace").decode()
            packed, n_terms = lexical.pack(head, clean)
            rows.append(
                (
                    chunk_id,
                    self.path,
                    ordinal,
                    head,
                    clean,
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
    """The index's folder in the cache, named after what is indexed."""
    stem = Path(first).name or "root"
    return paths.home() / "indexes" / f"{stem}-{hashlib.sha256(first.encode()).hexdigest()[:8]}"


def last_used() -> Path | None:
    """The index that was made or renewed last."""
    try:
        return Path((paths.home() / "indexes" / "last").read_text(encoding="utf-8").strip())
    except OSError:
        return None


def remember(folder: Path) -> None:
    fsio.write_text(paths.home() / "indexes" / "last", f"{folder}\n")
