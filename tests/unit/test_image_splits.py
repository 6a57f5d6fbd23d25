"""Groups, duplicates, splits, the check and contact sheets."""

import io
import json
from itertools import pairwise
from pathlib import Path

import made_pictures
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from onecard.datasets.images import check, duplicates, groups, sheets, splits
from onecard.datasets.images.reader import read
from onecard.datasets.images.records import Box, Detection, ImageDataset, Picture
from onecard.errors import DataError


def pictures_of(*rgbs, folder, splits=""):
    paths = [made_pictures.save(folder / f"p{i:03d}.png", rgb) for i, rgb in enumerate(rgbs)]
    return [Picture(path, path.name, *Image.open(path).size, split=splits) for path in paths]


def named(*names, split=""):
    return [Picture(Path(name), name, 64, 48, split=split) for name in names]


def data_set(pictures, classes=("a", "b")):
    return ImageDataset(Path("set"), "folders", classes, list(pictures))


# Groups


@pytest.mark.parametrize(
    "names",
    [
        [f"{i:04d}.jpg" for i in range(60)],
        [f"BloodImage_{i:05d}.jpg" for i in range(60)],
        [f"cat.{i}.jpg" for i in range(60)],
        [f"cat ({i}).jpg" for i in range(60)],
        [f"n02085620_{i}.jpg" for i in range(60)],
        [f"00000{1000 + 7 * i}.jpg" for i in range(60)],
        [f"2007_{i:06d}.jpg" for i in range(60)],
        [f"DJI_{i:04d}.JPG" for i in range(60)],
        [f"1600000{i:03d}.jpg" for i in range(60)],
        [f"afro_videogame_{i}.jpg" for i in range(60)],
        [f"train/cats/IMG_2023010{i % 9 + 1}_1{i % 10}{i % 6}000.jpg" for i in range(54)],
    ],
    ids=lambda names: names[0],
)
def test_ordinary_numbers_make_no_groups(names):
    pictures, notes = groups.with_groups(named(*names))
    assert {picture.group for picture in pictures} == {""} and not notes


@pytest.mark.parametrize(
    ("names", "n_groups", "word"),
    [
        ([f"{s}/w_mp4-{i}_jpg.rf.{i:032x}.jpg" for s in "ab" for i in range(3)], 1, "films"),
        ([f"{s}/frame_{i:06d}.jpg" for s in ("train", "val") for i in range(3)], 1, "films"),
        ([f"{clip}/frame_{i}.jpg" for clip in ("x", "y") for i in range(3)], 2, "films"),
        ([f"video{clip}_{i:04d}.png" for clip in range(3) for i in range(3)], 3, "films"),
        ([f"clip_{i}.png" for i in range(3)], 1, "films"),
        ([f"seq_{clip}/{i:06d}.png" for clip in range(2) for i in range(3)], 2, "films"),
        ([f"c{i // 2}_png.rf.{i:032x}.jpg" for i in range(6)], 3, "Roboflow"),
        (
            [f"IMG_20230101_12000{i}.jpg" for i in range(4)] + ["IMG_20230101_120100.jpg"],
            1,
            "burst",
        ),
        (["2023-01-01 12.00.01.jpg", "2023-01-01 12.00.02.jpg", "2024-01-01 12.00.02.jpg"], 1, "b"),
        (["x.jpg", "x_aug_1.jpg", "x_flip.jpg", "y.jpg"], 1, "augmented"),
        (["x.jpg", "x (1).jpg", "x - Copy.jpg", "y (1).jpg", "y (2).jpg"], 1, "copies"),
    ],
)
def test_names_that_say_what_a_picture_was_cut_from(names, n_groups, word):
    pictures, notes = groups.with_groups(named(*names))
    assert len({picture.group for picture in pictures if picture.group}) == n_groups
    assert word in " ".join(notes)


# Duplicates


