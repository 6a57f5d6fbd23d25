"""HTTP for a vision model: POST /predict, GET /v1/classes, GET /health, and a page at /.

    curl -F file=@a.jpg -F file=@b.jpg http://127.0.0.1:8083/predict
    curl --data-binary @a.jpg 'http://127.0.0.1:8083/predict?confidence=0.4'

Knows no model: it is given a function that answers one picture.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from onecard import cancellation
from onecard.datasets.images import decode
from onecard.errors import DataError
from onecard.reporting import Reporter
from onecard.serving import guards, shell
from onecard.serving.app import Server
from onecard.serving.turns import Turns

PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Content-Security-Policy of the page: it loads nothing and talks to this server only."""
MAX_FILES = 32
"""Pictures of one request."""
MAX_TOP = 1000
OPEN_PATHS = ("/", "/health")
"""What needs no token: the page asks for it."""

Reply = Callable[[NDArray[np.uint8], float | None, int | None], dict[str, Any]]
"""(picture, confidence, top) -> what was found, as JSON."""


@dataclass(frozen=True)
class _Upload:
    """A file of a request: only what a refusal calls it, and its bytes."""

    name: str
    data: bytes


@dataclass(frozen=True)
class _Asked:
    files: list[_Upload]
    confidence: float | None
    top: int | None


def run(server: Server, reply: Reply, facts: Mapping[str, Any], reporter: Reporter) -> str:
    """Answer until Ctrl-C; the address."""
    text = f"{facts['model']} ({facts['task']}) at {server.url}  (API: POST {server.url}/predict)"
    server.run(application(reply, facts), text, reporter, open_paths=OPEN_PATHS)
    return server.url


def application(reply: Reply, facts: Mapping[str, Any]) -> Starlette:
    """The routes, without the guard."""
    routes = _Routes(reply, facts)
    return Starlette(
        routes=[
            Route("/", routes.page),
            Route("/health", routes.health),
            Route("/v1/classes", routes.classes),
            Route("/predict", routes.predict, methods=["POST"]),
        ],
        exception_handlers=guards.EXCEPTION_HANDLERS,
    )


class _Routes:
    def __init__(self, reply: Reply, facts: Mapping[str, Any]) -> None:
        self.reply, self.facts = reply, dict(facts)
        # one picture at a time: a second one waits instead of slowing the first one down
        self.turns = Turns()
        self.html = Path(__file__).with_name("picture_page.html").read_text(encoding="utf-8")

    async def page(self, request: Request) -> Response:
        headers = {"Content-Security-Policy": PAGE_POLICY, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(self.html, headers=headers)

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def classes(self, request: Request) -> Response:
        return JSONResponse(self.facts)

    async def predict(self, request: Request) -> Response:
        content = await shell.turn_for_body(request, self.turns)
        asked = await _read(request, content)
        if isinstance(asked, Response):
            return asked
        await shell.turn(request, self.turns)
        started = time.monotonic()
        rows = await shell.in_thread(self._answer, asked)
        if len(rows) == 1 and "error" in rows[0]:
            return guards.error(400, f"{rows[0]['file']}: {rows[0]['error']}")
        return JSONResponse(
            {
                "task": self.facts["task"],
                "model": self.facts["model"],
                "results": rows,
                "seconds": round(time.monotonic() - started, 4),
            }
        )

    def _answer(self, asked: _Asked) -> list[dict[str, Any]]:
        """A row for each file; of one that is no picture the reason."""
        rows = []
        for upload in asked.files:
            cancellation.check()
            row: dict[str, Any] = {"file": upload.name}
            try:
                rgb = decode.read_rgb_bytes(upload.data, upload.name)
            except DataError as fault:
                rows.append({**row, "error": fault.why, "fix": fault.fix})
                continue
            rows.append({**row, **self.reply(rgb, asked.confidence, asked.top)})
        return rows


async def _read(request: Request, content: bytes) -> _Asked | Response:
    """The pictures and fields of a request, or its refusal."""
    fields: dict[str, Any] = dict(request.query_params)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with request.form(max_files=MAX_FILES, max_fields=10) as form:
            fields |= {key: value for key, value in form.items() if isinstance(value, str)}
            uploads = [each for key, each in form.multi_items() if isinstance(each, UploadFile)]
            files = [_Upload(_name(each.filename), await each.read()) for each in uploads]
        missing = "file is missing: send pictures as multipart fields 'file'"
    else:
        files = [_Upload("the body", content)] if content else []
        missing = "the body is empty: send a picture, or several as multipart fields 'file'"
    if not files:
        return guards.error(400, missing)
    confidence = _number(fields.get("confidence"))
    if confidence is not None and not 0 <= confidence <= 1:
        return guards.error(400, "confidence must be a number from 0 to 1")
    top = _number(fields.get("top"))
    if top is not None and (not 1 <= top <= MAX_TOP or top != int(top)):
        return guards.error(400, f"top must be a whole number from 1 to {MAX_TOP}")
    return _Asked(files, confidence, None if top is None else int(top))


def _number(value: object) -> float | None:
    """None where there is none; NaN, which lies in no range, for what is no number.

    >>> _number(""), _number("0.5")
    (None, 0.5)
    """
    text = str(value if value is not None else "").strip()
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        return math.nan


def _name(name: str | None) -> str:
    """What the client calls its file, in one line; no path is made of it."""
    last = (name or "").replace("\\", "/").rpartition("/")[2]
    shown = "".join(letter if letter.isprintable() else "?" for letter in last)
    return shown.encode("utf-8", "replace").decode()[:200] or "the file"
