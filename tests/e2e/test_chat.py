"""chat with the real embedded model: terminal, one question, server, bench, evaluate."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import openai
import pytest

from onecard import api
from onecard.errors import DataError, EngineError
from onecard.inference.backends import language_model
from onecard.memory import devices
from onecard.reporting import Reporter
from onecard.tasks.chat.configs import Settings


@pytest.fixture(scope="module")
def client():
    settings = Settings(n_ctx=1024, max_tokens=32)
    with language_model(settings, api.plan("chat", settings, card="cpu"), Reporter()) as opened:
        yield opened


def test_plan_agrees_with_what_llamacpp_prints(client):
    terms = {t.name: t.bytes / 2**20 for t in api.plan("chat", client.settings, card="cpu").terms}
    printed = client._why_dead.__self__.buffers()
    assert terms["weights"] == pytest.approx(printed["model"], rel=0.005)
    assert terms["KV cache"] == pytest.approx(printed["kv"], rel=0.005)
    assert terms["compute"] == pytest.approx(printed["compute"], rel=0.5)


def test_answers_stream_schema_and_count(client):
    whole = client.chat([{"role": "user", "content": "Say hello."}])
    pieces = list(client.stream([{"role": "user", "content": "Say hello."}]))
    assert whole.text and "".join(pieces) == whole.text and len(pieces) > 3
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    assert json.loads(client.chat([{"role": "user", "content": "A colour?"}], schema=schema).text)[
        "colour"
    ] in ("red", "blue")
    assert 2 <= client.count_tokens("hello world") <= 4


def test_too_long_is_told(client):
    with pytest.raises(DataError, match="too long"):
        client.chat([{"role": "user", "content": "word " * 5000}])


def test_the_engine_is_started_once_more_and_then_told():
    settings = Settings(n_ctx=512, max_tokens=8)
    with language_model(settings, api.plan("chat", settings, card="cpu"), Reporter()) as opened:
        engine = opened._why_dead.__self__
        ask = [{"role": "user", "content": "hi"}]
        os.kill(engine.pid, signal.SIGKILL)
        deadline = time.time() + 20
        while (engine._deaths < 1 or not engine.alive) and time.time() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        assert opened.chat(ask).text is not None
        os.kill(engine.pid, signal.SIGKILL)
        time.sleep(1)
        with pytest.raises(EngineError, match="ended") as fault:
            opened.chat(ask)
        assert "second time" in fault.value.why


def test_ask_with_context_from_a_pipe(onecard):
    done = onecard(
        "chat", "ask", "What is the number?", "--max_tokens", "12", stdin="The number is 42."
    )
    assert done.code == 0 and done.out.strip() and "all layers on the CPU" in done.err
    done = onecard("chat", "ask", "hi", "--max_tokens", "5", "--json")
    assert done.data["model"] == "smollm2-135m" and done.data["answer"]


def test_talk_with_commands(onecard, tmp_path):
    done = onecard(
        "chat",
        "--max_tokens",
        "8",
        stdin="/system Be brief.\nhello\n/again\n/nonsense\n/save talk.json\n/save talk.md\n/load "
        "talk.json\n/load none.json\n/exit\n",
    )
    assert done.code == 0
    kept = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert [m["role"] for m in kept] == ["system", "user", "assistant"] and kept[0][
        "content"
    ] == "Be brief."
    assert (
        "**assistant**" in (tmp_path / "talk.md").read_text()
        and "no command" in done.err
        and "is no saved talk" in done.err
    )


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
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # where the tests run in a shell's background, it would be ignored
    assert child.stdout.read(5)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=10) == 130 and "Traceback" not in child.stderr.read()


@pytest.fixture(scope="module")
def server(serving):
    return serving("chat", "serve", "--n_ctx", "1024") + "/v1"


def test_serve_speaks_the_openai_api(server):
    openai_client = openai.OpenAI(base_url=server, api_key="x")
    ask = [{"role": "user", "content": "Say hello."}]
    assert (
        openai_client.chat.completions.create(model="any", messages=ask, max_tokens=8)
        .choices[0]
        .message.content
    )
    stream = openai_client.chat.completions.create(
        model="any", messages=ask, max_tokens=8, stream=True
    )
    assert sum(1 for _ in stream) > 3
    assert (
        openai_client.completions.create(model="any", prompt="One two", max_tokens=4)
        .choices[0]
        .text
    )
    assert {m.id for m in openai_client.models.list()} == {"smollm2-135m", "e5-small"}
    one, two, three = (
        row.embedding
        for row in openai_client.embeddings.create(
            model="e5-small", input=["a cat", "a kitten", "tax law"]
        ).data
    )
    dot = lambda a, b: sum(x * y for x, y in zip(a, b, strict=True))  # noqa: E731
    assert dot(one, two) > dot(one, three) and dot(one, one) == pytest.approx(1, abs=1e-4)
    plain = httpx.post(f"{server}/embeddings", json={"input": "a cat"}).json()["data"][0][
        "embedding"
    ]
    assert plain == pytest.approx(one, abs=1e-6)
    ranked = httpx.post(
        f"{server}/rerank",
        json={"query": "pets", "documents": ["tax law", "a cat at home"]},
        timeout=60,
    ).json()["results"]
    assert ranked[0]["index"] == 1
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
    # the grammar lets a small model write some 20 blanks at each of four places: room for all of
    # them
    answer = openai_client.chat.completions.create(
        model="any", messages=ask, max_tokens=200, temperature=0, response_format=schema
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
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = onecard("chat", "serve", "--port", taken.getsockname()[1])
    assert done.code == 7 and "cannot listen" in done.err and "fix:" in done.err


def test_bench_is_a_run_and_runs_compare(onecard, home):
    ids = []
    for _ in range(2):
        done = onecard(
            "chat",
            "bench",
            "--repeats",
            "2",
            "--prompt_tokens",
            "64",
            "--generate_tokens",
            "16",
            "--json",
        )
        assert done.code == 0, done.err
        ids.append(done.data["run"].rsplit("/", 1)[1])
    row = done.data["metrics"]
    assert row["generate_tokens_per_s"]["value"] > 5 and row["peak_bytes"]["value"] > 100 << 20
    assert onecard("runs", "compare", *ids, "--json").data["metrics"].keys() == row.keys()
    checked = {row["id"]: row for row in onecard("plan", "--check", "--json").data["rows"]}
    assert set(ids) <= set(checked) and checked[ids[0]]["planned_bytes"] > 100 << 20
    folder = home / ids[0]
    for name in (
        "settings.toml",
        "plan.json",
        "env.json",
        "events.jsonl",
        "scores.json",
        "memory.json",
        "status",
        "README.md",
        "notebook.ipynb",
        "report.html",
    ):
        assert (folder / name).stat().st_size > 0, name
    assert (
        "<svg" in (folder / "report.html").read_text()
        and json.loads((folder / "notebook.ipynb").read_text())["nbformat"] == 4
    )
    assert (
        ids[0] in onecard("runs", "list").out
        and "How to repeat" in onecard("runs", "show", ids[0]).out
    )


def test_evaluate_with_a_judge_and_human_marks(onecard, tmp_path):
    rows = [
        {
            "question": "What colour is the sky?",
            "answer": "blue",
            "human_mark": m,
            "human_answer": a,
        }
        for m, a in ((5, "Blue."), (1, "A dog."), (4, "It is blue."))
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = onecard("chat", "evaluate", "q.jsonl", "--judge", "self", "--max_tokens", "16", "--json")
    assert done.code == 0, done.err
    assert done.data["metrics"]["f1"]["n"] == 3 and any(
        "kappa" in line for line in done.data["verdicts"]
    )


@pytest.mark.parametrize(
    ("words", "code", "said"),
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
def test_bad_input_says_what_why_fix(onecard, tmp_path, words, code, said):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 40)
    done = onecard(*words, env={"OLLAMA_HOST": "http://127.0.0.1:9"})
    assert done.code == code, done.err
    assert done.err.count("error: ") == 1 and said in done.err


def test_named_cards_get_layers_that_fit():
    plan = api.plan("chat", Settings(model="llama3.1:8b", n_ctx=8192), card="4070ti")
    assert (
        plan.fits
        and plan.choices["n_gpu_layers"] == 33
        and plan.choices["quant"] in ("q8_0", "q6_k")
    )
    small = api.plan("chat", Settings(model="qwen2.5:14b", n_ctx=8192), card="8gb")
    assert (
        small.fits
        and 0 < small.choices["n_gpu_layers"] < 49
        and "stay on the CPU" in " ".join(small.notes)
    )
    assert devices.find("12gb").free_bytes < 12 * 2**30
