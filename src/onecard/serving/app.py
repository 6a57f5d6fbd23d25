"""The shell of every HTTP server: token, socket, guard, announcement, uvicorn.

    with listen(config) as server:
        model = ...  # loaded only after the port is taken
        server.run(application(model), f"OpenAI API at {server.url}/v1", reporter)

The port is taken before anything is loaded, so that a port in use is told at once. Ctrl-C and
SIGTERM end the server gracefully: open requests have SHUTDOWN_S to be answered, then they are
cancelled.
"""

import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from onecard.reporting import Reporter
from onecard.serving import guards
from onecard.serving.config import ServeConfig
from onecard.serving.protocol import BoundedProtocol
from onecard.serving.shell import Shell

SWITCH_S = 0.0005
"""Longest time that one thread keeps the interpreter from another (Python's own: 5 ms). A flood of
requests keeps the event loop busy, and work in a thread waits so long after each of its calls into
numpy, SQLite or ONNX."""
MALLOPT = {-8: 2, -3: 1 << 20}
"""glibc's M_ARENA_MAX and M_MMAP_THRESHOLD: its threads keep what they freed, two heaps a core, and
blocks of a size that was freed once come from those heaps. A large body is to go back at once."""
SHUTDOWN_S = 5
"""Time for open requests after Ctrl-C or SIGTERM."""
EXIT_S = 20
"""Time for closing model and index after that; a library's own clean-up may wait for its work."""


@dataclass(frozen=True)
class Server:
    """A listening socket with the token to demand; nothing is answered before `run`."""

    host: str
    token: str
    listener: socket.socket
    allow_origin: tuple[str, ...] = ()
    timeout_s: float = 0

    @property
    def url(self) -> str:
        """An address that a person can open, without a path."""
        return guards.address(self.listener)

    def run(
        self,
        app: guards.App,
        announcement: str,
        reporter: Reporter,
        open_paths: tuple[str, ...] = ("/health",),
        on_timeout: Callable[[], None] | None = None,
    ) -> None:
        """Answer until Ctrl-C or SIGTERM; the announcement also names a token that is demanded.

        Both end in KeyboardInterrupt: the run is kept as stopped. `on_timeout` is called in a
        thread when a request was given up.
        """
        reporter.line(announcement + (f"  token: {self.token}" if self.token else ""))
        reporter.listening(self.url)
        if self.token and self.token in _command_line():
            reporter.warn(
                "other users of this machine see the token in the list of processes; give it as "
                "--token env:NAME or file:PATH"
            )
        sys.setswitchinterval(SWITCH_S)
        _bound_heaps()
        shell = Shell(app, self.timeout_s, on_timeout)
        guarded = guards.Guard(shell, self.host, self.token, open_paths, self.allow_origin)
        options = uvicorn.Config(
            guarded,
            http=BoundedProtocol,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _stop)
        try:
            uvicorn.Server(options).run(sockets=[self.listener])
        except KeyboardInterrupt:
            limit = threading.Timer(EXIT_S, os._exit, (130,))
            limit.daemon = True
            limit.start()
            raise


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _bound_heaps() -> None:
    """Only glibc has mallopt."""
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in MALLOPT.items():
            mallopt(parameter, value)


def _command_line() -> str:
    """Of this process, as everybody may read it; empty where the system does not show it."""
    try:
        return Path("/proc/self/cmdline").read_text(errors="replace")
    except OSError:
        return ""


@contextmanager
def listen(config: ServeConfig) -> Iterator[Server]:
    """Takes the port; the socket is closed with the block.

    Raises SettingsError for a short token, EngineError when the port is in use.
    """
    token = guards.token_for(config.host, config.token.get_secret_value())
    with guards.bind(config.host, config.port) as listener:
        origins = tuple(config.allow_origin)
        yield Server(config.host, token, listener, origins, config.timeout_s)
