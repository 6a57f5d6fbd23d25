"""The shell around every server's routes: what a hostile or absent client may not do to the others.

- A body is read to its end before the routes see it, counted as it comes, whatever Content-Length
  says or whether there is one.
- A request whose client has gone is cancelled: its coroutine, the threads that work for it
  (`in_thread`) and, through them, the engine's work.
- A route takes a turn (`turn`) before it works; the turn ends with the answer, streamed or whole.
  Reading a large body is work too (`read_body`).
- An answer of which nothing comes for `limit_s` is given up.
- What goes wrong unforeseen is a JSON error and a line in the log, not a broken connection.
"""

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from onecard import cancellation
from onecard.cancellation import Cancellation
from onecard.serving.guards import MAX_BODY_BYTES, App, Scope, error
from onecard.serving.turns import Turns

P = ParamSpec("P")
R = TypeVar("R")
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
READ_S = 60
"""Longest silence within a request's body."""
MAX_HELD_BYTES = 8 * MAX_BODY_BYTES
"""Bodies of all requests together: as many as eight of the largest."""
STOP_S = 30
"""Longest wait for a thread whose request was cancelled before its turn goes to the next."""
SMALL_BODY_BYTES = 16 << 10
"""A body up to this size is parsed at once, in less than a millisecond; a megabyte of JSON takes 60
ms, in which neither the event loop nor another thread runs."""
REQUEST = "onecard.request"
"""Key of the scope under which a request's _Work lies."""
log = logging.getLogger("onecard.serving")


class _Work:
    """One request: its cancellation, its turn, its threads and when it last sent anything."""

    def __init__(self, client: str) -> None:
        self.client, self.cancellation = client, Cancellation()
        self.turns: Turns | None = None
        self.threads: list[Future[Any]] = []
        self.started = self.last_sent = time.monotonic()
        self.waiting = self.answering = False

    async def take(self, turns: Turns) -> None:
        if self.turns is turns:  # taken before for its large body
            return
        self.waiting = True
        await turns.take(self.client)
        self.turns, self.waiting = turns, False
        self.started = self.last_sent = time.monotonic()

    async def end(self, task: "asyncio.Task[None]") -> None:
        """Stop what still works for it; then the turn goes to the next."""
        self.cancellation.cancel()
        task.cancel()
        last_cancel = time.monotonic()
        deadline = last_cancel + STOP_S
        while not task.done() or not all(thread.done() for thread in self.threads):
            if time.monotonic() > deadline:
                log.warning("work of a request that ended does not stop")
                break
            if time.monotonic() - last_cancel > 1:
                task.cancel()  # a library on the way may have swallowed the first one
                last_cancel = time.monotonic()
            await asyncio.sleep(0.02)
        if task.done() and not task.cancelled():
            task.exception()  # seen here: asyncio warns of exceptions that nobody looks at

    def release(self) -> None:
        if self.turns:
            self.turns.release(time.monotonic() - self.started)
            self.turns = None


async def turn(request: Request, turns: Turns) -> None:
    """Wait until this request may work; its turn ends with its answer. Raises Full (429)."""
    await request.scope[REQUEST].take(turns)


async def turn_for_body(request: Request, turns: Turns) -> bytes:
    """The body; a large one waits for its turn, as reading it is work already. Raises Full.

    So that bodies that are refused only after they were parsed cost their sender's turns, and not
    the time of the requests beside them.
    """
    content = await request.body()
    if len(content) > SMALL_BODY_BYTES:
        await turn(request, turns)
    return content


async def read_body(request: Request, turns: Turns, read: Callable[[bytes], R]) -> R:
    """`read` on the request's body, in a thread where it is large. Raises what `read` raises, and
    Full."""
    content = await turn_for_body(request, turns)
    if len(content) > SMALL_BODY_BYTES:
        return await in_thread(read, content)
    return read(content)


CURRENT: contextvars.ContextVar[_Work | None] = contextvars.ContextVar("request", default=None)


