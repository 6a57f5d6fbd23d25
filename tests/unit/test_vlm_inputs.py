"""What a user or a client names as a picture of a question: every form, and every refusal."""

import base64
import http.server
import io
import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

from onecard.errors import DataError, NotFound, OneCardError, SettingsError
from onecard.tasks.vlm import ask, chat_requests, picture_inputs, picture_urls
from onecard.tasks.vlm.picture_inputs import Bounds, picture_of, pictures_of
from tests import made_pdfs

RED = (250, 20, 20)
SERVED = Bounds(local_files=False)


def scene(width=60, height=40):
    """Red at the left, blue at the right: a turn or a mirror is seen."""
    rgb = np.full((height, width, 3), (20, 20, 250), np.uint8)
    rgb[:, : width // 2] = RED
    return rgb


def encoded(rgb, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, kind, **options)
    return file.getvalue()


def uri(data, head="data:image/png;base64,"):
    return head + base64.b64encode(data).decode()


def refusal(action, *arguments, **options):
    with pytest.raises(OneCardError) as fault:
        action(*arguments, **options)
    assert fault.value.what and fault.value.why and fault.value.fix
    return f"{fault.value}"


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(scene()))
    return path


def test_the_same_picture_in_every_form(photo):
    data = photo.read_bytes()
    forms = [
        str(photo),
        data,
        uri(data),
        uri(data, "DATA:;base64,"),
        "data:image/png;charset=x;base64," + base64.urlsafe_b64encode(data).decode().rstrip("="),
        base64.b64encode(data).decode(),
        "data:image/png," + "".join(f"%{byte:02x}" for byte in data),
    ]
    for form in forms:
        assert (picture_of(form, Bounds()).rgb == scene()).all()


def test_a_photo_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    path = tmp_path / "upright.jpg"
    path.write_bytes(encoded(scene(), "JPEG", exif=exif, quality=95))
    picture = picture_of(str(path))
    assert (picture.width, picture.height) == (40, 60)
    assert picture.rgb[5, 20, 0] > 200 and picture.rgb[55, 20, 2] > 200


def test_cmyk_becomes_rgb():
    file = io.BytesIO()
    Image.fromarray(scene()).convert("CMYK").save(file, "JPEG", quality=95)
    rgb = picture_of(file.getvalue()).rgb.astype(int)
    assert np.abs(rgb[20, 10] - RED).max() < 40


def test_of_an_animation_the_first_frame_is_taken_and_told():
    frames = [Image.fromarray(scene()), Image.fromarray(255 - scene())]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    lines = []
    rgb = picture_of(file.getvalue(), Bounds(), lines.append).rgb.astype(int)
    assert np.abs(rgb[20, 10] - RED).max() < 40
    assert "2 frames" in lines[0] and "first" in lines[0]


def test_a_still_picture_tells_nothing(photo):
    lines = []
    pictures_of([str(photo)], Bounds(), lines.append)
    assert lines == []


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (encoded(scene(1, 1)), "1x1"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (encoded(scene())[:100], "damaged"),
        (b"\x89PNG but no more", "no picture"),
        (b"", "empty"),
        (b"<!doctype html><title>404</title>", "HTML"),
        (b"%PDF-1.4", "PDF"),
    ],
)
def test_what_is_no_picture_is_refused(data, word):
    assert word in refusal(picture_of, data)


def test_a_bomb_is_refused_by_its_header():
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    assert len(file.getvalue()) < 100_000
    assert "100 million" in refusal(picture_of, file.getvalue())


def test_pixels_of_all_pictures_together_are_bounded(photo, monkeypatch):
    monkeypatch.setattr(picture_inputs, "MAX_PIXELS", 2 * 60 * 40)
    assert len(pictures_of([str(photo)] * 2)) == 2
    assert "memory" in refusal(pictures_of, [str(photo)] * 3)


def test_a_missing_picture(tmp_path):
    assert "nothing lies" in refusal(picture_of, str(tmp_path / "none.png"))
    assert "no pictures in" in refusal(pictures_of, [str(tmp_path)])
    refusal(picture_of, "\0.png")
    refusal(picture_of, "x" * 5000)


def test_forty_pictures_are_too_many(photo):
    assert "more than 32" in refusal(pictures_of, [str(photo)] * 40)
    for i in range(40):
        (photo.parent / f"{i}.png").write_bytes(photo.read_bytes())
    assert "more than 32" in refusal(pictures_of, [str(photo.parent)])


def test_a_data_uri_of_50_mb_is_not_decoded(monkeypatch):
    text = "data:image/png;base64," + "A" * (50 << 20)
    monkeypatch.setattr(base64, "b64decode", None)
    told = refusal(picture_of, text, Bounds(max_bytes=16 << 20))
    assert "37.5 MiB" in told and "16 MiB" in told


def test_a_file_that_is_too_large_is_not_read(photo, monkeypatch):
    monkeypatch.setattr(type(photo), "read_bytes", None)
    assert "MiB" in refusal(picture_of, str(photo), Bounds(max_bytes=50))


