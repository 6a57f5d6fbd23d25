"""Errors of hurried users and unusual clients: refused with a message, nothing lost or hanging."""

import contextlib
import json
import os
import subprocess
import sys
import threading

import httpx
import openai
import pytest

from onecard.tasks.rag.store import Store

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Get the {name}.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 20}},
                "required": ["city"],
            },
        },
    }
    for name in ("weather", "time_zone")
]


@pytest.fixture(scope="module")
def chat(serving):
    return serving("chat", "serve", "--n_ctx", "1024") + "/v1"


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"weather", "time_zone"}),
        ({"type": "function", "function": {"name": "time_zone"}}, {"time_zone"}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_demanded_tool_is_called(chat, choice, names, stream):
    client = openai.OpenAI(base_url=chat, api_key="x")
    done = client.chat.completions.create(
        model="smollm2-135m",
        messages=[{"role": "user", "content": "What time is it in Oslo?"}],
        tools=TOOLS,
        tool_choice=choice,
        stream=stream,
        temperature=0,
    )
    if stream:
        calls = [call for event in done for call in event.choices[0].delta.tool_calls or []]
    else:
        calls = done.choices[0].message.tool_calls
        assert done.choices[0].finish_reason == "tool_calls"
    assert len(calls) == 1
    assert calls[0].function.name in names
    assert isinstance(json.loads(calls[0].function.arguments)["city"], str)


HI = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("chat/completions", {"messages": []}, 400),
        ("chat/completions", {}, 400),
        ("chat/completions", {"messages": HI, "n": 2}, 400),
        (
            "chat/completions",
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "data:,"}}],
                    }
                ]
            },
            400,
        ),
        (
            "chat/completions",
            {
                "messages": HI,
                "tools": TOOLS,
                "tool_choice": {"type": "function", "function": {"name": "none_such"}},
            },
            400,
        ),
        ("chat/completions", {"messages": HI, "tool_choice": "required"}, 400),
        ("chat/completions", {"messages": HI, "tools": [3]}, 400),
        ("embeddings", {"input": [1, 2, 3]}, 400),
        ("embeddings", {"input": "a", "dimensions": 8}, 400),
        ("embeddings", {"input": "a", "model": "other"}, 404),
        ("rerank", {"query": "a", "documents": ["b"], "top_n": -1}, 400),
        ("nothing", {}, 404),
    ],
)
def test_a_client_that_errs_is_told_as_json(chat, path, body, status):
    done = httpx.post(f"{chat}/{path}", json=body, timeout=300)
    assert done.status_code == status
    assert done.json()["error"]["message"]
    assert done.json()["error"]["code"] == status


def test_deep_json_is_refused(chat):
    assert httpx.post(f"{chat}/chat/completions", content=b"[" * 100_000).status_code == 400


def test_a_wrong_method_is_refused(chat):
    assert httpx.get(f"{chat}/embeddings").json()["error"]["code"] == 405


def test_a_model_is_looked_up_by_name(chat):
    assert httpx.get(f"{chat}/models/smollm2-135m").json()["id"] == "smollm2-135m"
    assert httpx.get(f"{chat}/models/other").status_code == 404


def test_another_port_is_another_site(chat):
    done = httpx.get(f"{chat}/models", headers={"Origin": "http://127.0.0.1:1"})
    assert done.status_code == 403


def test_rerank_returns_documents_when_asked(chat):
    rows = httpx.post(
        f"{chat}/rerank",
        json={
            "query": "pets",
            "documents": ["tax law", "a cat"],
            "top_n": 1,
            "return_documents": True,
        },
        timeout=300,
    ).json()["results"]
    assert [row["document"]["text"] for row in rows] == ["a cat"]


