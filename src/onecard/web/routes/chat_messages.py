"""Messages of a conversation: read, ask, ask again, edit, go on, stop, switch branches; the stream
of an answer that is being made."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from onecard.errors import DataError, EngineError
from onecard.web import chat_answers, chat_history, markdown, state
from onecard.web.chat_answers import Answers, Question, Snapshot
from onecard.web.chat_pictures import MAX_PICTURES
from onecard.web.chat_rows import Message
from onecard.web.chat_settings import SEEDS, ChatSettings
from onecard.web.chat_store import ChatStore
from onecard.web.routes.chat import ChatId, Model, answers_of, settings_of, store_of

router = APIRouter(tags=["chat"])
MAX_QUESTION = 200_000
"""Characters that a person may send at once."""
FAR_S = 1.0
"""Time between two looks at an answer that another server makes."""
MessageId = Annotated[int, Path(ge=1, le=2**62)]


class Ask(BaseModel):
    """A question, and how it is to be answered."""

    content: str = Field("", max_length=MAX_QUESTION)
    pictures: list[Annotated[str, Field(max_length=100)]] = Field(
        default_factory=list, max_length=MAX_PICTURES
    )
    parent: int | None = Field(None, ge=0, le=2**62)
    """The message that it follows; without one the end of what is shown."""
    model: Model | None = None
    settings: ChatSettings | None = None


class Again(BaseModel):
    """Another model or other settings than the conversation's, for this answer."""

    model: Model | None = None
    settings: ChatSettings | None = None


class Edit(Again):
    content: str = Field(max_length=MAX_QUESTION)