@pytest.mark.parametrize(
    "text", ["data:image/png;base64", "data:text/html;base64,AAAA", "data:image/png;base64,%%%"]
)
def test_a_data_uri_that_is_none(text):
    assert "data:" in refusal(picture_of, text)


def test_a_client_opens_no_file_of_this_machine(photo):
    for name in (str(photo), f"file://{photo}", "/etc/passwd", "../photo.png", "~/x.png", ""):
        told = refusal(picture_of, name, SERVED)
        assert "no file of this machine" in told
    assert "file:" in refusal(picture_of, f"file://{photo}")


# Web addresses


class _Host(http.server.BaseHTTPRequestHandler):
    requests: list[str] = []

    def do_GET(self):
        self.requests.append(self.path)
        if self.path.startswith("/away"):
            self._to("http://example.org/x.png")
        elif self.path.startswith("/on"):
            self._to("/photo.png")
        elif self.path.startswith("/loop"):
            self._to("/loop")
        elif self.path.startswith("/file"):
            self._to("file:///etc/passwd")
        elif self.path.startswith("/large"):
            self._send(b"x" * 300_000)
        elif self.path.startswith("/none"):
            self.send_error(404)
        else:
            self._send(encoded(scene()))

    def _to(self, place):
        self.send_response(302)
        self.send_header("Location", place)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, data):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words):
        pass


@pytest.fixture
def host():
    _Host.requests = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Host) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_an_address_is_not_fetched_unless_its_host_is_allowed(host):
    address = f"http://{host}/photo.png"
    told = refusal(picture_of, address)
    assert f"--allow_url {host}" in told
    refusal(picture_of, address, Bounds(allow_url=("example.org", "127.0.0.1")))  # another port
    assert _Host.requests == []
    assert (picture_of(address, Bounds(allow_url=(host,))).rgb == scene()).all()
    assert _Host.requests == ["/photo.png"]


def test_a_redirect_stays_on_its_host(host):
    allowed = Bounds(allow_url=(host, "example.org"))
    assert (picture_of(f"http://{host}/on", allowed).rgb == scene()).all()
    assert "another host" in refusal(picture_of, f"http://{host}/away", allowed)
    assert "leads on" in refusal(picture_of, f"http://{host}/loop", allowed)
    refusal(picture_of, f"http://{host}/file", allowed)


def test_what_an_address_sends_is_bounded(host):
    told = refusal(picture_of, f"http://{host}/large", Bounds(max_bytes=100_000, allow_url=(host,)))
    assert "more than" in told
    assert "404" in refusal(picture_of, f"http://{host}/none", Bounds(allow_url=(host,)))


def test_a_host_that_sends_too_slowly_is_given_up(host, monkeypatch):
    monkeypatch.setattr(picture_urls, "WHOLE_S", 0.3)

    def trickle(self, data):
        self.send_response(200)
        self.end_headers()
        for _ in range(40):
            self.wfile.write(b"x")
            self.wfile.flush()
            threading.Event().wait(0.1)

    monkeypatch.setattr(_Host, "_send", trickle)
    began = time.monotonic()
    assert "longer than" in refusal(
        picture_of, f"http://{host}/photo.png", Bounds(allow_url=(host,))
    )
    assert time.monotonic() - began < 2  # the host goes on for four seconds


def test_a_name_that_means_this_network_is_refused(host, monkeypatch):
    port = host.rpartition(":")[2]
    rows = [(2, 1, 6, "", ("127.0.0.1", int(port)))]
    monkeypatch.setattr(picture_urls.socket, "getaddrinfo", lambda *a, **k: rows)
    told = refusal(
        picture_of, f"http://images.test:{port}/x.png", Bounds(allow_url=(f"images.test:{port}",))
    )
    assert "within this network" in told
    assert _Host.requests == []
    named = Bounds(allow_url=(f"images.test:{port}", "127.0.0.1"))
    assert picture_of(f"http://images.test:{port}/x.png", named).width == 60


@pytest.mark.parametrize(
    "address",
    [
        "http://user:word@example.org/x.png",
        "http://[::1/x.png",
        "http://example.org:99999/x.png",
        "https://evil.example.org/x.png",
        "http://example.org@169.254.169.254/x.png",
        "http://" + "a" * 9000,
    ],
)
def test_odd_addresses_are_refused_without_a_request(address):
    refusal(picture_urls.fetch, address, ("example.org",), 1000)


# PDF and folders


