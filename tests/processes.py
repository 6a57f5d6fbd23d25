"""Child processes that tests start and end in the middle of their work."""

import signal
import time

GIVE_UP_S = 600
"""No limit that is tested: only so that a child that hangs does not hang the suite."""


def wait_until(condition, child):
    """Until `condition()` holds, while `child` runs."""
    deadline = time.monotonic() + GIVE_UP_S
    while not condition():
        assert child.poll() is None, f"the child ended with {child.returncode} before it was to"
        assert time.monotonic() < deadline, "the child hangs"
        time.sleep(0.02)


def kill_when(condition, child):
    """SIGKILL, as a power cut, as soon as `condition()` holds."""
    try:
        wait_until(condition, child)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
