"""The shell of a server and its queue, with routes of our own: no model, no network."""

import asyncio
import json
import threading
import time

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from onecard import cancellation
from onecard.errors import DataError
from onecard.inference import schema_limits
from onecard.serving import guards, openai_schemas, shell
from onecard.serving.turns import Full, Turns
from onecard.tasks.chat import tool_calls


def served(app, limit_s=0, token="", **options):
    """A client of the whole stack, in process."""
    guarded = guards.Guard(shell.Shell(app, limit_s), "127.0.0.1", token, **options)
    transport = httpx.ASGITransport(guarded, client=("127.0.0.1", 5))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")


def app_of(route):
    return Starlette(
        routes=[Route("/x", route, methods=["GET", "POST"])],
        exception_handlers=guards.EXCEPTION_HANDLERS,
    )


async def echo(request):
    return JSONResponse(guards.parse_body(await request.body()))


def post(content, headers=(), **options):
    async def call():
        async with served(app_of(echo), **options) as client:
            return await client.post("/x", content=content, headers=dict(headers))

    return asyncio.run(call())


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": "\\ud800"}',
        b'{"\\uDfff": 1}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}",
        b"[" * 100_000,
        b'{"a": "\xe9"}',
        b"",
        b"[]",
        b'{"a": ' + b"9" * 9000 + b"}",
        b"{" + b",".join(b'"%d":1' % i for i in range(30_000)) + b"}",
    ],
)
def test_what_is_no_usable_json_is_400(content):
    reply = post(content)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]


def test_whole_pairs_of_surrogates_pass():
    assert post(b'{"a": "\\ud83d\\ude00"}').json() == {"a": "\U0001f600"}


@pytest.mark.parametrize(("host", "status"), [("[::1", 400), ("[::1]", 200), ("evil.example", 403)])
def test_the_host_header(host, status):
    assert post(b"{}", {"Host": host}).status_code == status


def test_bytes_are_counted_without_a_length():
    async def blocks():
        for _ in range(33):
            yield b" " * (1 << 20)

    assert post(blocks()).status_code == 413


def test_an_unforeseen_failure_is_json(caplog):
    async def fail(request):
        raise RuntimeError("secret detail")

    async def call():
        async with served(app_of(fail)) as client:
            return await client.get("/x")

    reply = asyncio.run(call())
    assert (reply.status_code, "secret" in reply.text) == (500, False)
    assert reply.json()["error"]["type"] == "server_error"
    assert "secret detail" in caplog.text


def test_an_answer_that_does_not_come_is_given_up():
    async def hang(request):
        await asyncio.sleep(60)

    async def call():
        async with served(app_of(hang), limit_s=0.3) as client:
            return await client.get("/x")

    start = time.monotonic()
    assert asyncio.run(call()).status_code == 504
    assert time.monotonic() - start < 5


def test_a_stream_that_goes_on_is_not_given_up():
    async def numbers():
        for i in range(8):
            await asyncio.sleep(0.1)
            yield f"{i} "

    async def stream(request):
        return StreamingResponse(numbers())

    async def call():
        async with served(app_of(stream), limit_s=0.5) as client:
            return await client.get("/x")

    assert asyncio.run(call()).text == "0 1 2 3 4 5 6 7 "


def asgi_call(app, messages):
    """Statuses that an app sends to a client whose messages come from an async generator."""

    async def call():
        sent = []
        rows = messages()

        async def receive():
            async for row in rows:
                return row
            await asyncio.sleep(60)

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/x", "raw_path": b"/x", "headers": []}
        scope |= {"client": ("127.0.0.1", 5), "query_string": b"", "http_version": "1.1"}
        await app(scope, receive, send)
        return [row["status"] for row in sent if "status" in row]

    return asyncio.run(call())


def test_a_client_that_leaves_stops_the_thread_that_works_for_it():
    begun, ended = threading.Event(), threading.Event()
    turns = Turns()

    def work():
        begun.set()
        try:
            for _ in range(1000):
                cancellation.check()
                time.sleep(0.01)
        finally:
            ended.set()

    async def route(request):
        await shell.turn(request, turns)
        await shell.in_thread(work)
        return JSONResponse({})

    async def leaves():
        yield {"type": "http.request", "body": b"{}", "more_body": False}
        while not begun.is_set():
            await asyncio.sleep(0.01)
        yield {"type": "http.disconnect"}

    start = time.monotonic()
    assert asgi_call(shell.Shell(app_of(route)), leaves) == []
    assert ended.is_set()
    assert time.monotonic() - start < 5
    assert turns._free == 1


