"""Signing in with the server's token."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from onecard.web import access, state

router = APIRouter(tags=["session"])


class Login(BaseModel):
    token: str = Field(max_length=1000)


def with_session(request: Request) -> str:
    """The session's cookie, a new one for a browser that has none. Only for whom the access let
    through."""
    cookie: str = getattr(request.state, "cookie", "")
    if not cookie:
        cookie = state.of(request).sessions.new()
        request.scope["state"]["cookie"] = cookie
    return cookie


@router.post("/login")
def login(request: Request, body: Login) -> Response:
    """Exchange the token for a session's cookie."""
    sessions = state.of(request).sessions
    if sessions.token and not sessions.is_token(body.token.strip()):
        return access.refusal(
            401,
            "this is not the token",
            why="onecard ui printed another one, or was started with another one",
            fix="copy it from the terminal that the server runs in",
        )
    reply = JSONResponse({"signed_in": True})
    access.set_cookie(reply, sessions.new())
    return reply
