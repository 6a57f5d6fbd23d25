"""`onecard mcp` as an assistant uses it: the real client of the protocol, over standard input and
output and over HTTP, with the real models behind the tools."""

import json
import os
import re
import signal
import subprocess
import sys

import anyio
import httpx
import pytest

pytest.importorskip("mcp", reason="installed by make test")
import httpx2
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

READING = {
    *("search_notes", "ask_notes", "list_indexes", "plan", "list_plans", "fit", "explain_oom"),
    *("doctor", "list_runs", "show_run", "list_jobs", "show_job", "transcribe", "ask_picture"),
}
WRITING = {"index_notes", "start_job", "stop_job"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder that the assistant may name."""
    return tmp_path_factory.mktemp("assistant")


@pytest.fixture(autouse=True)
def no_model_servers(session_home, monkeypatch):
    """The model servers that a test's tools started end with it."""
    monkeypatch.setenv("ONECARD_HOME", str(session_home))
    yield
    from onecard.web import services

    services.stop_all()


@pytest.fixture
def assistant(folder, session_home):
    """assistant(work, *words): `work(client)` in a session with `onecard mcp --root FOLDER`."""

    def run(work, *words):
        parameters = StdioServerParameters(
            command=sys.executable,
            args=["-m", "onecard", "mcp", "--root", str(folder), *map(str, words)],
            env={**os.environ, "ONECARD_HOME": str(session_home)},
            cwd=folder,
        )

        async def session():
            with anyio.fail_after(400):
                async with Client(stdio_client(parameters)) as client:
                    return await work(client)

        return anyio.run(session)

    return run


@pytest.fixture
def call(assistant):
    """The answer of one tool: (its data, or the text of its error)."""

    def run(name, *words, **arguments):
        async def work(client):
            return await client.call_tool(name, arguments)

        result = assistant(work, *words)
        if result.is_error:
            return result.content[0].text
        return result.structured_content

    return run


def tools(assistant, *words):
    async def work(client):
        return (await client.list_tools()).tools

    return {tool.name: tool for tool in assistant(work, *words)}


def test_only_reading_tools_are_offered(assistant):
    offered = tools(assistant)
    assert set(offered) == READING
    assert all(tool.annotations.read_only_hint for tool in offered.values())
    assert all(tool.description and tool.input_schema for tool in offered.values())


def test_changes_are_offered_only_when_allowed(assistant):
    offered = tools(assistant, "--allow_write")
    assert set(offered) == READING | WRITING
    assert not any(offered[name].annotations.read_only_hint for name in WRITING)
    assert offered["stop_job"].annotations.destructive_hint
    assert not offered["index_notes"].annotations.destructive_hint


def test_a_tool_that_was_not_allowed_cannot_be_called(call, folder):
    text = call("start_job", task="rag", command="index", settings={"folders": [str(folder)]})
    assert "start_job" in text
    assert "fix:" in text


def test_a_plan_has_terms_and_a_verdict(call):
    plan = call("plan", plan="qlora", model="llama-3.1-8b", card="4070ti")
    assert plan["fits"] is True
    assert plan["total_bytes"] == sum(term["bytes"] for term in plan["terms"])


def test_what_fits_a_card_is_told(call):
    rows = call("fit", card="12gb")["rows"]
    assert {"qlora", "asr"} <= {row["workload"] for row in rows}


def test_an_error_is_told_with_its_fix_and_no_traceback(call):
    text = call("plan", plan="qlroa", model="llama-3.1-8b")
    assert "why: " in text
    assert "fix: did you mean qlora" in text
    assert "Traceback" not in text


def test_a_wrong_argument_is_told_with_its_reason(call):
    text = call("list_runs", limit=10_000)
    assert "limit: " in text
    assert "fix: " in text


def test_an_out_of_memory_message_is_explained(call):
    text = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\n"
    row = call("explain_oom", text=text, plan="qlora", settings={"model": "llama-3.1-8b"})
    assert row["changes"]


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key_env": "AWS_SECRET_ACCESS_KEY"},
        {"base_url": "http://example.org/v1"},
        {"token": "env:HOME"},
        {"dataset": ["ok", {"file": "file:/etc/passwd"}]},
        {"dataset": "/etc/passwd"},
    ],
)
def test_an_assistant_names_no_secret_and_no_other_machine(call, settings):
    text = call("start_job", "--allow_write", task="chat", command="ask", settings=settings)
    assert "an assistant may not set" in text or "outside the folders" in text


def test_paths_are_held_to_the_roots(call, folder):
    (folder / "link.wav").unlink(missing_ok=True)
    (folder / "link.wav").symlink_to("/etc/passwd")
    for path in ("/etc/passwd", str(folder / "../secret.wav"), str(folder / "link.wav")):
        assert "outside the folders" in call("transcribe", path=path)
    assert "outside the folders" in call("ask_picture", path="/etc/hostname", question="?")


