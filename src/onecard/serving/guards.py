"""Access control in front of every server: loopback, token, Host and Origin; errors as JSON.

Beyond loopback a token is demanded. A page in the user's browser can send requests to 127.0.0.1:
without the Host check, a page behind a rebound DNS name could read the answers.
"""

import asyncio
import hmac
import ipaddress
import json
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from onecard.errors import DataError, EngineError, OneCardError, SettingsError
from onecard.serving.turns import Full

Scope = MutableMapping[str, Any]
App = Callable[
    [Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]
]
MAX_BODY_BYTES = 32 << 20
"""Largest request: an hour of speech in opus; the body is held in memory."""
REFUSAL_S = 0.05
"""How long a refusal is held back: a program that sends bad requests as fast as they are refused
(a thousand a second) takes the processor from the work of the others."""
MAX_NESTING = 100
"""Levels of lists and objects in a body."""

MAX_MEMBERS = 20_000
"""Names of all objects in a body: ten times those of 2,048 texts to rerank. A megabyte of nothing
but names takes 60 ms to parse, in which no other thread of the server runs."""


def is_loopback(host: str) -> bool:
    """Whether an address or name stays on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def token_for(host: str, token: str) -> str:
    """The token to demand: `token` if set, none on loopback, else a fresh one.

    Raises SettingsError for a short one.
    """
    if token and len(token) < 16:
        raise SettingsError(
            "the token is too short to keep anybody out",
            why=f"{len(token)} characters",
            fix="at least 16, or leave it out to get one made",
        )
    return token or ("" if is_loopback(host) else secrets.token_hex(24))


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises EngineError for an unknown host or a port in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except socket.gaierror as fault:
        listener.close()
        raise EngineError(
            f"cannot listen on {host}",
            why=f"no address of this machine has that name ({fault.strerror})",
            fix="--host 127.0.0.1, or 0.0.0.0 for all networks",
        ) from None
    except (OSError, OverflowError) as fault:
        listener.close()
        raise EngineError(
            f"cannot listen on {host}:{port}",
            why=getattr(fault, "strerror", None) or str(fault),
            fix="another --port (0 takes a free one), or end the program that holds it",
        ) from None
    return listener


def address(listener: socket.socket) -> str:
    """A URL that a person can open, also when the server listens on all networks."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


NO_PAGE = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of an answer that no browser is to show as a page: it repeats words of the request."""


def error(status: int, text: str) -> JSONResponse:
    """An error in the form of the OpenAI API."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse(
        {"error": {"message": text, "type": kind, "param": None, "code": status}},
        status,
        headers=NO_PAGE,
    )


def parse_body(content: bytes) -> dict[str, Any]:
    """The JSON object of a request's body. Raises DataError."""
    # counted in half a millisecond; in a text within JSON the quotation mark is escaped
    if content.count(b'":') - content.count(b'\\":') > MAX_MEMBERS:
        raise DataError(
            "the body is too large an object",
            why=f"it has more than {MAX_MEMBERS:,} names",
            fix="send less at once",
        )
    try:
        value = json.loads(content, parse_constant=_refuse_constant)
        if content.count(b"[") + content.count(b"{") > MAX_NESTING:
            _check_nesting(value)
        if b"\\ud" in content or b"\\uD" in content:
            _check_surrogates(value)
    except (ValueError, RecursionError) as fault:
        raise DataError(
            "the body is not JSON", why=str(fault)[:200], fix="send a JSON object"
        ) from None
    if not isinstance(value, dict):
        raise DataError(
            "the body is not a JSON object",
            why=f"it is a {type(value).__name__}",
            fix='send {"...": ...}',
        )
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _check_nesting(value: Any) -> None:
    """Raises ValueError: engines and templates call themselves for every level."""
    level = [value]
    for _ in range(MAX_NESTING):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {MAX_NESTING} levels")


def _children(value: Any) -> list[Any]:
    children: Iterable[Any] = ()
    if isinstance(value, dict):
        children = value.values()
    elif isinstance(value, list):
        children = value
    return [child for child in children if isinstance(child, dict | list)]


