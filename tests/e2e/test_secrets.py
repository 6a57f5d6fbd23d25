"""No secret that a command was given is written anywhere."""

import json
import os
import subprocess
import sys

import pytest

TOKEN, KEY, PASSWORD = "tok-4f1e9a77c0ffee", "sk-7b3d5e91deadbeef", "pa55-0123456789"


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"question": "What is 2 + 2?", "answer": "4"}) + "\n")
    return path


def holds(folder, secret):
    """Files under a folder that hold a secret."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and secret.encode() in path.read_bytes()
    ]


@pytest.fixture
def served(serving, tmp_path):
    """A server of ours that demands a token."""
    (tmp_path / "token").write_text(TOKEN + "\n")
    return serving("chat", "serve", "--model", "smollm2-135m", "--token", f"file:{tmp_path}/token")


def test_a_key_of_the_environment_is_not_kept(served, questions, onecard, own_home):
    run = onecard(
        "chat",
        "evaluate",
        str(questions),
        "--base_url",
        f"{served}/v1",
        "--api_key_env",
        "MY_API_KEY",
        "--max_tokens",
        "8",
        "--json",
        env={"MY_API_KEY": TOKEN},
    )
    assert run.code == 0, run.err
    folder = own_home / "runs"
    assert list(folder.glob("*/report.html"))
    assert not holds(own_home, TOKEN)
    assert TOKEN not in run.out + run.err


def test_a_run_that_fails_keeps_no_secret_in_its_traceback(questions, own_home):
    command = [
        *(sys.executable, "-m", "onecard"),
        "chat",
        "evaluate",
        str(questions),
        "--base_url",
        f"http://me:{PASSWORD}@127.0.0.1:9/v1?api_key={KEY}",
        "--traceback",
    ]
    environment = {**os.environ, "OPENAI_API_KEY": KEY}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode != 0
    assert "Traceback" in run.stderr
    for secret in (KEY, PASSWORD):
        assert not holds(own_home, secret), secret
        assert secret not in run.stdout + run.stderr, secret
    argv = json.loads(next((own_home / "runs").glob("*/run.json")).read_text())["argv"]
    assert any("***@" in word for word in argv)


def test_a_command_that_takes_no_token_refuses_it(questions, onecard, own_home):
    run = onecard("chat", "evaluate", str(questions), "--token", TOKEN)
    assert run.code == 2
    assert "chat serve" in run.err
    assert not holds(own_home, TOKEN)


def test_a_token_of_the_environment_guards_a_server(serving, onecard, monkeypatch):
    monkeypatch.setitem(os.environ, "MY_TOKEN", TOKEN)
    address = serving("chat", "serve", "--model", "smollm2-135m", "--token", "env:MY_TOKEN")
    import httpx

    assert httpx.get(f"{address}/v1/models").status_code == 401
    header = {"Authorization": f"Bearer {TOKEN}"}
    assert httpx.get(f"{address}/v1/models", headers=header).status_code == 200
