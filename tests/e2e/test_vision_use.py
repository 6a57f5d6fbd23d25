"""detect, classify and segment in use: predict, prelabel and serve with small real networks of
random weights, from the command line, the API and over HTTP."""

import base64
import csv
import io
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import hostile_requests
import httpx
import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="installed by make test")
av = pytest.importorskip("av", reason="comes with the vision extras")
pytest.importorskip("segmentation_models_pytorch", reason="comes with the vision extras")

from onecard import api  # noqa: E402
from onecard.datasets.images import reader  # noqa: E402
from onecard.errors import DataError, NotFound, SettingsError  # noqa: E402
from onecard.reporting import Reporter  # noqa: E402
from onecard.tasks.classify import model as classifiers  # noqa: E402
from onecard.tasks.detect import model as detectors  # noqa: E402
from onecard.tasks.detect import networks  # noqa: E402
from onecard.tasks.segment import model as segmenters  # noqa: E402
from onecard.training import picture_torch, yolo_network  # noqa: E402

SIDE = 64
LOW = 0.0101
"""Random weights are sure of nothing: at this score they find a lot."""
NAMES = ("<b>cat</b>", "狗")


@pytest.fixture(scope="module", autouse=True)
def same_switch_interval(one_thread):
    switch = sys.getswitchinterval()
    yield
    sys.setswitchinterval(switch)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Task -> folder of a model."""
    torch.manual_seed(0)
    root, side, silent = tmp_path_factory.mktemp("models"), (SIDE, SIDE), Reporter()
    net = classifiers.create("resnet18", 2, side, pretrained=False, reporter=silent)
    card = classifiers.card_of("resnet18", NAMES, side, "crop", "")
    picture_torch.save(net, card, root / "classify")
    net = networks.build("fcos-resnet18", 2, *side, pretrained=False, reporter=silent)
    card = detectors.card_of("fcos-resnet18", NAMES, *side, net, "")
    picture_torch.save(net, card, root / "detect")
    net = segmenters.create("unet-resnet18", 3, pretrained=False, reporter=silent)
    card = segmenters.card_of("unet-resnet18", ("background", *NAMES), side, net, "")
    picture_torch.save(net, card, root / "segment")
    return {name: root / name for name in ("classify", "detect", "segment")}


def noise(width, height, seed=0):
    """Smooth coloured noise."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height))