def test_turns_go_round_the_clients():
    async def main():
        turns, order = Turns(), []

        async def one(client, number):
            await turns.take(client)
            order.append(f"{client}{number}")
            await asyncio.sleep(0)
            turns.release(0.1)

        await turns.take("first")
        jobs = [asyncio.create_task(one("greedy", i)) for i in range(5)]
        await asyncio.sleep(0)
        jobs.append(asyncio.create_task(one("modest", 0)))
        await asyncio.sleep(0)
        turns.release(0.1)
        await asyncio.gather(*jobs)
        return order, turns

    order, turns = asyncio.run(main())
    assert order[:3] == ["greedy0", "modest0", "greedy1"]
    assert (turns._free, turns.n_waiting) == (1, 0)


def test_a_full_queue_takes_the_place_from_the_client_with_most():
    async def main():
        turns = Turns(max_waiting=4)
        await turns.take("first")
        greedy = [asyncio.create_task(turns.take("greedy")) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(Full):
            await turns.take("greedy")
        modest = asyncio.create_task(turns.take("modest"))
        await asyncio.wait({greedy[3]})
        assert isinstance(greedy[3].exception(), Full)
        turns.release(1)
        await asyncio.sleep(0)
        greedy[1].cancel()
        turns.release(1)
        await modest
        turns.release(1)
        await greedy[2]
        turns.release(1)
        return turns

    turns = asyncio.run(main())
    assert (turns._free, turns.n_waiting) == (1, 0)


def test_a_refusal_is_held_back_and_holds_up_nobody_else(monkeypatch):
    monkeypatch.setattr(guards, "REFUSAL_S", 3600)

    async def call():
        async with served(app_of(echo)) as client:
            refused = asyncio.create_task(client.post("/x", content=b"{"))
            await asyncio.sleep(0.05)
            reply = await client.post("/x", json={"a": 1})
            assert not refused.done()
            refused.cancel()
            return reply.status_code

    assert asyncio.run(call()) == 200


def test_json_within_a_text_does_not_count_as_names():
    inner = json.dumps({str(i): i for i in range(30_000)})
    reply = post(json.dumps({"content": inner}).encode())
    assert reply.json() == {"content": inner}


@pytest.mark.parametrize(("size", "waits"), [(100, False), (1 << 20, True)])
def test_a_large_body_is_read_in_its_turn(size, waits):
    turns, readers = Turns(), []

    def read(content):
        readers.append(threading.current_thread())
        return guards.parse_body(content)

    async def route(request):
        body = await shell.read_body(request, turns, read)
        await shell.turn(request, turns)
        return JSONResponse({"n": len(body["a"])})

    async def call():
        async with served(app_of(route)) as client:
            await turns.take("another client")
            job = asyncio.create_task(client.post("/x", json={"a": "b" * size}))
            await asyncio.sleep(0.3)
            assert bool(readers) != waits
            turns.release(0.1)
            return await job

    assert asyncio.run(call()).json() == {"n": size}
    assert (readers[0] is threading.main_thread()) != waits
    assert (turns._free, turns.n_waiting) == (1, 0)


def test_a_large_body_that_is_refused_gives_its_turn_back():
    turns = Turns()

    async def route(request):
        return JSONResponse(await shell.read_body(request, turns, guards.parse_body))

    async def call():
        async with served(app_of(route)) as client:
            return [await client.post("/x", content=b"[" * 100_000) for _ in range(3)]

    assert [reply.status_code for reply in asyncio.run(call())] == [400] * 3
    assert turns._free == 1


def test_too_many_requests_are_told_when_to_come_back():
    turns = Turns(max_waiting=0)

    async def route(request):
        await shell.turn(request, turns)
        await asyncio.sleep(0.2)
        return JSONResponse({})

    async def call():
        async with served(app_of(route)) as client:
            replies = await asyncio.gather(*(client.get("/x") for _ in range(3)))
            return replies, await client.get("/x")

    replies, last = asyncio.run(call())
    assert sorted(reply.status_code for reply in replies) == [200, 429, 429]
    assert all(int(r.headers["Retry-After"]) > 0 for r in replies if r.status_code == 429)
    assert last.status_code == 200


def test_an_origin_that_the_owner_named_may_call():
    origin = "app://obsidian.md"
    refused = post(b"{}", {"Origin": origin})
    assert refused.status_code == 403
    assert f"--allow_origin {origin}" in refused.json()["error"]["message"]
    allowed = post(b"{}", {"Origin": origin}, allow_origin=[origin])
    assert allowed.status_code == 200
    assert allowed.headers["Access-Control-Allow-Origin"] == origin
    assert post(b"{}", {"Origin": "app://other"}, allow_origin=[origin]).status_code == 403
    assert post(b"{}", {"Origin": "http://["}, allow_origin=[origin]).status_code == 403

    async def preflight(token):
        async with served(app_of(echo), token=token, allow_origin=[origin]) as client:
            return await client.options("/x", headers={"Origin": origin})

    reply = asyncio.run(preflight("a-token-of-enough-letters"))
    assert reply.status_code == 204
    assert "Authorization" in reply.headers["Access-Control-Allow-Headers"]


def nested_schema(levels):
    schema = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"enum": [str(i) for i in range(4000)]}, "500 values"),
        ({"anyOf": [{"enum": list(range(300))}, {"enum": list(range(300))}]}, "500 values"),
        (nested_schema(400), "32 levels"),
        ({"properties": {str(i): {"type": "string"} for i in range(3000)}}, "2000 parts"),
        ({"type": "string", "maxLength": 10**9}, "maxLength"),
        ({"type": "array", "minItems": 10**6}, "minItems"),
        ({"type": "string", "pattern": "^a{9999999}$"}, "pattern"),
        ({"type": "string", "pattern": "^((((a{99}){99}){99}){99})$"}, "pattern"),
        ({"const": "x" * 200_000}, "characters"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#"}}}, "circle"),
        ({"items": {"$ref": "#/$defs/lost"}}, "$ref"),
        ({"$ref": "https://example.org/schema"}, "$ref"),
    ],
)
def test_schemas_that_hold_up_the_engine_are_refused(schema, why):
    with pytest.raises(DataError) as fault:
        schema_limits.check(schema, "the schema")
    assert why in fault.value.why


