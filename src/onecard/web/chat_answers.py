"""Answers that are being made. They belong to the server: a page that is closed, reloaded or opened
twice changes nothing; only `stop` and the server's end do.

An answer writes its text to the database about once a second. Pages that watch it read the newest
snapshot: nothing is queued for a slow one.
"""

import asyncio
import contextvars
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from onecard import api
from onecard.errors import DataError, EngineError, OneCardError
from onecard.redaction import redact
from onecard.web import chat_exchange, chat_history, chat_models, jobs, markdown, services
from onecard.web.chat_client import ModelClient, Stream, TooLong
from onecard.web.chat_rows import MAX_DEPTH
from onecard.web.chat_settings import ChatSettings
from onecard.web.chat_store import MAX_CONTENT, ChatStore
from onecard.web.jobs import Job

T = TypeVar("T")
RENDER_S = 0.25
"""Shortest time between two snapshots."""
RENDER_SHARE = 20
"""A snapshot comes at most every so many times the time that it costs: 5 % of one processor."""
WRITE_S = 1.0
HEARTBEAT_S = 15
"""A comment keeps a silent stream open."""
LOOK_S = 0.3
"""Time between two looks at a server that loads."""
USED_S = 60
MAX_ANSWERS = 64
"""At once; the model's server works on one after the other."""
MAX_FITS = 8
"""Times that a conversation is cut before it is given up."""
FINAL = ("complete", "stopped", "failed")
log = logging.getLogger("onecard.web")


@dataclass(frozen=True)
class Snapshot:
    """What a page sees of an answer."""

    version: int = 0
    state: str = "starting"
    """starting, loading (the model), waiting (for its first word), writing, or a final status."""
    text: str = ""
    html: str = ""
    note: str = ""
    """The last line of a log while the model loads."""
    job: str = ""
    stats: dict[str, Any] | None = None
    error: dict[str, str] | None = None
    model: str = ""

    @property
    def is_final(self) -> bool:
        return self.state in FINAL


@dataclass(frozen=True)
class Question:
    """What an answer is made from."""

    chat: str
    message: int
    """The answer's."""
    service: str
    model: str
    system: str
    settings: ChatSettings
    client: str
    prefix: str = ""
    """Text that the answer goes on from."""