def as_bytes(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "in"
    for i, name in enumerate(("a/x.jpg", "b/x.jpg", "b/x.png", "b/y.tif")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        noise(90 + 20 * i, 70, i).save(root / name)
    (root / "b/bad.jpg").write_bytes(b"<!doctype html>")
    with av.open(str(root / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(5):
            frame = av.VideoFrame.from_ndarray(np.asarray(noise(96, 64, i)), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return root


def use(task, command, folder, models, out, **values):
    values = {
        "source": [str(folder)],
        "run_id": str(models[task]),
        "output_dir": str(out),
        "confidence": LOW,
        "n_threads": 1,
        **values,
    }
    return api.run(task, command, api.configure(task, command, values=values), card="cpu")


# predict


def test_detect_from_the_command_line(onecard, folder, models, tmp_path):
    out = tmp_path / "out"
    words = ("--run_id", models["detect"], "--output_dir", out, "--confidence", LOW)
    formats = ("--formats", "images,json,coco,yolo")
    run = onecard("detect", "predict", folder, *words, *formats)
    assert run.code == 0, run.err
    assert "looked at 4 pictures and 5 frames of videos" in run.out
    assert "b/bad.jpg: it is an HTML page" in run.out
    assert Image.open(out / "images/a/x.jpg").size == (90, 70)
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    objects = [each for row in rows for each in row.get("objects", ())]
    assert {each["class"] for each in objects} == set(NAMES)
    for row in rows:
        for each in row.get("objects", ()):
            x0, y0, x1, y1 = each["box"]
            assert 0 <= x0 < x1 <= row["width"] and 0 <= y0 < y1 <= row["height"]
    coco = json.loads((out / "coco.json").read_text())
    assert len(coco["annotations"]) == len(objects)
    assert [row["name"] for row in coco["categories"]] == list(NAMES)


def test_detect_in_tiles_sees_a_large_picture_in_parts(models, tmp_path):
    (tmp_path / "in").mkdir()
    noise(300, 200).save(tmp_path / "in/large.png")
    for name, tile in (("whole", 0), ("tiles", 64)):
        use("detect", "predict", tmp_path / "in", models, tmp_path / name, tile=tile, batch=4)
    whole, tiled = (
        json.loads((tmp_path / name / "results.jsonl").read_text())["objects"]
        for name in ("whole", "tiles")
    )
    assert len(tiled) > len(whole)
    assert max(each["box"][2] for each in tiled) > 250


def test_classify_writes_a_table(folder, models, tmp_path):
    result = use("classify", "predict", folder, models, tmp_path / "out", top=1)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/results.csv").read_text())))
    assert len(rows) == 9 and {row["class_1"] for row in rows} <= set(NAMES)
    assert sum(result.data["counts"].values()) == 9


def test_segment_writes_masks(folder, models, tmp_path):
    use("segment", "predict", folder, models, tmp_path / "out", batch=4)
    for name, size in (("a/x", (90, 70)), ("b/y", (150, 70)), ("clip.mp4/000004", (96, 64))):
        mask = Image.open(tmp_path / f"out/masks/{name}.png")
        assert mask.size == size and np.asarray(mask).max() <= 2
    (row,) = [
        json.loads(line)
        for line in (tmp_path / "out/results.jsonl").read_text().splitlines()
        if "y.tif" in line
    ]
    counts = np.bincount(np.asarray(Image.open(tmp_path / "out/masks/b/y.png")).ravel())
    assert sum(row["pixels"].values()) == counts.sum() == 150 * 70


def test_instances_have_outlines(folder, tmp_path):
    nets = pytest.importorskip("ultralytics.nn.tasks", reason="comes with the vision extras")
    yolo = nets.SegmentationModel("yolov8n-seg.yaml", nc=2, verbose=False)
    architecture = {"task": "segment", "yaml": yolo.yaml, "nc": 2}
    net = yolo_network.YoloNetwork(yolo_network.build(architecture), instances=True)
    card = segmenters.card_of("yolov8n-seg", NAMES, (SIDE, SIDE), net, "")
    picture_torch.save(net, card, tmp_path / "model")
    models = {"segment": tmp_path / "model"}
    use(
        "segment", "predict", folder / "a", models, tmp_path / "out",
        confidence=1e-6, formats=["images", "masks", "json", "coco"],
    )  # fmt: skip
    row = json.loads((tmp_path / "out/results.jsonl").read_text())
    assert any(each.get("outlines") for each in row["objects"])


def test_a_run_without_a_model_or_with_another_tasks_is_refused(folder, models, tmp_path):
    with pytest.raises(SettingsError, match="no model is named"):
        use("detect", "predict", folder, models, tmp_path / "out", run_id="")
    with pytest.raises(SettingsError, match="is no model of detect"):
        use("detect", "predict", folder, models, tmp_path / "out", run_id=str(models["segment"]))
    with pytest.raises(NotFound):
        use("detect", "predict", folder / "missing", models, tmp_path / "out")
    with pytest.raises(SettingsError, match="is not opened"):
        use("detect", "predict", "http://127.0.0.1/a.jpg", models, tmp_path / "out")
    with pytest.raises(SettingsError, match="nothing to resume"):
        use("detect", "predict", folder, models, "", resume=True)
    with pytest.raises(NotFound, match="no format named"):
        use("detect", "predict", folder, models, tmp_path / "out", formats=["jsn"])
    with pytest.raises(DataError, match="no picture could be looked at"):
        use("detect", "predict", folder / "b/bad.jpg", models, tmp_path / "bad")


def test_a_killed_program_leaves_whole_lines_and_goes_on(folder, models, tmp_path):
    many = tmp_path / "many"
    many.mkdir()
    for i in range(400):
        noise(64, 64, i).save(many / f"{i:03d}.png")
    out = tmp_path / "out"
    words = ["--run_id", models["classify"], "--output_dir", out, "--n_threads", 1]
    child = subprocess.Popen(
        [sys.executable, "-m", "onecard", "classify", "predict", *map(str, [many, *words])],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    results = out / "results.jsonl"
    deadline = time.monotonic() + 60
    while not (results.exists() and results.read_bytes().count(b"\n") > 20):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    lines = results.read_bytes().splitlines(keepends=True)
    assert 20 < len(lines) < 400
    assert all(json.loads(line)["name"] for line in lines[:-1])
    result = use("classify", "predict", many, models, out, confidence=0.0, resume=True)
    assert result.data["pictures"] == 400
    assert result.data["resumed"] >= len(lines) - 1


# prelabel


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_labels_can_be_read_and_imported(task, folder, models, tmp_path):
    result = use(task, "prelabel", folder, models, tmp_path / "out")
    dataset = reader.read(tmp_path / "out/yolo", task)
    names = NAMES if task == "detect" else ("background", *NAMES)
    assert dataset.classes == names and len(dataset.pictures) == 4
    assert not dataset.rejected
    tasks = json.loads((tmp_path / "out/tasks.json").read_text())
    scores = [each["predictions"][0]["score"] for each in tasks]
    assert len(tasks) == 4 and scores == sorted(scores)
    assert "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT" in result.text


def test_classes_are_sorted_into_folders(folder, models, tmp_path):
    use("classify", "prelabel", folder, models, tmp_path / "out")
    place = tmp_path / "out/folders"
    links = sorted(path for path in place.rglob("*.*") if path.is_symlink())
    empty = [each for each in place.iterdir() if each != links[0].parent]
    links[0].rename(empty[0] / links[0].name)  # a person's correction
    dataset = reader.read(place, "classify")
    assert len(dataset.pictures) == 4 and len(dataset.classes) == 2
    tasks = json.loads((tmp_path / "out/tasks.json").read_text())
    value = tasks[0]["predictions"][0]["result"][0]["value"]
    assert value["choices"][0] in NAMES


# serve


class Lines(Reporter):
    def __init__(self):
        self.lines = queue.Queue()

    def line(self, text=""):
        self.lines.put(text)


@pytest.fixture(scope="module")
def address(models, session_home):
    """Task -> address of its server, which ends with the program."""
    addresses = {}

    def start(task, **values):
        key = (task, *values.items())
        if key not in addresses:
            values = {"run_id": str(models[task]), "port": 0, "confidence": LOW, **values}
            config, reporter = api.configure(task, "serve", values=values), Lines()
            options = {"card": "cpu", "reporter": reporter}
            work = threading.Thread(
                target=api.run, args=(task, "serve", config), kwargs=options, daemon=True
            )
            work.start()
            while "http://" not in (line := reporter.lines.get(timeout=60)):
                pass
            addresses[key] = line.partition(" at ")[2].split()[0]
        return addresses[key]

    return start


PICTURE = as_bytes(noise(120, 80))
BAD = {
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>',
    "html": b"<!doctype html><p>not found",
    "truncated": as_bytes(noise(300, 300), "JPEG")[:900],
    "bomb": as_bytes(Image.new("1", (20_000, 20_000))),
    "text": b"hello",
}
ODD = {
    "gif": as_bytes(noise(60, 40), "GIF"),
    "cmyk": as_bytes(noise(60, 40).convert("CMYK"), "JPEG"),
    "grey16": as_bytes(Image.fromarray(np.full((40, 60), 9000, np.uint16))),
    "alpha": as_bytes(noise(60, 40).convert("RGBA")),
}


@pytest.mark.parametrize("task", ["detect", "classify", "segment"])
def test_a_picture_is_answered(address, task):
    url = address(task)
    facts = httpx.get(f"{url}/v1/classes").json()
    assert facts["task"] == task and facts["input"]["height"] == SIDE and facts["license"]
    names = [row["name"] for row in facts["classes"]]
    assert names[-2:] == list(NAMES)
    sent = httpx.post(f"{url}/predict", files={"file": ("a.png", PICTURE)}, timeout=60).json()
    raw = httpx.post(f"{url}/predict", content=PICTURE, timeout=60).json()
    (row,), (raw_row,) = sent["results"], raw["results"]
    assert row.pop("file") == "a.png" and raw_row.pop("file")
    assert row == raw_row and (row["width"], row["height"]) == (120, 80)
    if task == "detect":
        assert row["objects"] and row["objects"][0]["class"] in names
    elif task == "classify":
        assert sum(each["score"] for each in row["classes"]) == pytest.approx(1, abs=1e-3)
    else:
        mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(row["mask_png"]))))
        counts = dict(zip(names, np.bincount(mask.ravel(), minlength=3).tolist(), strict=True))
        assert mask.shape == (80, 120) and {k: v for k, v in counts.items() if v} == row["pixels"]


def test_a_bad_file_spoils_no_other(address):
    files = [("file", (f"{name}.jpg", content)) for name, content in (BAD | ODD).items()]
    rows = httpx.post(f"{address('classify')}/predict", files=files, timeout=60).json()["results"]
    assert [row["file"].removesuffix(".jpg") for row in rows] == [*BAD, *ODD]
    assert ["error" in row for row in rows] == [True] * len(BAD) + [False] * len(ODD)
    assert "SVG" in rows[0]["error"] and "million" in rows[3]["error"]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_alone_is_a_bad_request(address, name):
    reply = httpx.post(f"{address('classify')}/predict", content=BAD[name], timeout=60)
    assert reply.status_code == 400 and "Traceback" not in reply.text


def test_a_picture_is_turned_by_its_exif(address):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = as_bytes(noise(120, 80), "JPEG", exif=exif)
    (row,) = httpx.post(f"{address('detect')}/predict", content=turned).json()["results"]
    assert (row["width"], row["height"]) == (80, 120)


def test_fields_change_the_answer_of_their_request_only(address):
    url = f"{address('detect')}/predict"

    def count(**fields):
        reply = httpx.post(url, files={"file": PICTURE}, data=fields, timeout=60)
        return len(reply.json()["results"][0]["objects"])

    usual = count()
    assert count(confidence="0.9") == 0 and count() == usual > 0
    reply = httpx.post(f"{address('classify')}/predict?top=1", content=PICTURE).json()
    assert len(reply["results"][0]["classes"]) == 1


@pytest.mark.parametrize(
    "fields",
    [{"confidence": v} for v in ("nan", "2", "-1", "x", "1e999")]
    + [{"top": v} for v in ("0", "1.5", "x", "1e9", "inf")],
)
def test_fields_out_of_range_are_refused(address, fields):
    reply = httpx.post(f"{address('classify')}/predict", files={"file": PICTURE}, data=fields)
    assert reply.status_code == 400 and next(iter(fields)) in reply.text


def test_requests_without_a_picture_are_refused(address):
    url = f"{address('classify')}/predict"
    assert httpx.post(url).status_code == 400
    assert httpx.post(url, data={"confidence": "0.5"}, files={"file": ""}).status_code == 400
    assert httpx.post(url, files=[("file", PICTURE)] * 40).status_code == 400
    assert httpx.post(url, content=bytes(33 << 20)).status_code == 413
    assert httpx.get(url).status_code == 405


def test_the_page_asks_no_other_server_and_runs_no_names(address):
    reply = httpx.get(address("detect"))
    policy = reply.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy
    assert not any(word in reply.text for word in ("http://", "https://", "innerHTML", "src="))


def test_other_pages_and_hosts_are_kept_out(address):
    url = address("classify")
    assert httpx.get(f"{url}/v1/classes", headers={"Host": "evil.example"}).status_code == 403
    headers = {"Origin": "https://evil.example"}
    assert httpx.post(f"{url}/predict", content=PICTURE, headers=headers).status_code == 403


def test_a_token_is_demanded(address):
    url = address("classify", token="a-token-of-some-length")
    assert httpx.get(url).status_code == httpx.get(f"{url}/health").status_code == 200
    assert httpx.post(f"{url}/predict", content=PICTURE).status_code == 401
    headers = {"Authorization": "Bearer a-token-of-some-length"}
    assert httpx.get(f"{url}/v1/classes", headers=headers).status_code == 200
    assert httpx.post(f"{url}/predict", content=PICTURE, headers=headers).status_code == 200


def test_hostile_uploads_do_no_harm(address):
    url = address("classify")
    port = urlsplit(url).port
    shapes = hostile_requests.sound_shapes("/predict", PICTURE * 2)
    for shape in [shape for shape in shapes if shape.name != "too large"]:
        assert hostile_requests.send(port, shape) < 500, shape.name
    assert httpx.post(f"{url}/predict", content=PICTURE).status_code == 200


def test_many_clients_at_once_all_get_their_own_answer(address):
    url = f"{address('detect')}/predict"
    pictures = [as_bytes(noise(40 + i, 50, i)) for i in range(8)]
    replies = {}

    def ask(i):
        replies[i] = httpx.post(url, content=pictures[i], timeout=60).json()["results"][0]["width"]

    clients = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert replies == {i: 40 + i for i in range(8)}
