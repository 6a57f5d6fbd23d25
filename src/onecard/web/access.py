"""Who may use the page: a session cookie or a bearer token, a token against forged requests, and
the headers that keep a page to this server.

On loopback no token is demanded, as with every server of onecard. Host and Origin are checked
before, in serving/guards.py.
"""

import hashlib
import hmac
import os
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from onecard import paths
from onecard.errors import SettingsError
from onecard.serving.guards import App, Scope

COOKIE = "onecard_session"
CSRF = "x-csrf-token"
SAFE = ("GET", "HEAD", "OPTIONS")
OPEN = ("/login", "/api/login", "/health")
"""Paths without a token; everything below /static/ too."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; font-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; object-src 'none'"
)
"""Content-Security-Policy: a page runs only the server's own scripts and talks to nobody else."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self), payment=(), usb=()",
}
MAX_AGE_S = 30 * 24 * 3600
KEY_FILE = "ui-key"
"""In the home; the page never gives it (roots.py)."""


class Sessions:
    """Cookies that this server made: `nonce.signature`. They outlive a restart, and end when the
    token changes."""

    def __init__(self, token: str) -> None:
        self.token = token
        self._key = hmac.digest(server_key(), f"session {token}".encode(), hashlib.sha256)

    def new(self) -> str:
        nonce = secrets.token_urlsafe(18)
        return f"{nonce}.{self._sign('cookie', nonce)}"

    def is_valid(self, cookie: str) -> bool:
        nonce, _, signature = cookie.partition(".")
        return bool(nonce) and _equal(signature, self._sign("cookie", nonce))

    def csrf(self, cookie: str) -> str:
        """What a page of this session sends with every change."""
        return self._sign("csrf", cookie)

    def is_token(self, text: str) -> bool:
        return bool(self.token) and _equal(text, self.token)

    def _sign(self, use: str, text: str) -> str:
        return hmac.new(self._key, f"{use} {text}".encode(), hashlib.sha256).hexdigest()[:40]


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def server_key() -> bytes:
    """Of this home, readable by its owner alone; made when there is none."""
    path = paths.home() / KEY_FILE
    key = secrets.token_bytes(32)
    for is_last in (False, True):
        try:
            kept = bytes.fromhex(path.read_text().strip())
            if len(kept) == 32:
                return kept
        except (OSError, ValueError):
            pass
        try:
            if is_last:
                path.unlink(missing_ok=True)  # it is no key
            path.parent.mkdir(parents=True, exist_ok=True)
            # never readable by others, not even for a moment
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:  # another server is writing it
            time.sleep(0.1)
            continue
        except OSError:  # sessions then end with the server
            break
        with os.fdopen(handle, "w") as file:
            file.write(key.hex())
        break
    return key


def refuse_typed_token(token: str) -> None:
    """Raises SettingsError for a token in the command line, which every user of this machine can
    read in the list of processes."""
    if token and any(token in word for word in sys.argv):
        raise SettingsError(
            "a token may not be typed into the command line",
            why="other users of this machine see it in the list of processes",
            fix="--token env:NAME of an environment variable, or --token file:PATH",
        )


class Access:
    """ASGI middleware around the pages and the API."""

    def __init__(self, app: App, sessions: Sessions) -> None:
        self.app, self.sessions = app, sessions

    async def __call__(
        self,
        scope: Scope,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        if scope["type"] == "websocket":  # there are none; a browser sends them to any site
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        cookie = session_cookie(request)
        bearer = bearer_token(request)
        has_session = bool(cookie) and self.sessions.is_valid(cookie)
        has_token = self.sessions.is_token(bearer)
        scope.setdefault("state", {})
        scope["state"]["cookie"] = cookie if has_session else ""

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message.get("headers", ())}
                rows = [
                    (name.lower().encode(), value.encode())
                    for name, value in HEADERS.items()
                    if name.lower().encode() not in present
                ]
                if b"cache-control" not in present:
                    rows.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*message.get("headers", ()), *rows]}
            await send(message)

        reply = self._refusal(request, has_session, has_token)
        await (reply or self.app)(scope, receive, send_with_headers)

    def _refusal(self, request: Request, has_session: bool, has_token: bool) -> Response | None:
        path, method = request.url.path, request.method
        is_open = path in OPEN or path.startswith("/static/")
        if self.sessions.token and not (has_session or has_token or is_open):
            if method in SAFE and not path.startswith("/api/"):
                return RedirectResponse("/login", 303)
            return refusal(
                401,
                "a token is needed",
                why="this server is open to other machines, or was started with a token",
                fix="sign in at /login, or send Authorization: Bearer TOKEN",
            )
        site = request.headers.get("sec-fetch-site", "none")
        is_page = request.headers.get("sec-fetch-mode") == "navigate" and method in SAFE
        if site not in ("none", "same-origin") and not is_page:
            return refusal(
                403,
                "another site may not use this server",
                why=f"the browser says that the request is {site[:20]}",
                fix="open the page itself",
            )
        if method in SAFE or has_token or path == "/api/login":
            return None
        is_browser = "sec-fetch-site" in request.headers or "origin" in request.headers
        if not is_browser and not request.headers.get("cookie"):
            return None  # a program on this machine: no browser lends it a session
        expected = self.sessions.csrf(request.scope["state"]["cookie"])
        if has_session and _equal(request.headers.get(CSRF, ""), expected):
            return None
        return refusal(
            403,
            "the page's session has ended",
            why="the request has no valid X-CSRF-Token of its session",
            fix="load the page again",
        )


def refusal(status: int, what: str, *, why: str, fix: str) -> JSONResponse:
    return JSONResponse({"error": {"what": what, "why": why, "fix": fix}}, status)


def session_cookie(request: Request) -> str:
    """The session's cookie; empty where there is none. Cookies of other programs on this machine,
    whatever they hold, are passed over."""
    return request.cookies.get(COOKIE, "")


def bearer_token(request: Request) -> str:
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    return text.strip() if scheme.lower() == "bearer" else ""


def set_cookie(reply: Response, cookie: str) -> None:
    reply.set_cookie(COOKIE, cookie, max_age=MAX_AGE_S, httponly=True, samesite="strict", path="/")
