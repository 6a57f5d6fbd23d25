"""Vision models in use: sources and their names, videos, tiles, results that a stopped run goes on
from, files for other programs. The network is a finder of bright squares: no torch."""

import csv
import io
import json
import struct
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

av = pytest.importorskip("av", reason="installed by make test")
cv2 = pytest.importorskip("cv2", reason="installed by make test")

from onecard.datasets.images import reader  # noqa: E402
from onecard.datasets.images.records import Detection  # noqa: E402
from onecard.errors import DataError, NotFound, SettingsError  # noqa: E402
from onecard.inference import (  # noqa: E402
    picture_outcomes,
    picture_predictions,
    picture_writers,
    prelabels,
    tiles,
)
from onecard.inference.picture_log import ResultsLog  # noqa: E402
from onecard.inference.picture_model import ModelCard  # noqa: E402
from onecard.inference.picture_outcomes import Outcome  # noqa: E402
from onecard.inference.picture_sources import Source, find_sources  # noqa: E402
from onecard.inference.picture_videos import Video, VideoWriter, frames  # noqa: E402
from onecard.memory import devices  # noqa: E402
from onecard.memory.plan import Plan  # noqa: E402
from onecard.reporting import Reporter  # noqa: E402
from onecard.runs.record import Run  # noqa: E402

RUN = Run(None, Reporter(), Plan((), devices.find("cpu")))
CARD = ModelCard("detect", "squares", ("dark", "bright"), 64, 64)


def scene(width, height, boxes, level=255):
    """Black with bright rectangles."""
    rgb = np.zeros((height, width, 3), np.uint8)
    for x0, y0, x1, y1 in boxes:
        rgb[y0:y1, x0:x1] = level
    return rgb


def squares(rgb):
    """The bright rectangles of a picture; the brighter the surer."""
    mask = (rgb[..., 0] > 100).astype(np.uint8)
    _, numbers, facts, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    rows = []
    for number in range(1, len(facts)):
        x, y, wide, high, _ = map(int, facts[number])
        score = float(rgb[..., 0][numbers == number].mean()) / 256
        rows.append(Detection(1, score, x, y, x + wide, y + high))
    return sorted(rows, key=lambda box: -box.score)


def corners(boxes):
    return sorted((round(b.x0), round(b.y0), round(b.x1), round(b.y1)) for b in boxes)


def answer(pictures):
    return [Outcome(p.shape[1], p.shape[0], objects=tuple(squares(p))) for p in pictures]


def save(path, rgb, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path, **options)
    return path


def work_for(out, *source, **more):
    options = {"formats": ("json",), "settings": {"model": "squares"}, **more}
    return picture_predictions.Work(
        card=CARD, answer=options.pop("answer", answer), out=out, source=tuple(map(str, source)),
        **options,
    )  # fmt: skip


def predict(out, *source, **more):
    return picture_predictions.predict(work_for(out, *source, **more), RUN)


