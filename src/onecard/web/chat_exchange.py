"""Conversations as files: JSON with the whole tree and its pictures, Markdown of what is shown;
import of the same JSON and of what `onecard chat` saves."""

import base64
import binascii
import json
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onecard.errors import DataError, OneCardError
from onecard.web import chat_pictures, chat_settings
from onecard.web.chat_rows import MAX_DEPTH, clean, newest_end, title_of
from onecard.web.chat_store import MAX_CONTENT, MAX_TITLE, ChatStore

FORM = 1
"""Version of the JSON."""
MAX_MESSAGES = 20_000
MAX_TIME = 4e9
"""Seconds since 1970: the year 2096."""
WORDS = {"user": "You", "assistant": "Answer", "system": "System"}

Number = Annotated[int, Field(ge=0, le=2**62)]
Seconds = Annotated[float, Field(ge=0, le=MAX_TIME, allow_inf_nan=False)]


class Part(BaseModel):
    """OpenAI's part of a content."""

    type: str = Field(max_length=50)
    text: str = Field("", max_length=MAX_CONTENT)
    image_url: dict[str, Any] = Field(default_factory=dict, max_length=10)


class FileMessage(BaseModel):
    """A message; id and parent are those of the file."""

    model_config = ConfigDict(extra="ignore")

    id: Number = 0
    parent: Number | None = None
    role: Literal["user", "assistant", "system"]
    content: Annotated[str, Field(max_length=MAX_CONTENT)] | list[Part] | None = None
    status: str = Field("complete", max_length=20)
    created: Seconds = 0
    model: str = Field("", max_length=4096)
    stats: dict[str, Any] = Field(default_factory=dict, max_length=50)
    pictures: list[Annotated[str, Field(max_length=20 << 20)]] = Field(
        default_factory=list, max_length=16
    )


class FileChat(BaseModel):
    """One conversation."""

    model_config = ConfigDict(extra="ignore")

    title: str = Field("", max_length=2000)
    system: str = Field("", max_length=MAX_CONTENT)
    service: Literal["chat", "vision"] = "chat"
    settings: dict[str, Any] = Field(default_factory=dict, max_length=20)
    created: Seconds = 0
    leaf: Number = 0
    messages: list[FileMessage] = Field(max_length=MAX_MESSAGES)


class FileChats(BaseModel):
    """All conversations."""

    chats: list[FileChat] = Field(max_length=10_000)


# Out


def to_json(store: ChatStore, chat: str) -> dict[str, Any]:
    """The whole tree, with its pictures as data URLs. Raises NotFound."""
    facts = store.chat(chat)
    with store.database.open() as db:
        rows = db.execute(
            "SELECT * FROM messages WHERE chat = ? AND deleted = 0 ORDER BY id", (chat,)
        ).fetchall()
    names = ("id", "parent", "role", "content", "status", "created", "model")
    messages = []
    for row in rows:
        message = {name: row[name] for name in names} | {"stats": json.loads(row["stats"])}
        if row["pictures"] != "[]":
            pictures = (picture_url(store, chat, name) for name in json.loads(row["pictures"]))
            message["pictures"] = [url for url in pictures if url]
        messages.append(message)
    return {"onecard_chat": FORM, **facts, "messages": messages}


def picture_url(store: ChatStore, chat: str, picture: str) -> str:
    """A picture as a data URL; empty for one that is gone."""
    try:
        row = chat_pictures.find(store, chat, picture)
        content = row.path.read_bytes()
    except (OneCardError, OSError):
        return ""
    return f"data:{row.media_type};base64,{base64.b64encode(content).decode()}"


def all_as_json(store: ChatStore) -> Iterator[str]:
    """Every conversation, in pieces of one each."""
    yield '{"onecard_chats": 1, "chats": ['
    with store.database.open() as db:
        rows = db.execute("SELECT id FROM chats WHERE deleted = 0 ORDER BY created").fetchall()
    for i, row in enumerate(rows):
        try:
            chat = to_json(store, row["id"])
        except OneCardError:  # deleted meanwhile
            continue
        yield (",\n" if i else "\n") + json.dumps(chat, ensure_ascii=False)
    yield "\n]}\n"


def to_markdown(store: ChatStore, chat: str) -> str:
    """The branch that is shown. Raises NotFound."""
    facts = store.chat(chat)
    messages, _ = store.path(chat, limit=MAX_DEPTH)
    blocks = [f"# {facts['title'] or 'Conversation'}"]
    if facts["system"]:
        blocks += ["## System", facts["system"]]
    for message in messages:
        head = WORDS.get(message.role, message.role)
        blocks.append(f"## {head}" + (f" ({message.model})" if message.model else ""))
        blocks += ["*(a picture)*"] * len(message.pictures)
        blocks.append(message.content.strip())
    return "\n\n".join(filter(None, blocks)) + "\n"


# In