def test_pages_of_a_pdf_are_pictures(tmp_path, photo):
    pytest.importorskip("pypdfium2")
    (tmp_path / "scan.pdf").write_bytes(made_pdfs.page([(72, 700, 40, "RECEIPT 42")]))
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 no more")
    pages = list(picture_inputs.documents_of([str(tmp_path)]))
    by_name = {page.name: page for page in pages}
    assert set(by_name) == {"photo.png", "scan.pdf page 1", "broken.pdf"}
    scan = by_name["scan.pdf page 1"].picture
    assert max(scan.width, scan.height) == 1600 and scan.rgb.min() < 60 and scan.rgb.max() == 255
    assert by_name["broken.pdf"].fault.why and by_name["broken.pdf"].picture is None
    assert pictures_of([str(tmp_path / "scan.pdf")])[0].name == "scan.pdf page 1"
    with pytest.raises(NotFound):
        list(picture_inputs.documents_of([str(photo), str(tmp_path / "none.pdf")]))


# Words of the command line


def test_the_question_is_the_word_that_is_no_picture(photo):
    path = str(photo)
    assert ask.split_words((path, "What is this?")) == ([path], "What is this?")
    assert ask.split_words(("What is this?", path, path)) == ([path, path], "What is this?")
    assert ask.split_words((path,), "Why?") == ([path], "Why?")
    assert ask.split_words(("Is the text in cat.png red?",)) == ([], "Is the text in cat.png red?")


def test_a_missing_picture_is_not_taken_for_the_question(photo):
    for word in ("cat.png", "my cat.JPG", "/tmp/none/scan.pdf", "drawing.svg"):
        with pytest.raises(NotFound):
            ask.split_words((str(photo), word))
    with pytest.raises(SettingsError, match="neither"):
        ask.split_words((str(photo), "what", "is this?"))


def test_no_question_is_refused():
    with pytest.raises(SettingsError, match="no question"):
        ask.with_context(" ", "")
    assert ask.with_context("Why?", "It rained.").endswith("Question: Why?")
    assert ask.with_context("", "Why?") == "Why?"


@pytest.mark.parametrize(
    "text", ["[1, 2]", "{", '{"type": "object", "if": {}}', '{"$ref": "#/none"}', ""]
)
def test_a_schema_that_cannot_be_checked_is_refused(tmp_path, text):
    path = tmp_path / "schema.json"
    path.write_text(text)
    with pytest.raises(DataError):
        ask.read_schema(str(path))


# Requests


def body(messages, **more):
    return json.dumps({"messages": messages, **more}).encode()


def image(url="data:image/png;base64,AAAA"):
    return {"type": "image_url", "image_url": {"url": url}}


def words(text):
    return {"type": "text", "text": text}


def test_a_request_becomes_turns_with_markers():
    request = chat_requests.parse(
        body(
            [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [image("data:1"), words("Is <image> red?")]},
                {"role": "assistant", "content": "Yes."},
                {"role": "user", "content": "And this?"},
                {"role": "user", "content": [words("It:"), image("data:2")]},
            ],
            max_completion_tokens=7,
            stop="\n",
            temperature=1,
            seed=-1,
        ),
        "Ours.",
        4,
    )
    assert [turn.role for turn in request.turns] == ["system", "user", "assistant", "user"]
    assert request.turns[1].text == "<image>\nIs < image> red?"
    assert request.turns[3].text == "And this?\nIt:\n<image>"
    assert request.sources == ("data:1", "data:2")
    assert (request.max_tokens, request.stops) == (7, ("\n",))
    assert request.sampling.options() == {"temperature": 1.0, "seed": chat_requests.SEEDS - 1}


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("messages", "more"),
    [
        ("hi", {}),
        ([], {}),
        ([3], {}),
        ([{"role": "tool", "content": "x"}], {}),
        ([{"role": "user", "content": 3}], {}),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], {}),
        ([{"role": "user", "content": [{"type": "image_url"}]}], {}),
        ([{"role": "user", "content": [image(3)]}], {}),
        ([{"role": "system", "content": [image()]}, USER], {}),
        ([USER, {"role": "system", "content": "late"}, USER], {}),
        ([USER, {"role": "assistant", "content": "x"}], {}),
        ([{"role": "user", "content": [image()] * 5}], {}),
        ([USER], {"max_tokens": 0}),
        ([USER], {"max_tokens": 1.5}),
        ([USER], {"max_tokens": True}),
        ([USER], {"temperature": 2.5}),
        ([USER], {"temperature": "hot"}),
        ([USER], {"temperature": True}),
        ([USER], {"top_p": 0}),
        ([USER], {"seed": 1.5}),
        ([USER], {"n": 2}),
        ([USER], {"tools": [{}]}),
        ([USER], {"stop": [""]}),
        ([USER], {"stop": ["x"] * 20}),
        ([USER], {"stream": "yes"}),
        ([USER], {"response_format": {"type": "xml"}}),
        ([USER], {"response_format": {"type": "json_schema"}}),
        ([USER], {"response_format": {"type": "json_schema", "json_schema": {"schema": 3}}}),
        ([USER], {"response_format": {"type": "json_schema", "json_schema": {"schema": []}}}),
    ],
)
def test_a_request_of_another_shape_is_refused(messages, more):
    refusal(chat_requests.parse, body(messages, **more), "", 4)
