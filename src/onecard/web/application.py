"""The FastAPI application: pages, JSON API under /api with its OpenAPI, static files."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from onecard import __version__, i18n
from onecard.errors import DataError, OneCardError
from onecard.redaction import redact
from onecard.serving.guards import STATUS_OF_CODE, App, Scope
from onecard.web import pages
from onecard.web.access import Access, refusal
from onecard.web.routes import (
    chat,
    chat_messages,
    data,
    files,
    jobs,
    machine,
    notes,
    plans,
    runs,
    session,
    speech,
    tasks,
)
from onecard.web.state import State

LANGUAGE_COOKIE = "onecard_lang"
MAX_PATH = 4096
log = logging.getLogger("onecard.web")
API = (session, machine, tasks, plans, jobs, runs, files, data, notes, chat, chat_messages, speech)


class Fault(BaseModel):
    what: str
    why: str
    fix: str


class Refusal(BaseModel):
    """Of the guard before all routes: Host, Origin, size."""

    message: str
    type: str
    code: int


class ErrorReply(BaseModel):
    error: Fault | Refusal


def application(state: State) -> App:
    """The whole, inside the guard of serving/app.py."""
    app = FastAPI(
        title="onecard",
        version=__version__,
        summary="Plan, run, record and judge AI projects on one consumer graphics card.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
        responses={"4XX": {"model": ErrorReply, "description": "What is wrong, why, and the fix"}},
        exception_handlers={
            OneCardError: _onecard_error,
            RequestValidationError: _invalid,
            HTTPException: _http_error,
            Exception: _unforeseen,
        },
    )
    app.state.onecard = state
    for module in API:
        app.include_router(module.router, prefix="/api")
    app.include_router(pages.router, include_in_schema=False)
    app.mount("/static", _Static(directory=pages.HERE / "static"), name="static")
    return Language(Access(app, state.sessions))


class _Static(StaticFiles):
    """With the version in their address (pages.asset) they may be kept for a year."""

    async def get_response(self, path: str, scope: Any) -> Response:
        reply = await super().get_response(path, scope)
        reply.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        if b"v=" not in scope.get("query_string", b""):
            reply.headers["Cache-Control"] = "no-cache"
        return reply


class Language:
    """ASGI middleware: the language of a request is the page's choice, else the browser's."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(
        self,
        scope: Scope,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            chosen = request.cookies.get(LANGUAGE_COOKIE, "")
            if chosen not in i18n.LANGUAGES:
                chosen = i18n.from_header(request.headers.get("accept-language", ""))
            i18n.use(chosen)
        await self.app(scope, receive, send)


async def _onecard_error(request: Request, fault: Exception) -> Response:
    assert isinstance(fault, OneCardError)
    status = STATUS_OF_CODE.get(fault.code, 409)
    if isinstance(fault, DataError) and "outside the folders" in fault.what:
        status = 403
    return _error(request, status, redact(fault.what), redact(fault.why), redact(fault.fix))


async def _invalid(request: Request, fault: Exception) -> Response:
    assert isinstance(fault, RequestValidationError)
    rows = [
        f"{'.'.join(str(word) for word in row['loc'][1:])}: {row['msg']}" for row in fault.errors()
    ]
    text = "; ".join(rows)[:2000].encode("utf-8", "replace").decode()
    return _error(
        request, 422, "the request is not valid", text, "see /api/openapi.json for what it takes"
    )


async def _http_error(request: Request, fault: Exception) -> Response:
    assert isinstance(fault, HTTPException)
    path = request.url.path[:200]
    if fault.status_code == 404:
        return _error(request, 404, f"there is no {path} here", "no page has this name", "go to /")
    if fault.status_code == 405:
        reply = _error(
            request,
            405,
            f"{path} does not take {request.method}",
            "another method is meant",
            "see /api/openapi.json",
        )
        reply.headers.update(fault.headers or {})
        return reply
    return _error(request, fault.status_code, str(fault.detail), "the request cannot be met", "-")


async def _unforeseen(request: Request, fault: Exception) -> Response:
    log.error("%s %s", request.method, request.url.path, exc_info=fault)
    return _error(
        request,
        500,
        f"the server failed ({type(fault).__name__})",
        "this should not happen",
        "its log has the reason",
    )


def _error(request: Request, status: int, what: str, why: str, fix: str) -> Response:
    """As a page for a person, as JSON for a program."""
    wants_page = "text/html" in request.headers.get("accept", "")
    if wants_page and not request.url.path.startswith("/api/"):
        html = pages.render(request, "error.html", what=what, why=why, fix=fix)
        return HTMLResponse(html, status)
    reply: JSONResponse = refusal(status, what, why=why, fix=fix)
    return reply
