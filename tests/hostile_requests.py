"""Sixty shapes of requests that no well-behaved client sends: what a server must refuse with 4xx or
answer, and must never fail on. Each is (name, bytes on the wire, hang up after so many seconds)."""

import contextlib
import json
import socket
from dataclasses import dataclass

QUESTION = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


@dataclass(frozen=True)
class Shape:
    name: str
    wire: bytes
    hang_up_s: float = 0
    """Hang up after so long; 0 waits for the answer."""


def wire(path, body=b"", method="POST", host="127.0.0.1", headers=(), length=None):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    rows = [f"{method} {path} HTTP/1.1", f"Host: {host}", "User-Agent: hostile"]
    rows += ["Content-Type: application/json", *headers]
    if length != "none":
        rows.append(f"Content-Length: {len(body) if length is None else length}")
    if not any(row.lower().startswith("connection") for row in headers):
        rows.append("Connection: close")
    return "\r\n".join([*rows, "", ""]).encode("utf-8", "surrogateescape") + body


def chunked(path, body, chunk=65536):
    head = wire(path, headers=("Transfer-Encoding: chunked",), length="none")
    parts = [body[i : i + chunk] for i in range(0, len(body), chunk)]
    return head + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


def nested(levels, inside="1"):
    return ("[" * levels + inside + "]" * levels).encode()


def deep_schema(levels):
    schema = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def forced(parameters):
    function = {"name": "f", "parameters": parameters}
    tools = [{"type": "function", "function": function}]
    return {**QUESTION, "tools": tools, "tool_choice": "required"}


def answer_format(schema):
    return {
        **QUESTION,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    }


def shapes(path):
    """For the JSON route at `path`."""

    def say(**fields):
        return wire(path, {**QUESTION, **fields})

    def message(**fields):
        return say(messages=[fields])

    enum = [f"value number {i}" for i in range(4000)]
    rows = {
        "host [::1": wire(path, QUESTION, host="[::1"),
        "host empty": wire(path, QUESTION, host=""),
        "host foreign": wire(path, QUESTION, host="evil.example"),
        "host bytes": wire(path, QUESTION, host="\udcff\udcfe"),
        "origin foreign": wire(path, QUESTION, headers=("Origin: https://evil.example",)),
        "origin [": wire(path, QUESTION, headers=("Origin: http://[",)),
        "origin null": wire(path, QUESTION, headers=("Origin: null",)),
        "length word": wire(path, QUESTION, length="many"),
        "length negative": wire(path, QUESTION, length="-5"),
        "length huge": wire(path, QUESTION, length="9" * 30),
        "length superscript": wire(path, QUESTION, length="\u00b2"),
        "too large": wire(path, b"x", length=str(1 << 30)),
        "chunked too large": chunked(path, b" " * (33 << 20), 1 << 20),
        "chunked small": chunked(path, json.dumps({}).encode()),
        "chunked broken": wire(
            path, b"zz\r\n", headers=("Transfer-Encoding: chunked",), length="none"
        ),
        "no request": b"\x00\x01\x02\r\n\r\n",
        "tls hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40,
        "long header": wire(path, QUESTION, headers=("X: " + "a" * 200_000,)),
        "many headers": wire(path, QUESTION, headers=[f"X{i}: 1" for i in range(5000)]),
        "method": wire(path, QUESTION, method="DELETE"),
        "options": wire(path, b"", method="OPTIONS"),
        "path dots": wire("/v1/models/../../etc/passwd", b"", method="GET"),
        "path bytes": wire("/v1/models/%ED%A0%80%FF", b"", method="GET"),
        "path none": wire("/v1/nothing", QUESTION),
        "body empty": wire(path, b""),
        "body no JSON": wire(path, b"{"),
        "body latin-1": wire(path, b'{"messages": "caf\xe9"}'),
        "body utf-16": wire(path, json.dumps(QUESTION).encode("utf-16")),
        "body list": wire(path, []),
        "body null": wire(path, b"null"),
        "body NaN": wire(path, b'{"n": NaN}'),
        "body long number": wire(path, b'{"n": ' + b"9" * 10_000 + b"}"),
        "body 1e999": wire(path, b'{"top_n": 1e999, "top_k": 1e999, "n": 1e999}'),
        "body nested": wire(path, nested(100_000)),
        "body nested well": wire(path, b'{"messages": ' + nested(900) + b"}"),
        "body million keys": wire(
            path, b"{" + b",".join(b'"%d":1' % i for i in range(100_000)) + b"}"
        ),
        "surrogate": wire(path, b'{"messages": [{"role": "user", "content": "a\\ud800"}]}'),
        "surrogate role": wire(path, b'{"messages": [{"role": "\\uDFFF", "content": "a"}]}'),
        "surrogate model": wire(path, b'{"model": "\\ud800", "input": "a", "query": "\\udc00"}'),
        "no messages": wire(path, {}),
        "messages text": say(messages="hi"),
        "messages empty": say(messages=[]),
        "message text": say(messages=["hi"]),
        "no role": message(content="hi"),
        "role number": message(role=1, content="hi"),
        "role unknown": message(role="wizard", content="hi"),
        "content null": message(role="user", content=None),
        "content number": message(role="user", content=5),
        "content parts": message(role="user", content=[{"type": "text"}]),
        "content image": message(
            role="user", content=[{"type": "image_url", "image_url": {"url": "x"}}]
        ),
        "content strings": message(role="user", content=["a", "b"]),
        "n": say(n=5),
        "types": say(temperature="hot", max_tokens="many", stream="yes", stop=5, seed=[]),
        "negative": say(max_tokens=-7, temperature=-1, top_p=9, top_k=-5, n=None),
        "enum": wire(path, answer_format({"enum": enum})),
        "deep schema": wire(path, answer_format(deep_schema(400))),
        "deep tool": wire(path, forced(deep_schema(400))),
        "lost ref": wire(path, answer_format({"$ref": "#/$defs/none"})),
        "ref circle": wire(
            path, answer_format({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#"}}})
        ),
        "grammar": say(grammar="root ::= " + "(" * 5000),
        "tools": say(tools="all", tool_choice={"a": 1}),
        "long text": message(role="user", content="word " * 200_000),
    }
    kept = [Shape(name, content) for name, content in rows.items()]
    question = wire(
        path,
        {
            **QUESTION,
            "max_tokens": 400,
            "messages": [{"role": "user", "content": "Count to one thousand in words."}],
        },
    )
    kept += [
        Shape("leaves at once", question, hang_up_s=0.001),
        Shape("leaves soon", question, hang_up_s=0.3),
        Shape("leaves half sent", question[:-20], hang_up_s=0.5),
        Shape("says nothing", b"", hang_up_s=1.0),
        Shape("half a head", b"POST / HTTP/1.1\r\nHost: 127", hang_up_s=1.0),
    ]
    return kept


def send(port, shape, timeout=120):
    """The status of the answer; 0 where the server closed without one, or we hung up."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        # refused before it was all sent: the answer may lie there
        with contextlib.suppress(OSError):
            connection.sendall(shape.wire)
        if shape.hang_up_s:
            connection.settimeout(shape.hang_up_s)
        try:
            answer = connection.recv(4096)
        except TimeoutError:
            if shape.hang_up_s:
                return 0
            raise
        except OSError:
            return 0
    words = answer.split(None, 2)
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