TREE = {
    "type": "object",
    "properties": {
        "children": {"type": "array", "items": {"$ref": "#"}},
        "colour": {"$ref": "#/$defs/Colour"},
    },
    "$defs": {"Colour": {"enum": ["red", "blue"]}},
}


def test_ordinary_schemas_pass():
    assert schema_limits.check(TREE, "the schema") == []
    assert schema_limits.check({"enum": [str(i) for i in range(400)]}, "the schema") == []
    assert schema_limits.check(nested_schema(12), "the schema") == []


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"pattern": "^[a-c]{3}$"}, []),
        ({"pattern": "abc"}, ["pattern"]),
        ({"pattern": "^\\d{3}$"}, ["pattern"]),
        ({"pattern": "^(?=a)b$"}, ["pattern"]),
        ({"pattern": "^(?:ab|cd)$"}, []),
        ({"format": "email"}, ["format"]),
        ({"format": "date"}, []),
        ({"multipleOf": 5}, ["multipleOf"]),
        ({"uniqueItems": True}, ["uniqueItems"]),
    ],
)
def test_what_the_grammar_passes_over_is_told(schema, told):
    whole = {"type": "object", "properties": {"pattern": {}, "v": schema}}
    found = schema_limits.check(whole, "the schema")
    assert found == [f"{key} at properties.v" for key in told]


def test_the_references_of_a_forced_tool_follow_it():
    names = ("paint", "plant")
    tools = [{"type": "function", "function": {"name": n, "parameters": TREE}} for n in names]
    request = {
        "messages": [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}],
        "tools": tools,
        "tool_choice": "required",
    }
    forced = tool_calls.forced_request(request)
    assert forced["messages"][0]["content"].startswith("Be brief.\n\n")
    schema = forced["response_format"]["json_schema"]["schema"]
    assert len(schema["anyOf"]) == 2
    for i, call in enumerate(schema["anyOf"]):
        arguments = schema_limits.target(schema, call["properties"]["arguments"]["$ref"])
        colour, item = (
            arguments["properties"]["colour"]["$ref"],
            arguments["properties"]["children"]["items"]["$ref"],
        )
        assert schema_limits.target(schema, colour) == {"enum": ["red", "blue"]}
        assert schema_limits.target(schema, item) is schema["$defs"][f"function{i}"]
    assert tool_calls.unenforced(request) == []


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a", "a"),
        (None, ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        ([], ""),
    ],
)
def test_contents_of_messages(content, text):
    body = {"messages": [{"role": "user", "content": content}]}
    assert openai_schemas.text_messages(body)[0]["content"] == text


@pytest.mark.parametrize(
    "message",
    [
        {"content": "no role"},
        {"role": 1, "content": "a"},
        {"role": "user", "content": 5},
        {"role": "user", "content": ["a"]},
        {"role": "user", "content": [{"type": "text"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        "text",
    ],
)
def test_messages_that_are_refused(message):
    with pytest.raises(DataError):
        openai_schemas.text_messages({"messages": [message]})
