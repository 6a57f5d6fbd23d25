"""Conversations in SQLite: the tree, search, recovery, exchange; what is sent to a model."""

import base64
import io
import json
import sqlite3
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from onecard.errors import DataError, NotFound
from onecard.web import (
    chat_exchange,
    chat_history,
    chat_pictures,
    chat_search,
    chat_settings,
    chat_upkeep,
)
from onecard.web.chat_answers import _Echo
from onecard.web.chat_database import MIGRATIONS
from onecard.web.chat_store import ChatStore


@pytest.fixture
def store(tmp_path):
    return ChatStore(tmp_path)


@pytest.fixture
def chat(store):
    return store.create(title="")["id"]


def talk(store, chat, *texts, parent=0):
    """Messages in turn, the user's first; their ids."""
    ids = []
    for i, text in enumerate(texts):
        parent = store.add(chat, parent, "assistant" if i % 2 else "user", text)
        ids.append(parent)
    return ids


def shown(store, chat, **more):
    return [message.content for message in store.path(chat, **more)[0]]


def picture(width=40, height=30, form="PNG", color="red"):
    file = io.BytesIO()
    Image.new("RGB", (width, height), color).save(file, form)
    return file.getvalue()


# The tree


def test_the_title_is_the_first_question(store, chat):
    talk(store, chat, "What is a fox?\nAnd why?", "An animal.")
    assert store.chat(chat)["title"] == "What is a fox?"


def test_an_edit_is_a_sibling_and_nothing_is_lost(store, chat):
    first, answer = talk(store, chat, "one", "1")
    edited = store.add(chat, 0, "user", "uno")
    assert shown(store, chat) == ["uno"]
    assert store.message(chat, edited).siblings == [first, edited]
    store.select(chat, first)
    assert shown(store, chat) == ["one", "1"]
    assert store.chat(chat)["leaf"] == answer


def test_a_branch_is_shown_down_to_its_newest_end(store, chat):
    a, b, *_ = talk(store, chat, "a", "b", "c", "d")
    other = store.add(chat, a, "assistant", "B")
    assert shown(store, chat) == ["a", "B"]
    store.select(chat, b)
    assert shown(store, chat) == ["a", "b", "c", "d"]
    assert store.message(chat, other).siblings == [b, other]


def test_pages_go_upwards(store, chat):
    ids = talk(store, chat, *map(str, range(25)))
    rows, more = store.path(chat, limit=10)
    assert [row.content for row in rows] == [str(n) for n in range(15, 25)] and more
    rows, more = store.path(chat, limit=10, before=rows[0].id)
    assert [row.content for row in rows] == [str(n) for n in range(5, 15)] and more
    rows, more = store.path(chat, limit=10, before=ids[5])
    assert [row.content for row in rows] == [str(n) for n in range(5)] and not more


def test_what_is_removed_comes_back_with_all_that_hangs_on_it(store, chat):
    _, b, _, d = talk(store, chat, "a", "b", "c", "d")
    store.remove(chat, b)
    assert shown(store, chat) == ["a"]
    with pytest.raises(NotFound):
        store.message(chat, d)
    store.bring_back(chat, b)
    assert shown(store, chat) == ["a", "b", "c", "d"]


def test_after_a_removal_the_nearest_sibling_is_shown(store, chat):
    a, _ = talk(store, chat, "a", "b")
    other = store.add(chat, a, "assistant", "B")
    store.remove(chat, other)
    assert shown(store, chat) == ["a", "b"]


def test_a_removal_inside_a_removal_keeps_its_own_undo(store, chat):
    _, b, _, d = talk(store, chat, "a", "b", "c", "d")
    store.remove(chat, d)
    store.remove(chat, b)
    store.bring_back(chat, b)
    assert shown(store, chat) == ["a", "b", "c"]


def test_a_message_of_another_conversation_is_none(store, chat):
    (message,) = talk(store, chat, "a")
    other = store.create()["id"]
    for work in (
        lambda: store.message(other, message),
        lambda: store.add(other, message, "user", "x"),
        lambda: store.select(other, message),
        lambda: store.remove(other, message),
        lambda: store.below(other, message),
        lambda: store.path(other, before=message),
    ):
        with pytest.raises(NotFound):
            work()


def test_what_no_text_holds_is_left_out(store, chat):
    (message,) = talk(store, chat, "a\0b\ud800c")
    assert store.message(chat, message).content == "ab?c"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ads"), st.integers(0, 30)), max_size=25))
