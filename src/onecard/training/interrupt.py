"""Ctrl-C and SIGTERM as a request: finish the step, write a checkpoint, then stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupt:
    """Whether the user asked the training to stop."""

    requested = False


@contextmanager
def graceful_interrupt() -> Iterator[Interrupt]:
    """The first signal sets `requested`, the second one raises KeyboardInterrupt at once.

    Python delivers signals to the main thread alone: in any other thread nothing is installed.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, frame: Any) -> None:
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested = True

    for number in previous:
        signal.signal(number, on_signal)
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