def read(content: bytes) -> list[FileChat]:
    """The conversations of a file. Raises DataError."""
    try:
        try:
            return [FileChat.model_validate_json(content)]
        except ValidationError:
            if b'"chats"' not in content:
                raise
            return FileChats.model_validate_json(content).chats
    except ValidationError as fault:
        rows = [
            f"{'.'.join(map(str, row['loc']))}: {row['msg']}"
            for row in fault.errors(include_input=False, include_url=False)[:5]
        ]
        raise DataError(
            "this is no saved conversation",
            why="; ".join(rows).encode("utf-8", "replace").decode()[:500],
            fix="take a file that this page exported, or that /save in onecard chat wrote",
        ) from None


@dataclass(frozen=True)
class _Row:
    """A message ready to be written."""

    message: FileMessage
    text: str
    pictures: list[chat_pictures.Encoded]


def add(store: ChatStore, chat: FileChat) -> dict[str, Any]:
    """Write a conversation, whole or not at all. Its model is not taken over: a file from
    elsewhere may name none of this machine's. Raises DataError."""
    number, now = secrets.token_hex(8), time.time()
    system, messages = _without_system(chat)
    rows = [_Row(each, _text_of(each), _pictures_of(each)) for each in messages]
    try:
        with store.database.open(write=True) as db:
            db.execute(
                "INSERT INTO chats (id, title, system, service, model, settings, created, updated) "
                "VALUES (?, ?, ?, ?, 'auto', ?, ?, ?)",
                (
                    number,
                    clean(chat.title)[:MAX_TITLE] or _title_of(messages),
                    clean(system),
                    chat.service,
                    json.dumps(chat_settings.valid(chat.settings)),
                    chat.created or now,
                    now,
                ),
            )
            ids = _insert(store, db, number, rows)
            leaf = ids.get(chat.leaf) or max(ids.values(), default=0)
            leaf = newest_end(db, number, leaf)
            db.execute("UPDATE chats SET leaf = ? WHERE id = ?", (leaf, number))
    except BaseException:
        shutil.rmtree(chat_pictures.picture_folder(store, number), ignore_errors=True)
        raise
    return store.chat(number)


def _without_system(chat: FileChat) -> tuple[str, list[FileMessage]]:
    """(the system prompt, the other messages): `onecard chat` saves it as the first message."""
    rows = chat.messages
    if not rows or rows[0].role != "system":
        return chat.system, rows
    first = rows[0].id
    children = [
        row.model_copy(update={"parent": 0}) if first and row.parent == first else row
        for row in rows[1:]
    ]
    return chat.system or _text_of(rows[0]), children


def _insert(
    store: ChatStore, db: sqlite3.Connection, chat: str, rows: list[_Row]
) -> dict[int, int]:
    """Ids of the file -> ours; a message without an id has a negative one. Raises DataError."""
    ids: dict[int, int] = {}
    last = 0
    for i, row in enumerate(rows):
        named = row.message.parent
        if named and named not in ids:
            raise DataError(
                "this is no saved conversation",
                why=f"messages.{i}: its parent {named} does not stand before it",
                fix="export it again",
            )
        parent = last if named is None else ids.get(named, 0)
        pictures = [chat_pictures.keep(store, db, chat, each).id for each in row.pictures]
        status = row.message.status if row.message.status in ("complete", "failed") else "stopped"
        created = row.message.created or time.time()
        last = store.insert(
            db,
            (chat, parent, row.message.role, row.text, status, created, clean(row.message.model)),
            (json.dumps(pictures), "{}", json.dumps(_numbers(row.message.stats))),
        )
        ids[row.message.id or -i - 1] = last
    return ids


def _title_of(rows: list[FileMessage]) -> str:
    return title_of(next((_text_of(row) for row in rows if row.role == "user"), ""))


def _text_of(row: FileMessage) -> str:
    if not isinstance(row.content, list):
        return clean(row.content or "")
    texts = []
    for part in row.content:
        url = str(part.image_url.get("url", ""))
        if part.text:
            texts.append(part.text)
        elif url and not url.startswith("data:"):
            texts.append(f"(a picture: {url[:500]})")
    return clean("\n".join(texts))


def _pictures_of(row: FileMessage) -> list[chat_pictures.Encoded]:
    """The pictures in a message's data URLs, decoded. Raises DataError."""
    urls = [*row.pictures]
    if isinstance(row.content, list):
        named = [str(part.image_url.get("url", "")) for part in row.content]
        urls += [url for url in named if url.startswith("data:")]
    return [_decoded(url) for url in urls[: chat_pictures.MAX_PICTURES]]


def _decoded(url: str) -> chat_pictures.Encoded:
    head, _, body = url.partition(",")
    try:
        if not head.startswith("data:image/") or not head.endswith(";base64"):
            raise ValueError("it is no data URL of a picture")
        content = base64.b64decode(body, validate=True)
    except (ValueError, binascii.Error) as fault:
        raise DataError(
            "a picture of the conversation is broken", why=str(fault)[:200], fix="export it again"
        ) from None
    return chat_pictures.reencode(content)


def _numbers(stats: dict[str, Any]) -> dict[str, Any]:
    """Figures of a file that a page may show."""
    return {
        clean(name)[:40]: value
        for name, value in stats.items()
        if isinstance(value, int | float) and abs(value) < 1e15
    }