@router.get("/chats/{chat}/messages")
def messages(
    request: Request,
    chat: ChatId,
    before: Annotated[int, Query(ge=0, le=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 100,
) -> dict[str, Any]:
    """The newest messages of the branch that is shown, or those above message `before`; the oldest
    first. `more`: there are older ones."""
    answers = answers_of(request)
    rows, more = answers.store.path(chat, before=before, limit=limit)
    return {"messages": [facts(answers, row) for row in rows], "more": more}


def facts(answers: Answers, row: Message) -> dict[str, Any]:
    """A message for the page; the text of an answer also as HTML."""
    running = answers.find(row.id)
    text = running.text if running else row.content
    html = ""
    if row.role == "assistant":
        html = _html(chat_history.answer_of(text))
    return {
        "id": row.id,
        "parent": row.parent,
        "role": row.role,
        "content": text,
        "html": html,
        "status": row.status,
        "created": row.created,
        "model": row.model,
        "pictures": row.pictures,
        "settings": row.settings,
        "stats": row.stats,
        "error": row.error or None,
        "siblings": row.siblings,
    }


_RENDERED: dict[str, str] = {}
MAX_RENDERED = 500


def _html(text: str) -> str:
    """Rendered once; the oldest are forgotten."""
    if len(text) > 20_000:
        return markdown.render(text)
    html = _RENDERED.get(text)
    if html is None:
        html = markdown.render(text)
        while len(_RENDERED) >= MAX_RENDERED:
            _RENDERED.pop(next(iter(_RENDERED)), None)
        _RENDERED[text] = html
    return html


def client_of(request: Request) -> str:
    """Whose turn it is at the model's server: a browser's, a program's."""
    name = getattr(request.state, "cookie", "") or request.headers.get("user-agent", "")
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:16]


class Work:
    """What all routes that make an answer share."""

    def __init__(self, request: Request, answers: Answers, chat: str, body: Again | Ask) -> None:
        self.answers, self.store, self.chat, self.body = answers, answers.store, chat, body
        self.row = self.store.chat(chat)
        self.settings = body.settings or settings_of(self.row)
        self.model = body.model or str(self.row["model"])
        self.client = client_of(request)
        state.of(request).roots.check_values({"model": self.model})
        answers.check_room()
        if self.settings.seed is None:
            seed = random.randrange(SEEDS)
            self.settings = self.settings.model_copy(update={"seed": seed})

    def answer_below(self, parent: int) -> Question:
        """A new answer to a message."""
        settings = self.settings.model_dump()
        message = self.store.add(
            self.chat,
            parent,
            "assistant",
            status="streaming",
            model=self.model,
            settings=settings,
        )
        return self.question(message)

    def question(self, message: int, prefix: str = "") -> Question:
        return Question(
            self.chat,
            message,
            self.row["service"],
            self.model,
            self.row["system"],
            self.settings,
            self.client,
            prefix,
        )


async def _started(answers: Answers, prepare: Any) -> dict[str, Any]:
    """Write the messages and start the answer, whole also where the page has gone meanwhile."""

    async def both() -> Question:
        question: Question = await asyncio.to_thread(prepare)
        answers.start(question)
        return question

    question = await asyncio.shield(asyncio.ensure_future(both()))
    row = await asyncio.to_thread(answers.store.message, question.chat, question.message)
    return facts(answers, row)


@router.post("/chats/{chat}/messages", status_code=201)
async def ask(request: Request, chat: ChatId, body: Ask) -> dict[str, Any]:
    """Ask. Returns the answer that begins, and the question; what comes is in its events."""
    answers = await to_thread.run_sync(answers_of, request)
    if not body.content.strip() and not body.pictures:
        raise DataError(
            "there is nothing to ask", why="the message is empty", fix="write something first"
        )

    def prepare() -> Question:
        work = Work(request, answers, chat, body)
        parent = work.row["leaf"] if body.parent is None else body.parent
        _refuse_unfinished(answers.store, chat, parent)
        if body.pictures and work.row["service"] != "vision":
            raise DataError(
                "this model sees no pictures",
                why="the conversation is with a language model",
                fix="choose 'Text and pictures' in the settings",
            )
        question = work.store.add(chat, parent, "user", body.content, pictures=body.pictures)
        return work.answer_below(question)

    answer = await _started(answers, prepare)
    row = await to_thread.run_sync(answers.store.message, chat, answer["parent"])
    return {"answer": answer, "question": facts(answers, row)}


def _refuse_unfinished(store: ChatStore, chat: str, parent: int) -> None:
    if parent and store.message(chat, parent).status == "streaming":
        raise EngineError(
            "the last answer is still being made",
            why="the next question follows it",
            fix="wait, or stop it",
        )


def _role(row: Message, role: str) -> None:
    """Raises DataError for a message of the other role."""
    if row.role != role:
        raise DataError(
            f"message {row.id} is not of the {role}",
            why=f"it is of the {row.role}",
            fix="choose another message",
        )


@router.post("/chats/{chat}/messages/{message}/regenerate", status_code=201)
async def regenerate(
    request: Request, chat: ChatId, message: MessageId, body: Again
) -> dict[str, Any]:
    """Another answer to the same question, beside the first."""
    answers = await to_thread.run_sync(answers_of, request)

    def prepare() -> Question:
        row = answers.store.message(chat, message)
        _role(row, "assistant")
        return Work(request, answers, chat, body).answer_below(row.parent)

    return {"answer": await _started(answers, prepare)}


@router.post("/chats/{chat}/messages/{message}/edit", status_code=201)
async def edit(request: Request, chat: ChatId, message: MessageId, body: Edit) -> dict[str, Any]:
    """The question in other words, beside the first, and its answer."""
    answers = await to_thread.run_sync(answers_of, request)

    def prepare() -> Question:
        row = answers.store.message(chat, message)
        _role(row, "user")
        if not body.content.strip() and not row.pictures:
            raise DataError(
                "there is nothing to ask", why="the message is empty", fix="write something first"
            )
        work = Work(request, answers, chat, body)
        question = work.store.add(chat, row.parent, "user", body.content, pictures=row.pictures)
        return work.answer_below(question)

    answer = await _started(answers, prepare)
    row = await to_thread.run_sync(answers.store.message, chat, answer["parent"])
    return {"answer": answer, "question": facts(answers, row)}


@router.post("/chats/{chat}/messages/{message}/continue")
async def go_on(request: Request, chat: ChatId, message: MessageId, body: Again) -> dict[str, Any]:
    """Go on with an answer that was stopped, that failed, or that was cut by its longest length."""
    answers = await to_thread.run_sync(answers_of, request)

    def prepare() -> Question:
        row = answers.store.message(chat, message)
        _role(row, "assistant")
        if row.status == "streaming":
            raise EngineError(
                "the answer is still being made", why="it goes on already", fix="wait, or stop it"
            )
        work = Work(request, answers, chat, body)
        work.store.begin(chat, message)
        return work.question(message, row.content)

    return {"answer": await _started(answers, prepare)}


@router.post("/chats/{chat}/messages/{message}/stop")
async def stop(request: Request, chat: ChatId, message: MessageId) -> dict[str, Any]:
    """End an answer; what it has is kept."""
    answers = await to_thread.run_sync(answers_of, request)
    await to_thread.run_sync(answers.store.message, chat, message)
    await answers.stop([message])
    row = await to_thread.run_sync(answers.store.message, chat, message)
    return {"answer": facts(answers, row)}


@router.post("/chats/{chat}/messages/{message}/select")
def select(request: Request, chat: ChatId, message: MessageId) -> dict[str, Any]:
    """Show the branch of a message."""
    store = store_of(request)
    store.select(chat, message)
    return store.chat(chat)


@router.delete("/chats/{chat}/messages/{message}")
async def remove(request: Request, chat: ChatId, message: MessageId) -> dict[str, Any]:
    """Delete a message and all that follows it in its branch; it can be restored."""
    answers = await to_thread.run_sync(answers_of, request)
    await answers.stop(await to_thread.run_sync(answers.store.below, chat, message))
    await to_thread.run_sync(answers.store.remove, chat, message)
    return {"deleted": True}


@router.post("/chats/{chat}/messages/{message}/restore")
def bring_back(request: Request, chat: ChatId, message: MessageId) -> dict[str, Any]:
    store = store_of(request)
    store.bring_back(chat, message)
    return store.chat(chat)


@router.get("/chats/{chat}/messages/{message}")
def message(request: Request, chat: ChatId, message: MessageId) -> dict[str, Any]:
    answers = answers_of(request)
    return facts(answers, answers.store.message(chat, message))


@router.get("/chats/{chat}/messages/{message}/events", response_class=StreamingResponse)
async def events(request: Request, chat: ChatId, message: MessageId) -> StreamingResponse:
    """Server-sent events of an answer: at first the whole text so far, then what comes (`from`:
    where it goes on), each with the HTML of the whole; the last one has its final state."""
    answers = await to_thread.run_sync(answers_of, request)
    row = await to_thread.run_sync(answers.store.message, chat, message)
    stream = _events(answers, row)
    return StreamingResponse(stream, media_type="text/event-stream")


async def _events(answers: Answers, row: Message) -> AsyncIterator[str]:
    sent = 0
    yield "retry: 1000\n\n"
    if running := answers.find(row.id):
        async for snapshot in running.watch():
            if snapshot is None:
                yield ": alive\n\n"
                continue
            yield chat_answers.event(snapshot, sent)
            sent = len(snapshot.text)
        return
    while True:
        snapshot = await asyncio.to_thread(_kept, row)
        yield chat_answers.event(snapshot, sent)
        sent = len(snapshot.text)
        if snapshot.is_final:
            return
        await asyncio.sleep(FAR_S)
        row = await asyncio.to_thread(answers.store.message, row.chat, row.id)


def _kept(row: Message) -> Snapshot:
    """A message as another server, or an earlier one, left it in the database."""
    return Snapshot(
        state="writing" if row.status == "streaming" else row.status,
        text=row.content,
        html=_html(chat_history.answer_of(row.content)),
        stats=row.stats,
        error=row.error or None,
        model=row.model,
    )
