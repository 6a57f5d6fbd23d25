"""`onecard ui`: takes the port, tells the address, answers until Ctrl-C."""

import dataclasses
import os
import threading
import webbrowser
from pathlib import Path

from onecard.errors import EngineError
from onecard.reporting import Reporter, Result
from onecard.serving.app import listen
from onecard.web import jobs
from onecard.web.access import Sessions, refuse_typed_token
from onecard.web.application import application
from onecard.web.config import UiConfig
from onecard.web.roots import Roots
from onecard.web.state import State

OPEN_S = 0.7
"""After the socket is taken, uvicorn answers within this."""


def serve(config: UiConfig, reporter: Reporter) -> Result:
    """Raises EngineError when the port is in use, SettingsError for a short token."""
    try:
        return _serve(config, reporter)
    except EngineError as fault:
        if "in use" not in fault.why:
            raise
        raise EngineError(
            fault.what,
            why=f"{fault.why}: perhaps by an onecard ui of yours",
            fix=f"open http://127.0.0.1:{config.port}, or give another --port (0 takes a free one)",
        ) from None


def _serve(config: UiConfig, reporter: Reporter) -> Result:
    with listen(config) as server:
        typed = config.token.get_secret_value()
        refuse_typed_token(typed)
        state = State(Roots(config.root), Sessions(server.token))
        # what the page names without a folder lies where it may read
        if not any(Path.cwd().is_relative_to(root) for root in state.roots.user):
            os.chdir(next(filter(Path.is_dir, state.roots.user), Path.cwd()))
        link = f"{server.url}/"
        if server.token:
            # behind the number sign it is sent to no server and stands in no log
            link = f"{server.url}/login" + ("" if typed else f"#token={server.token}")
        if any(job.status == "queued" for job in jobs.active()):
            jobs.start_queue()
        if config.browser and reporter.interactive:
            opener = threading.Timer(OPEN_S, webbrowser.open, (link,))
            opener.daemon = True
            opener.start()
        # the page's own access checks the token: cookies are as good as the header
        bare = dataclasses.replace(server, token="")
        bare.run(application(state), f"onecard at {link}", reporter)
    return Result({"address": link})
