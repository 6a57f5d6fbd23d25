"""chat with the real embedded model: terminal, one question, server, bench, evaluate."""

import enum
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from typing import Annotated

import httpx
import openai
import pydantic
import pytest

from onecard import api
from onecard.errors import DataError, EngineError
from onecard.inference import llamacpp
from onecard.inference.backends import language_model
from onecard.inference.config import PROMPT_CACHE_MIB, LlmConfig
from onecard.memory import devices
from onecard.reporting import Reporter
from onecard.tasks.chat.configs import AskConfig


@pytest.fixture(scope="module")
def client():
    settings = LlmConfig(n_ctx=1024, max_tokens=32)
    with language_model(settings, api.plan("chat", settings, card="cpu"), Reporter()) as opened:
        yield opened


def test_plan_agrees_with_what_llamacpp_prints(client):
    terms = {t.name: t.bytes / 2**20 for t in api.plan("chat", client.config, card="cpu").terms}
    printed = client.engine.buffers()
    assert terms["weights"] == pytest.approx(printed["model"], rel=0.005)
    assert terms["KV cache"] == pytest.approx(printed["kv"], rel=0.005)
    assert terms["compute"] == pytest.approx(printed["compute"], rel=0.5)


def test_kept_prompts_are_bounded(client):
    """The library keeps up to 8 GiB of them, which no plan counts."""
    log = client.engine.log.read_text(errors="replace")
    assert f"size limit: {PROMPT_CACHE_MIB} MiB" in log


def test_a_stream_gives_the_same_answer_in_pieces(client):
    whole = client.chat([{"role": "user", "content": "Say hello."}])
    pieces = list(client.stream([{"role": "user", "content": "Say hello."}]))
    assert len(pieces) > 3
    assert "".join(pieces) == whole.text


def test_a_schema_forces_the_form_of_the_answer(client):
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    reply = client.chat([{"role": "user", "content": "A colour?"}], schema=schema)
    assert json.loads(reply.text)["colour"] in ("red", "blue")


def test_tokens_are_counted_by_the_engine(client):
    assert client.count_tokens("hello world") == 2


def test_too_long_is_told(client):
    with pytest.raises(DataError, match="too long"):
        client.chat([{"role": "user", "content": "word " * 5000}])