def test_any_order_of_work_leaves_a_path_that_is_whole(tmp_path_factory, steps):
    store = ChatStore(tmp_path_factory.mktemp("tree"))
    chat = store.create()["id"]
    ids = [0]
    for kind, n in steps:
        target = ids[n % len(ids)]
        try:
            if kind == "a":
                ids.append(store.add(chat, target, "user", str(len(ids))))
            elif kind == "d" and target:
                store.remove(chat, target)
            elif kind == "s" and target:
                store.select(chat, target)
        except NotFound:  # below what was removed
            continue
        rows, _ = store.path(chat, limit=1000)
        assert [row.parent for row in rows] == [0, *(row.id for row in rows)][: len(rows)]
        assert (rows[-1].id if rows else 0) == store.chat(chat)["leaf"]


# Conversations


def test_the_last_used_one_stands_first(store):
    first, second = (store.create(title=name)["id"] for name in "ab")
    talk(store, first, "hello")
    assert [row["id"] for row in store.listing()[0]] == [first, second]


def test_a_deleted_conversation_comes_back(store, chat):
    talk(store, chat, "hello")
    store.delete(chat)
    assert store.listing() == ([], 0)
    assert chat_search.search(store, "hello") == ([], 0)
    with pytest.raises(NotFound):
        store.chat(chat)
    store.restore(chat)
    assert shown(store, chat) == ["hello"]


def test_the_archive_is_a_list_of_its_own(store, chat):
    store.change(chat, archived=True)
    assert store.listing()[1] == 0 and store.listing(archived=True)[1] == 1


def test_what_was_deleted_long_ago_goes_with_its_pictures(store, chat, monkeypatch):
    row = chat_pictures.add(store, chat, picture())
    talk(store, chat, "hello")
    store.delete(chat)
    chat_upkeep.prune(store)
    store.restore(chat)
    store.delete(chat)
    monkeypatch.setattr(chat_upkeep, "KEPT_S", -1)
    chat_upkeep.prune(store)
    with pytest.raises(NotFound):
        store.restore(chat)
    assert not row.path.exists()


def test_writers_wait_for_each_other(store, chat):
    def write(name):
        for i in range(15):
            store.add(chat, 0, "user", f"{name} {i}")

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.path(chat)[0][0].siblings) == 60


# Search


@pytest.mark.parametrize("fts", [True, False])
@pytest.mark.parametrize(
    "query",
    [
        "quick",
        "QUICK",
        "ick bro",
        "量化",
        "量",
        "量化模型",
        "what's",
        '"',
        "100%",
        "x_y",
        "fox 量化",
    ],
)
def test_words_of_every_script_are_found(store, chat, query, fts):
    talk(store, chat, 'The quick brown fox says "what\'s 100% of x_y" 量化模型是什麼')
    talk(store, store.create()["id"], "something else entirely")
    store.database.has_fts = fts
    rows, total = chat_search.search(store, query)
    assert [row["id"] for row in rows] == [chat] and total == 1
    passage = rows[0]["passage"]
    word = query.split()[0]
    assert passage["text"][passage["start"] : passage["end"]].lower() == word.lower()


@pytest.mark.parametrize("query", ["nothing", "quick nothing", "%", "_", "量子", "\\", "x*y", "OR"])
def test_what_is_not_there_is_not_found(store, chat, query):
    talk(store, chat, "The quick brown fox 量化")
    assert chat_search.search(store, query) == ([], 0)


def test_a_title_is_found(store):
    chat = store.create(title="Pineapple 鳳梨")["id"]
    assert [row["id"] for row in chat_search.search(store, "鳳梨")[0]] == [chat]


def test_a_text_is_found_when_it_is_whole(store, chat):
    message = store.add(chat, 0, "assistant", status="streaming")
    store.write(message, "an elephant")
    store.write(message, "an elephant walks", status="complete")
    assert chat_search.search(store, "walks")[1] == 1
    store.begin(chat, message)
    store.write(message, "an elephant runs", status="complete")
    assert chat_search.search(store, "walks")[1] == 0
    assert chat_search.search(store, "runs")[1] == 1


def test_messages_written_without_an_index_are_added_to_it(tmp_path):
    store = ChatStore(tmp_path)
    chat = store.create()["id"]
    store.database.has_fts = False
    talk(store, chat, "an elephant")
    assert chat_search.search(ChatStore(tmp_path), "elephant")[1] == 1


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30))
def test_no_query_breaks_the_search(tmp_path_factory, query):
    store = _SEARCHED.setdefault("store", None) or ChatStore(tmp_path_factory.mktemp("search"))
    _SEARCHED["store"] = store
    store.create(title="a")
    chat_search.search(store, query)


_SEARCHED = {}


# Migration and recovery


def test_a_file_without_tables_is_brought_up(tmp_path):
    sqlite3.connect(tmp_path / "chats.sqlite3").close()
    ChatStore(tmp_path).create()
    with sqlite3.connect(tmp_path / "chats.sqlite3") as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_file_of_a_newer_onecard_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "chats.sqlite3") as db:
        db.execute("PRAGMA user_version = 999")
    with pytest.raises(DataError, match="newer"):
        ChatStore(tmp_path).listing()


