"""A stream of the client over a real connection: its pieces, its counts, and how it is given up."""

import http.server
import json
import threading
import time

import pytest

from onecard import cancellation
from onecard.cancellation import Cancellation, Cancelled
from onecard.errors import EngineError
from onecard.inference.client import Client
from onecard.inference.config import LlmConfig


class _Server(http.server.BaseHTTPRequestHandler):
    silent = threading.Event()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "wait" in body["messages"][0]["content"]:
            self.silent.wait(20)  # a long prompt: nothing comes, not even a status
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for word in ("One", " two"):
            self._event({"index": 0, "delta": {"content": word}, "finish_reason": None})
        self._event({"index": 0, "delta": {}, "finish_reason": "length"})
        if body.get("stream_options"):
            usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
            self._event(None, usage)
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, choice, usage=None):
        row = {
            "id": "x",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": "x",
            "choices": [choice] if choice else [],
            "usage": usage,
        }
        self.wfile.write(f"data: {json.dumps(row)}\n\n".encode())

    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def client():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/v1"
        yield Client(address, "", "x", LlmConfig(base_url=address, model="x"))
        _Server.silent.set()
        server.shutdown()


def whole(stream):
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


@pytest.fixture
def request_of_a_server():
    """The thread works for a request, as a server's do."""
    current = Cancellation()
    mark = cancellation.CURRENT.set(current)
    yield current
    cancellation.CURRENT.reset(mark)


def test_a_stream_ends_with_its_counts(client):
    pieces, reply = whole(client.stream([{"role": "user", "content": "hi"}], usage=True))
    assert pieces == ["One", " two"] and reply.text == "One two"
    assert (reply.prompt_tokens, reply.completion_tokens, reply.finish_reason) == (7, 2, "length")


def test_within_a_request_it_is_the_same(client, request_of_a_server):
    pieces, reply = whole(client.stream([{"role": "user", "content": "hi"}], usage=True))
    assert pieces == ["One", " two"] and reply.completion_tokens == 2


def test_it_is_given_up_before_its_first_piece(client, request_of_a_server):
    threading.Timer(0.3, request_of_a_server.cancel).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        next(client.stream([{"role": "user", "content": "wait"}]))
    assert time.monotonic() - began < 5


def test_a_stream_that_is_closed_ends_its_thread(client, request_of_a_server):
    stream = client.stream([{"role": "user", "content": "hi"}])
    assert next(stream) == "One"
    before = threading.active_count()
    stream.close()
    assert threading.active_count() < before


def test_an_error_within_a_request_is_ours(request_of_a_server):
    nobody = Client("http://127.0.0.1:9/v1", "", "x", LlmConfig())
    with pytest.raises(EngineError, match="no answer"):
        next(nobody.stream([{"role": "user", "content": "hi"}]))
