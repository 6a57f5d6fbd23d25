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


def upload(path, parts, boundary="b", end=True, headers=(), length=None):
    """A multipart request; `parts` are (head lines, content)."""
    mark = b"--" + boundary.encode()
    rows = [b"%s\r\n%s\r\n\r\n%s\r\n" % (mark, head, content) for head, content in parts]
    body = b"".join(rows) + (mark + b"--\r\n" if end else b"")
    request = wire(path, body, headers=headers, length=length)
    content_type = f"multipart/form-data; boundary={boundary}".encode()
    return request.replace(b"application/json", content_type, 1)


def sound_shapes(path, sound):
    """For the multipart route at `path`; `sound` is a whole sound file."""

    def head(name=b"file", filename=b"a.wav", more=b""):
        return b'Content-Disposition: form-data; name="%s"; filename="%s"%s' % (
            name,
            filename,
            more,
        )

    def file(content, **fields):
        return upload(path, [(head(**fields), content)])

    def field(name, value):
        return b'Content-Disposition: form-data; name="%s"' % name, value

    silence = sound[:44] + b"\0" * len(sound[44:])
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n#EXT-X-ENDLIST\n"
    whole = upload(path, [(head(), sound)])
    rows = {
        "no boundary": whole.replace(b"; boundary=b", b"", 1),
        "other boundary": whole.replace(b"boundary=b", b"boundary=c", 1),
        "long boundary": upload(path, [(head(), sound)], boundary="b" * 5000),
        "boundary of line breaks": upload(path, [(head(), b"\r" * (1 << 20))]),
        "nearly boundaries": upload(path, [(head(), b"\r\n--" * (1 << 18))]),
        "no end": upload(path, [(head(), silence)], end=False),
        "truncated part": upload(path, [(head(), sound[: len(sound) // 2])], end=False),
        "truncated head": wire(path, b"--b\r\n" + head()[:30]).replace(
            b"application/json", b"multipart/form-data; boundary=b", 1
        ),
        "length too short": upload(path, [(head(), sound)], length=200),
        "length zero": upload(path, [(head(), sound)], length=0),
        "name with NUL": file(sound[:500], name=b"fi\0le"),
        "file name with NUL": file(sound[:500], filename=b"a\0.wav"),
        "file name path": file(b"RIFF", filename=b"../../etc/passwd"),
        "file name bytes": file(b"RIFF", filename=b"\xed\xa0\x80\xff.wav"),
        "long file name": file(b"RIFF", filename=b"a" * 60_000),
        "huge part header": file(sound[:500], more=b"; x=" + b"y" * 200_000),
        "many part headers": upload(path, [(head() + b"\r\nX: 1" * 5000, sound[:500])]),
        "part without name": upload(path, [(b"Content-Disposition: form-data", sound[:500])]),
        "part without head": upload(path, [(b"", sound[:500])]),
        "thousand fields": upload(path, [field(b"f%d" % i, b"1") for i in range(1000)]),
        "thousand files": upload(path, [(head(), b"RIFF")] * 1000),
        "huge field": upload(path, [field(b"prompt", b"a" * (4 << 20)), (head(), b"RIFF")]),
        "no file": upload(path, [field(b"model", b"base")]),
        "file as text": upload(path, [field(b"file", sound[:500])]),
        "two files": upload(path, [(head(), b""), (head(), b"")]),
        "zero length": file(b""),
        "one byte": file(b"R"),
        "text": file(b"This is no sound. " * 5000),
        "noise": file(bytes(range(256)) * 4000),
        "head alone": file(sound[:44]),
        "head of another length": file(sound[:40] + b"\xff" * 4),
        "rate zero": file(sound[:24] + bytes(4) + sound[28:]),
        "channels 65535": file(sound[:22] + b"\xff\xff" + sound[24:]),
        "mp3 of zeros": file(b"ID3" + bytes(100_000), filename=b"a.mp3"),
        "ogg cut": file(b"OggS" + bytes(5000), filename=b"a.ogg"),
        "mp4 deep": file((b"\0\0\xff\xffmoov" * 8000), filename=b"a.mp4"),
        "webm": file(b"\x1aE\xdf\xa3" + b"\xff" * 50_000, filename=b"a.webm"),
        "playlist": file(playlist, filename=b"a.m3u8"),
        "playlist as wav": file(playlist),
        "concat": file(b"ffconcat version 1.0\nfile /etc/passwd\n", filename=b"a.txt"),
        "sdp": file(b"v=0\nm=audio 9 RTP/AVP 0\nc=IN IP4 127.0.0.1\n", filename=b"a.sdp"),
        "dash": file(b'<?xml version="1.0"?><MPD><BaseURL>/etc</BaseURL></MPD>'),
        "zip": file(b"PK\x03\x04" + bytes(3000), filename=b"a.zip"),
        "too large": upload(path, [(head(), bytes(33 << 20))]),
    }
    for name, value in {
        "format": (b"response_format", b"exe"),
        "language": (b"language", b"klingon"),
        "language bytes": (b"language", b"\xff\xfe"),
        "prompt bytes": (b"prompt", b"\xed\xa0\x80"),
    }.items():
        rows[f"{name} unknown"] = upload(path, [field(*value), (head(), b"RIFF")])
    shapes = [Shape(name, content) for name, content in rows.items()]
    return [*shapes, Shape("leaves in upload", whole[: len(whole) // 2], hang_up_s=0.3)]


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
