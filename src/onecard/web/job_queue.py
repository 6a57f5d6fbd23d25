"""The queue's process: `python -m onecard.web.job_queue`. One job after the other, over all tasks,
since there is one card; it outlives the page's server and ends when nothing waits.

Servers are no part of it: they are started at once beside it.
"""

import logging
import time

from filelock import FileLock, Timeout

from onecard.web import jobs

POLL_S = 0.5
IDLE_S = 5
"""Empty for so long, the process ends."""


def run() -> None:
    """Work until nothing waits. Ends at once where another queue works already."""
    lock = FileLock(jobs.queue_lock())
    try:
        # a queue that is about to end may still have the lock
        lock.acquire(timeout=2 * IDLE_S)
    except Timeout:
        return
    with lock:
        empty_since = time.monotonic()
        while time.monotonic() - empty_since < IDLE_S:
            if step():
                empty_since = time.monotonic()
            else:
                time.sleep(POLL_S)


def step() -> bool:
    """Wait for the job that runs, or start the next one; False where there is neither."""
    rows = [job for job in jobs.active() if not job.is_server]
    if any(job.status == "running" for job in rows):
        time.sleep(POLL_S)
        return True
    waiting = [job for job in rows if job.status == "queued"]
    if not waiting:
        return False
    job = waiting[0]
    try:
        process = jobs.spawn(job)
    except OSError as fault:
        jobs.write_end(job.folder, "failed", error=_error("the process did not start", str(fault)))
        return True
    process.wait()
    if not job.end:
        if (job.folder / "stop").exists():
            jobs.write_end(job.folder, "stopped")
        elif job.status == "queued":  # it died before its first word
            text, _ = job.output()
            reason = text.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
            error = _error("the process ended before it began", reason[0])
            jobs.write_end(job.folder, "failed", error=error)
        else:
            number = process.returncode
            error = _error("the process was ended from outside", f"exit status {number}")
            jobs.write_end(job.folder, "killed", error=error)
    jobs.prune()
    return True


def _error(what: str, why: str) -> dict[str, str]:
    return {"what": what, "why": why, "fix": "start it again; its log has more"}


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    run()
