"""Who works next: a bounded queue that is fair to clients, not to requests.

A client that sends a hundred requests at once waits for its own: the next turn goes to the client
that has waited longest since its last one. When the queue is full, the client with the most waiting
requests loses its newest.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

MAX_WAITING = 64
"""Requests that wait for one engine; beyond it 429 tells a client to come back."""


class Full(Exception):
    """The queue is full; `retry_after_s` is a guess from the length of the queue."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the queue is full; come back in {retry_after_s} s")
        self.retry_after_s = retry_after_s


@dataclass
class Turns:
    """`n` requests work at once."""

    n: int = 1
    max_waiting: int = MAX_WAITING
    mean_s: float = 1.0
    """How long a request works: a moving average, for Retry-After."""
    _free: int = field(init=False)
    _waiting: dict[str, deque[asyncio.Future[None]]] = field(default_factory=dict)
    """Client -> its waiting requests; the clients in the order in which they are served."""

    def __post_init__(self) -> None:
        self._free = self.n

    @property
    def n_waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    async def take(self, client: str) -> None:
        """Wait for a turn; the caller must `release` it. Raises Full."""
        if self._free and not self._waiting:
            self._free -= 1
            return
        if self.n_waiting >= self.max_waiting:
            self._make_room(client)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and not place.exception():
                self._free += 1  # the turn came in the same moment
            self._forget(client, place)
            self._serve_next()
            raise

    def release(self, seconds: float) -> None:
        self.mean_s += (min(seconds, 600.0) - self.mean_s) * 0.2
        self._free += 1
        self._serve_next()

    def _make_room(self, client: str) -> None:
        mine = len(self._waiting.get(client, ()))
        longest = max(self._waiting, key=lambda name: len(self._waiting[name]), default=client)
        full = Full(max(1, round(self.mean_s * self.n_waiting / self.n)))
        if longest == client or len(self._waiting[longest]) <= mine + 1:
            raise full
        last = self._waiting[longest].pop()
        if not last.done():
            last.set_exception(full)

    def _serve_next(self) -> None:
        while self._free and self._waiting:
            client = next(iter(self._waiting))
            places = self._waiting.pop(client)
            place = places.popleft()
            if places:  # to the end: every other client comes first
                self._waiting[client] = places
            if not place.done():
                self._free -= 1
                place.set_result(None)

    def _forget(self, client: str, place: "asyncio.Future[None]") -> None:
        places = self._waiting.get(client)
        if places and place in places:
            places.remove(place)
            if not places:
                del self._waiting[client]