async def in_thread(function: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
    """Run blocking work in a thread of its own, which ends with the program at the latest.

    The turn of the request goes to the next only when the thread has ended; the work ends early at
    its next `cancellation.check`.
    """
    future: Future[R] = Future()
    call = partial(contextvars.copy_context().run, function, *args, **options)

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as fault:
            future.set_exception(fault)

    future.set_running_or_notify_cancel()
    if current := CURRENT.get():
        current.threads.append(future)
    threading.Thread(target=work, daemon=True).start()
    return await asyncio.shield(asyncio.wrap_future(future))


class Shell:
    """ASGI middleware; inside the guard, around the routes."""

    def __init__(
        self, app: App, limit_s: float = 0, on_timeout: Callable[[], None] | None = None
    ) -> None:
        self.app, self.limit_s, self.on_timeout = app, limit_s, on_timeout
        self.held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = False

        async def send_once_started(message: Any) -> None:
            nonlocal sent
            sent = True
            await send(message)

        body: list[bytes] = []
        try:
            refusal = await self._read(receive, body)
            if refusal is None:
                content, body[:] = b"".join(body), []
                await self._answer(scope, content, receive, send_once_started)
                return
            await refusal(scope, receive, send_once_started)
        except ClientDisconnect:
            return
        except TimeoutError:
            log.warning("no answer within %g s: %s", self.limit_s, scope["path"])
            if self.on_timeout:
                threading.Thread(target=self.on_timeout, daemon=True).start()
            if not sent:
                reply = error(504, f"no answer within {self.limit_s:g} s (--timeout_s)")
                await reply(scope, receive, send)
        except Exception:
            log.exception("%s %s", scope["method"], scope["path"])
            if not sent:
                reply = error(500, "the server failed; its log has the reason")
                await reply(scope, receive, send)

    async def _read(self, receive: Receive, body: list[bytes]) -> Response | None:
        """Fill `body`; a refusal when it is too large or too slow. Raises ClientDisconnect."""
        size = 0
        more = True
        try:
            while more:
                try:
                    message = await asyncio.wait_for(receive(), READ_S)
                except TimeoutError:
                    return _closing(error(408, f"nothing of the body came for {READ_S} s"))
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                block = message.get("body", b"")
                size += len(block)
                self.held_bytes += len(block)
                if size > MAX_BODY_BYTES:
                    return _closing(error(413, "the request is larger than 32 MiB"))
                if self.held_bytes > MAX_HELD_BYTES:
                    busy = error(429, "too many large requests at once; come back in 5 s")
                    busy.headers["Retry-After"] = "5"
                    return _closing(busy)
                if block:
                    body.append(block)
                more = message.get("more_body", False)
        finally:
            # what is held for longer than this is bounded by the turns
            self.held_bytes -= size
        return None

    async def _answer(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Run the routes beside a watch for the client's going. Raises what they raise."""
        work = _Work(_client_of(scope))
        scope = {**scope, REQUEST: work}
        self.held_bytes += len(body)
        gone = asyncio.Event()
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Any:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def watched_send(message: Any) -> None:
            work.last_sent = time.monotonic()
            await send(message)

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        context = contextvars.copy_context()
        context.run(cancellation.CURRENT.set, work.cancellation)
        context.run(CURRENT.set, work)
        task = asyncio.create_task(_run(self.app, scope, replay, watched_send), context=context)
        watcher = asyncio.create_task(watch())
        try:
            while not task.done() and not gone.is_set():
                await asyncio.wait(
                    {task, watcher}, timeout=self._left(work), return_when=asyncio.FIRST_COMPLETED
                )
                if not task.done() and self._left(work) == 0:
                    raise TimeoutError
            if not task.done():
                raise ClientDisconnect
            task.result()
        finally:
            watcher.cancel()
            try:
                await work.end(task)
            finally:
                self.held_bytes -= len(body)
                work.release()

    def _left(self, work: _Work) -> float | None:
        """Seconds until the request is given up; None without a limit, and in the queue."""
        if not self.limit_s:
            return None
        if work.waiting:
            return 1.0
        return max(0.0, work.last_sent + self.limit_s - time.monotonic())


async def _run(app: App, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


def _client_of(scope: Scope) -> str:
    """Who asks: the address and, since all programs of one machine share it, the User-Agent."""
    agent = next((value for name, value in scope["headers"] if name == b"user-agent"), b"")
    host = (scope.get("client") or ("",))[0]
    return f"{host} {agent.decode('latin-1')[:100]}"


def _closing(reply: Response) -> Response:
    """The rest of the body is not read: the connection cannot be used again."""
    reply.headers["Connection"] = "close"
    return reply
