"""What is done for the conversations when a server starts: messages of a dead server are closed,
what was deleted long ago goes."""

import json
import shutil
import time

from onecard.web.chat_pictures import picture_folder
from onecard.web.chat_rows import is_alive
from onecard.web.chat_store import ChatStore

KEPT_S = 30 * 24 * 3600
"""How long something deleted can come back."""
UNUSED_S = 24 * 3600
"""How long a picture may lie without a message."""


def recover(store: ChatStore) -> int:
    """Messages whose server has gone are stopped, with the text that was kept; their number."""
    with store.database.open(write=True) as db:
        rows = db.execute(
            "SELECT id, content, owner FROM messages WHERE status = 'streaming'"
        ).fetchall()
        dead = [row for row in rows if not is_alive(row["owner"])]
        for row in dead:
            db.execute("UPDATE messages SET status = 'stopped' WHERE id = ?", (row["id"],))
            store.index(db, row["id"], row["content"])
    return len(dead)


def prune(store: ChatStore) -> None:
    """Remove for good what was deleted KEPT_S ago, and pictures that no message has."""
    now = time.time()
    with store.database.open(write=True) as db:
        rows = db.execute(
            "SELECT id FROM chats WHERE deleted <> 0 AND deleted < ?", (now - KEPT_S,)
        ).fetchall()
        expired = [row["id"] for row in rows]
        for chat in expired:
            if store.database.has_fts:
                db.execute(
                    "DELETE FROM search WHERE rowid IN (SELECT id FROM messages WHERE chat = ?)",
                    (chat,),
                )
            db.execute("DELETE FROM chats WHERE id = ?", (chat,))
        used = {
            name
            for row in db.execute("SELECT pictures FROM messages WHERE pictures <> '[]'")
            for name in json.loads(row["pictures"])
        }
        rows = db.execute(
            "SELECT id, chat, name FROM pictures WHERE created < ?", (now - UNUSED_S,)
        ).fetchall()
        unused = [row for row in rows if row["id"] not in used]
        for row in unused:
            db.execute("DELETE FROM pictures WHERE id = ?", (row["id"],))
    for chat in expired:
        shutil.rmtree(picture_folder(store, chat), ignore_errors=True)
    for row in unused:
        (picture_folder(store, row["chat"]) / row["name"]).unlink(missing_ok=True)
