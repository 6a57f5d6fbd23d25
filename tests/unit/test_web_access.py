"""Access to the page without a server: what is decided before a route is reached."""

import asyncio
import sys

import pytest

pytest.importorskip("fastapi", reason="installed by make test")

from onecard.errors import DataError, SettingsError
from onecard.web import access, jobs, roots


def test_a_web_socket_is_closed_before_the_routes():
    async def routes(scope, receive, send):
        await send({"type": "websocket.accept"})

    sent = []

    async def send(message):
        sent.append(message["type"])

    async def receive():
        return {"type": "websocket.connect"}

    guarded = access.Access(routes, access.Sessions(""))
    scope = {"type": "websocket", "path": "/", "headers": []}
    asyncio.run(guarded(scope, receive, send))
    assert sent == ["websocket.close"]


def test_a_token_in_the_command_line_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["onecard", "ui", "--token=a-long-secret-token"])
    with pytest.raises(SettingsError):
        access.refuse_typed_token("a-long-secret-token")
    access.refuse_typed_token("another-secret-token")
    access.refuse_typed_token("")


def test_a_key_that_is_none_is_made_again(own_home):
    (own_home / "ui-key").write_text("no key")
    key = access.server_key()
    assert len(key) == 32
    assert access.server_key() == key


def test_the_whole_disk_is_no_default_folder(monkeypatch):
    monkeypatch.chdir("/")
    page = roots.Roots()
    with pytest.raises(DataError):
        page.check("/etc/passwd")


@pytest.mark.parametrize("path", ["/proc/self/environ", "/dev/null", "/sys/kernel"])
def test_files_of_processes_are_never_shown(path):
    with pytest.raises(DataError):
        roots.Roots(["/"]).check(path)


def test_a_secret_is_not_written_into_a_job(own_home):
    values = {"token": "a-very-secret-token"}
    with pytest.raises(SettingsError, match="secret"):
        jobs.create("rag", "serve", values, server=True)
    assert not list((own_home / "jobs").glob("*"))
    values = {"token": "file:/nowhere-of-this-test"}
    with pytest.raises(SettingsError):
        jobs.create("rag", "serve", values, server=True)


@pytest.mark.parametrize("name", ["word" * 500 + "/b", "a\0b/c", "~nobody-of-this-name/x"])
def test_a_strange_text_is_refused_or_no_path(name, tmp_path):
    page = roots.Roots([str(tmp_path)])
    try:
        page.check_values({"model": name})
    except DataError as fault:
        assert fault.fix
