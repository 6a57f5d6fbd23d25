"""Each server against sixty shapes of requests that no well-behaved client sends."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import hostile_requests
import httpx
import pytest

CHAT = "/v1/chat/completions"
LONG = {
    "messages": [{"role": "user", "content": "Count from one to five thousand, in words."}],
    "max_tokens": 900,
    "ignore_eos": True,
}


def port_of(url):
    return int(url.rpartition(":")[2])


@pytest.fixture(scope="module")
def chat(serving):
    url = serving("chat", "serve", "--n_ctx", "1024")
    ask(url)
    return url


def ask(url, **fields):
    body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4, **fields}
    reply = httpx.post(f"{url}{CHAT}", json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    return reply.json()


def statuses(url, path):
    with ThreadPoolExecutor(8) as pool:
        shapes = hostile_requests.shapes(path)
        port = port_of(url)
        found = pool.map(lambda shape: hostile_requests.send(port, shape), shapes)
        return {shape.name: status for shape, status in zip(shapes, found, strict=True)}


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/v1/rerank", "/v1/completions"])
def test_chat_serve_answers_every_shape_and_no_5xx(chat, path):
    found = statuses(chat, path)
    assert len(found) >= 60
    assert {name: code for name, code in found.items() if code >= 500} == {}
    assert ask(chat)["choices"]


@pytest.mark.parametrize("name", ["enum", "deep schema", "deep tool", "lost ref", "ref circle"])
def test_a_schema_that_would_hold_up_the_engine_is_refused_at_the_door(chat, name):
    shape = next(row for row in hostile_requests.shapes(CHAT) if row.name == name)
    start = time.monotonic()
    assert hostile_requests.send(port_of(chat), shape) == 400
    assert time.monotonic() - start < 5


def test_a_body_without_length_is_counted_as_it_comes(chat):
    def blocks():
        for _ in range(40):
            yield b" " * (1 << 20)

    try:
        status = httpx.post(f"{chat}{CHAT}", content=blocks(), timeout=60).status_code
    except httpx.WriteError:  # the server closed while we still sent
        status = 413
    assert status == 413
    shape = next(r for r in hostile_requests.shapes(CHAT) if r.name == "chunked too large")
    assert hostile_requests.send(port_of(chat), shape) in (413, 0)


def leave(url, stream):
    """A client that asks for a long answer and hangs up."""
    if stream:
        body = {**LONG, "stream": True}
        with httpx.stream("POST", f"{url}{CHAT}", json=body, timeout=60) as reply:
            next(reply.iter_bytes())
        return
    with pytest.raises(httpx.TimeoutException):
        httpx.post(f"{url}{CHAT}", json=LONG, timeout=httpx.Timeout(0.4, connect=5))


@pytest.mark.parametrize("stream", [False, True])
def test_after_five_clients_that_left_the_next_does_not_wait(chat, stream):
    start = time.monotonic()
    ask(chat, **{**LONG, "max_tokens": 400})
    alone = time.monotonic() - start
    for _ in range(5):
        leave(chat, stream)
    start = time.monotonic()
    ask(chat)
    assert time.monotonic() - start < max(alone, 3)


def test_notes_answer_after_clients_that_left(onecard, notes, tmp_path, serving):
    assert onecard("rag", "index", notes, "--index", tmp_path / "ix").code == 0
    url = serving("rag", "serve", "--index", tmp_path / "ix", "--style", "write")
    question = {
        "messages": [{"role": "user", "content": "How many connections are kept open?"}],
    }
    httpx.post(f"{url}{CHAT}", json=question, timeout=300).raise_for_status()
    start = time.monotonic()
    httpx.post(f"{url}{CHAT}", json=question, timeout=300).raise_for_status()
    alone = time.monotonic() - start
    for path in (CHAT, "/v1/search"):
        found = statuses(url, path)
        assert {name: code for name, code in found.items() if code >= 500} == {}
    for _ in range(5):
        with pytest.raises(httpx.TimeoutException):
            httpx.post(f"{url}{CHAT}", json=question, timeout=httpx.Timeout(0.05, connect=5))
    start = time.monotonic()
    httpx.post(f"{url}{CHAT}", json=question, timeout=300).raise_for_status()
    assert time.monotonic() - start < 3 * alone + 2


def started(home, *words):
    child = subprocess.Popen(
        [sys.executable, "-m", "onecard", *words, "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ONECARD_HOME": str(home)},
    )
    for line in child.stderr:
        if found := re.search(r"http://127\S+?:\d+", line):
            threading.Thread(target=child.stderr.read, daemon=True).start()
            return child, found[0]
    raise AssertionError("the server ended")


@pytest.mark.parametrize("stream", [False, True])
def test_sigterm_ends_a_busy_server(session_home, stream):
    child, url = started(session_home, "chat", "serve", "--n_ctx", "4096")
    ask(url)

    def keep_busy():
        try:
            body = {**LONG, "stream": stream, "max_tokens": 3500}
            httpx.post(f"{url}{CHAT}", json=body, timeout=300)
        except httpx.HTTPError:
            pass

    clients = [threading.Thread(target=keep_busy) for _ in range(3)]
    for client in clients:
        client.start()
    time.sleep(1.5)
    start = time.monotonic()
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=60) == 130
    assert time.monotonic() - start < 30
    for client in clients:
        client.join(timeout=10)


def test_a_head_that_never_ends_is_cut_off(chat):
    with socket.create_connection(("127.0.0.1", port_of(chat)), timeout=30) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 64 << 20:
                sent += connection.send(b"a" * 65536)
    assert sent < 32 << 20
    assert httpx.get(f"{chat}/health").status_code == 200