def wait_until(condition, seconds=120):
    """The limit is a time-out only: it is far above what a busy machine takes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)


def answers(base_url):
    try:
        return httpx.get(f"{base_url.removesuffix('/v1')}/health").status_code == 200
    except httpx.HTTPError:
        return False


def test_a_dead_engine_is_started_again_each_time():
    settings = LlmConfig(n_ctx=512, max_tokens=8)
    question = [{"role": "user", "content": "hi"}]
    with language_model(settings, api.plan("chat", settings, card="cpu"), Reporter()) as opened:
        engine, before = opened.engine, opened.chat(question).text
        first_pid = engine.pid
        os.kill(first_pid, signal.SIGKILL)
        wait_until(lambda: engine.pid != first_pid and answers(engine.base_url))
        assert opened.chat(question).text == before != ""
        for _ in range(2):
            pid = engine.pid
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: engine.pid != pid and answers(engine.base_url))
            assert opened.chat(question).text == before


def test_an_engine_that_cannot_start_again_is_an_error_while_it_is_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(llamacpp, "RESTART_S", 2)
    settings = LlmConfig(n_ctx=512, max_tokens=8)
    question = [{"role": "user", "content": "hi"}]
    with language_model(settings, api.plan("chat", settings, card="cpu"), Reporter()) as opened:
        engine, whole = opened.engine, opened.engine.path
        engine.path = tmp_path / "gone.gguf"
        os.kill(engine.pid, signal.SIGKILL)
        wait_until(lambda: not engine.alive)
        with pytest.raises(EngineError, match="ended") as fault:
            opened.chat(question)
        assert "the next start is in" in fault.value.why
        engine.path = whole
        wait_until(lambda: engine.alive)
        assert opened.chat(question).text


def test_ask_with_context_from_a_pipe(onecard):
    done = onecard(
        "chat", "ask", "What is the number?", "--max_tokens", "12", stdin="The number is 42."
    )
    assert done.code == 0
    assert done.out.strip()
    assert "all layers on the CPU" in done.err


def test_the_start_line_tells_the_threads_and_why(onecard):
    done = onecard("chat", "ask", "hi", "--max_tokens", "2", "--n_threads", "1")
    assert "all layers on the CPU (1 thread: set by --n_threads)" in done.err
    done = onecard("chat", "ask", "hi", "--max_tokens", "2")
    assert re.search(r"\(\d+ threads?: .*(physical core|cgroup)", done.err), done.err


def test_ask_as_json(onecard):
    done = onecard("chat", "ask", "hi", "--max_tokens", "5", "--json")
    assert done.data["model"] == "smollm2-135m"
    assert done.data["question"] == "hi"
    assert done.data["answer"]


def test_the_repl_with_commands(onecard, tmp_path):
    done = onecard(
        "chat",
        "--max_tokens",
        "8",
        stdin="/system Be brief.\nhello\n/again\n/nonsense\n/save talk.json\n/save talk.md\n/load "
        "talk.json\n/load none.json\n/exit\n",
    )
    assert done.code == 0
    messages = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert [m["role"] for m in messages] == ["system", "user", "assistant"]
    assert messages[0]["content"] == "Be brief."
    assert "**assistant**" in (tmp_path / "talk.md").read_text()
    assert "'/nonsense' is no command" in done.err
    assert "none.json is not a saved conversation" in done.err


def test_ctrl_c_stops_with_130(home, tmp_path):
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "onecard",
            "chat",
            "ask",
            "Count to one thousand in words.",
            "--max_tokens",
            "3000",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
        # where the tests run in a shell's background, SIGINT would be ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert child.stdout.read(5)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=120) == 130
    assert "Traceback" not in child.stderr.read()


@pytest.fixture(scope="module")
def server(serving):
    return serving("chat", "serve", "--n_ctx", "1024") + "/v1"


@pytest.fixture(scope="module")
def openai_client(server):
    return openai.OpenAI(base_url=server, api_key="x")


HELLO = [{"role": "user", "content": "Say hello."}]


def test_serve_answers_chat_whole_and_streamed(openai_client):
    request = {"model": "any", "messages": HELLO, "max_tokens": 8, "temperature": 0}
    create = openai_client.chat.completions.create
    whole = create(**request).choices[0].message.content
    chunks = list(create(**request, stream=True))
    assert len(chunks) > 3
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole != ""


def test_serve_completes_a_prompt(openai_client):
    done = openai_client.completions.create(model="any", prompt="One two", max_tokens=4)
    assert done.choices[0].text
    assert done.usage.completion_tokens == 4


def test_serve_lists_its_models(openai_client):
    assert {m.id for m in openai_client.models.list()} == {"smollm2-135m", "e5-small"}


def test_serve_embeds(openai_client, server):
    texts = ["a cat", "a kitten", "tax law"]
    rows = openai_client.embeddings.create(model="e5-small", input=texts).data
    cat, kitten, tax = (row.embedding for row in rows)
    dot = lambda a, b: sum(x * y for x, y in zip(a, b, strict=True))  # noqa: E731
    assert dot(cat, kitten) > dot(cat, tax)
    assert dot(cat, cat) == pytest.approx(1, abs=1e-4)
    # the openai client asks for base64, a plain request for numbers
    plain = httpx.post(f"{server}/embeddings", json={"input": "a cat"}, timeout=60).json()
    assert plain["data"][0]["embedding"] == pytest.approx(cat, abs=1e-6)


def test_serve_reranks(server):
    body = {"query": "pets", "documents": ["tax law", "a cat at home"]}
    ranked = httpx.post(f"{server}/rerank", json=body, timeout=60).json()["results"]
    assert [row["index"] for row in ranked] == [1, 0]
    assert ranked[0]["relevance_score"] > ranked[1]["relevance_score"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_rerank_has_the_paths_and_nulls_of_other_servers(server, path):
    body = {"query": "pets", "documents": ["tax law", "a cat at home"], "top_n": None}
    url = server.removesuffix("/v1") + path
    assert [r["index"] for r in httpx.post(url, json=body, timeout=60).json()["results"]] == [1, 0]


def test_n_may_be_null(server):
    body = {"messages": HELLO, "max_tokens": 2, "n": None}
    assert httpx.post(f"{server}/chat/completions", json=body, timeout=60).status_code == 200


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Wall(pydantic.BaseModel):
    colour: Colour


class House(pydantic.BaseModel):
    front: Wall
    code: Annotated[str, pydantic.Field(pattern=r"^\d{3}$", max_length=9)]


@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_tool_of_a_pydantic_model(server, openai_client, stream):
    """Its schema has $defs, and a pattern that the grammar cannot enforce: that is told."""
    schema = House.model_json_schema()
    assert "$defs" in schema
    body = {
        "messages": [{"role": "user", "content": "Paint the house red. Its code is 123."}],
        "tools": [{"type": "function", "function": {"name": "paint", "parameters": schema}}],
        "tool_choice": {"type": "function", "function": {"name": "paint"}},
        "temperature": 0,
        "stream": stream,
        "stream_options": {"include_usage": True},
    }
    reply = httpx.post(f"{server}/chat/completions", json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    assert reply.headers["X-Schema-Not-Enforced"] == "pattern at properties.code"
    if stream:
        rows = [json.loads(line[6:]) for line in reply.text.split("\n") if line[:7] == "data: {"]
        call = rows[0]["choices"][0]["delta"]["tool_calls"][0]
        assert rows[1]["warnings"] == ["not enforced: pattern at properties.code"]
        assert rows[2]["usage"]["completion_tokens"] > 0
    else:
        call = reply.json()["choices"][0]["message"]["tool_calls"][0]
        assert reply.json()["warnings"] == ["not enforced: pattern at properties.code"]
    arguments = json.loads(call["function"]["arguments"])
    assert Wall.model_validate(arguments["front"]).colour in Colour
    assert isinstance(arguments["code"], str)


def test_the_conversation_keeps_half_of_the_context_however_long_the_answer_may_be(onecard):
    done = onecard(
        "chat",
        *("--max_tokens", "512", "--n_ctx", "512"),
        stdin="/system Be brief.\nMy name is Ada. Say hi.\nSay hi again.\n/exit\n",
    )
    assert done.code == 0
    assert "left out" not in done.err


def test_serve_forces_a_schema(openai_client):
    schema = {
        "type": "json_schema",
        "json_schema": {
            "name": "n",
            "schema": {
                "type": "object",
                "properties": {"n": {"enum": ["yes", "no"]}},
                "required": ["n"],
            },
        },
    }
    # the grammar lets a small model write some 20 blanks at each of four places: room for them all
    answer = openai_client.chat.completions.create(
        model="any", messages=HELLO, max_tokens=200, temperature=0, response_format=schema
    )
    assert json.loads(answer.choices[0].message.content)["n"] in ("yes", "no")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"not json", "chat/completions"),
        (b"[]", "chat/completions"),
        (b'{"input": 3}', "embeddings"),
        (b"{}", "rerank"),
    ],
)
def test_serve_refuses_bad_bodies(server, body, path):
    assert httpx.post(f"{server}/{path}", content=body).status_code == 400


def test_serve_is_not_for_other_sites(server):
    assert httpx.get(f"{server}/models", headers={"Host": "evil.example"}).status_code == 403
    assert (
        httpx.get(f"{server}/models", headers={"Origin": "https://evil.example"}).status_code == 403
    )


def test_a_port_in_use_is_told_before_anything_loads(onecard):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        done = onecard("chat", "serve", "--port", other.getsockname()[1])
    assert done.code == 7
    assert "cannot listen" in done.err
    assert "fix:" in done.err
    assert "all layers" not in done.err


@pytest.fixture(scope="module")
def bench_runs(tmp_path_factory, home):
    """Two runs of chat bench: (ids, the second one's data)."""
    ids = []
    for _ in range(2):
        words = ["--repeats", "2", "--prompt_tokens", "64", "--generate_tokens", "16", "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "onecard", "chat", "bench", *words],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path_factory.mktemp("bench"),
        )
        ids.append(json.loads(done.stdout)["run"].rsplit("/", 1)[1])
    return ids, json.loads(done.stdout)["metrics"]


def test_bench_measures(bench_runs):
    _, metrics = bench_runs
    for name in ("prompt_tokens_per_s", "generate_tokens_per_s", "first_token_s"):
        row = metrics[name]
        assert row["n"] == 2
        assert 0 < row["low"] <= row["value"] <= row["high"]
    assert metrics["peak_bytes"]["value"] > 100 << 20


def test_bench_writes_a_run(bench_runs, home, onecard):
    ids, _ = bench_runs
    folder = home / ids[0]
    for name in (
        "settings.toml",
        "plan.json",
        "env.json",
        "artifacts/items.jsonl",
        "scores.json",
        "memory.json",
        "status",
        "README.md",
        "notebook.ipynb",
        "report.html",
    ):
        assert (folder / name).stat().st_size > 0, name
    assert "<svg" in (folder / "report.html").read_text()
    assert json.loads((folder / "notebook.ipynb").read_text())["nbformat"] == 4
    assert ids[0] in onecard("runs", "list").out
    assert "How to repeat" in onecard("runs", "show", ids[0]).out


def test_two_bench_runs_compare(bench_runs, onecard):
    ids, metrics = bench_runs
    assert onecard("runs", "compare", *ids, "--json").data["metrics"].keys() == metrics.keys()


def test_the_plan_of_a_bench_run_is_checked(bench_runs, onecard):
    ids, _ = bench_runs
    rows = {row["id"]: row for row in onecard("plan", "--check", "--json").data["rows"]}
    assert set(ids) <= set(rows)
    assert rows[ids[0]]["planned_bytes"] > 100 << 20


def test_evaluate_with_a_judge_and_human_marks(onecard, tmp_path):
    question = {"question": "What colour is the sky?", "answer": "blue"}
    human = ((5, "Blue."), (1, "A dog."), (4, "It is blue."))
    rows = [{**question, "human_mark": mark, "human_answer": answer} for mark, answer in human]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = onecard("chat", "evaluate", "q.jsonl", "--judge", "self", "--max_tokens", "16", "--json")
    assert done.code == 0, done.err
    assert done.data["metrics"]["f1"]["n"] == 3
    assert 1 <= done.data["metrics"]["mark"]["value"] <= 5
    assert any("judge against 3 human marks" in line for line in done.data["verdicts"])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["chat", "ask", "hi", "--model", "smolm2-135m"], 6, "did you mean smollm2-135m"),
        (["chat", "ask", "hi", "--model", "ollama:nothing"], 7, "Ollama does not answer"),
        (
            ["chat", "ask", "hi", "--base_url", "http://127.0.0.1:9/v1", "--model", "m"],
            7,
            "no answer from",
        ),
        (["chat", "ask", "hi", "--model", "bad.gguf"], 5, "not a whole GGUF"),
        (["chat", "ask", "hi", "--model", "none.gguf"], 6, "no model file"),
        (["chat", "ask", "hi", "--model", "llama3.1:8b"], 6, "could not be had"),
        (["chat", "ask"], 2, "no question"),
        (["chat", "ask", "hi", "--n_ctx", "1"], 2, "n_ctx"),
        (["chat", "plan", "--card", "9999ti"], 6, "card"),
        (["chat", "ask", "hi", "--card", "1gb"], 3, "needs"),
        (["chatt"], 6, "did you mean chat"),
    ],
)
def test_bad_input_is_an_error_with_a_fix(onecard, tmp_path, words, code, message):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 40)
    done = onecard(*words, env={"OLLAMA_HOST": "http://127.0.0.1:9"})
    assert done.code == code, done.err
    assert done.err.count("error: ") == 1
    assert message in done.err


def test_named_cards_get_layers_that_fit():
    plan = api.plan("chat", AskConfig(model="llama3.1:8b", n_ctx=8192), card="4070ti")
    assert plan.fits
    assert plan.choices["n_gpu_layers"] == 33
    assert plan.choices["quant"] in ("q8_0", "q6_k")
    small = api.plan("chat", AskConfig(model="qwen2.5:14b", n_ctx=8192), card="8gb")
    assert small.fits
    assert 0 < small.choices["n_gpu_layers"] < 49
    assert "stay on the CPU" in " ".join(small.notes)
    assert devices.find("12gb").free_bytes < 12 * 2**30