class Answer:
    """One answer and the task that makes it."""

    def __init__(self, store: ChatStore, http: ModelClient, question: Question) -> None:
        self.store, self.http, self.question = store, http, question
        self.snapshot = Snapshot(text=question.prefix, html=markdown.render(question.prefix))
        self.text = question.prefix
        self.stats: dict[str, Any] = {}
        self.model = ""
        self._changed = asyncio.Event()
        self._is_new = asyncio.Event()
        self._last_write = 0.0
        self._job: Job | None = None
        self.task: asyncio.Task[None] | None = None

    # What pages see

    def publish(self, state: str = "", **facts: Any) -> None:
        row = {**self.snapshot.__dict__, **facts}
        row |= {"version": self.snapshot.version + 1, "state": state or self.snapshot.state}
        self.snapshot = Snapshot(**row)
        self._changed.set()
        self._changed = asyncio.Event()

    async def watch(self) -> AsyncIterator[Snapshot | None]:
        """Snapshots until the last one; None as a sign of life."""
        version = -1
        while True:
            snapshot, changed = self.snapshot, self._changed
            if snapshot.version != version:
                version = snapshot.version
                yield snapshot
                if snapshot.is_final:
                    return
                continue
            try:
                await asyncio.wait_for(changed.wait(), HEARTBEAT_S)
            except TimeoutError:
                yield None

    # Making it

    async def run(self) -> None:
        """Never raises but CancelledError, after the text was kept."""
        pump = asyncio.create_task(self._pump())
        status, error = "failed", {}
        try:
            await self._make()
            status = "complete"
        except asyncio.CancelledError:
            status = "stopped"
        except OneCardError as fault:
            error = {"what": redact(fault.what), "why": redact(fault.why), "fix": redact(fault.fix)}
        except Exception as fault:
            log.exception("an answer failed")
            error = {
                "what": f"the answer failed ({type(fault).__name__})",
                "why": redact(str(fault))[:300] or "this should not happen",
                "fix": "ask again; the log of onecard ui has the reason",
            }
        finally:
            pump.cancel()
            await self._finish(status, error)

    async def _finish(self, status: str, error: dict[str, str]) -> None:
        try:  # blocks: the text is kept even where the event loop is about to end
            self.store.write(
                self.question.message,
                self.text,
                status=status,
                stats=self.stats,
                error=error,
                model=self.model,
            )
        except OneCardError as fault:
            status = "failed"
            error = {"what": fault.what, "why": fault.why, "fix": fault.fix}
        html = self.snapshot.html
        with suppress(RuntimeError):  # the server ends: nobody looks any more
            html = await asyncio.to_thread(markdown.render, chat_history.answer_of(self.text))
        self.publish(
            status,
            text=self.text,
            html=html,
            stats=self.stats,
            error=error or None,
            model=self.model,
        )

    async def _pump(self) -> None:
        """Render and keep the text as it grows."""
        while True:
            await self._is_new.wait()
            self._is_new.clear()
            text, begin = self.text, time.monotonic()
            html = await asyncio.to_thread(markdown.render, chat_history.answer_of(text))
            cost = time.monotonic() - begin
            self.publish("writing", text=text, html=html)
            if time.monotonic() - self._last_write >= WRITE_S:
                self._last_write = time.monotonic()
                with suppress(OneCardError):  # the last writing tells what is wrong
                    await asyncio.to_thread(self.store.write, self.question.message, text)
            await asyncio.sleep(max(RENDER_S, RENDER_SHARE * cost))

    async def _make(self) -> None:
        """Raises OneCardError."""
        question = self.question
        with ExitStack() as stack:
            server = chat_models.server(question.service, question.model, question.settings.n_ctx)
            job: Job = await _whole(stack.enter_context, server)
            self._job = job
            try:
                service = await self._loaded(job)
            except asyncio.CancelledError:
                stack.close()
                await _whole(_end_unused, job)
                raise
            self.model = await self.http.model_name(service) or question.model
            self.publish("waiting", model=self.model, note="")
            await self._ask(service)
            if pid := await asyncio.to_thread(lambda: job.pid):
                self.stats["memory_bytes"] = await asyncio.to_thread(api.process_bytes, pid)

    async def _loaded(self, job: Job) -> services.Service:
        """Wait until the server answers. A download may take an hour: only its end ends this.

        Raises EngineError.
        """
        while True:
            service = await asyncio.to_thread(services.ready, job)
            if service:
                return service
            note = await asyncio.to_thread(_note_of, job)
            if note != self.snapshot.note or self.snapshot.state != "loading":
                self.publish("loading", note=note, job=job.id)
            await asyncio.sleep(LOOK_S)

    async def _ask(self, service: services.Service) -> None:
        """Cut the conversation to the context and read the answer. Raises OneCardError."""
        question, settings = self.question, self.question.settings
        all_turns, scale = await asyncio.to_thread(self._turns)
        turns, _ = chat_history.fit(
            all_turns, question.system, settings.n_ctx, settings.max_tokens, scale
        )
        for _ in range(MAX_FITS):
            self.stats["left_out"] = len(all_turns) - len(turns)
            self.stats["n_ctx"] = settings.n_ctx
            try:
                await self._read(service, turns)
                return
            except TooLong as fault:
                estimate = sum(turn.tokens for turn in turns) or 1
                shorter = chat_history.without_oldest(turns)
                if fault.n_tokens:
                    scale = 1.03 * fault.n_tokens / estimate
                    fitting, _ = chat_history.fit(
                        turns, question.system, settings.n_ctx, settings.max_tokens, scale
                    )
                    shorter = fitting if len(fitting) < len(turns) else shorter
                if len(shorter) >= len(turns):
                    raise
                turns = shorter
        raise EngineError(
            "the conversation cannot be cut to the model's context",
            why=f"it was refused {MAX_FITS} times",
            fix="a larger context in the settings, or a new conversation",
        )

    def _turns(self) -> tuple[list[chat_history.Turn], float]:
        """(the conversation, true tokens per estimated one as its last answer showed)."""
        question = self.question
        messages, _ = self.store.path(question.chat, leaf=question.message, limit=MAX_DEPTH)
        turns = chat_history.turns_of(messages[:-1])
        if question.prefix:
            turns.append(chat_history.Turn("assistant", chat_history.answer_of(question.prefix)))
            if question.service == "vision":  # its templates want a question at the end
                turns.append(chat_history.Turn("user", chat_history.GO_ON))
        if not turns:
            raise DataError(
                "there is no question to answer", why="it is empty", fix="write something first"
            )
        return turns, chat_history.scale_of(messages[:-1], question.system)

    async def _read(self, service: services.Service, turns: list[chat_history.Turn]) -> None:
        """Raises TooLong, DataError, EngineError."""
        question, settings = self.question, self.question.settings

        def body() -> dict[str, Any]:
            messages = chat_history.as_openai(
                turns,
                question.system,
                lambda name: chat_exchange.picture_url(self.store, question.chat, name),
            )
            return {
                "model": self.model,
                "messages": messages,
                "stream": True,
                "stream_options": {"include_usage": True},
                **settings.sent(),
            }

        request = await asyncio.to_thread(body)
        reply, begin, first, n_pieces = Stream(), time.monotonic(), 0.0, 0
        echo = _Echo(turns[-1].text if turns[-1].role == "assistant" else "")
        is_thinking, last_use = False, begin
        stream = self.http.stream(service, request, question.client, reply)
        try:
            async for kind, piece in stream:
                now = time.monotonic()
                first, n_pieces = first or now, n_pieces + 1
                if (kind == "thinking") != is_thinking:
                    is_thinking = kind == "thinking"
                    self.text += "<think>\n" if is_thinking else "\n</think>\n\n"
                self.text += piece if is_thinking else echo.take(piece)
                self._is_new.set()
                if now - last_use > USED_S and self._job:
                    last_use = now
                    (self._job.folder / "used").touch()
                if len(self.text) > MAX_CONTENT:
                    reply.finish = "length"
                    break
        finally:
            await stream.aclose()  # type: ignore[attr-defined]
            self.stats |= _figures(reply, begin, first, n_pieces)


