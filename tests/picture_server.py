"""A real HTTP server with the OpenAI API that decodes each picture and answers by what it sees."""

import base64
import io
import json
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 30),
    "blue": (30, 30, 220),
    "yellow": (240, 220, 30),
    "violet": (150, 30, 200),
    "orange": (250, 140, 10),
    "black": (0, 0, 0),
}


def colour_of(rgb):
    """The name of the colour of most pixels that are not white."""
    pixels = rgb.reshape(-1, 3).astype(int)
    pixels = pixels[pixels.min(1) < 200]
    if not len(pixels):
        return "white"
    distances = {
        name: np.abs(pixels - value).sum(1) for name, value in COLOURS.items() if name != "black"
    }
    nearest = np.stack(list(distances.values())).argmin(0)
    close = np.stack(list(distances.values())).min(0) < 90
    if not close.any():
        return "black"
    return list(distances)[np.bincount(nearest[close]).argmax()]


@dataclass
class Asked:
    """A request as it came."""

    text: str
    pictures: list
    body: dict
    key: str

    @property
    def colour(self):
        return colour_of(self.pictures[0])


@dataclass
class Words:
    """An answer: a text, or a status with a message."""

    text: str
    finish_reason: str = "stop"
    status: int = 200


class PictureServer(ThreadingHTTPServer):
    """`answer`: Asked -> text or Words. Requests that only try whether the model sees are not among
    `asked`. With `blind` it drops pictures without a word; `delay_s`: time for an answer."""

    daemon_threads = True

    def __init__(self, answer, *, blind=False, delay_s=0.0, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.answer, self.blind, self.delay_s = answer, blind, delay_s
        self.asked = []
        self.down_after, self.n_refused = None, 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def close(self):
        self.shutdown()
        self.server_close()

    def __exit__(self, *fault):
        self.close()

    def handle_error(self, request, client_address):
        pass  # clients that hang up


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def do_GET(self):
        self.reply(200, {"object": "list", "data": [{"id": "eyes-1b", "object": "model"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            return self.reply(404, {"error": {"message": "no such route"}})
        parts = body["messages"][-1]["content"]
        parts = parts if isinstance(parts, list) else [{"type": "text", "text": parts}]
        pictures = [
            decoded(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"
        ]
        text = "\n".join(part["text"] for part in parts if part["type"] == "text")
        asked = Asked(text, pictures, body, self.headers["Authorization"])
        if body["max_tokens"] == 1 and text == "?":
            return self.reply(200, self.completion(asked, Words("!")))
        with self.server.lock:
            is_down = self.server.down_after is not None and (
                len(self.server.asked) >= self.server.down_after
            )
            if not is_down:
                self.server.asked.append(asked)
        if is_down:
            self.server.n_refused += 1
            self.close_connection = True
            self.connection.close()  # as of a process that died
            return None
        time.sleep(self.server.delay_s)
        words = self.server.answer(asked)
        words = words if isinstance(words, Words) else Words(words)
        if words.status != 200:
            return self.reply(words.status, {"error": {"message": words.text}})
        return self.reply(200, self.completion(asked, words))

    def completion(self, asked, words):
        n = 10 + (0 if self.server.blind else 50 * len(asked.pictures))
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": "eyes-1b",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": words.text},
                    "finish_reason": words.finish_reason,
                }
            ],
            "usage": {"prompt_tokens": n, "completion_tokens": 5, "total_tokens": n + 5},
        }

    def reply(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def decoded(uri):
    """The pixels of a data URI; any other address is an error of the client."""
    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64", head
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.asarray(image.convert("RGB"))
