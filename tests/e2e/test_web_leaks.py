"""What is used again and again costs nothing that stays: page loads, jobs, looks at a queue.

tests/bench/bench_web.py does the same two hundred times and measures.
"""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

pytest.importorskip("fastapi", reason="installed by make test")

LOADS, JOBS = 18, 6
MOST_GROWTH = 27 << 20
"""Bytes that these loads may add: 1.5 MB each, whatever the allocator rounds up."""
PATHS = ("/", "/plan", "/runs", "/jobs", "/tasks/tinylm", "/chat")


@pytest.fixture(scope="module")
def process(workbench):
    return psutil.Process(workbench.process.pid)


def queues(home):
    """Processes of the queue of this home, without children that are about to become a job: until
    then they carry the queue's command line."""
    rows = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_queue = "onecard.web.job_queue" in process.cmdline()
            if is_queue and process.environ().get("ONECARD_HOME") == str(home):
                rows[process.pid] = process.ppid(), process
    return [process for parent, process in rows.values() if parent not in rows]


def test_page_loads_leave_nothing(workbench, process, page):
    def load(number):
        page.goto(workbench.url + PATHS[number % len(PATHS)], wait_until="networkidle")

    for number in range(len(PATHS)):  # what is loaded once stays
        load(number)
    page.goto("about:blank")
    time.sleep(1)
    before = process.memory_info().rss, process.num_fds(), process.num_threads()
    for number in range(LOADS):
        load(number)
    page.goto("about:blank")
    time.sleep(1)
    after = process.memory_info().rss, process.num_fds(), process.num_threads()
    assert after[0] - before[0] < MOST_GROWTH
    assert after[1] - before[1] <= 8
    assert after[2] - before[2] <= 8


def test_a_queue_is_one_process_however_often_it_is_looked_at(workbench):
    body = {"task": "rag", "command": "indexes"}
    with ThreadPoolExecutor(JOBS) as pool:
        ids = list(
            pool.map(lambda _: workbench.api.post("/jobs", json=body).json()["id"], range(6))
        )
    most = 0
    while any(workbench.api.get(f"/jobs/{job}").json()["status"] == "queued" for job in ids):
        most = max(most, len(queues(workbench.home)))
    assert most == 1
    for job in ids:
        assert workbench.wait(job)["status"] == "done"


def test_jobs_leave_nothing(workbench, process):
    def work():
        job = workbench.api.post("/jobs", json={"task": "rag", "command": "indexes"}).json()["id"]
        assert workbench.wait(job)["status"] == "done"

    work()
    before = process.num_fds(), process.num_threads()
    for _ in range(JOBS):
        work()
    zombies = [child for child in process.children(True) if child.status() == psutil.STATUS_ZOMBIE]
    assert not zombies
    assert process.num_fds() - before[0] <= 8
    assert process.num_threads() - before[1] <= 8


def test_a_queue_that_was_killed_is_started_again(workbench):
    first = workbench.api.post("/jobs", json={"task": "rag", "command": "indexes"}).json()["id"]
    for process in queues(workbench.home):
        process.kill()
    second = workbench.api.post("/jobs", json={"task": "rag", "command": "indexes"}).json()["id"]
    assert workbench.wait(second)["status"] == "done"
    assert workbench.wait(first)["status"] in ("done", "killed")
