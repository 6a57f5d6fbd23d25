"""One cache for all tests: models are fetched once into ONECARD_HOME, runs and indexes go to a
folder of the test session."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

HTTPX_LIKE = {
    "guide/timeouts.md": "# Timeouts\n\nThe client waits five seconds before it gives up. Set "
    "another limit with `timeout=10.0`.\n\n## Retries\n\n"
    "The retry delay doubles after each failure, beginning at 250 milliseconds, and is never "
    "longer than 30 seconds.\n",
    "guide/pool.md": "---\ntitle: Connection pool\ntags: [network]\n---\n# Connection pool\n\nAt "
    "most 100 connections are kept open. See [[timeouts]].\n\n"
    "## Closing\n\nIdle connections are closed after five minutes.\n",
    "guide/中文.md": "# 快取\n\n快取檔案存放在使用者的家目錄，超過七天的檔案會自動刪除。\n",
    "src/client.py": '"""A small client."""\n\n\nclass Client:\n    """Sends requests."""\n\n    '
    'def send_request(self, url: str) -> bytes:\n        """Send one request and read the whole '
    'body."""\n        return b""\n\n\n'
    'def parse_retry_after(header: str) -> float:\n    """Seconds to wait, from the Retry-After '
    'header."""\n    return float(header)\n',
}


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """The cache with the models; runs and indexes of the tests lie elsewhere."""
    runs = tmp_path_factory.mktemp("runs")
    os.environ["ONECARD_RUNS"] = str(runs)
    return runs


@pytest.fixture
def notes(tmp_path):
    """A small folder of notes and code."""
    folder = tmp_path / "notes"
    for name, text in HTTPX_LIKE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


class Done:
    def __init__(self, done):
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def data(self):
        return json.loads(self.out)


@pytest.fixture
def onecard(home, tmp_path):
    """The real command line, in a folder of its own: onecard("rag", "index", ...) -> code, out,
    err."""

    def run(*words, stdin="", env=None, timeout=300):
        done = subprocess.run(
            [sys.executable, "-m", "onecard", *map(str, words)],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=timeout,
            env={**os.environ, "ONECARD_RUNS": str(home), **(env or {})},
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done)

    return run


@pytest.fixture(scope="module")
def serving(home):
    """Starts servers of ours as child processes: serving("chat", "serve", ...) -> address without a
    path. They end with the module."""
    children = []

    def start(*words):
        child = subprocess.Popen(
            [sys.executable, "-m", "onecard", *map(str, words), "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        while line := child.stderr.readline():
            if found := re.search(r"http://127\S+?:\d+", line):
                return found[0]
        raise AssertionError("the server ended")

    yield start
    for child in children:
        child.send_signal(signal.SIGINT)
        child.wait(timeout=15)


@pytest.fixture(scope="session")
def shared():
    """The folder of real data sets beside the project; tests that need it are skipped elsewhere."""
    folder = Path(__file__).parents[2] / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("needs ../shared, which only the project's own machines have")
    return folder
