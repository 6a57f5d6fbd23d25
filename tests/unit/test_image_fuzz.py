"""2,000 label files with wrong numbers, cut text and changed bytes: each label becomes a box or a
listed fault, and nothing but DataError is raised."""

import json
import os
import random

import made_pictures
import pytest

from onecard.datasets.images.check import check
from onecard.datasets.images.reader import read
from onecard.errors import DataError, OneCardError

NUMBERS = (
    *("0", "1", "0.5", ".25", "0.9", "1.0", "-0", "-1", "2", "7", "1e3", "1e400", "nan", "-inf"),
    *("", "x", "0,5", "٣", "1_0", "0x1", "--", "é", "\x00", "1" * 400, "null", "[]", "true"),
)
N_YOLO, N_VOC, N_SETS = 1000, 600, 400


def pictures(root, n):
    """n links to one small picture: the labels are what differs."""
    first = made_pictures.save(root / "p0000.png", made_pictures.scene(0, 20, 10, 0).rgb)
    for i in range(1, n):
        os.link(first, root / f"p{i:04d}.png")


def numbers(source, n):
    """Mostly valid."""
    return [
        f"{source.uniform(0.2, 0.6):.3f}" if source.random() < 0.85 else source.choice(NUMBERS)
        for _ in range(n)
    ]


def yolo_text(source):
    lines = []
    for _ in range(source.randrange(5)):
        words = [source.choice("0011239"), *numbers(source, source.choice((4, 4, 4, 3, 5, 6, 9)))]
        lines.append(source.choice(("", " ", "\t")) + " ".join(words) + source.choice(("", "\r")))
    return "\n".join(lines)


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_every_line_of_a_yolo_label_is_a_box_or_listed(tmp_path, task):
    source = random.Random(task)
    n = N_YOLO // 2
    pictures(tmp_path, n)
    (tmp_path / "data.yaml").write_text("train: .\nval: .\nnames: [a, b, c]\n")
    counts = {}
    for i in range(n):
        text = yolo_text(source)
        (tmp_path / f"p{i:04d}.txt").write_text(text)
        counts[f"p{i:04d}"] = sum(bool(line.strip()) for line in text.split("\n"))
    dataset = read(tmp_path, task)
    boxes = {picture.path.stem: len(picture.boxes) for picture in dataset.pictures}
    faults = dict.fromkeys(counts, 0)
    broken_files, left_out = set(), set()
    for row in dataset.rejected:
        file, _, line = row.where.partition(":")
        if line:
            faults[file[:5]] += 1
        else:
            (left_out if file.endswith(".png") else broken_files).add(file[:5])
    for stem, n_lines in counts.items():
        if stem in broken_files:
            assert stem in left_out
            continue
        assert boxes.get(stem, 0) + faults[stem] == n_lines
        assert (stem in boxes) != (stem in left_out)
    assert sum(boxes.values()) > 50 and sum(faults.values()) > 100 and left_out
    for picture in dataset.pictures:
        for box in picture.boxes:
            assert 0 <= box.x0 < box.x1 <= 20 and 0 <= box.y0 < box.y1 <= 10


def voc_object(source):
    name = source.choice(("cat", "dog", "猫", "", " "))
    corners = [str(round(20 * float(each))) if each[:2] == "0." else each
               for each in numbers(source, 4)]  # fmt: skip
    tags = ["xmin", "ymin", "xmax", "ymax"]
    if source.random() < 0.1:
        tags.pop()
    rows = "".join(
        f"<{tag}>{text.replace(chr(0), '')}</{tag}>"
        for tag, text in zip(tags, corners, strict=False)
    )
    box = f"<bndbox>{rows}</bndbox>" if source.random() < 0.95 else ""
    return f"\n<object><name>{name}</name>{box}</object>"