def altered(rgb, kind):
    image = Image.fromarray(rgb)
    if kind == "half":
        return np.asarray(image.resize((image.width // 2, image.height // 2)))
    if kind == "brighter":
        return np.asarray(ImageEnhance.Brightness(image).enhance(1.2))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=50)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("kind", ["half", "brighter", "jpeg"])
def test_altered_copies_are_met_and_other_pictures_are_not(tmp_path, kind):
    rgbs = [made_pictures.scene(i, 128, 96).rgb for i in range(24)]
    copies = [altered(rgb, kind) for rgb in rgbs[:8]]
    signs = duplicates.signatures(pictures_of(*rgbs, *copies, folder=tmp_path))
    assert duplicates.near_pairs(signs) == [(i, 24 + i) for i in range(8)]
    assert not duplicates.exact_pairs(signs)


def page(rng, n_lines):
    """White with lines of grey words."""
    image = Image.new("RGB", (128, 160), "white")
    draw = ImageDraw.Draw(image)
    for line in range(n_lines):
        x = 8
        while x < 110:
            width = int(rng.integers(4, 20))
            draw.rectangle((x, 10 + 9 * line, x + width, 14 + 9 * line), fill=(60, 60, 60))
            x += width + 4
    return np.asarray(image)


def test_plain_pictures_are_no_duplicates(tmp_path):
    rng = np.random.default_rng(0)
    white = [np.clip(250 + rng.normal(0, 2, (64, 64, 3)), 0, 255).astype(np.uint8) for _ in "ab"]
    pages = [page(rng, int(n)) for n in rng.integers(3, 15, 20)]
    still = made_pictures.scene(0, 128, 96).rgb
    moved = still.copy()
    moved[40:46, 100:106] = [250, 250, 10]  # another object before a still camera
    # faint stains of one scanner's glass
    shade = 244 + np.kron(rng.uniform(-5, 5, (8, 8, 1)), np.ones((8, 8, 3)))
    scans = [
        np.clip(shade + rng.normal(0, 0.5, shade.shape), 0, 255).astype(np.uint8) for _ in "ab"
    ]
    rgbs = [*white, *scans, *pages, still, moved]
    signs = duplicates.signatures(pictures_of(*rgbs, folder=tmp_path))
    assert duplicates.near_pairs(signs) == []
    pair = np.stack([duplicates._standardised(signs.thumbnails[[k]])[0] for k in (-2, -1)])
    assert (pair[0] * pair[1]).mean() > duplicates.MIN_CORRELATION  # only the spot tells them apart


def test_equal_files_and_broken_ones(tmp_path):
    rgb = made_pictures.scene(0).rgb
    pictures = pictures_of(rgb, made_pictures.scene(1).rgb, rgb, rgb, folder=tmp_path)
    data = pictures[1].path.read_bytes()
    pictures[1].path.write_bytes(data[: len(data) // 2])
    signs = duplicates.signatures(pictures)
    assert duplicates.exact_pairs(signs) == [(0, 2), (0, 3)]
    assert [row.where for row in signs.broken] == ["p001.png"]


def test_candidates_meet_all_hashes_within_seven_bits():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 300, dtype=np.uint64)
    bits = [rng.choice(64, 7, replace=False) for _ in base]
    near = base ^ np.array([sum(1 << int(b) for b in row) for row in bits], np.uint64)
    pairs = set()
    for i, j in duplicates._candidates(np.concatenate([base, near])):
        pairs |= set(zip(i.tolist(), j.tolist(), strict=True))
    assert {(i, 300 + i) for i in range(300)} <= pairs


# Splits


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    """Forty different pictures, without splits."""
    folder = tmp_path_factory.mktemp("forty")
    return pictures_of(*(made_pictures.scene(i).rgb for i in range(40)), folder=folder)


def with_labels(pictures, labels):
    changed = zip(pictures, labels, strict=True)
    return [Picture(p.path, p.name, p.width, p.height, p.split, label=n) for p, n in changed]


def test_a_split_is_stratified_and_the_same_in_any_order(forty):
    pictures = with_labels(forty, [0] * 30 + [1] * 10)
    split = splits.prepare(data_set(pictures))
    assert (len(split.train), len(split.val), len(split.test)) == (32, 8, 0)
    assert sum(picture.label for picture in split.val) == 2
    again = splits.prepare(data_set(pictures[::-1]))
    assert {p.name for p in split.val} == {p.name for p in again.val}
    other = splits.prepare(data_set(pictures), seed=1)
    assert {p.name for p in split.val} != {p.name for p in other.val}


def test_a_class_of_one_picture_is_trained_on(forty):
    for seed in range(5):
        split = splits.prepare(data_set(with_labels(forty, [0] * 39 + [1])), seed=seed)
        assert sum(picture.label for picture in split.val) == 0
        assert any("do not stand in val" in note for note in split.notes)


def test_single_pictures_of_many_classes_are_all_trained_on(forty):
    labels = [0] * 30 + list(range(1, 11))
    classes = tuple("abcdefghijk")
    split = splits.prepare(data_set(with_labels(forty, labels), classes))
    assert {picture.label for picture in split.val} == {0} and len(split.val) == 8


def test_groups_stay_on_one_side(forty):
    pictures = [
        Picture(p.path, f"video{i // 5}_{i:04d}.png", p.width, p.height, label=i % 2)
        for i, p in enumerate(forty)
    ]
    split = splits.prepare(data_set(pictures))
    films = [{p.name.split("_")[0] for p in side} for side in (split.train, split.val)]
    assert films[0] and films[1] and not films[0] & films[1]


def test_one_film_is_cut_into_stretches(forty):
    pictures = [
        Picture(p.path, f"frame_{i:04d}.png", p.width, p.height, label=i % 2)
        for i, p in enumerate(forty)
    ]
    split = splits.prepare(data_set(pictures), allow_leakage=True)
    numbers = sorted(int(p.name[6:10]) for p in split.val)
    assert len(numbers) == 8
    assert sum(b - a == 1 for a, b in pairwise(numbers)) >= 6
    assert any("stretches" in note for note in split.notes)


def leaking(forty):
    """val holds a file of train, and a film stands on both sides."""
    pictures = [
        Picture(p.path, p.name, p.width, p.height, "val" if i < 8 else "train", label=i % 2)
        for i, p in enumerate(forty)
    ]
    first = pictures[0]
    pictures[10] = Picture(first.path, "copy.png", first.width, first.height, "train", label=0)
    return pictures


def test_copies_on_two_sides_are_refused_allowed_or_split_anew(forty):
    pictures = leaking(forty)
    with pytest.raises(DataError, match="share pictures") as refusal:
        splits.prepare(data_set(pictures))
    assert "--regroup" in refusal.value.fix and "--allow_leakage" in refusal.value.fix
    assert "copy.png = p000.png" in refusal.value.why
    split = splits.prepare(data_set(pictures), allow_leakage=True)
    assert len(split.val) == 8 and split.leaks and any("leak" in note for note in split.notes)
    split = splits.prepare(data_set(pictures), regroup=True)
    sides = {p.name: p.split for p in (*split.train, *split.val)}
    assert sides["copy.png"] == sides["p000.png"] and len(sides) == 40 and not split.leaks


def test_a_few_copies_are_left_out_of_the_check(forty):
    """One of 20 validation pictures: the data set is not useless for it."""
    pictures = [
        Picture(p.path, p.name, p.width, p.height, "val" if i < 20 else "train", label=i % 2)
        for i, p in enumerate(forty)
    ]
    first = pictures[0]
    pictures[30] = Picture(first.path, "copy.png", first.width, first.height, "train", label=0)
    split = splits.prepare(data_set(pictures))
    assert len(split.val) == 19 and len(split.train) == 20 and not split.leaks
    assert "p000.png" not in {p.name for p in split.val}
    assert any("1 pictures are copies of training pictures" in note for note in split.notes)


def test_a_test_split_keeps_its_size_when_split_anew(forty):
    pictures = leaking(forty)
    pictures[20:30] = [
        Picture(p.path, p.name, p.width, p.height, "test", label=p.label) for p in pictures[20:30]
    ]
    split = splits.prepare(data_set(pictures), regroup=True)
    assert len(split.test) == 10 and len(split.val) == 8


def test_too_little_is_refused_or_told(forty):
    with pytest.raises(DataError, match="3 usable pictures"):
        splits.prepare(data_set(forty[:3]))
    one_side = [Picture(p.path, p.name, 64, 48, "val", label=0) for p in forty]
    with pytest.raises(DataError, match="no training pictures"):
        splits.prepare(data_set(one_side))
    same = [Picture(forty[0].path, f"{i}.png", 64, 48, label=0) for i in range(6)]
    with pytest.raises(DataError, match="cannot be split"):
        splits.prepare(data_set(same))
    sides = ["train"] * 30 + ["val"] * 10
    labels = [0] * 30 + [1] * 10
    rows = zip(forty, sides, labels, strict=True)
    pictures = [Picture(p.path, p.name, 64, 48, s, label=n) for p, s, n in rows]
    notes = " ".join(splits.prepare(data_set(pictures, ("a", "b", "c"))).notes)
    assert "val only, and cannot be learned: b" in notes
    assert "have no label at all: c" in notes
    assert "not measured: a" in notes


def test_broken_pictures_are_left_out_and_listed(tmp_path):
    pictures = pictures_of(*(made_pictures.scene(i).rgb for i in range(8)), folder=tmp_path)
    pictures[3].path.write_bytes(pictures[3].path.read_bytes()[:300])
    dataset = data_set(with_labels(pictures, [0, 1] * 4))
    split = splits.prepare(dataset)
    names = {p.name for p in (*split.train, *split.val)}
    assert len(names) == 7 and "p003.png" not in names
    assert [row.where for row in dataset.rejected] == ["p003.png"]


# Check and contact sheets


def test_the_check_reports_what_is_wrong(tmp_path):
    items = made_pictures.scenes(12, width=128, height=96)
    root = made_pictures.write_yolo(tmp_path, items)
    made_pictures.save(root / "images/val/again.png", items[0].rgb)
    made_pictures.save(root / "images/val/small.png", altered(items[1].rgb, "half"))
    cut = root / "images/train/scene002.png"
    cut.write_bytes(cut.read_bytes()[:-400])
    with (root / "labels/train/scene003.txt").open("a") as file:
        file.write("5 0.5 0.5 0.1 0.1\n")
    report = check.check(root, "detect", imgsz=32)
    data = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert data["pictures"] == {"train": 8, "val": 5} and data["empty"] == {"train": 0, "val": 2}
    assert data["exact_duplicates"] == 1 and data["near_duplicates"] == 1
    assert {leak["kind"] for leak in data["leaks"]} == {"same file", "same picture"}
    assert data["broken"][0]["where"] == "images/train/scene002.png"
    assert data["rejected"][0]["where"] == "labels/train/scene003.txt:3"
    n_objects = sum(len(each.objects) for i, each in enumerate(items) if i != 2)
    assert sum(sum(row.values()) for row in data["counts"].values()) == n_objects
    assert sum(data["box_sizes"][key] for key in ("small", "medium", "large")) == n_objects
    text = report.render()
    for word in ("square", "labels/train/scene003.txt:3", "duplicates", "leak", "--imgsz 32"):
        assert word in text


def test_sizes_of_objects_are_cocos():
    sizes = check._sizes([(10, 10), (200, 5), (32, 32), (95, 96), (96, 96), (300, 300)])
    assert sizes.as_dict() == {"small": 2, "medium": 2, "large": 2, "tiny": 1}


def test_the_check_counts_pixels_of_masks(tmp_path):
    items = made_pictures.scenes(6, n_val=2)
    report = check.check(made_pictures.write_masks(tmp_path, items), "segment")
    for split in ("train", "val"):
        masks = [each.mask for each in items if each.split == split]
        counts = np.bincount(np.stack(masks).ravel(), minlength=3).tolist()
        assert report.counts[split] == counts
    assert report.unit == "pixels" and "pixels" in report.render()


def test_contact_sheets(tmp_path):
    items = made_pictures.scenes(7)
    dataset = read(made_pictures.write_yolo(tmp_path / "a", items), "detect")
    plain = sheets.contact_sheet(dataset.pictures, dataset.classes, tmp_path / "p.png", draw=False)
    drawn = sheets.contact_sheet(dataset.pictures, dataset, tmp_path / "d.png", n=4)
    assert Image.open(plain).size[0] > 3 * sheets.TILE
    assert Image.open(drawn).size[0] == 2 * (sheets.TILE + sheets.GAP) + sheets.GAP
    masked = read(made_pictures.write_masks(tmp_path / "m", items), "segment")
    sheet = Image.open(sheets.contact_sheet(masked.pictures, masked, tmp_path / "m.png"))
    assert sheet.getcolors(1 << 24)
    (tmp_path / "m/images/train/scene000.png").unlink()
    sheets.contact_sheet(masked.pictures, masked, tmp_path / "gone.png")


def test_tiles_with_every_kind_of_label(tmp_path):
    rgb = np.full((90, 120, 3), 200, np.uint8)
    box = Box(0, 10, 10, 60, 60)
    tiles = [
        (rgb, [box, Box(1, 50, 5, 110, 80, polygons=((50, 5, 110, 5, 80, 80),))], "猫と犬.jpg"),
        (rgb, [Detection(1, 0.9, 5, 5, 300, 300)], "beyond"),
        (rgb, 0, "a\udce9\x1b[31m"),
        (rgb, None, ""),
        (rgb, np.full((90, 120), -1, np.int16), "ignored"),
        (rgb[:2], [], "x" * 400),
    ]
    path = sheets.draw_tiles(tiles, ["猫", "a\nb"], tmp_path / "tiles.png")
    pixels = np.asarray(Image.open(path))
    scale = sheets.TILE / 120
    middle, low, high = (sheets.GAP + round(each * scale) for each in (40, 10, 60))
    for y, x in ((high, middle), (middle, high), (middle, low)):  # on the edges of 10 10 60 60
        near = pixels[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).tolist()
        assert list(sheets.colour_of(0)) in near
    sheets.draw_tiles([], [], tmp_path / "none.png")