def _check_surrogates(value: Any) -> None:
    """Raises ValueError for half a character: no text that a model or a file could hold."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a text has half of a surrogate pair, as \\ud800 alone") from None


STATUS_OF_CODE = {2: 400, 5: 400, 6: 404}
"""Exit code of an error -> HTTP status: settings and data 400, not found 404, all others 502."""


async def _onecard_error(request: Request, fault: Exception) -> Response:
    code = fault.code if isinstance(fault, OneCardError) else 0
    return error(STATUS_OF_CODE.get(code, 502), str(fault))


async def _full(request: Request, fault: Exception) -> Response:
    reply = error(429, str(fault))
    reply.headers["Retry-After"] = str(fault.retry_after_s if isinstance(fault, Full) else 1)
    return reply


async def _unforeseen(request: Request, fault: Exception) -> Response:
    return error(500, f"the server failed ({type(fault).__name__}); its log has the reason")


async def _http_error(request: Request, fault: Exception) -> Response:
    status = fault.status_code if isinstance(fault, HTTPException) else 500
    messages = {
        404: f"there is no {request.url.path} here",
        405: f"{request.url.path} does not take {request.method}",
    }
    return error(status, messages.get(status, str(fault)))


EXCEPTION_HANDLERS: dict[Any, Any] = {
    OneCardError: _onecard_error,
    Full: _full,
    HTTPException: _http_error,
    Exception: _unforeseen,
}
"""For Starlette(exception_handlers=...)."""


class Guard:
    """ASGI middleware: refuses a request by its headers before the app sees it.

    `open_paths` need no token.
    """

    def __init__(
        self,
        app: App,
        host: str,
        token: str,
        open_paths: tuple[str, ...] = ("/health",),
        allow_origin: Sequence[str] = (),
    ) -> None:
        self.app, self.host, self.token, self.open_paths = app, host, token, open_paths
        self.origins = frozenset(origin.rstrip("/").lower() for origin in allow_origin)

    async def __call__(
        self,
        scope: Scope,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        send = _slow_refusals(send)
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        origin = headers.get("origin", "")
        allowed = origin.lower() in self.origins
        if allowed and scope["method"] == "OPTIONS":
            await Response(status_code=204, headers=_cors(origin))(scope, receive, send)
            return
        if refusal := self._refusal(scope["path"], headers):
            reply = error(*refusal)
            if allowed:
                reply.headers.update(_cors(origin))
            await reply(scope, receive, send)
            return

        async def send_allowed(message: Any) -> None:
            if allowed and message["type"] == "http.response.start":
                rows = [(k.lower().encode(), v.encode()) for k, v in _cors(origin).items()]
                message = {**message, "headers": [*message.get("headers", ()), *rows]}
            await send(message)

        await self.app(scope, receive, send_allowed)

    def _refusal(self, path: str, headers: dict[str, str]) -> tuple[int, str] | None:
        """(status, message), or None for a request that may pass."""
        host = _hostname(headers.get("host", ""))
        if host is None:
            return 400, "the Host header is no address"
        if is_loopback(self.host) and not is_loopback(host):
            return 403, "the Host header names another machine"
        origin = headers.get("origin", "")
        if origin and not self._is_allowed(origin, headers.get("host", "")):
            return 403, (
                f"a page of another site may not call this server; to allow it, start the server "
                f"with --allow_origin {origin[:200]}"
            )
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            return 400, "the Content-Length is not a number"
        if len(length) > 18 or int(length) > MAX_BODY_BYTES:
            return 413, "the request is larger than 32 MiB"
        if self.token and path not in self.open_paths:
            scheme, _, credentials = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(
                credentials.strip().encode(), self.token.encode()
            ):
                return 401, "a token is needed: Authorization: Bearer TOKEN"
        return None

    def _is_allowed(self, origin: str, host: str) -> bool:
        """The server's own page, or an origin that its owner named; another port is another site
        too."""
        if origin.lower() in self.origins:
            return True
        try:
            return urlsplit(origin).netloc == host
        except ValueError:
            return False


def _slow_refusals(send: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    async def send_refusals_late(message: Any) -> None:
        if 400 <= message.get("status", 200) < 500:
            await asyncio.sleep(REFUSAL_S)
        await send(message)

    return send_refusals_late


def _hostname(host: str) -> str | None:
    """The name or address in a Host header; None for what is none, as `[::1`."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return None


def _cors(origin: str) -> dict[str, str]:
    """Headers that let a browser hand the answer to a page of an allowed origin."""
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Headers": "Authorization, Content-Type",
        "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
        "Access-Control-Allow-Private-Network": "true",
        "Vary": "Origin",
    }