def test_clients_that_hang_up_leave_the_notes_answering(onecard, notes, tmp_path, serving):
    assert onecard("rag", "index", notes, "--index", tmp_path / "ix").code == 0
    url = serving("rag", "serve", "--index", tmp_path / "ix")
    body = {"messages": [{"role": "user", "content": "What is the longest retry delay?"}]}

    def hang_up(wait):
        with contextlib.suppress(httpx.TimeoutException):
            httpx.post(f"{url}/v1/chat/completions", json=body, timeout=wait)

    threads = [threading.Thread(target=hang_up, args=(0.05 + 0.05 * i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=500)
    assert done.json()["citations"]
    assert httpx.post(f"{url}/v1/search", content=b"[" * 100_000).status_code == 400


def test_an_index_that_was_stopped_at_once_says_that_it_is_empty(onecard, tmp_path):
    Store(tmp_path / "ix", create=True).close()
    done = onecard("rag", "search", "anything", "--index", tmp_path / "ix")
    assert done.code == 5
    assert "is empty" in done.err
    assert "onecard rag index" in done.err


def test_unreadable_files_are_skipped_and_reported(onecard, notes, tmp_path):
    (notes / os.fsdecode(b"caf\xe9.md")).write_text("# Latin name\n\nnobody reads it\n")
    (notes / "gone.md").symlink_to(notes / "nowhere")
    os.mkfifo(notes / "pipe.md")
    (notes / "esc\x1b[31m.md").write_text("# Escape\n\nzebras are striped\n")
    (notes / "wide.md").write_bytes("# Wide\n\nokapis are shy\n".encode("utf-16-le"))
    (notes / "stray.md").write_bytes(b"# Stray\n\nnarwhals\0 swim\n" + b"more words here\n" * 200)
    done = onecard("rag", "index", notes, "--index", tmp_path / "ix", "--json")
    assert done.code == 0, done.err
    assert done.data["files"] == 4 + 3
    reasons = sorted(fault["why"] for fault in done.data["faults"])
    assert [reason.split(" (")[0] for reason in reasons] == [
        "it is a link to nothing",
        "it is not a regular file",
        "its name is not UTF-8",
    ]
    assert all(fault["fix"] for fault in done.data["faults"])
    assert "\x1b" not in onecard("rag", "search", "zebras", "--index", tmp_path / "ix").out
    for word in ("okapis", "narwhals"):
        assert (
            word
            in onecard("rag", "search", word, "--mode", "lexical", "--index", tmp_path / "ix").out
        )


def test_two_at_once_on_one_index_embed_once(onecard, notes, tmp_path):
    words = [
        sys.executable,
        "-m",
        "onecard",
        "rag",
        "index",
        str(notes),
        "--index",
        str(tmp_path / "ix"),
        "--json",
    ]
    pair = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    results = [json.loads(child.communicate(timeout=500)[0]) for child in pair]
    assert sorted(row["embedded"] for row in results) == [0, results[0]["chunks"]]
    assert results[0]["chunks"] > 3


def test_another_embedder_than_the_index_has_is_refused(onecard, notes, tmp_path):
    assert onecard("rag", "index", notes, "--index", tmp_path / "ix").code == 0
    done = onecard(
        "rag", "search", "retry", "--index", tmp_path / "ix", "--embedding_model", "other/model"
    )
    assert done.code == 2
    assert "was made with e5-small" in done.err


def test_a_reranker_that_is_not_there_is_told_before_torch_is_loaded(onecard, notes, tmp_path):
    assert onecard("rag", "index", notes, "--index", tmp_path / "ix").code == 0
    blocker = tmp_path / "blocked" / "torch"
    blocker.mkdir(parents=True)
    (blocker / "__init__.py").write_text("raise SystemExit('torch was loaded')")
    path = os.pathsep.join([str(blocker.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    words = ("rag", "search", "retry", "--index", tmp_path / "ix", "--rerank_model", "./none")
    done = onecard(*words, env={"PYTHONPATH": path})
    assert done.code == 6
    assert "no model in ./none" in done.err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": 3}, "question must be a text"),
        ({"question": "a", "evidence": "docs/a.md"}, "evidence must be a list"),
        ({"question": "a", "answerable": "no"}, "answerable must be"),
        ({"question": "a", "evidence": [{"path": "a.md", "quote": 3}]}, "a quote must be"),
    ],
)
def test_a_question_set_that_errs_names_the_line_and_leaves_no_run(
    onecard, tmp_path, home, row, message
):
    (tmp_path / "q.jsonl").write_text(f'{{"question": "fine"}}\n\n{json.dumps(row)}\n')
    before = set(home.iterdir())
    done = onecard("rag", "evaluate", "q.jsonl")
    assert done.code == 5
    assert "q.jsonl:3" in done.err
    assert message in done.err
    assert set(home.iterdir()) == before


def test_an_empty_model_name_is_refused(onecard):
    done = onecard("chat", "ask", "hi", "--model", "")
    assert done.code == 2
    assert "no model is named" in done.err


def test_save_makes_no_folder_and_overwrites_no_file(onecard, tmp_path):
    done = onecard(
        "chat",
        "--max_tokens",
        "4",
        stdin="/save none/talk.json\nhi\n/save talk.json\n/save talk.json\n/exit\n",
    )
    assert "no folder none" in done.err
    assert "talk.json exists" in done.err
    assert (tmp_path / "talk.json").exists()
    assert not (tmp_path / "none").exists()


def test_a_question_longer_than_the_context(onecard):
    done = onecard("chat", "ask", "word " * 3000, "--n_ctx", "512")
    assert done.code == 5
    assert "too long" in done.err
    assert "Error code" not in done.err
