"""A job's own process: `python -m onecard.web.job_process FOLDER`. Does the work through the same
door as the command line, and writes into the folder what the page reads."""

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onecard import api, fsio, paths
from onecard.errors import OneCardError
from onecard.redaction import redact
from onecard.reporting import Progress, Reporter, plain
from onecard.web import jobs

WRITE_S = 0.25
"""Shortest time between two writings of the progress."""
IDLE_S = 1800
"""A server that nobody used for so long ends by itself; the page's server touches `used`."""

MIN_SECRET = 8
"""Characters; anything shorter would take words out of a log."""


class JobReporter(Reporter):
    """Lines go to the log, progress to a file."""

    def __init__(self, folder: Path, secrets: dict[str, str] | None = None) -> None:
        """`secrets`: what the log may not hold -> what stands there instead."""
        self.folder, self._facts = folder, {}  # type: tuple[Path, dict[str, Any]]
        self._last, self._secrets = 0.0, secrets or {}

    def line(self, text: str = "") -> None:
        self.stream(text + "\n")

    def warn(self, text: str) -> None:
        self.line(f"warning: {text}")

    def stream(self, text: str) -> None:
        for secret, name in self._secrets.items():
            text = text.replace(secret, name)
        sys.stdout.write(plain(redact(text)))
        sys.stdout.flush()

    def record(self, folder: Path) -> None:
        self.keep(run=str(folder))

    def listening(self, url: str) -> None:
        self.keep(url=url)

    def keep(self, *, soon: bool = True, **facts: Any) -> None:
        """Write facts for the page; without `soon` at most every WRITE_S."""
        self._facts |= facts
        now = time.monotonic()
        if soon or now - self._last >= WRITE_S:
            self._last = now
            fsio.write_text(self.folder / "progress.json", json.dumps(self._facts))

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Progress]:
        bar = JobProgress(self, what, total)
        try:
            yield bar
        finally:
            bar.write(soon=True)


class JobProgress(Progress):
    """Counts into progress.json."""

    def __init__(self, reporter: JobReporter, what: str, total: int) -> None:
        self.reporter, self.what, self.total, self.n = reporter, what, total, 0
        self.write(soon=True)

    def step(self, n: int = 1, note: str = "") -> None:
        self.n += n
        self.write()

    def grow(self, n: int) -> None:
        self.total += n
        self.write()

    def write(self, *, soon: bool = False) -> None:
        self.reporter.keep(soon=soon, what=self.what, done=self.n, total=self.total)


def main(folder: Path) -> int:
    """Do the work of a job's folder; the exit status of the same command line."""
    job = jobs.Job(folder)
    about = job.about
    if job.end:  # cancelled while it was being started
        return 130
    process = {
        "pid": os.getpid(),
        "process_start": fsio.process_start(os.getpid()),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    fsio.write_text(folder / "process.json", json.dumps(process))
    with contextlib.suppress(OSError):
        os.chdir(about.get("cwd") or paths.home())
    reporter = JobReporter(folder, _secrets(about["settings"]))
    if job.is_server:
        threading.Thread(target=_end_when_idle, args=(folder,), daemon=True).start()
    try:
        config = api.configure(
            about["task"], about["command"], preset=about["preset"], values=about["settings"]
        )
        result = api.run(
            about["task"], about["command"], config, card=about["card"], reporter=reporter
        )
    except KeyboardInterrupt:
        jobs.write_end(folder, "stopped")
        return 130
    except OneCardError as fault:
        error = {"what": redact(fault.what), "why": redact(fault.why), "fix": redact(fault.fix)}
        reporter.line(f"error: {fault}")
        jobs.write_end(folder, "failed", error=error, code=fault.code)
        return fault.code
    except Exception as fault:
        reporter.line(traceback.format_exc())
        if (folder / "stop").exists():
            # Ctrl-C in the middle of a library's import is told as whatever the import makes of it
            jobs.write_end(folder, "stopped")
            return 130
        error = {
            "what": redact(f"onecard failed: {type(fault).__name__}: {str(fault)[:300]}"),
            "why": "this should not happen",
            "fix": "report it with the log below",
        }
        jobs.write_end(folder, "failed", error=error, code=1)
        return 1
    run = str(result.data.get("run", ""))
    jobs.write_end(folder, "done", text=result.text, data=result.data, run=run)
    return 0


def _secrets(settings: dict[str, Any]) -> dict[str, str]:
    """Value of each `env:NAME` among the settings -> its name: a server tells its token."""
    names = [str(value) for value in settings.values() if str(value).startswith("env:")]
    values = {os.environ.get(name.removeprefix("env:"), ""): name for name in names}
    return {value: name for value, name in values.items() if len(value) >= MIN_SECRET}


def _end_when_idle(folder: Path) -> None:
    """A thread: the same end as by Ctrl-C."""
    mark = folder / "used"
    mark.touch()
    while True:
        time.sleep(10)
        try:
            unused = time.time() - mark.stat().st_mtime > IDLE_S
        except OSError:  # the folder was removed
            unused = True
        if unused:
            os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(Path(sys.argv[1])))
