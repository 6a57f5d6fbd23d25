"""The SQLite file of the conversations: its tables, its migrations, how it is opened.

A message names its parent, so that a conversation is a tree: an edited question or a second answer
is a sibling, and nothing is overwritten. Search uses FTS5's trigrams, which find words of every
script from three letters on; shorter ones, and all where SQLite lacks FTS5, are found by LIKE.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onecard.errors import DataError

MIGRATIONS = (
    """
    CREATE TABLE chats (
        id TEXT PRIMARY KEY,
        title TEXT NOT NULL,
        system TEXT NOT NULL,
        service TEXT NOT NULL,
        model TEXT NOT NULL,
        settings TEXT NOT NULL,
        created REAL NOT NULL,
        updated REAL NOT NULL,
        archived INTEGER NOT NULL DEFAULT 0,
        deleted REAL NOT NULL DEFAULT 0,
        leaf INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX chats_updated ON chats (deleted, archived, updated);
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        chat TEXT NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
        parent INTEGER NOT NULL,
        role TEXT NOT NULL,
        content TEXT NOT NULL,
        status TEXT NOT NULL,
        created REAL NOT NULL,
        model TEXT NOT NULL DEFAULT '',
        pictures TEXT NOT NULL DEFAULT '[]',
        settings TEXT NOT NULL DEFAULT '{}',
        stats TEXT NOT NULL DEFAULT '{}',
        error TEXT NOT NULL DEFAULT '{}',
        owner TEXT NOT NULL DEFAULT '',
        indexed INTEGER NOT NULL DEFAULT 0,
        deleted REAL NOT NULL DEFAULT 0
    );
    CREATE INDEX messages_parent ON messages (chat, parent);
    CREATE INDEX messages_streaming ON messages (status) WHERE status = 'streaming';
    CREATE TABLE pictures (
        id TEXT PRIMARY KEY,
        chat TEXT NOT NULL REFERENCES chats (id) ON DELETE CASCADE,
        name TEXT NOT NULL,
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        created REAL NOT NULL
    );
    CREATE INDEX pictures_chat ON pictures (chat);
    """,
)
"""The n-th brings a file from version n to n + 1 (user_version)."""
WAIT_S = 30
"""Longest wait for another process that writes."""


class Database:
    """Opens the file; makes or migrates it the first time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.has_fts = False
        self._is_ready = False
        self._lock = threading.Lock()

    @contextmanager
    def open(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection for one piece of work; with `write` a transaction, kept whole or not at all.

        Raises DataError where the file is broken or the disk full.
        """
        try:
            with self._lock:
                if not self._is_ready:
                    self._prepare()
            connection = self._connect()
            try:
                if write:
                    connection.execute("BEGIN IMMEDIATE")
                yield connection
                if write:
                    connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                connection.close()
        except sqlite3.Error as fault:
            raise DataError(
                "the conversations cannot be read or written",
                why=f"{self.path.name}: {fault}",
                fix="free some disk space; a file that is broken can be moved away, and a new one "
                "is begun",
            ) from None

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=WAIT_S, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _prepare(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = self._connect()
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > len(MIGRATIONS):
                raise DataError(
                    "the conversations are of a newer onecard",
                    why=f"{self.path.name} has version {version}, this program knows "
                    f"{len(MIGRATIONS)}",
                    fix="install the newer onecard again",
                )
            for script in MIGRATIONS[version:]:
                for statement in filter(str.strip, script.split(";")):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
            connection.execute("COMMIT")
            self.has_fts = self._prepare_search(connection)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            connection.close()
        self._is_ready = True

    def _prepare_search(self, connection: sqlite3.Connection) -> bool:
        """False where this SQLite has no trigrams. Messages that another one wrote are added."""
        try:
            connection.execute(
                "CREATE VIRTUAL TABLE IF NOT EXISTS search USING fts5(content, tokenize='trigram')"
            )
            connection.execute("SELECT rowid FROM search LIMIT 1").fetchall()
        except sqlite3.OperationalError:
            return False
        connection.execute("BEGIN IMMEDIATE")
        rows = "FROM messages WHERE indexed = 0 AND status <> 'streaming'"
        connection.execute(f"INSERT INTO search (rowid, content) SELECT id, content {rows}")
        connection.execute(
            "UPDATE messages SET indexed = 1 WHERE indexed = 0 AND status <> 'streaming'"
        )
        connection.execute("COMMIT")
        return True
