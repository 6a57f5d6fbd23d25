"""Conversations: list, search, change, export, import; their pictures; the models to talk with."""

import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, FastAPI, Path, Query, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from pydantic import BaseModel, Field

from onecard.errors import DataError
from onecard.web import (
    chat_exchange,
    chat_models,
    chat_pictures,
    chat_search,
    chat_settings,
    chat_upkeep,
    state,
)
from onecard.web.chat_answers import Answers
from onecard.web.chat_settings import ChatSettings
from onecard.web.chat_store import MAX_TITLE, ChatStore
from onecard.web.shown import SANDBOX

_FIRST = threading.Lock()


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """At the server's end the answers are stopped and their texts kept."""
    yield
    answers = getattr(app.state, "answers", None)
    if answers is not None:
        await answers.close()


router = APIRouter(tags=["chat"], lifespan=_lifespan)
MAX_SYSTEM = 50_000
ChatId = Annotated[str, Path(max_length=100)]
Service = Literal["chat", "vision"]
Model = Annotated[str, Field(min_length=1, max_length=4096)]
BINARY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
JSON_FILE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


class NewChat(BaseModel):
    title: str = Field("", max_length=MAX_TITLE)
    system: str = Field("", max_length=MAX_SYSTEM)
    service: Service = "chat"
    model: Model = "auto"
    settings: ChatSettings = Field(default_factory=ChatSettings)


class ChatChange(BaseModel):
    title: str | None = Field(None, max_length=MAX_TITLE)
    system: str | None = Field(None, max_length=MAX_SYSTEM)
    service: Service | None = None
    model: Model | None = None
    settings: ChatSettings | None = None
    archived: bool | None = None


def answers_of(request: Request) -> Answers:
    """The answers that are being made. The first request closes those of a server that was
    killed."""
    app = request.app
    with _FIRST:
        if getattr(app.state, "answers", None) is None:
            store = ChatStore()
            chat_upkeep.recover(store)
            chat_upkeep.prune(store)
            app.state.answers = Answers(store)
    answers: Answers = app.state.answers
    return answers


def store_of(request: Request) -> ChatStore:
    return answers_of(request).store


@router.get("/chats")
def listing(
    request: Request,
    q: Annotated[str, Query(max_length=500)] = "",
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    archived: bool = False,
) -> dict[str, Any]:
    """The last used one first; `q`: those in whose title or one message all its words occur."""
    rows, total = chat_search.search(
        store_of(request), q, limit=limit, offset=offset, archived=archived
    )
    return {"chats": rows, "total": total}


@router.post("/chats", status_code=201)
def create(request: Request, body: NewChat) -> dict[str, Any]:
    state.of(request).roots.check_values({"model": body.model})
    return store_of(request).create(
        title=body.title,
        system=body.system,
        service=body.service,
        model=body.model,
        settings=body.settings.model_dump(),
    )


@router.get("/chats/models")
def models(service: Service = "chat") -> list[dict[str, Any]]:
    """What a person can pick: auto, models of this machine, results of runs, the catalogue."""
    return chat_models.listing(service)


@router.get("/chats/settings")
def settings() -> dict[str, Any]:
    """The default settings of a conversation."""
    return ChatSettings().model_dump()


@router.get("/chats/export")
def export_all(request: Request) -> Response:
    """Every conversation as JSON, with all branches and pictures."""
    pieces = chat_exchange.all_as_json(store_of(request))
    headers = {"Content-Disposition": 'attachment; filename="onecard-conversations.json"'}
    return StreamingResponse(pieces, media_type="application/json", headers=headers)


@router.post("/chats/import", status_code=201, openapi_extra=JSON_FILE)
async def import_file(request: Request) -> dict[str, Any]:
    """Conversations of an exported file, or one that `onecard chat` saved."""
    content = await request.body()
    store = await to_thread.run_sync(store_of, request)

    def work() -> list[dict[str, Any]]:
        return [chat_exchange.add(store, chat) for chat in chat_exchange.read(content)]

    return {"chats": await to_thread.run_sync(work)}


@router.get("/chats/{chat}")
def chat(request: Request, chat: ChatId) -> dict[str, Any]:
    row = store_of(request).chat(chat)
    return {**row, "settings": settings_of(row).model_dump()}


def settings_of(row: dict[str, Any]) -> ChatSettings:
    """Those of a conversation; what it lacks is the default."""
    return ChatSettings.model_validate(chat_settings.valid(row["settings"]))


@router.patch("/chats/{chat}")
def change(request: Request, chat: ChatId, body: ChatChange) -> dict[str, Any]:
    facts = body.model_dump(exclude_none=True)
    if "model" in facts:
        state.of(request).roots.check_values({"model": facts["model"]})
    return store_of(request).change(chat, **facts)


@router.delete("/chats/{chat}")
async def delete(request: Request, chat: ChatId) -> dict[str, Any]:
    """It can be restored for 30 days. Its answer that is being made is stopped."""
    answers = await to_thread.run_sync(answers_of, request)
    await answers.stop_chat(chat)
    await to_thread.run_sync(answers.store.delete, chat)
    return {"deleted": True}


@router.post("/chats/{chat}/restore")
def restore(request: Request, chat: ChatId) -> dict[str, Any]:
    return store_of(request).restore(chat)


@router.get("/chats/{chat}/export", response_class=Response)
def export(request: Request, chat: ChatId, form: Literal["json", "md"] = "json") -> Response:
    """JSON with all branches and pictures, or Markdown of the branch that is shown."""
    store = store_of(request)
    if form == "md":
        text, media_type = chat_exchange.to_markdown(store, chat), "text/markdown; charset=utf-8"
    else:
        text = json.dumps(chat_exchange.to_json(store, chat), ensure_ascii=False, indent=1)
        media_type = "application/json"
    name = f"conversation-{chat[:16]}.{form}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(text, media_type=media_type, headers=headers)


@router.get("/chats/{chat}/server")
def server(request: Request, chat: ChatId) -> dict[str, Any]:
    """The server of the conversation's model: none, loading or ready, with its memory."""
    row = store_of(request).chat(chat)
    return chat_models.status(row["service"], row["model"], settings_of(row).n_ctx)


@router.post("/chats/{chat}/pictures", status_code=201, openapi_extra=BINARY)
async def add_picture(request: Request, chat: ChatId) -> dict[str, Any]:
    """A picture (PNG, JPEG or WebP, at most 10 MiB) for the next message."""
    content = await request.body()
    if not content:
        raise DataError("there is no picture", why="the body is empty", fix="send the file as body")
    store = await to_thread.run_sync(store_of, request)
    picture = await to_thread.run_sync(chat_pictures.add, store, chat, content)
    return {"id": picture.id, "width": picture.width, "height": picture.height}


@router.get("/chats/{chat}/pictures/{picture}", response_class=Response)
def picture(request: Request, chat: ChatId, picture: ChatId) -> Response:
    row = chat_pictures.find(store_of(request), chat, picture)
    headers = {"Content-Security-Policy": SANDBOX, "Cache-Control": "private, max-age=86400"}
    return FileResponse(row.path, media_type=row.media_type, headers=headers)
