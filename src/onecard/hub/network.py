"""Whether downloads are allowed, and whether the model hub answers. Light."""

import os
import socket
from urllib.parse import urlsplit


def offline(*names: str) -> bool:
    """Whether downloads are switched off: all of them by ONECARD_OFFLINE, those of the hub by
    HF_HUB_OFFLINE too."""
    return any(
        os.environ.get(name, "0").lower() not in ("0", "", "false")
        for name in names or ("ONECARD_OFFLINE", "HF_HUB_OFFLINE")
    )


def hub_reachable() -> bool:
    """Whether the hub answers within 3 s: without this, each call of its client waits for its own
    time-outs."""
    if offline():
        return False
    host = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    return answers(host.hostname or "", host.port or 443)


def answers(host: str, port: int = 443) -> bool:
    """Whether a machine takes a connection within 3 s."""
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError:
        return False
    return True
