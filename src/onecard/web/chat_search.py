"""Search over all conversations: titles and messages, words of every script."""

import sqlite3
from typing import Any

from onecard.web.chat_rows import clean
from onecard.web.chat_store import ChatStore

MAX_WORDS = 10
TRIGRAM = 3
"""Shortest word that the index finds; a shorter one, as most of Chinese are, is looked for in
every message."""
AROUND = 60
"""Characters that are shown on each side of the first word."""
MAX_HITS = 400
"""Messages that are looked at, the newest first."""


def search(
    store: ChatStore, query: str, *, limit: int = 50, offset: int = 0, archived: bool = False
) -> tuple[list[dict[str, Any]], int]:
    """(conversations in whose title or one message all words occur, the last used one first; how
    many there are). Each has the message and a passage of it: text, and where the word begins."""
    words = clean(query).split()[:MAX_WORDS]
    if not words:
        return store.listing(limit=limit, offset=offset, archived=archived)
    with store.database.open() as db:
        rows = _messages(db, words, archived, store.database.has_fts)
        titles = db.execute(
            "SELECT * FROM chats WHERE deleted = 0 AND archived = ? AND "
            + " AND ".join(["title LIKE ? ESCAPE '\\'"] * len(words)),
            (archived, *map(_pattern, words)),
        ).fetchall()
    hits: dict[str, dict[str, Any]] = {}
    for row in titles:
        hits[row["id"]] = {**_facts(row, row["id"]), "message": 0, "passage": None}
    for row in rows:
        hit = hits.setdefault(row["chat"], _facts(row, row["chat"]))
        if not hit.get("message"):
            hit |= {"message": row["message"], "passage": passage(row["content"], words[0])}
    ranked = sorted(hits.values(), key=lambda hit: (-hit["updated"], hit["id"]))
    return ranked[offset : offset + limit], len(ranked)


def _facts(row: sqlite3.Row, chat: str) -> dict[str, Any]:
    names = ("title", "service", "model", "created", "updated")
    return {"id": chat, **{name: row[name] for name in names}, "archived": bool(row["archived"])}


def _messages(
    db: sqlite3.Connection, words: list[str], archived: bool, has_fts: bool
) -> list[sqlite3.Row]:
    long = [word for word in words if has_fts and len(word) >= TRIGRAM]
    short = [word for word in words if word not in long]
    where, values = ["chats.deleted = 0", "chats.archived = ?", "messages.deleted = 0"], [archived]
    parameters: list[Any] = [*values]
    if long:
        where.append("messages.id IN (SELECT rowid FROM search WHERE search MATCH ?)")
        parameters.append(" ".join('"' + word.replace('"', '""') + '"' for word in long))
    for word in short:
        where.append("messages.content LIKE ? ESCAPE '\\'")
        parameters.append(_pattern(word))
    return db.execute(
        "SELECT chats.*, messages.id AS message, messages.chat AS chat, "
        "messages.content AS content FROM messages JOIN chats ON chats.id = messages.chat "
        f"WHERE {' AND '.join(where)} ORDER BY messages.id DESC LIMIT ?",
        (*parameters, MAX_HITS),
    ).fetchall()


def _pattern(word: str) -> str:
    for mark in ("\\", "%", "_"):
        word = word.replace(mark, f"\\{mark}")
    return f"%{word}%"


def passage(text: str, word: str) -> dict[str, Any]:
    """Text around the first occurrence of a word, in one line, and where in it the word stands.

    >>> passage("The quick brown fox", "brown")
    {'text': 'The quick brown fox', 'start': 10, 'end': 15}
    """
    at = max(text.lower().find(word.lower()), 0)
    begin = max(at - AROUND, 0)
    before = ("…" if begin else "") + " ".join(text[begin:at].split())
    if before and at and text[at - 1].isspace():
        before += " "
    match = text[at : at + len(word)]
    end = at + len(word) + AROUND
    after = text[at + len(word) : end]
    after = (" " if after[:1].isspace() else "") + " ".join(after.split())
    if end < len(text):
        after += "…"
    return {
        "text": before + match + after,
        "start": len(before),
        "end": len(before) + len(match),
    }
