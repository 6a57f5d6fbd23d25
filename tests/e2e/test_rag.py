"""rag with the real embedder and the real model: index, ask, evaluate, kill, bad input."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from pypdf import PdfWriter

from onecard.reporting import Reporter
from onecard.tasks.rag import citations
from onecard.tasks.rag.adapters import langchain_retriever, llamaindex_retriever
from onecard.tasks.rag.configs import SearchConfig
from onecard.tasks.rag.retrieve import Retriever
from onecard.tasks.rag.store import Store


@pytest.fixture
def index(onecard, notes, tmp_path):
    done = onecard("rag", "index", notes, "--index", tmp_path / "index", "--json")
    assert done.code == 0, done.err
    return tmp_path / "index"


@pytest.mark.parametrize(
    ("question", "mode", "file", "text"),
    [
        ("How long may a retry wait?", "hybrid", "timeouts.md", "30 seconds"),
        ("快取檔案多久會刪除", "hybrid", "中文.md", "七天"),
        ("parse_retry_after", "lexical", "client.py", "def parse_retry_after"),
    ],
)
def test_search_finds_notes_chinese_and_code(onecard, index, question, mode, file, text):
    done = onecard("rag", "search", question, "--index", index, "--mode", mode, "--json")
    top = done.data["passages"][0]
    assert top["path"].endswith(file)
    assert text in top["text"]


def test_an_answer_cites_its_file_with_a_true_quote(onecard, index):
    done = onecard("rag", "ask", "What is the longest retry delay?", "--index", index, "--json")
    assert done.code == 0, done.err
    data = done.data
    assert not data["abstained"]
    assert any(c["path"].endswith("timeouts.md") for c in data["citations"])
    for row in data["citations"]:
        text = " ".join(Path(row["path"]).read_text().split())
        assert row["quote"]
        assert " ".join(row["quote"].split()) in text
        assert row["line"] >= 1


def test_what_the_notes_do_not_hold_is_said(onecard, index):
    done = onecard(
        "rag", "ask", "Who won the chess championship in Norway?", "--index", index, "--json"
    )
    assert done.data["abstained"]
    assert done.data["answer"] == citations.NO_ANSWER
    assert done.data["citations"] == []


def test_an_unchanged_folder_is_not_read_again(onecard, index, notes):
    again = onecard("rag", "index", notes, "--index", index, "--json").data
    assert (again["read"], again["embedded"], again["unchanged"]) == (0, 0, 4)


def test_only_what_changed_is_read(onecard, index, notes):
    (notes / "guide/pool.md").write_text(
        "# Connection pool\n\nAt most 7 connections are kept open.\n"
    )
    (notes / "guide/timeouts.md").unlink()
    os.utime(notes / "src/client.py")
    data = onecard("rag", "index", notes, "--index", index, "--json").data
    assert (data["read"], data["removed"], data["files"]) == (1, 1, 3)
    assert data["embedded"] >= 1
    passages = onecard("rag", "search", "retry delay", "--index", index, "--json").data["passages"]
    assert len(passages) >= 3
    assert not any(row["path"].endswith("timeouts.md") for row in passages)


def test_vectors_without_a_chunk_are_deleted(onecard, index, notes):
    with closing(Store(index)) as store:
        before = store.counts()
    (notes / "guide/timeouts.md").unlink()
    assert onecard("rag", "index", notes, "--index", index).code == 0
    with closing(Store(index)) as store:
        after = store.counts()
    assert after["vectors"] == after["chunks"] < before["chunks"]


def committed_files(folder):
    """Files that a running index has committed; -1 before it has any table."""
    try:
        with closing(sqlite3.connect(f"file:{folder / 'index.sqlite'}?mode=ro", uri=True)) as db:
            return db.execute("SELECT count(*) FROM files").fetchone()[0]
    except sqlite3.OperationalError:
        return -1


def test_a_kill_leaves_the_same_index_as_none(onecard, tmp_path, home):
    """Killed with nothing written, after the first batch and after the second."""
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(400):
        (folder / f"note{i}.md").write_text(
            f"# Note {i}\n\nNumber {i} is about topic {i % 17} and thing {i * 31 % 101}.\n"
        )
    words = [
        sys.executable,
        "-m",
        "onecard",
        "rag",
        "index",
        str(folder),
        "--index",
        str(tmp_path / "killed"),
    ]
    for n_files in (0, 1, 129):
        child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while child.poll() is None and committed_files(tmp_path / "killed") < n_files:
            time.sleep(0.01)
        assert child.poll() is None, "it ended before it could be killed"
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert n_files <= committed_files(tmp_path / "killed") < 400
    assert onecard("rag", "index", folder, "--index", tmp_path / "killed").code == 0
    assert onecard("rag", "index", folder, "--index", tmp_path / "whole").code == 0
    assert Store(tmp_path / "killed").digest() == Store(tmp_path / "whole").digest()
    rows = [
        [
            (hit.chunk.id, hit.score)
            for hit in Retriever(SearchConfig(index=str(tmp_path / name))).search(
                "topic 3 and thing 7"
            )
        ]
        for name in ("killed", "whole")
    ]
    assert rows[0] == rows[1]


def test_each_distinct_text_is_embedded_once(onecard, tmp_path):
    folder = tmp_path / "copies"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}").mkdir()
        (folder / f"{i}" / "same.md").write_text(
            "# The same\n\nThis text stands in five files and is embedded once.\n"
        )
    data = onecard("rag", "index", folder, "--index", tmp_path / "ix", "--json").data
    assert (data["chunks"], data["embedded"]) == (5, 1)


def test_qdrant_gives_the_same_answers(index):
    pytest.importorskip("qdrant_client", reason="installed by make test")
    ours, theirs = (
        Retriever(SearchConfig(index=str(index))),
        Retriever(SearchConfig(index=str(index), store="qdrant")),
    )
    for question in ("retry delay", "連線", "who sends requests?"):
        a, b = ours.search(question), theirs.search(question)
        assert len(a) >= 3
        assert [hit.chunk.id for hit in a] == [hit.chunk.id for hit in b]
        assert np.allclose([hit.score for hit in a], [hit.score for hit in b], atol=1e-5)


def test_chat_understands_a_follow_up(onecard, index):
    done = onecard(
        "rag",
        "chat",
        "--index",
        index,
        stdin="How many connections are kept open?\nWhen are they closed?\n/exit\n",
    )
    assert done.code == 0, done.err
    assert "understood as" in done.err
    assert "five minutes" in done.out


def test_langchain_and_llamaindex(index):
    pytest.importorskip("langchain_core", reason="installed by make test")
    pytest.importorskip("llama_index.core", reason="installed by make test")
    first = langchain_retriever(index=str(index)).invoke("retry delay")[0]
    assert "retry delay" in first.page_content
    assert first.metadata["path"].endswith("timeouts.md")
    node = llamaindex_retriever(index=str(index)).retrieve("retry delay")[0]
    assert node.node.text == first.page_content
    assert node.score > 0.5


def _pdf_without_text(path):
    writer = PdfWriter()
    writer.add_blank_page(100, 100)
    writer.write(path)


def test_bad_files_are_reported_and_the_rest_is_indexed(onecard, notes, tmp_path):
    (notes / "empty.md").write_bytes(b"")
    (notes / "binary.md").write_bytes(bytes(range(256)) * 10)
    (notes / "latin.txt").write_bytes(
        "Die Größe des Käfigs beträgt fünf Meter, für größere Vögel mehr.".encode("latin-1")
    )
    (notes / "big5.txt").write_bytes(
        "索引會在每天早上更新一次，請稍後再試。系統會自動通知所有的使用者。".encode("big5")
    )
    (notes / "utf16.txt").write_text("A note in UTF-16 about zebras.", encoding="utf-16")
    (notes / "broken.pdf").write_bytes(b"%PDF-1.4 nonsense")
    _pdf_without_text(notes / "scan.pdf")
    (notes / "broken.docx").write_bytes(b"PK nonsense")
    (notes / "broken.ipynb").write_text("{")
    (notes / "circle").symlink_to(notes)
    (notes / "dead.md").symlink_to(notes / "nowhere.md")
    with (notes / "huge.txt").open("wb") as file:
        file.truncate(60 << 20)
    done = onecard("rag", "index", notes, "--index", tmp_path / "ix", "--json")
    assert done.code == 0, done.err
    faults = [fault["what"] for fault in done.data["faults"]]
    broken = ("binary.md", "broken.pdf", "scan.pdf", "broken.docx", "broken.ipynb", "huge.txt")
    for name in broken:
        assert any(name in what for what in faults), name
    assert len(faults) == len(broken) + 1  # and the link to nothing
    assert done.data["empty"] == 1
    for question, file, text in (
        ("zebras", "utf16.txt", "zebras"),
        ("Größe des Käfigs", "latin.txt", "Größe"),
        ("每天早上更新", "big5.txt", "索引"),
    ):
        found = onecard("rag", "search", question, "--index", tmp_path / "ix", "--json").data
        assert found["passages"][0]["path"].endswith(file)
        assert text in found["passages"][0]["text"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["rag", "index"], 2, "nothing to index"),
        (["rag", "index", "nowhere"], 6, "no folder"),
        (["rag", "index", "hollow", "--index", "ix"], 5, "nothing could be indexed"),
        (["rag", "ask", "hi", "--index", "nowhere"], 6, "no index"),
        (["rag", "evaluate", "--questions", "bad.jsonl"], 5, "bad.jsonl:2"),
        (["rag", "evaluate", "--questions", "void.jsonl"], 5, "is empty"),
        (["rag", "evaluate"], 2, "no questions"),
        (["rag", "index", "hollow", "--chunk_tokns", "3"], 2, "chunk_tokens"),
        (["rag", "search", "x", "--index", "junk"], 5, "no index"),
    ],
)
def test_refusals(onecard, tmp_path, words, code, message):
    (tmp_path / "hollow").mkdir()
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "index.sqlite").write_bytes(b"junk" * 2000)
    (tmp_path / "bad.jsonl").write_text('{"question": "a"}\nnot json\n')
    (tmp_path / "void.jsonl").write_text("\n")
    done = onecard(*words)
    assert done.code == code, done.err
    assert message in done.err
    assert "fix:" in done.err


def test_a_question_of_100k_characters(onecard, index):
    question = "What is the longest retry delay? " * 3300
    done = onecard("rag", "ask", question, "--index", index, "--style", "write", "--json")
    assert done.code == 5
    assert "too long" in done.err
    assert "fix:" in done.err
    done = onecard("rag", "search", question, "--index", index, "--json")
    assert any(row["path"].endswith("timeouts.md") for row in done.data["passages"])


def test_a_full_disk_leaves_the_index_whole(onecard, notes, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or not shutil.which("mount")
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
        ).returncode
    ):
        pytest.skip("needs the right to mount a small disk")
    try:
        assert onecard("rag", "index", notes, "--index", disk / "ix").code == 0
        with closing(Store(disk / "ix")) as store:
            n_files = store.counts()["files"]
        for i in range(60):
            (notes / f"more{i}.md").write_text(f"# More {i}\n\n" + f"word{i} " * 900)
        done = onecard("rag", "index", notes, "--index", disk / "ix")
        assert done.code == 5, done.err
        assert "disk" in done.err
        with closing(sqlite3.connect(disk / "ix" / "index.sqlite")) as db:
            assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        with closing(Store(disk / "ix")) as store:
            assert store.counts()["files"] >= n_files == 4
        found = onecard("rag", "search", "retry", "--index", disk / "ix", "--json")
        assert found.data["passages"][0]["path"].endswith("timeouts.md")
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_everything_works_with_the_network_cut_off(index, home, tmp_path):
    if (
        os.geteuid()
        or not shutil.which("unshare")
        or subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode
    ):
        pytest.skip("needs the right to make a network namespace")
    command = (
        f"ip link set lo up 2>/dev/null || ifconfig lo up; exec {sys.executable} -m onecard rag "
        f"ask 'What is the longest retry delay?' --index {index}"
    )
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=500,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert "timeouts.md" in done.stdout


def test_serve_has_a_page_and_an_api(index, serving):
    url = serving("rag", "serve", "--index", index)
    page = httpx.get(url)
    assert "Ask your notes" in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    body = {"messages": [{"role": "user", "content": "What is the longest retry delay?"}]}
    whole = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300).json()
    assert whole["citations"][0]["path"].endswith("timeouts.md")
    content = whole["choices"][0]["message"]["content"]
    assert content
    stream = httpx.post(
        f"{url}/v1/chat/completions", json={**body, "stream": True}, timeout=300
    ).text
    *events, last = [line.removeprefix("data: ") for line in stream.split("\n") if line]
    assert last == "[DONE]"
    first, end = map(json.loads, events)
    assert first["choices"][0]["delta"]["content"] == content
    assert end["choices"][0]["finish_reason"] == "stop"
    assert end["citations"] == whole["citations"]
    found = httpx.post(f"{url}/v1/search", json={"query": "retry"}, timeout=300).json()
    assert found["passages"][0]["path"].endswith("timeouts.md")
    assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == "notes"
    assert httpx.get(f"{url}/v1/models/notes").json()["id"] == "notes"
    assert httpx.get(f"{url}/v1/models/other").status_code == 404
    assert httpx.post(f"{url}/v1/chat/completions", json={"messages": []}).status_code == 400
    assert httpx.get(url, headers={"Host": "evil.example"}).status_code == 403


def test_serve_takes_messages_as_clients_write_them(index, serving):
    """Parts, null content and usage, through the client that most programs use."""
    url = serving("rag", "serve", "--index", index)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", timeout=300)
    question = [{"type": "text", "text": "What is the longest"}, {"type": "text", "text": "delay?"}]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Tell me of retries."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "nothing"},
        {"role": "user", "content": question},
    ]
    done = client.chat.completions.create(model="notes", messages=messages)
    assert done.choices[0].message.content
    assert done.usage.prompt_tokens > 5
    assert done.usage.completion_tokens > 1
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
    events = list(
        client.chat.completions.create(
            model="notes",
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert events[-1].choices == []
    assert events[-1].usage == done.usage
    assert client.models.retrieve("notes").id == "notes"


def test_watch_takes_in_a_new_file(notes, tmp_path, home):
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "onecard",
            "rag",
            "index",
            str(notes),
            "--index",
            str(tmp_path / "ix"),
            "--watch",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while "watching" not in child.stderr.readline():
            assert child.poll() is None
        time.sleep(1)  # the line is written just before the watch begins
        (notes / "new.md").write_text("# New\n\nA walrus appeared.\n")
        assert "1 read" in child.stderr.readline()
        assert (
            Retriever(SearchConfig(index=str(tmp_path / "ix")), Reporter())
            .search("walrus")[0]
            .chunk.path.endswith("new.md")
        )
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(timeout=120)
