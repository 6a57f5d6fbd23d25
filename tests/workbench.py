"""The real page in a real browser: fixtures for tests that drive `onecard ui`."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest
from homes import new_home

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


class Workbench:
    """A server of ours with its address; `api` is a client as a program on this machine has it."""

    def __init__(self, process, url, home):
        self.process, self.url, self.home = process, url, home
        self.api = httpx.Client(base_url=f"{url}/api", timeout=120)

    def wait(self, job, timeout_s=300):
        """The job after its end."""
        row = self.api.get(f"/jobs/{job}").json()
        for _ in range(timeout_s * 4):
            if row["status"] not in ("queued", "running"):
                return row
            time.sleep(0.25)
            row = self.api.get(f"/jobs/{job}").json()
        raise AssertionError(f"job {job} does not end: {row}")

    def last_message(self, chat):
        return self.api.get(f"/chats/{chat}/messages").json()["messages"][-1]

    def stop(self):
        """End the model servers and jobs that it started, then the server itself."""
        try:
            self.api.post("/services/stop")
            rows = self.api.get("/jobs?active=true").json()
            for row in rows:
                self.api.post(f"/jobs/{row['id']}/stop")
            for row in rows:  # a training that still writes its checkpoint takes others' cores
                self.wait(row["id"])
        except httpx.HTTPError:
            pass
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)


def until(condition):
    """Wait for what comes true within two minutes."""
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it does not come true")


def start(home, *words, env=None, cwd=None):
    """`onecard ui` on a free port as a child process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "onecard", "ui", "--no_browser", "--port", "0", *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "ONECARD_HOME": str(home), **(env or {})},
    )
    lines = []
    while line := process.stderr.readline():
        lines.append(line)
        if address := re.search(r"http://127\S+?:\d+", line):
            bench = Workbench(process, address[0], home)
            # a pipe that nobody reads blocks the server when it is full
            bench.log = lines
            threading.Thread(target=lines.extend, args=(process.stderr,), daemon=True).start()
            return bench
    raise AssertionError(f"the server ended: {''.join(lines)}")


@pytest.fixture(scope="module")
def workbench(tmp_path_factory):
    """One server for the tests of a module, with a home of its own: a page shows the last job of
    its task, which would be another module's. It may use the module's folder (`files`)."""
    files = tmp_path_factory.mktemp("files")
    home = new_home(tmp_path_factory.mktemp("workbench") / "onecard")
    bench = start(home, "--root", files, cwd=files)
    bench.files = files
    yield bench
    bench.stop()


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium of this machine. Where there is none, nothing of a page can be tested."""
    if not CHROMIUM:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    from playwright.sync_api import expect, sync_playwright

    # not five seconds: on busy cores a page takes longer
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
            ],
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """A page of its own, English, wide; whatever it asks of another machine fails the test, and so
    does an error in its script."""
    context = browser.new_context(locale="en-US", viewport={"width": 1280, "height": 800})
    opened = context.new_page()
    faults, outside = [], []
    opened.on("pageerror", lambda fault: faults.append(str(fault)))
    opened.on(
        "request",
        lambda request: (
            None
            if re.match(r"(http://127\.0\.0\.1[:/]|data:|blob:)", request.url)
            else outside.append(request.url)
        ),
    )
    yield opened
    context.close()
    assert not outside, outside
    assert not faults, faults