def test_notes_are_indexed_searched_and_asked(call, assistant, notes, folder):
    notes.rename(folder / "notes")
    job = call("index_notes", "--allow_write", folders=[str(folder / "notes")])

    async def work(client):
        for _ in range(600):
            row = (await client.call_tool("show_job", {"job_id": job["id"]})).structured_content
            if row["status"] not in ("queued", "running"):
                break
            await anyio.sleep(0.2)
        question = {"question": "What is the longest retry delay?"}
        progress = []

        async def on_progress(done, total, message):
            progress.append(message)

        search = await client.call_tool("search_notes", question, progress_callback=on_progress)
        answer = await client.call_tool("ask_notes", question)
        indexes = await client.call_tool("list_indexes", {})
        return row, search, answer, indexes, progress

    row, search, answer, indexes, progress = assistant(work)
    assert row["status"] == "done", row
    assert "the model loads" in progress
    top = search.structured_content["passages"][0]
    assert top["path"].endswith("timeouts.md")
    assert top["line"] >= 1
    citations = answer.structured_content["citations"]
    assert any("timeouts.md" in each["path"] for each in citations)
    assert indexes.structured_content["indexes"][0]["folders"] == [str(folder / "notes")]


def test_a_sound_is_transcribed(call, folder):
    pytest.importorskip("faster_whisper", reason="installed by make test")
    import voices

    text = "Tomorrow we will meet at the station. The train leaves at half past seven."
    voices.write(folder / "talk.wav", voices.spoken(text) * 0.7)
    reply = call("transcribe", path=str(folder / "talk.wav"), language="en")
    assert {"tomorrow", "station", "train"} <= set(re.findall("[a-z]+", reply["text"].lower()))
    assert reply["duration_s"] > 3
    assert reply["next_offset"] is None


def test_a_picture_is_asked(call, folder, tmp_path_factory):
    """The vision half has random weights: its answer means nothing, and is one."""
    pytest.importorskip("PIL", reason="installed by make test")
    from PIL import Image

    from tests import made_llava

    pair = made_llava.write_pair(tmp_path_factory.mktemp("pair"))
    Image.new("RGB", (120, 80), "red").save(folder / "red.png")
    reply = call(
        "ask_picture",
        "--vision_model",
        pair,
        path=str(folder / "red.png"),
        question="What colour is it?",
    )
    assert isinstance(reply["answer"], str), reply


def test_runs_are_listed(call):
    assert "runs" in call("list_runs", limit=3)
    assert "fix:" in call("show_run", run_id="there-is-none")


def test_standard_output_carries_only_the_protocol(folder, session_home):
    """Also when a tool starts programs that print, and at the end."""
    lines = [
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "clientInfo": {"name": "test", "version": "1"},
            },
        },
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {
            "jsonrpc": "2.0",
            "id": 2,
            "method": "tools/call",
            "params": {"name": "doctor", "arguments": {}},
        },
    ]
    child = subprocess.Popen(
        [sys.executable, "-m", "onecard", "mcp", "--root", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in lines:
        child.stdin.write(json.dumps(line) + "\n")
    child.stdin.write("this is no JSON\n")
    child.stdin.flush()
    answers = []
    while not any(row.get("id") == 2 for row in answers):
        answers.append(json.loads(child.stdout.readline()))
    child.stdin.close()
    rest = child.stdout.read()
    assert child.wait(timeout=60) == 0
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in rest.splitlines())
    assert all(row["jsonrpc"] == "2.0" for row in answers)
    assert "Traceback" not in child.stderr.read()


def test_ctrl_c_ends_it(folder):
    child = subprocess.Popen(
        [sys.executable, "-m", "onecard", "mcp", "--root", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    child.stderr.readline()
    child.send_signal(signal.SIGINT)
    child.wait(timeout=30)


@pytest.fixture(scope="module")
def address(session_home, folder):
    """`onecard mcp --http`; a token is demanded, and comes from the environment."""
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "onecard", "mcp", "--http", "--port", "0"),
            *("--root", str(folder), "--token", "env:MCP_TEST_TOKEN"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ONECARD_HOME": str(session_home), "MCP_TEST_TOKEN": TOKEN},
    )
    line = child.stderr.readline()
    yield re.search(r"http://127\S+?/mcp", line)[0]
    child.send_signal(signal.SIGINT)
    child.wait(timeout=60)


TOKEN = "a-token-of-the-test-0123456789"


def test_the_tools_answer_over_http(address):
    async def work():
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            httpx2.AsyncClient(headers=headers, trust_env=False, timeout=60) as http,
            Client(streamable_http_client(address, http_client=http)) as client,
        ):
            names = {tool.name for tool in (await client.list_tools()).tools}
            plan = await client.call_tool("plan", {"plan": "qlora", "model": "llama-3.1-8b"})
            return names, plan

    names, plan = anyio.run(work)
    assert names == READING
    assert plan.structured_content["terms"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": f"Bearer {TOKEN}", "Host": "evil.example"}, 403),
        ({"Authorization": f"Bearer {TOKEN}", "Origin": "http://evil.example"}, 403),
    ],
)
def test_http_is_guarded(address, headers, status):
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    assert httpx.post(address, json=body, headers=headers).status_code == status


def test_an_address_without_http_is_refused(onecard):
    refusal = onecard("mcp", "--port", "9000")
    assert refusal.code == 2
    assert "--http" in refusal.err
    assert refusal.out == ""
