"""Conversations: kept in SQLite, their pictures as files beside it."""

import json
import secrets
import sqlite3
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from onecard import paths
from onecard.web.chat_database import Database
from onecard.web.chat_rows import (
    MAX_DEPTH,
    Message,
    chat_facts,
    chat_row,
    clean,
    message_of,
    message_row,
    newest_end,
    no_message,
    no_picture,
    owner,
    picture_ids,
    siblings_of,
    subtree,
    title_of,
)

MAX_CONTENT = 2_000_000
"""Characters of one message."""
MAX_TITLE = 200
FIELDS = ("title", "system", "service", "model", "settings", "archived")
"""What of a conversation can be changed."""


class ChatStore:
    """All methods block: they are called in threads. Each raises NotFound for an id that is none,
    and DataError where the database cannot be used."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or paths.home()
        self.database = Database(self.folder / "chats.sqlite3")

    # Conversations

    def create(
        self,
        *,
        title: str = "",
        system: str = "",
        service: str = "chat",
        model: str = "auto",
        settings: Mapping[str, Any] | None = None,
        created: float = 0,
    ) -> dict[str, Any]:
        chat, now = secrets.token_hex(8), time.time()
        with self.database.open(write=True) as db:
            db.execute(
                "INSERT INTO chats (id, title, system, service, model, settings, created, updated) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    chat,
                    clean(title)[:MAX_TITLE],
                    clean(system),
                    service,
                    clean(model),
                    _json(settings),
                    created or now,
                    now,
                ),
            )
        return self.chat(chat)

    def chat(self, chat: str, *, deleted: bool = False) -> dict[str, Any]:
        with self.database.open() as db:
            return chat_facts(chat_row(db, chat, deleted=deleted))

    def listing(
        self, *, limit: int = 50, offset: int = 0, archived: bool = False
    ) -> tuple[list[dict[str, Any]], int]:
        """(conversations, the last used one first; how many there are)."""
        where = "FROM chats WHERE deleted = 0 AND archived = ?"
        with self.database.open() as db:
            rows = db.execute(
                f"SELECT * {where} ORDER BY updated DESC, id LIMIT ? OFFSET ?",
                (archived, limit, offset),
            ).fetchall()
            (total,) = db.execute(f"SELECT COUNT(*) {where}", (archived,)).fetchone()
        return [chat_facts(row) for row in rows], total

    def change(self, chat: str, **facts: Any) -> dict[str, Any]:
        """Any of FIELDS."""
        with self.database.open(write=True) as db:
            chat_row(db, chat)
            for name in FIELDS:
                if name in facts:
                    value = facts[name]
                    if isinstance(value, str):
                        value = clean(value)[: MAX_TITLE if name == "title" else None]
                    elif isinstance(value, Mapping):
                        value = json.dumps(dict(value))
                    db.execute(f"UPDATE chats SET {name} = ? WHERE id = ?", (value, chat))
            db.execute("UPDATE chats SET updated = ? WHERE id = ?", (time.time(), chat))
        return self.chat(chat)

    def delete(self, chat: str) -> None:
        """It can come back for KEPT_S."""
        with self.database.open(write=True) as db:
            chat_row(db, chat)
            db.execute("UPDATE chats SET deleted = ? WHERE id = ?", (time.time(), chat))

    def restore(self, chat: str) -> dict[str, Any]:
        with self.database.open(write=True) as db:
            chat_row(db, chat, deleted=True)
            db.execute("UPDATE chats SET deleted = 0 WHERE id = ?", (chat,))
        return self.chat(chat)

    # Messages

    def add(
        self,
        chat: str,
        parent: int,
        role: str,
        content: str = "",
        *,
        status: str = "complete",
        model: str = "",
        pictures: Iterable[str] = (),
        settings: Mapping[str, Any] | None = None,
        stats: Mapping[str, Any] | None = None,
    ) -> int:
        """A new message below `parent` (0: at the beginning); it becomes the end of what is shown.

        Raises NotFound for a parent or picture of another conversation.
        """
        with self.database.open(write=True) as db:
            row = chat_row(db, chat)
            if parent:
                message_row(db, chat, parent)
            known = picture_ids(db, chat)
            for picture in (names := list(pictures)):
                if picture not in known:
                    raise no_picture(picture)
            text = clean(content)[:MAX_CONTENT]
            message = self.insert(
                db,
                (chat, parent, role, text, status, time.time(), clean(model)),
                (
                    json.dumps(names),
                    _json(settings),
                    _json(stats),
                ),
            )
            title = row["title"]
            if not title and role == "user":
                title = title_of(text)
            db.execute(
                "UPDATE chats SET leaf = ?, title = ?, updated = ? WHERE id = ?",
                (message, title, time.time(), chat),
            )
        return message

    def insert(
        self,
        db: sqlite3.Connection,
        facts: tuple[Any, ...],
        tables: tuple[str, str, str] = ("[]", "{}", "{}"),
    ) -> int:
        """facts: chat, parent, role, content, status, created, model."""
        is_final = facts[4] != "streaming"
        number = db.execute(
            "INSERT INTO messages (chat, parent, role, content, status, created, model, pictures, "
            "settings, stats, owner, indexed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*facts, *tables, "" if is_final else owner(), is_final and self.database.has_fts),
        ).lastrowid
        assert number
        if is_final and self.database.has_fts:
            db.execute("INSERT INTO search (rowid, content) VALUES (?, ?)", (number, facts[3]))
        return number

    def message(self, chat: str, message: int) -> Message:
        with self.database.open() as db:
            chat_row(db, chat)
            row = message_row(db, chat, message)
            return message_of(row, siblings_of(db, chat, [row["parent"]]))

    def path(
        self, chat: str, *, before: int = 0, limit: int = 100, leaf: int = 0
    ) -> tuple[list[Message], bool]:
        """(the messages that lead to the end of what is shown, the oldest first; whether there are
        older ones). `before`: those above this message. `leaf`: another end."""
        with self.database.open() as db:
            row = chat_row(db, chat)
            start = leaf or row["leaf"]
            if before:
                start = message_row(db, chat, before)["parent"]
            rows = db.execute(
                "WITH RECURSIVE up (id, depth) AS (VALUES (?, 0) UNION ALL "
                "SELECT messages.parent, depth + 1 FROM up JOIN messages ON messages.id = up.id "
                "WHERE depth < ? AND messages.parent <> 0) "
                "SELECT messages.* FROM up JOIN messages ON messages.id = up.id "
                "WHERE messages.chat = ? ORDER BY depth",
                (start, min(limit, MAX_DEPTH), chat),
            ).fetchall()
            siblings = siblings_of(db, chat, [row["parent"] for row in rows])
        messages = [message_of(row, siblings) for row in rows[:limit]]
        return messages[::-1], len(rows) > limit

    def begin(self, chat: str, message: int) -> None:
        """The message goes on: it is written to again."""
        with self.database.open(write=True) as db:
            message_row(db, chat, message)
            self._unindex(db, message)
            db.execute(
                "UPDATE messages SET status = 'streaming', owner = ?, error = '{}' WHERE id = ?",
                (owner(), message),
            )

    def write(
        self,
        message: int,
        content: str,
        *,
        status: str = "streaming",
        stats: Mapping[str, Any] | None = None,
        error: Mapping[str, str] | None = None,
        model: str = "",
    ) -> None:
        """The text so far, or with another status the whole. A text so far that comes late, after
        the whole, changes nothing."""
        text, name = clean(content)[:MAX_CONTENT], clean(model)
        with self.database.open(write=True) as db:
            if status == "streaming":
                db.execute(
                    "UPDATE messages SET content = ? WHERE id = ? AND status = 'streaming'",
                    (text, message),
                )
                return
            db.execute(
                "UPDATE messages SET content = ?, status = ?, stats = ?, error = ?, "
                "model = CASE WHEN ? = '' THEN model ELSE ? END WHERE id = ?",
                (text, status, _json(stats), _json(error), name, name, message),
            )
            db.execute(
                "UPDATE chats SET updated = ? WHERE id = (SELECT chat FROM messages WHERE id = ?)",
                (time.time(), message),
            )
            self._unindex(db, message)
            self.index(db, message, text)

    def index(self, db: sqlite3.Connection, message: int, text: str) -> None:
        if self.database.has_fts:
            db.execute("INSERT INTO search (rowid, content) VALUES (?, ?)", (message, text))
            db.execute("UPDATE messages SET indexed = 1 WHERE id = ?", (message,))

    def _unindex(self, db: sqlite3.Connection, message: int) -> None:
        if self.database.has_fts:
            db.execute("DELETE FROM search WHERE rowid = ?", (message,))
            db.execute("UPDATE messages SET indexed = 0 WHERE id = ?", (message,))

    def select(self, chat: str, message: int) -> None:
        """Show the branch of a message, down to its newest end."""
        with self.database.open(write=True) as db:
            message_row(db, chat, message)
            db.execute(
                "UPDATE chats SET leaf = ?, updated = ? WHERE id = ?",
                (newest_end(db, chat, message), time.time(), chat),
            )

    def below(self, chat: str, message: int) -> list[int]:
        """The message and everything that hangs on it."""
        with self.database.open() as db:
            message_row(db, chat, message)
            return subtree(db, chat, message)

    def remove(self, chat: str, message: int) -> None:
        """Delete a message with all that hangs on it; it can come back. What is shown becomes the
        nearest sibling, else the parent."""
        with self.database.open(write=True) as db:
            row = message_row(db, chat, message)
            ids = subtree(db, chat, message)
            stamp = time.time()
            db.executemany(
                "UPDATE messages SET deleted = ? WHERE id = ?", [(stamp, each) for each in ids]
            )
            (leaf,) = db.execute("SELECT leaf FROM chats WHERE id = ?", (chat,)).fetchone()
            if leaf in ids:
                left = siblings_of(db, chat, [row["parent"]]).get(row["parent"], [])
                near = [each for each in left if each < message] or left
                leaf = newest_end(db, chat, near[-1]) if near else row["parent"]
            db.execute("UPDATE chats SET leaf = ?, updated = ? WHERE id = ?", (leaf, stamp, chat))

    def bring_back(self, chat: str, message: int) -> None:
        """Undo `remove`."""
        with self.database.open(write=True) as db:
            chat_row(db, chat)
            row = db.execute(
                "SELECT * FROM messages WHERE id = ? AND chat = ? AND deleted <> 0", (message, chat)
            ).fetchone()
            if row is None:
                raise no_message(message)
            if row["parent"]:
                message_row(db, chat, row["parent"])
            db.execute(
                "UPDATE messages SET deleted = 0 WHERE chat = ? AND deleted = ?",
                (chat, row["deleted"]),
            )
            db.execute(
                "UPDATE chats SET leaf = ?, updated = ? WHERE id = ?",
                (newest_end(db, chat, message), time.time(), chat),
            )


def _json(values: Mapping[str, Any] | None) -> str:
    return json.dumps(dict(values or {}))
