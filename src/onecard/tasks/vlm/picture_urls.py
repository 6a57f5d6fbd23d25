"""A picture behind a web address, where its host was allowed by the user.

No document and no client can make this machine send a request elsewhere: the host must be named in
`allow_url`, its addresses are looked up once and judged, the connection goes to the one that was
judged (a second lookup could answer otherwise), and a redirect stays on the host.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import SplitResult, urljoin, urlsplit

from onecard.errors import DataError

MAX_REDIRECTS = 3
SOCKET_S = 10
"""Longest wait for a connection or for the next bytes."""
WHOLE_S = 30
"""Longest time for the whole picture."""
MAX_URL = 8192
BLOCK = 1 << 16


def fetch(url: str, allow_url: Sequence[str], max_bytes: int) -> bytes:
    """The bytes behind an address of an allowed host. Raises DataError with what to do."""
    deadline = time.monotonic() + WHOLE_S
    for _ in range(MAX_REDIRECTS + 1):
        parts = _checked(url, allow_url)
        reply = _get(parts, allow_url, max_bytes, deadline)
        if isinstance(reply, bytes):
            return reply
        target = urljoin(url, reply)
        if _host_of(target) != parts.hostname:
            raise _refusal(url, f"it leads on to another host, {(_host_of(target) or '?')[:100]}")
        url = target
    raise _refusal(url, f"it leads on more than {MAX_REDIRECTS} times")


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _checked(url: str, allow_url: Sequence[str]) -> SplitResult:
    """The address in its parts. Raises DataError for one that may not be asked."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as fault:
        raise _refusal(url, str(fault)) from None
    if parts.scheme not in ("http", "https") or len(url) > MAX_URL:
        raise _refusal(url, f"pictures come by http and https, not by {parts.scheme[:20]}:")
    if not parts.hostname or parts.username is not None or any(c in url for c in "\r\n\0 "):
        raise _refusal(url, "it is no plain address of a host and a path")
    usual = {"http": 80, "https": 443}[parts.scheme]
    names = {entry.strip().lower() for entry in allow_url}
    bare = {parts.hostname} if port in (None, usual) else set()
    shown = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if not ({f"{shown}:{port or usual}", *bare} & names):
        place = parts.hostname if bare else f"{shown}:{port}"
        raise DataError(
            f"the picture {_short(url)} is not fetched",
            why=f"no request leaves this machine for {place} unless you allow it",
            fix=f"--allow_url {place}, or download the picture and send it as a file or data URI",
        )
    return parts


def _addresses(parts: SplitResult, port: int, allow_url: Sequence[str]) -> list[str]:
    """Of the host; private ones only where they are named themselves. Raises DataError."""
    host = str(parts.hostname)
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as fault:
        raise _refusal(parts.geturl(), f"its host has no address: {fault}") from None
    addresses = list(dict.fromkeys(str(row[4][0]) for row in rows))
    named = {entry.strip().lower().rsplit(":", 1)[0].strip("[]") for entry in allow_url}
    named |= {entry.strip().lower().strip("[]") for entry in allow_url}
    for text in addresses:
        address = ipaddress.ip_address(text.split("%")[0])
        if address.is_loopback and host == "localhost":
            continue
        if not address.is_global and str(address) not in named:
            raise DataError(
                f"the picture {_short(parts.geturl())} is not fetched",
                why=f"{host} is {address}, an address within this network",
                fix=f"--allow_url {host} {address} where that is what you mean",
            )
    return addresses


def _get(
    parts: SplitResult, allow_url: Sequence[str], max_bytes: int, deadline: float
) -> bytes | str:
    """The body, or where the host sends to. Raises DataError."""
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    connection = _connection(parts, port, _addresses(parts, port, allow_url))
    url = parts.geturl()
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    # a host that sends a byte now and then would else never be given up
    limit = threading.Timer(max(deadline - time.monotonic(), 0), _shut, (connection.sock,))
    limit.daemon = True
    limit.start()
    try:
        connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "onecard"})
        reply = connection.getresponse()
        if reply.status in (301, 302, 303, 307, 308):
            return reply.getheader("Location") or ""
        if reply.status != 200:
            raise _refusal(url, f"its host answered {reply.status} {reply.reason[:60]}")
        blocks, size = [], 0
        while block := reply.read1(BLOCK):
            size += len(block)
            if size > max_bytes:
                raise _refusal(url, f"it has more than {max_bytes / 2**20:g} MiB")
            blocks.append(block)
        if time.monotonic() > deadline:
            raise _refusal(url, f"it took longer than {WHOLE_S} s")
        return b"".join(blocks)
    except (OSError, http.client.HTTPException, ValueError) as fault:
        late = time.monotonic() > deadline
        why = f"it took longer than {WHOLE_S} s" if late else f"{type(fault).__name__}: {fault}"
        raise _refusal(url, why[:200]) from None
    finally:
        limit.cancel()
        connection.close()


def _shut(connected: socket.socket) -> None:
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _connection(
    parts: SplitResult, port: int, addresses: Sequence[str]
) -> http.client.HTTPConnection:
    """To one of the judged addresses; the certificate must be the host's all the same."""
    host, url = str(parts.hostname), parts.geturl()
    fault: OSError = OSError("it has no address")
    for address in addresses:
        try:
            raw = socket.create_connection((address, port), timeout=SOCKET_S)
        except OSError as error:
            fault = error
            continue
        connection = http.client.HTTPConnection(host, port, timeout=SOCKET_S)
        try:
            if parts.scheme == "https":
                context = ssl.create_default_context()
                raw = context.wrap_socket(raw, server_hostname=host)
        except OSError as error:
            raw.close()
            raise _refusal(url, f"no safe connection: {error}"[:200]) from None
        connection.sock = raw
        return connection
    raise _refusal(url, f"no connection to its host: {fault}"[:200])


def _short(url: str) -> str:
    return url if len(url) <= 100 else url[:97] + "..."


def _refusal(url: str, why: str) -> DataError:
    return DataError(
        f"the picture {_short(url)} could not be fetched",
        why=why,
        fix="download it and send it as a file or data URI",
    )