def rows_of(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def film(path, n=20, rate=10, size=(64, 48), times=None):
    """A video whose n-th frame has a square at x = 2n, drawn with its own number's brightness."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "5", "g": "5"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i in range(n):
            frame = av.VideoFrame.from_ndarray(
                scene(*size, [(2 * i, 8, 2 * i + 16, 24)]), format="rgb24"
            )
            if times:
                stream.codec_context.time_base = frame.time_base = Fraction(1, 1000)
                frame.pts = round(times[i] * 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


# Sources


def test_sources_have_names_of_their_own(tmp_path):
    for name in ("a/x.jpg", "b/x.jpg", "b/x.png", "b/deep/y.JPG", "b/.hidden.jpg", "b/notes.txt"):
        save(tmp_path / name, scene(8, 8, []), format="PNG")
    film(tmp_path / "b/clip.mp4", n=2)
    sources = find_sources([str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "a/x.jpg")])
    names = sorted(row.name for row in sources.rows)
    assert names == ["b/x.jpg", "clip.mp4", "deep/y.JPG", "x.jpg", "x.png"]
    assert len({row.path for row in sources.rows}) == 5
    assert not any(row.kind == "video" for row in find_sources([str(tmp_path)], videos=False).rows)


def test_a_pattern_finds_and_keeps_the_folders_after_its_fixed_part(tmp_path):
    for name in ("s/1/a.jpg", "s/2/a.jpg", "s/2/b.png", "s/2/c.txt"):
        save(tmp_path / name, scene(8, 8, []), format="PNG")
    sources = find_sources([str(tmp_path / "s/*/a*")])
    assert [row.name for row in sources.rows] == ["1/a.jpg", "2/a.jpg"]
    assert len(find_sources([str(tmp_path / "s/**/*")]).rows) == 3


@pytest.mark.parametrize(
    "word",
    ["http://127.0.0.1/a.jpg", "rtsp://camera/1", "file:///etc/passwd", "concat:a|b", "data:x,y"],
)
def test_an_address_is_refused(word):
    with pytest.raises(SettingsError, match="is not opened"):
        find_sources([word])


def test_a_file_whose_name_looks_like_an_address_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(Path("at:noon.png"), scene(8, 8, []))
    assert find_sources(["at:noon.png"]).rows[0].name == "at:noon.png"


def test_nothing_there_is_told(tmp_path):
    with pytest.raises(SettingsError):
        find_sources([])
    with pytest.raises(NotFound, match="nothing to look at"):
        find_sources([str(tmp_path / "missing.jpg")])
    save(tmp_path / "a.png", scene(8, 8, []))
    sources = find_sources([str(tmp_path / "a.png"), str(tmp_path / "b.png")])
    assert len(sources.rows) == len(sources.rejected) == 1


def test_a_missing_webcam_is_refused_in_plain_words(tmp_path):
    with pytest.raises(DataError, match="no picture") as fault:
        predict(tmp_path / "out", "webcam:77")
    assert "no camera" in fault.value.why


# Videos


def shots(path, *args):
    video = Video(Source("video", path, path.name))
    return list(frames(video, *args)), video.warnings


def left_edge(shot):
    """Of the square, in steps of two: the number of the frame that was filmed."""
    return round(np.flatnonzero(shot.rgb[16, :, 0] > 128)[0] / 2)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "mov"])
def test_frames_have_numbers_and_times(tmp_path, suffix):
    path = film(tmp_path / f"a.{suffix}")
    every, warnings = shots(path)
    assert [left_edge(shot) for shot in every] == list(range(20))
    assert [shot.time_s for shot in every] == pytest.approx([i / 10 for i in range(20)], abs=0.02)
    assert not warnings


def test_a_part_of_a_video_and_every_third_frame(tmp_path):
    path = film(tmp_path / "a.mp4")
    some, _ = shots(path, 0.7, 1.5, 3)
    assert [left_edge(shot) for shot in some] == [7, 10, 13]
    assert [shot.frame for shot in some] == [0, 1, 2]
    _, warnings = shots(path, 60.0)
    assert "before --start_s" in warnings[0]


def test_a_video_that_breaks_off_gives_what_it_has(tmp_path):
    path = film(tmp_path / "a.mkv", n=60, rate=10)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    some, warnings = shots(path)
    assert 10 < len(some) < 60
    assert "breaks off" in warnings[0]


def test_damage_in_the_middle_does_not_end_a_video(tmp_path):
    path = film(tmp_path / "a.mp4", n=60)
    content = bytearray(path.read_bytes())
    start, end = content.find(b"mdat") + 4, content.find(b"moov") - 4
    middle = (start + end) // 2
    content[middle : middle + 200] = np.random.default_rng(0).bytes(200)
    path.write_bytes(bytes(content))
    some, _ = shots(path)
    assert some[-1].time_s == pytest.approx(5.9, abs=0.11)


def test_a_film_of_a_phone_is_turned_upright(tmp_path):
    path = film(tmp_path / "a.mp4", n=3)
    content = path.read_bytes()
    place = content.index(b"tkhd") + 4 + 40
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:place] + turned + content[place + 36 :])
    (first, *_), _ = shots(path)
    # a quarter turn clockwise, as the matrix says: the top left square comes to the top right
    assert first.rgb.shape == (64, 48, 3)
    ((x0, y0, x1, y1),) = corners(squares(first.rgb))
    assert (x0, y0, x1, y1) == pytest.approx((48 - 24, 0, 48 - 8, 16), abs=1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{file}\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile {file}\n",
        b"<html>",
        b"\0" * 5000,
    ],
)
def test_what_is_no_video_is_refused_and_no_other_file_is_opened(tmp_path, content):
    other = film(tmp_path / "secret.mp4", n=3)
    path = tmp_path / "a.mp4"
    path.write_bytes(content.replace(b"{file}", str(other).encode()))
    with pytest.raises(DataError):
        shots(path)


def test_a_written_video_keeps_times_and_odd_sides(tmp_path):
    times = [0.0, 0.04, 0.5, 0.52, 1.7]
    with VideoWriter(tmp_path / "a.mp4", 25.0) as writer:
        for time_s in times:
            writer.write(scene(33, 27, [(4, 4, 20, 20)]), time_s)
        writer.write(scene(66, 54, []), 2.0)
    some, _ = shots(tmp_path / "a.mp4")
    assert [shot.time_s for shot in some] == pytest.approx([*times, 2.0], abs=0.001)
    assert some[0].rgb.shape == (28, 34, 3)
    assert corners(squares(some[0].rgb)) == [(4, 4, 20, 20)]


# Tiles


@pytest.mark.parametrize(("width", "height"), [(500, 380), (100, 1000), (101, 99), (7, 300)])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5])
def test_tiles_cover_the_picture(width, height, overlap):
    covered = np.zeros((height, width), int)
    for x0, y0, x1, y1 in tiles.windows(width, height, 100, overlap):
        assert x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height
        assert x1 - x0 == min(100, width) and y1 - y0 == min(100, height)
        covered[y0:y1, x0:x1] += 1
    assert covered.min() >= 1


def blind_whole(side):
    """A finder that sees nothing in pictures larger than `side`: as a network to which small
    objects of a large picture are less than a pixel."""
    return lambda pictures: [[] if max(p.shape[:2]) > side else squares(p) for p in pictures]


OBJECTS = {
    "inside one tile": [(10, 10, 30, 30)],
    "over an edge": [(90, 40, 110, 60)],
    "over a corner of four": [(85, 85, 105, 105)],
    "longer than a tile": [(20, 40, 380, 60)],
    "wider and higher than tiles": [(30, 30, 330, 280)],
    "two side by side": [(85, 20, 99, 40), (103, 20, 120, 40)],
    "at the picture's own edge": [(380, 280, 400, 300), (0, 0, 12, 12)],
}


@pytest.mark.parametrize("boxes", OBJECTS.values(), ids=OBJECTS)
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.4])
@pytest.mark.parametrize("whole", [True, False])
def test_each_object_comes_once_and_whole(boxes, overlap, whole):
    find = (lambda pictures: [squares(p) for p in pictures]) if whole else blind_whole(100)
    result = tiles.detect(find, scene(400, 300, boxes), 100, overlap)
    assert corners(result) == sorted(boxes)


def test_classes_are_merged_apart():
    def find(pictures):
        return [
            [*boxes, *(Detection(0, b.score, b.x0, b.y0, b.x1, b.y1) for b in boxes)]
            for boxes in map(squares, pictures)
        ]

    result = tiles.detect(find, scene(400, 300, [(90, 40, 110, 60)]), 100)
    assert sorted(box.label for box in result) == [0, 1]


def test_boxes_of_one_view_both_stay():
    """Two objects that overlap much: the network's own suppression has let them both through."""
    pair = [Detection(0, 0.9, 10, 10, 30, 30), Detection(0, 0.8, 12, 10, 32, 30)]

    def find(pictures):
        return [list(pair) if p.shape[1] > 100 else [] for p in pictures]

    result = tiles.detect(find, scene(300, 100, []), 100)
    assert len(result) == 2


def test_random_boxes_at_random_tiles_come_back():
    random = np.random.default_rng(0)
    for _ in range(30):
        cells = random.permutation(30)[:8]
        boxes = []
        for cell in cells:
            x, y = int(cell % 6) * 60, int(cell // 6) * 60
            w, h = random.integers(5, 50, 2)
            boxes.append((x + 2, y + 2, x + 2 + int(w), y + 2 + int(h)))
        side = int(random.integers(90, 200))
        rgb = scene(360, 300, boxes)
        result = tiles.detect(blind_whole(side), rgb, side, float(random.uniform(0, 0.6)))
        assert corners(result) == sorted(boxes)


def test_views_of_a_large_picture_go_a_batch_at_a_time():
    sizes = []

    def find(pictures):
        sizes.append(sum(p.size for p in pictures))
        return [[] for _ in pictures]

    tiles.detect(find, scene(1000, 1000, []), 100, 0.2, batch=4)
    assert len(sizes) > 30 and max(sizes[1:]) <= 4 * 100 * 100 * 3


# The loop


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "in"
    save(root / "a/x.png", scene(64, 48, [(4, 4, 20, 20), (30, 10, 50, 40)]))
    save(root / "b/x.png", scene(64, 48, []))
    save(root / "b/x.bmp", scene(30, 40, [(1, 2, 11, 22)], level=150))
    (root / "b/bad.jpg").write_bytes(b"<html>no")
    film(root / "clip.mp4", n=6)
    return root


EVERY = ("images", "json", "coco", "yolo")


def test_all_formats(tmp_path, folder):
    out = tmp_path / "out"
    result = predict(out, folder, formats=EVERY, batch=3)
    assert result.data["pictures"] == 3 and result.data["frames"] == 6
    assert [row["where"] for row in result.data["failed"]] == ["b/bad.jpg"]
    assert result.data["counts"] == {"bright": 9}
    assert "b/bad.jpg: it is an HTML page" in result.text
    drawn = {p.relative_to(out / "images").as_posix() for p in (out / "images").rglob("*.*")}
    assert drawn == {"a/x.png", "b/x.png", "b/x.bmp.jpg", "clip.mp4"}
    assert Image.open(out / "images/a/x.png").size == (64, 48)
    assert len(shots(out / "images/clip.mp4")[0]) == 6
    whole = json.loads((out / "results.json").read_text())
    row = next(row for row in whole["results"] if row["name"] == "a/x.png")
    assert sorted(each["box"] for each in row["objects"]) == [[4, 4, 20, 20], [30, 10, 50, 40]]
    assert row["objects"][0]["class"] == "bright" and whole["classes"] == ["dark", "bright"]


def test_coco_is_read_by_its_own_tool_and_by_the_reader(tmp_path, folder):
    pycocotools = pytest.importorskip("pycocotools.coco")
    (folder / "clip.mp4").unlink()
    predict(tmp_path / "out", folder, formats=("coco",))
    path = tmp_path / "out/coco.json"
    coco = json.loads(path.read_text())
    assert [row["name"] for row in coco["categories"]] == ["dark", "bright"]
    assert len(pycocotools.COCO(str(path)).getAnnIds()) == 3
    assert all(0 < row["score"] <= 1 for row in coco["annotations"])
    path.rename(folder / "instances.json")
    dataset = reader.read(folder / "instances.json", "detect")
    boxes = {picture.name: corners(picture.boxes) for picture in dataset.pictures}
    assert boxes["a/x.png"] == [(4, 4, 20, 20), (30, 10, 50, 40)]
    labels = {box.label for picture in dataset.pictures for box in picture.boxes}
    assert [dataset.classes[label] for label in labels] == ["bright"]


def test_yolo_has_scores_only_where_asked(tmp_path, folder):
    predict(tmp_path / "out", folder, formats=("yolo",))
    labels = tmp_path / "out/labels"
    assert (labels / "b/x.txt").exists() and (labels / "b/x.png.txt").exists()
    assert (labels / "clip.mp4/000005.txt").exists()
    lines = (labels / "a/x.txt").read_text().splitlines()
    assert {len(line.split()) for line in lines} == {5}
    assert "1 0.187500 0.250000 0.250000 0.333333" in lines
    work = work_for(tmp_path / "conf", folder / "a", formats=("yolo",))
    picture_predictions.predict(work, RUN, save_conf=True)
    assert len((tmp_path / "conf/labels/x.txt").read_text().splitlines()[0].split()) == 6


def test_a_folder_with_results_is_not_overwritten(tmp_path, folder):
    out = tmp_path / "out"
    predict(out, folder)
    before = (out / "results.jsonl").read_bytes()
    with pytest.raises(SettingsError, match="holds results already"):
        predict(out, folder)
    with pytest.raises(SettingsError, match="other settings"):
        predict(out, folder, resume=True, settings={"model": "another"})
    assert (out / "results.jsonl").read_bytes() == before


class Killed(BaseException):
    pass


def killed_after(n):
    count = 0

    def find(pictures):
        nonlocal count
        count += len(pictures)
        if count > n:
            raise Killed
        return answer(pictures)

    return find


@pytest.mark.parametrize("n", range(9))
def test_a_killed_run_goes_on_to_the_same_results(tmp_path, folder, n):
    predict(tmp_path / "whole", folder, formats=EVERY)
    out = tmp_path / "out"
    with pytest.raises(Killed):
        predict(out, folder, formats=EVERY, answer=killed_after(n))
    assert len([row for row in rows_of(out) if "width" in row]) == n
    with (out / "results.jsonl").open("ab") as file:
        file.write(b'{"source": "half a li')
    looked = []

    def count(pictures):
        looked.extend(pictures)
        return answer(pictures)

    result = predict(out, folder, formats=EVERY, answer=count, resume=True)
    assert len(looked) == 9 - n
    assert result.data["counts"] == {"bright": 9}
    assert result.data["pictures"] == 3 and result.data["frames"] == 6

    def found(folder):
        rows = (row for row in rows_of(folder) if "width" in row)
        return sorted((row["name"], row.get("frame", -1), str(row["objects"])) for row in rows)

    assert found(out) == found(tmp_path / "whole")
    assert len(shots(out / "images/clip.mp4")[0]) == 6
    for name in ("coco.json", "labels/a/x.txt", "labels/clip.mp4/000003.txt"):
        assert (out / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_results_inside_the_folder_that_is_looked_at_are_no_sources(tmp_path, folder):
    out = folder / "out"
    predict(out, folder, formats=("images",))
    result = predict(out, folder, formats=("images",), resume=True)
    assert result.data["pictures"] == 3


def test_odd_names_do_no_harm(tmp_path):
    names = ["ü ñ.png", "a\nb.png", "=1+1.png", "x" * 240 + ".png", "\udce9.png"]
    for name in names:
        try:
            save(tmp_path / "in" / name, scene(16, 16, [(2, 2, 9, 9)]))
        except (OSError, UnicodeError):
            names = [each for each in names if each != name]
    out = tmp_path / "out"
    result = predict(out, tmp_path / "in", formats=EVERY)
    assert result.data["pictures"] == len(names)
    again = predict(out, tmp_path / "in", formats=EVERY, resume=True)
    assert again.data["resumed"] == len(names)
    json.loads((out / "coco.json").read_text())


def test_only_bad_pictures_are_an_error(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="no picture could be looked at"):
        predict(tmp_path / "out", tmp_path / "a.jpg")


def test_a_folder_that_cannot_be_one_is_told(tmp_path, folder):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        predict(tmp_path / "out", folder)


def test_thousands_of_boxes_in_hundreds_of_tiles_take_seconds():
    random = np.random.default_rng(0)

    def find(pictures):
        rows = []
        for picture in pictures:
            corners = random.uniform(0, picture.shape[0] - 5, (200, 2))
            sides = random.uniform(2, 60, (200, 2))
            rows.append(
                [
                    Detection(i % 2, 0.5, x, y, min(x + w, 100), min(y + h, 100))
                    for i, ((x, y), (w, h)) in enumerate(zip(corners, sides, strict=True))
                ]
            )
        return rows

    started = time.monotonic()
    assert len(tiles.detect(find, scene(800, 800, []), 100)) > 1000
    assert time.monotonic() - started < 20


def test_a_second_program_does_not_write_to_the_same_folder(tmp_path, folder):
    def find(pictures):
        with pytest.raises(SettingsError, match="in use"):
            predict(tmp_path / "out", folder)
        return answer(pictures)

    predict(tmp_path / "out", folder / "a", answer=find)


def test_a_run_goes_on_with_its_own_results_after_memory_ran_out(tmp_path):
    with ResultsLog(tmp_path, {"a": 1}, resume=False, run_id="r1") as log:
        log.write({"source": "a", "width": 1})
    with ResultsLog(tmp_path, {"a": 1}, resume=False, run_id="r1") as log:
        assert ("a", -1) in log
    with pytest.raises(SettingsError, match="holds results already"):
        ResultsLog(tmp_path, {"a": 1}, resume=False, run_id="r2")


def test_a_log_keeps_the_later_of_two_rows(tmp_path):
    with ResultsLog(tmp_path, {}, resume=False) as log:
        log.write({"source": "a", "error": "no"})
        assert ("a", -1) not in log
        log.write({"source": "a", "width": 1})
        assert ("a", -1) in log and [row.get("width") for row in log.rows()] == [1]


# Classes and maps


def class_answer(pictures):
    rows = [np.array([p.mean() / 255, 1 - p.mean() / 255], np.float32) for p in pictures]
    sizes = [(p.shape[1], p.shape[0]) for p in pictures]
    return [Outcome(*size, probabilities=row) for size, row in zip(sizes, rows, strict=True)]


def test_classes_go_to_a_table(tmp_path, folder):
    result = predict(tmp_path / "out", folder, answer=class_answer, formats=("csv", "images"))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/results.csv").read_text())))
    assert len(rows) == 9 and rows[0]["class_1"] == "bright"
    assert float(rows[0]["score_1"]) + float(rows[0]["score_2"]) == pytest.approx(1, abs=1e-4)
    assert result.data["counts"] == {"bright": 9} and "pictures" in result.text


def map_answer(pictures):
    return [
        Outcome(
            p.shape[1],
            p.shape[0],
            classes=(p[..., 0] > 100).astype(np.uint8),
            sureness=np.full(p.shape[:2], 0.75, np.float32),
        )
        for p in pictures
    ]


MAP_CARD = ModelCard("segment", "squares", ("background", "bright"), 64, 64)


def test_maps_are_masks_and_outlines(tmp_path, folder):
    work = work_for(
        tmp_path / "out", folder, answer=map_answer, formats=("images", "masks", "json", "yolo")
    )
    work = replace(work, card=MAP_CARD)
    picture_predictions.predict(work, RUN)
    out = tmp_path / "out"
    mask = np.asarray(Image.open(out / "masks/a/x.png"))
    expected = scene(64, 48, [(4, 4, 20, 20), (30, 10, 50, 40)])[..., 0] // 255
    assert mask.dtype == np.uint8 and np.array_equal(mask, expected)
    assert (out / "masks/clip.mp4/000005.png").exists()
    (row,) = [row for row in rows_of(out) if row["name"] == "a/x.png"]
    assert row["pixels"] == {"background": 64 * 48 - 856, "bright": 856}
    assert sorted(each["box"] for each in row["objects"]) == [[4, 4, 20, 20], [30, 10, 50, 40]]
    assert row["objects"][0]["score"] == 0.75
    assert len((out / "labels/a/x.txt").read_text().splitlines()[0].split()) == 9


def test_instances_fill_a_mask_with_their_class_and_one():
    square = (2.0, 2.0, 6.0, 2.0, 6.0, 6.0, 2.0, 6.0)
    outcome = Outcome(8, 8, objects=(Detection(1, 0.9, 2, 2, 6, 6, (square,)),))
    mask = np.asarray(picture_writers.mask_image(outcome, ("a", "b")))
    assert mask[4, 4] == 2 and mask.sum() == 32


def test_more_than_256_classes_need_16_bits():
    labels = np.full((4, 4), 300, np.int32)
    mask = picture_writers.mask_image(Outcome(4, 4, classes=labels), [str(i) for i in range(400)])
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    assert np.asarray(Image.open(buffer)).max() == 300


def test_a_row_gives_its_outcome_back():
    outcome = Outcome(9, 7, objects=(Detection(1, 0.5, 1, 2, 3, 4, ((1, 2, 3, 2, 3, 4),)),))
    row = json.loads(json.dumps(picture_outcomes.to_row(outcome, CARD.classes)))
    assert picture_outcomes.from_row(row, CARD.classes) == outcome


# Labels to correct


def prelabel(out, *source, card=CARD, **more):
    options = {"videos": False, "formats": ("yolo", "label-studio"), **more}
    work = replace(work_for(out, *source, **options), card=card)
    return prelabels.prelabel(work, RUN)


def test_labels_are_a_data_set_that_can_be_read(tmp_path, folder):
    result = prelabel(tmp_path / "out", folder)
    dataset = reader.read(tmp_path / "out/yolo", "detect")
    assert dataset.classes == ("dark", "bright") and len(dataset.pictures) == 3
    assert not dataset.rejected
    boxes = {p.name.split("images/")[-1]: corners(p.boxes) for p in dataset.pictures}
    assert boxes["a/x.png"] == [(4, 4, 20, 20), (30, 10, 50, 40)]
    assert "in 1 nothing was found" in result.text


def test_the_least_sure_come_first_and_the_empty_last(tmp_path, folder):
    prelabel(tmp_path / "out", folder)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/order.csv").read_text())))
    assert [row["picture"] for row in rows] == ["b/x.bmp", "a/x.png", "b/x.png"]
    assert rows[2]["least_score"] == "" and rows[2]["objects"] == "0"


def test_label_studio_gets_percent_of_the_picture(tmp_path, folder):
    prelabel(tmp_path / "out", folder)
    tasks = json.loads((tmp_path / "out/tasks.json").read_text())
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=in/b/x.bmp"
    prediction = tasks[0]["predictions"][0]
    (region,) = prediction["result"]
    assert region["value"]["rectanglelabels"] == ["bright"]
    assert region["value"]["x"] == pytest.approx(100 * 1 / 30, abs=0.001)
    assert region["value"]["height"] == pytest.approx(100 * 20 / 40, abs=0.001)
    assert (region["from_name"], region["to_name"], region["type"]) == (
        "label", "image", "rectanglelabels",
    )  # fmt: skip
    assert prediction["model_version"] == "squares" and 0 < prediction["score"] < 1
    assert '<Label value="bright"' in (tmp_path / "out/labeling_config.xml").read_text()
    assert tasks[2]["predictions"][0]["result"] == []


def test_a_correction_survives_a_resumed_run(tmp_path, folder):
    prelabel(tmp_path / "out", folder)
    label = tmp_path / "out/yolo/labels/a/x.txt"
    label.write_text("0 0.5 0.5 0.1 0.1\n")
    save(folder / "c/new.png", scene(20, 20, [(2, 2, 9, 9)]))
    prelabel(tmp_path / "out", folder, resume=True)
    assert label.read_text() == "0 0.5 0.5 0.1 0.1\n"
    assert (tmp_path / "out/yolo/labels/c/new.txt").read_text()
    assert len(json.loads((tmp_path / "out/tasks.json").read_text())) == 4


def test_outlines_are_polygons_of_few_corners(tmp_path):
    rgb = np.zeros((200, 200, 3), np.uint8)
    cv2.circle(rgb, (100, 100), 70, (255, 255, 255), -1)
    save(tmp_path / "in/round.png", rgb)
    prelabel(tmp_path / "out", tmp_path / "in", card=MAP_CARD, answer=map_answer)
    (task,) = json.loads((tmp_path / "out/tasks.json").read_text())
    (region,) = task["predictions"][0]["result"]
    points = np.array(region["value"]["points"]) * 2
    assert region["type"] == "polygonlabels" and 12 < len(points) < 120
    assert cv2.contourArea(points.astype(np.float32)) == pytest.approx(np.pi * 70**2, rel=0.03)
    dataset = reader.read(tmp_path / "out/yolo", "segment")
    assert dataset.pictures[0].boxes[0].polygons


def test_classes_are_folders_a_table_and_choices(tmp_path, folder):
    card = ModelCard("classify", "light", ("../up", "b & <c>"), 64, 64)
    result = prelabel(
        tmp_path / "out", folder, card=card, answer=class_answer,
        formats=("folders", "csv", "label-studio"),
    )  # fmt: skip
    place = tmp_path / "out/folders"
    assert sorted(path.name for path in place.iterdir()) == ["_._up", "b & _c_"]
    links = sorted(path.relative_to(place) for path in place.rglob("*.*") if path.is_symlink())
    assert list(map(str, links)) == ["b & _c_/a-x.png", "b & _c_/b-x.bmp", "b & _c_/b-x.png"]
    assert Image.open(place / links[0]).size == (64, 48)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/labels.csv").read_text())))
    assert {row["label"] for row in rows} == {"b & <c>"}
    labels = (tmp_path / "out/labeling_config.xml").read_text()
    assert '<Choice value="b &amp; &lt;c&gt;"/>' in labels
    assert result.data["pictures"] == 3