def test_a_broken_file_is_told(tmp_path):
    (tmp_path / "chats.sqlite3").write_bytes(b"no database at all" * 100)
    with pytest.raises(DataError, match="cannot be read"):
        ChatStore(tmp_path).listing()


def test_a_transaction_is_whole_or_not_at_all(store, chat):
    with pytest.raises(ZeroDivisionError), store.database.open(write=True) as db:
        db.execute("DELETE FROM chats")
        raise ZeroDivisionError
    assert store.chat(chat)


KILLED = """
import os, sys
from pathlib import Path
from onecard.web.chat_store import ChatStore
store = ChatStore(Path(sys.argv[1]))
chat = store.create()["id"]
question = store.add(chat, 0, "user", "hello")
message = store.add(chat, question, "assistant", status="streaming")
store.write(message, "half an ans")
print(chat, message, flush=True)
os.kill(os.getpid(), 9)
"""


def test_an_answer_of_a_killed_server_is_stopped_with_its_text(tmp_path):
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True
    )
    chat, message = child.stdout.split()
    store = ChatStore(tmp_path)
    assert store.message(chat, int(message)).status == "streaming"
    assert chat_upkeep.recover(store) == 1
    row = store.message(chat, int(message))
    assert (row.status, row.content) == ("stopped", "half an ans")
    assert chat_search.search(store, "half an")[1] == 1


def test_an_answer_of_a_server_that_lives_goes_on(store, chat):
    message = store.add(chat, 0, "assistant", status="streaming")
    assert chat_upkeep.recover(ChatStore(store.folder)) == 0
    assert store.message(chat, message).status == "streaming"


def test_a_late_piece_does_not_undo_the_end(store, chat):
    message = store.add(chat, 0, "assistant", status="streaming")
    store.write(message, "the whole", status="complete", stats={"tokens": 2})
    store.write(message, "the wh")
    row = store.message(chat, message)
    assert (row.content, row.status, row.stats) == ("the whole", "complete", {"tokens": 2})


# Exchange


def test_a_conversation_survives_export_and_import(store, chat):
    row = chat_pictures.add(store, chat, picture())
    a = store.add(chat, 0, "user", "look", pictures=[row.id])
    b = store.add(chat, a, "assistant", "red", stats={"tokens": 3}, model="m")
    store.add(chat, a, "assistant", "RED")
    store.select(chat, b)
    content = json.dumps(chat_exchange.to_json(store, chat)).encode()
    (file,) = chat_exchange.read(content)
    copy = chat_exchange.add(store, file)
    rows, _ = store.path(copy["id"])
    assert [each.content for each in rows] == ["look", "red"]
    assert len(rows[1].siblings) == 2 and rows[1].stats == {"tokens": 3}
    (name,) = rows[0].pictures
    assert Image.open(chat_pictures.find(store, copy["id"], name).path).size == (40, 30)


def test_all_conversations_in_one_file(store):
    for name in ("a", "b"):
        talk(store, store.create()["id"], name)
    content = "".join(chat_exchange.all_as_json(store)).encode()
    assert [row.messages[0].content for row in chat_exchange.read(content)] == ["a", "b"]


def test_what_the_terminal_saves_is_read(store):
    url = "data:image/png;base64," + base64.b64encode(picture()).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what?"}]
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "A picture."},
    ]
    (file,) = chat_exchange.read(json.dumps({"messages": messages}).encode())
    chat = chat_exchange.add(store, file)
    rows, _ = store.path(chat["id"])
    assert chat["system"] == "Be short."
    assert [row.content for row in rows] == ["what?", "A picture."]
    assert len(rows[0].pictures) == 1


def test_a_model_of_a_file_is_never_loaded(store):
    row = {"model": "https://example.org/x.gguf", "messages": [{"role": "user", "content": "a"}]}
    (file,) = chat_exchange.read(json.dumps(row).encode())
    assert chat_exchange.add(store, file)["model"] == "auto"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"messages": 1}',
        b'{"messages": [{"role": "robot", "content": "x"}]}',
        b'{"messages": [{"role": "user", "content": {"a": 1}}]}',
        b'{"chats": [{"messages": [1]}]}',
        b'{"messages": [{"id": 1, "parent": 9, "role": "user", "content": "x"}]}',
        b'{"messages": [{"role": "user", "content": "x", "pictures": ["http://a/x.png"]}]}',
        b'{"messages": [{"role": "user", "content": "x", "pictures": '
        b'["data:image/png;base64,QUJD"]}]}',
        b'{"messages": [{"role": "user", "content": "x", "created": 1e300}]}',
        b'{"messages": [{"id": 99999999999999999999999, "role": "user", "content": "x"}]}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    ],
)
def test_a_file_that_is_none_writes_nothing(store, content):
    with pytest.raises(DataError):
        for chat in chat_exchange.read(content):
            chat_exchange.add(store, chat)
    assert store.listing()[1] == 0
    assert not list(store.folder.rglob("*.png"))


