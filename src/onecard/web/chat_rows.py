"""Rows of the conversations' database as objects, within an open connection."""

import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from onecard import fsio
from onecard.errors import NotFound

MAX_DEPTH = 100_000
"""Messages of a branch that are walked."""


@dataclass(frozen=True)
class Message:
    """One node of the tree; parent 0 is the beginning."""

    id: int
    chat: str
    parent: int
    role: str
    content: str
    status: str
    """complete, streaming, stopped or failed."""
    created: float
    model: str
    pictures: list[str]
    settings: dict[str, Any]
    stats: dict[str, Any]
    error: dict[str, str]
    siblings: list[int]
    """All children of the same parent, this one included, the oldest first."""


def clean(text: str) -> str:
    """Without what no text holds: NUL ends a text for SQLite, half a surrogate pair is no UTF-8."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def owner() -> str:
    """This process, as no other was called since the machine started."""
    return f"{os.getpid()}:{fsio.process_start(os.getpid())}"


def is_alive(name: str) -> bool:
    pid, _, start = name.partition(":")
    return pid.isdigit() and bool(start) and fsio.process_start(int(pid)) == start


def title_of(text: str) -> str:
    """The first line of a question, cut at a word.

    >>> title_of("What is a fox?  And\\nwhy?")
    'What is a fox? And'
    """
    line = " ".join(text.strip().split("\n")[0].split())
    if len(line) <= 60:
        return line
    head = line[:60].rsplit(" ", 1)[0]
    return (head if len(head) > 30 else line[:59]) + "…"


def chat_row(db: sqlite3.Connection, chat: str, *, deleted: bool = False) -> sqlite3.Row:
    row: sqlite3.Row | None = db.execute("SELECT * FROM chats WHERE id = ?", (chat,)).fetchone()
    if row is None or (row["deleted"] and not deleted):
        raise NotFound(
            f"there is no conversation {chat[:40]}",
            why="it was deleted, or never made",
            fix="choose one of the list",
        )
    return row


def chat_facts(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "title": row["title"],
        "system": row["system"],
        "service": row["service"],
        "model": row["model"],
        "settings": json.loads(row["settings"]),
        "created": row["created"],
        "updated": row["updated"],
        "archived": bool(row["archived"]),
        "leaf": row["leaf"],
    }


def message_row(db: sqlite3.Connection, chat: str, message: int) -> sqlite3.Row:
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM messages WHERE id = ? AND chat = ? AND deleted = 0", (message, chat)
    ).fetchone()
    if row is None:
        raise no_message(message)
    return row


def message_of(row: sqlite3.Row, siblings: Mapping[int, list[int]]) -> Message:
    return Message(
        row["id"],
        row["chat"],
        row["parent"],
        row["role"],
        row["content"],
        row["status"],
        row["created"],
        row["model"],
        json.loads(row["pictures"]),
        json.loads(row["settings"]),
        json.loads(row["stats"]),
        json.loads(row["error"]),
        siblings.get(row["parent"], [row["id"]]),
    )


def siblings_of(db: sqlite3.Connection, chat: str, parents: Iterable[int]) -> dict[int, list[int]]:
    """Parent -> its children."""
    out: dict[int, list[int]] = {}
    names = list(dict.fromkeys(parents))
    for i in range(0, len(names), 500):  # SQLite takes some 1,000 parameters
        some = names[i : i + 500]
        marks = ", ".join("?" * len(some))
        for row in db.execute(
            "SELECT id, parent FROM messages WHERE chat = ? AND deleted = 0 "
            f"AND parent IN ({marks}) ORDER BY id",
            (chat, *some),
        ):
            out.setdefault(row["parent"], []).append(row["id"])
    return out


def newest_end(db: sqlite3.Connection, chat: str, message: int) -> int:
    for _ in range(MAX_DEPTH):
        (child,) = db.execute(
            "SELECT MAX(id) FROM messages WHERE chat = ? AND parent = ? AND deleted = 0",
            (chat, message),
        ).fetchone()
        if child is None:
            break
        message = child
    return message


def subtree(db: sqlite3.Connection, chat: str, message: int) -> list[int]:
    rows = db.execute(
        "WITH RECURSIVE down (id) AS (VALUES (?) UNION ALL SELECT messages.id FROM down "
        "JOIN messages ON messages.parent = down.id WHERE messages.chat = ? AND deleted = 0) "
        "SELECT id FROM down",
        (message, chat),
    ).fetchall()
    return [row["id"] for row in rows]


def picture_ids(db: sqlite3.Connection, chat: str) -> set[str]:
    return {row["id"] for row in db.execute("SELECT id FROM pictures WHERE chat = ?", (chat,))}


def no_message(message: int) -> NotFound:
    return NotFound(
        f"there is no message {message} in this conversation",
        why="it was deleted, or is of another conversation",
        fix="load the conversation again",
    )


def no_picture(picture: str) -> NotFound:
    return NotFound(
        f"there is no picture {picture[:40]} in this conversation",
        why="it was never sent, or lay unused for a day",
        fix="attach it again",
    )
