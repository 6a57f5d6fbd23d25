"""uvicorn's HTTP protocol with a limit on a request's head: its size, and how long it may take.

The parser keeps a head until it is whole, without a limit of its own.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 128 << 10
HEAD_S = 30
"""From the connection, or the first byte of a later request, to the end of the head."""


class BoundedProtocol(HttpToolsProtocol):
    _head_bytes = 0
    _in_head = False
    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._begin()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin()

    def on_headers_complete(self) -> None:
        self._end()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._end()
                self.send_400_response("The head of the request is too large.")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def _begin(self) -> None:
        if not self._in_head:
            self._in_head, self._head_bytes = True, 0
            self._limit = self.loop.call_later(HEAD_S, self.transport.close)

    def _end(self) -> None:
        self._in_head = False
        if self._limit:
            self._limit.cancel()
            self._limit = None