def test_markdown_has_the_branch_that_is_shown(store, chat):
    a, b = talk(store, chat, "one?", "**1**")
    store.add(chat, a, "assistant", "other")
    store.select(chat, b)
    text = chat_exchange.to_markdown(store, chat)
    assert "## You\n\none?" in text and "**1**" in text and "other" not in text


# Pictures


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_written_anew(store, chat, form):
    row = chat_pictures.add(store, chat, picture(3000, 1500, form))
    with Image.open(row.path) as image:
        assert image.size == (2048, 1024) == (row.width, row.height)
        assert image.format in ("PNG", "JPEG") and not image.getexif()


def _bomb():
    file = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no picture",
        picture(form="GIF"),
        picture(form="TIFF"),
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        picture()[:60],
        _bomb(),
        b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
        b"x" * (10 * 2**20 + 1),
    ],
    ids=["empty", "text", "gif", "tiff", "svg", "half", "bomb", "zeros", "large"],
)
def test_what_is_no_picture_is_refused(store, chat, content):
    with pytest.raises(DataError):
        chat_pictures.add(store, chat, content)
    assert not list(store.folder.rglob("*.png"))


def test_a_picture_of_another_conversation_cannot_be_sent(store, chat):
    row = chat_pictures.add(store, chat, picture())
    other = store.create()["id"]
    with pytest.raises(NotFound):
        store.add(other, 0, "user", "x", pictures=[row.id])
    with pytest.raises(NotFound):
        chat_pictures.find(store, other, row.id)


def test_a_picture_without_a_message_goes_after_a_day(store, chat, monkeypatch):
    used, unused = (chat_pictures.add(store, chat, picture()) for _ in range(2))
    store.add(chat, 0, "user", "x", pictures=[used.id])
    monkeypatch.setattr(chat_upkeep, "UNUSED_S", -1)
    chat_upkeep.prune(store)
    assert used.path.exists() and not unused.path.exists()


# What is sent to the model


def turns(n, length=100):
    words = "x" * length
    return [chat_history.Turn("assistant" if i % 2 else "user", words) for i in range(n)]


def test_a_short_conversation_is_sent_whole():
    rows = turns(5)
    assert chat_history.fit(rows, "", 4096, 512) == (rows, 0)


@pytest.mark.parametrize("n", range(1, 40, 2))
def test_a_long_one_begins_at_a_question_and_keeps_the_last(n):
    rows = turns(n, 1000)
    kept, left_out = chat_history.fit(rows, "be short", 2048, 512)
    assert kept[0].role == "user" and kept[-1] is rows[-1] and len(kept) + left_out == n
    if left_out:
        assert sum(turn.tokens for turn in kept) <= 2048


def test_the_last_question_stays_however_long():
    rows = [*turns(4), chat_history.Turn("user", "y" * 100_000)]
    assert chat_history.fit(rows, "", 1024, 512)[0] == rows[-1:]


def test_each_refusal_leaves_more_out_until_the_question_alone():
    rows = turns(31)
    for _ in range(8):
        shorter = chat_history.without_oldest(rows)
        assert shorter[0].role == "user" and shorter[-1] is rows[-1]
        rows = shorter
    assert len(rows) == 1


def test_neighbours_are_joined_and_thoughts_left_out(store, chat):
    a = store.add(chat, 0, "user", "one")
    b = store.add(chat, a, "assistant", "", status="failed")
    c = store.add(chat, b, "user", "two")
    store.add(chat, c, "assistant", "<think>\nhm\n</think>\n\nyes")
    rows = chat_history.turns_of(store.path(chat)[0])
    assert [(row.role, row.text) for row in rows] == [("user", "one\n\ntwo"), ("assistant", "yes")]


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["1, 2", ", 3", ", 4"], ", 4"),
        ([", 4", ", 5"], ", 4, 5"),
        (["1, 2, 3, 4"], ", 4"),
        (["1, 9"], "1, 9"),
    ],
)
def test_a_repeated_beginning_is_left_out(pieces, text):
    echo = _Echo("1, 2, 3")
    assert "".join(map(echo.take, pieces)) == text


def test_settings_out_of_bounds_are_the_default():
    values = {"temperature": 9, "top_p": 0.5, "n_ctx": "a", "seed": -1, "max_tokens": 7, "x": 1}
    assert chat_settings.valid(values) == {"top_p": 0.5, "max_tokens": 7}
