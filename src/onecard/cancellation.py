"""Work that nobody waits for any more is stopped. Knows no work.

A server makes a Cancellation for each request; threads that work for the request find it through
`check` and `on_cancel`. Outside a server both do nothing.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from onecard.errors import OneCardError


class Cancelled(OneCardError):
    """The client has gone, the time is up, or the server ends."""

    def __init__(self) -> None:
        super().__init__("the work was stopped", why="nobody waits for it", fix="ask again")


class Cancellation:
    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def cancel(self) -> None:
        with self._lock:
            self._event.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def add(self, callback: Callable[[], object]) -> None:
        """Have it called by `cancel`; at once where that was called before."""
        with self._lock:
            if not self._event.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def remove(self, callback: Callable[[], object]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)


CURRENT: ContextVar[Cancellation | None] = ContextVar("cancellation", default=None)


def check() -> None:
    """Raises Cancelled when the current work is to stop."""
    current = CURRENT.get()
    if current and current.is_set:
        raise Cancelled


@contextmanager
def on_cancel(callback: Callable[[], object]) -> Iterator[None]:
    """Within the block, `callback` is called (in another thread) when the work is to stop."""
    current = CURRENT.get()
    if not current:
        yield
        return
    current.add(callback)
    try:
        yield
    finally:
        current.remove(callback)