def test_every_object_of_a_voc_file_is_a_box_or_listed(tmp_path):
    source = random.Random(0)
    pictures(tmp_path, N_VOC)
    counts = {}
    for i in range(N_VOC):
        objects = [voc_object(source) for _ in range(source.randrange(4))]
        text = f"<annotation><filename>p{i:04d}.png</filename>{''.join(objects)}</annotation>"
        if i % 10 == 9:
            text = text[: source.randrange(12, len(text))]
        (tmp_path / f"p{i:04d}.xml").write_text(text, encoding="utf-8")
        counts[f"p{i:04d}"] = len(objects)
    dataset = read(tmp_path, "detect")
    boxes = {picture.path.stem: len(picture.boxes) for picture in dataset.pictures}
    faults = [row.where for row in dataset.rejected]
    for i, (stem, n_objects) in enumerate(counts.items()):
        n_faults = sum(where.startswith(f"{stem}.xml:") for where in faults)
        if i % 10 == 9:
            assert f"{stem}.xml" in faults
        else:
            assert boxes.get(stem, 0) + n_faults == n_objects
    assert sum(boxes.values()) > 100


def changed(source, text):
    """A few bytes changed, left out or doubled, or values replaced."""
    data = bytearray(text.encode())
    for _ in range(source.choice((1, 1, 2, 5))):
        at = source.randrange(len(data))
        kind = source.randrange(4)
        if kind == 0:
            data[at] = source.randrange(256)
        elif kind == 1:
            del data[at : at + source.choice((1, 3, 30))]
        elif kind == 2:
            data[at:at] = data[at : at + source.choice((1, 3, 30))]
        else:
            data[at:at] = source.choice(NUMBERS).encode()
        data = data or bytearray(b"x")
    return bytes(data)


def json_changed(source, value, depth=0):
    """A JSON value with some parts replaced by others of another kind."""
    if source.random() < 0.02 and depth:
        return source.choice(
            (None, [], {}, -1, 0, 1e308, "x", "../../etc/passwd", True, [[]], {"": 0})
        )
    if isinstance(value, dict):
        return {key: json_changed(source, each, depth + 1) for key, each in value.items()}
    if isinstance(value, list):
        return [json_changed(source, each, depth + 1) for each in value]
    return value


FILES = {
    "yolo": (made_pictures.write_yolo, "data.yaml", "detect"),
    "coco": (made_pictures.write_coco, "annotations/instances_train2017.json", "detect"),
    "outlines": (made_pictures.write_coco, "annotations/instances_train2017.json", "segment"),
    "voc": (made_pictures.write_voc, "Annotations/scene000.xml", "detect"),
    "label-studio": (made_pictures.write_label_studio, "project.json", "detect"),
    "csv": (made_pictures.write_csv, "labels.csv", "detect"),
}


@pytest.mark.parametrize("form", FILES)
def test_changed_files_give_a_data_set_or_a_refusal(tmp_path, form):
    write, name, task = FILES[form]
    items = made_pictures.scenes(3, n_val=1, width=32, height=24)
    root = write(tmp_path / "set", items)
    whole, source = (root / name).read_text(), random.Random(form)
    names = {each.name for each in items}
    n_read = 0
    for i in range(N_SETS // len(FILES)):
        if name.endswith(".json") and i % 2:
            text = json.dumps(json_changed(source, json.loads(whole))).encode()
        else:
            text = changed(source, whole)
        (root / name).write_bytes(text)
        try:
            dataset = read(root, task)
        except DataError as refusal:
            assert refusal.why and refusal.fix
            continue
        n_read += 1
        for picture in dataset.pictures:
            assert picture.path.name in names and picture.path.resolve().is_relative_to(root)
            for box in picture.boxes:
                assert 0 <= box.label < len(dataset.classes)
                assert 0 <= box.x0 < box.x1 <= 32 and 0 <= box.y0 < box.y1 <= 24
    assert n_read > 10
    try:
        check(root, task)
    except OneCardError as refusal:
        assert refusal.fix
