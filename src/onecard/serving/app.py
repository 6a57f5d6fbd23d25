"""The shell of every HTTP server: token, socket, guard, announcement, uvicorn.

    with listen(config) as server:
        model = ...  # loaded only after the port is taken
        server.run(application(model), f"OpenAI API at {server.url}/v1", reporter)

The port is taken before anything is loaded, so that a port in use is told at once. Ctrl-C ends
uvicorn gracefully: open requests are answered first.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette

from onecard.reporting import Reporter
from onecard.serving import guards
from onecard.serving.config import ServeConfig


@dataclass(frozen=True)
class Server:
    """A listening socket with the token to demand; nothing is answered before `run`."""

    host: str
    token: str
    listener: socket.socket

    @property
    def url(self) -> str:
        """An address that a person can open, without a path."""
        return guards.address(self.listener)

    def run(
        self,
        app: Starlette,
        announcement: str,
        reporter: Reporter,
        open_paths: tuple[str, ...] = ("/health",),
    ) -> None:
        """Answer until Ctrl-C; the announcement also names a token that is demanded."""
        reporter.line(announcement + (f"  token: {self.token}" if self.token else ""))
        guarded = guards.Guard(app, self.host, self.token, open_paths)
        options = uvicorn.Config(guarded, log_level="warning", access_log=False)
        uvicorn.Server(options).run(sockets=[self.listener])


@contextmanager
def listen(config: ServeConfig) -> Iterator[Server]:
    """Takes the port; the socket is closed with the block.

    Raises SettingsError for a short token, EngineError when the port is in use.
    """
    token = guards.token_for(config.host, config.token.get_secret_value())
    with guards.bind(config.host, config.port) as listener:
        yield Server(config.host, token, listener)