class _Echo:
    """Some servers repeat the beginning that they were told to go on from: it is left out."""

    def __init__(self, prefix: str) -> None:
        self.prefix, self.kept = prefix, ""

    def take(self, piece: str) -> str:
        if not self.prefix:
            return piece
        self.kept += piece
        if self.kept.startswith(self.prefix):
            rest, self.prefix = self.kept[len(self.prefix) :], ""
            return rest
        if self.prefix.startswith(self.kept):
            return ""
        self.prefix = ""
        return self.kept


def _figures(reply: Stream, begin: float, first: float, n_pieces: int) -> dict[str, Any]:
    """Tokens, seconds and tokens/s; a stopped answer has no count of its own: its pieces are."""
    end = time.monotonic()
    tokens = int(reply.usage.get("completion_tokens") or n_pieces)
    figures: dict[str, Any] = {
        "tokens": tokens,
        "seconds": round(end - begin, 3),
        "finish": reply.finish,
    }
    if reply.usage.get("prompt_tokens"):
        figures["prompt_tokens"] = int(reply.usage["prompt_tokens"])
    if first:
        figures["first_token_s"] = round(first - begin, 3)
        rate = reply.timings.get("predicted_per_second")
        if not rate and tokens > 1 and end > first:
            rate = (tokens - 1) / (end - first)
        if rate:
            figures["tokens_per_s"] = round(float(rate), 2)
    return figures


def _note_of(job: Job) -> str:
    """What a loading server told last; its idle clock is set back meanwhile."""
    with suppress(OSError):
        (job.folder / "used").touch()
    text, _ = job.output()
    lines = text.strip().splitlines()
    progress = job.progress
    if progress.get("what") and progress.get("total"):
        share = progress.get("done", 0) / progress["total"]
        return f"{progress['what']}: {share:.0%}"[:300]
    return lines[-1][:300] if lines else ""


def _end_unused(job: Job) -> None:
    """A server whose loading nobody waits for any more ends."""
    deadline = time.monotonic() + 10
    while job.status == "queued" and time.monotonic() < deadline:
        time.sleep(0.1)  # its process has not begun: it could not hear the stop
    if chat_models.users(job) == 0 and not job.progress.get("url"):
        with suppress(OneCardError):
            jobs.stop(job)


async def _whole(function: Callable[..., T], *args: Any) -> T:
    """In a thread, to its end also where the waiting is cancelled."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *args))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        with suppress(Exception):
            await work
        raise


class Answers:
    """All answers of this server that are being made."""

    def __init__(self, store: ChatStore) -> None:
        self.store, self.http = store, ModelClient()
        self._running: dict[int, Answer] = {}

    def check_room(self) -> None:
        """Raises EngineError."""
        if len(self._running) >= MAX_ANSWERS:
            raise EngineError(
                "too many answers are being made",
                why=f"{len(self._running)} at once",
                fix="wait until one is done, or stop one",
            )

    def start(self, question: Question) -> Answer:
        """In a context of its own: the request that began it ends long before."""
        answer = Answer(self.store, self.http, question)
        task = asyncio.get_running_loop().create_task(answer.run(), context=contextvars.Context())
        answer.task = task
        self._running[question.message] = answer
        task.add_done_callback(lambda _: self._running.pop(question.message, None))
        return answer

    def find(self, message: int) -> Answer | None:
        return self._running.get(message)

    async def stop(self, messages: list[int]) -> None:
        """Returns when they have ended and their texts are kept."""
        tasks = [
            answer.task
            for message in messages
            if (answer := self._running.get(message)) and answer.task
        ]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=20)

    async def stop_chat(self, chat: str) -> None:
        rows = self._running.items()
        await self.stop([number for number, answer in rows if answer.question.chat == chat])

    async def close(self) -> None:
        await self.stop(list(self._running))
        await self.http.close()


def event(snapshot: Snapshot, sent: int) -> str:
    """A server-sent event: the text from character `sent` on, and the HTML of the whole."""
    row = {
        "from": sent,
        "text": snapshot.text[sent:],
        "html": snapshot.html,
        "state": snapshot.state,
        "note": snapshot.note,
        "job": snapshot.job,
        "model": snapshot.model,
        "stats": snapshot.stats,
        "error": snapshot.error,
    }
    return f"data: {json.dumps(row, ensure_ascii=False)}\n\n"
