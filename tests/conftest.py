"""Every test has a home of its own; models are fetched once, into a cache that only tests use.

ONECARD_HOME of the developer is never read: a poisoned one changes nothing.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from homes import new_home
from workbench import browser, page, workbench  # noqa: F401  (fixtures)

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["ONECARD_LANG"] = "en"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    # the processes of `pytest -n` share the cores; two threads on one core wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))
HTTPX_LIKE = {
    "guide/timeouts.md": "# Timeouts\n\nThe client waits five seconds before it gives up. "
    "Set another limit with `timeout=10.0`.\n\n## Retries\n\n"
    "The retry delay doubles after each failure, beginning at 250 milliseconds, and is never "
    "longer than 30 seconds.\n",
    "guide/pool.md": "---\ntitle: Connection pool\ntags: [network]\n---\n# Connection pool\n\n"
    "At most 100 connections are kept open. See [[timeouts]].\n\n"
    "## Closing\n\nIdle connections are closed after five minutes.\n",
    "guide/中文.md": "# 快取\n\n快取檔案存放在使用者的家目錄，超過七天的檔案會自動刪除。\n",
    "src/client.py": '"""A small client."""\n\n\nclass Client:\n    """Sends requests."""\n\n'
    "    def send_request(self, url: str) -> bytes:\n"
    '        """Send one request and read the whole body."""\n        return b""\n\n\n'
    "def parse_retry_after(header: str) -> float:\n"
    '    """Seconds to wait, from the Retry-After header."""\n    return float(header)\n',
}


@pytest.fixture(scope="session", autouse=True)
def session_home(tmp_path_factory):
    """The home of servers and of what a module prepares for its tests."""
    home = new_home(tmp_path_factory.mktemp("home") / "onecard")
    patch = pytest.MonkeyPatch()
    patch.setenv("ONECARD_HOME", str(home))
    for name in ("ONECARD_RUNS", "ONECARD_OFFLINE", "OPENAI_API_KEY", "ONECARD_TOKEN"):
        patch.delenv(name, raising=False)
    yield home
    patch.undo()


@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    """A home without models, for tests that write to the model store."""
    home = tmp_path / "empty-home"
    home.mkdir()
    monkeypatch.setenv("ONECARD_HOME", str(home))
    return home


@pytest.fixture(autouse=True)
def own_home(request, tmp_path_factory, monkeypatch, session_home):
    """A home for each test, but where a module's tests share what they made (`home`)."""
    if "home" in request.fixturenames or "serving" in request.fixturenames:
        return session_home
    home = new_home(tmp_path_factory.mktemp("own") / "onecard")
    monkeypatch.setenv("ONECARD_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def home(session_home):
    """The folder of the session's runs."""
    runs = session_home / "runs"
    runs.mkdir(exist_ok=True)
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
    """What a command line gave."""

    def __init__(self, process):
        self.code, self.out, self.err = process.returncode, process.stdout, process.stderr

    @property
    def data(self):
        return json.loads(self.out)


@pytest.fixture
def onecard(tmp_path):
    """The real command line, in a folder of its own: onecard("rag", "index", ...) -> Done."""

    def run(*words, stdin="", env=None, timeout=300):
        process = subprocess.run(
            [sys.executable, "-m", "onecard", *map(str, words)],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=timeout,
            env={**os.environ, **(env or {})},
        )
        assert "Traceback" not in process.stderr, process.stderr
        return Done(process)

    return run


@pytest.fixture(scope="module")
def serving(session_home):
    """Starts servers of ours as child processes: serving("chat", "serve", ...) -> address without a
    path. They end with the module."""
    children = []

    def start(*words):
        child = subprocess.Popen(
            [sys.executable, "-m", "onecard", *map(str, words), "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "ONECARD_HOME": str(session_home)},
        )
        children.append(child)
        lines = []
        while line := child.stderr.readline():
            lines.append(line)
            if address := re.search(r"http://127\S+?:\d+", line):
                return address[0]
        raise AssertionError(f"the server ended: {''.join(lines)}")

    yield start
    for child in children:
        child.send_signal(signal.SIGINT)
        child.wait(timeout=60)


@pytest.fixture(scope="module")
def one_thread():
    """Tiny networks are slower on several threads, and do not finish beside busy cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared():
    """The folder of real data sets beside the project; tests that need it are skipped elsewhere."""
    folder = Path(__file__).parents[2] / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("needs ../shared, which only the project's own machines have")
    return folder


LONG_FILES = (
    *("test_web_training.py", "test_web_chat.py", "test_web_pages.py", "test_web_tasks.py"),
    *("test_asr_training.py", "test_finetune.py", "test_tinylm.py", "test_chat.py", "test_rag.py"),
    *("test_package.py", "test_plan.py", "test_finetune_memory.py", "test_hostile_requests.py"),
    *("test_asr_dialogues.py", "test_asr_serve.py", "test_asr.py", "test_readers.py"),
    *("test_models.py", "test_measured.py", "test_rag_questions.py", "test_rag_tools.py"),
    *("test_diffusion_generate.py", "test_diffusion_training.py", "test_diffusion_evaluate.py"),
    *("test_vlm_export.py", "test_vlm_serve.py", "test_mmproj_files.py", "test_vlm_training.py"),
    *("test_rag_pictures.py", "test_vlm_documents.py", "test_vlm_evaluate.py", "test_vlm_trace.py"),
)
"""Files that take a minute or more, the longest first: begun last, one of them keeps one worker
busy while the others have nothing left (Makefile: a file a worker, in this order)."""


def pytest_collection_modifyitems(items):
    order = {name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
