"""Labelled pictures of every layout: the same labels, odd files listed, nothing read outside."""

import json

import made_pictures
import numpy as np
import pytest
from PIL import Image

from onecard.datasets.images import masks
from onecard.datasets.images.reader import read
from onecard.errors import DataError, NotFound

WRITERS = {
    "yolo": made_pictures.write_yolo,
    "coco": made_pictures.write_coco,
    "voc": made_pictures.write_voc,
    "label-studio": made_pictures.write_label_studio,
    "csv": made_pictures.write_csv,
}


def named_boxes(dataset):
    """Picture -> [(class name, corners)], rounded."""
    return {
        picture.path.name: [
            (dataset.classes[box.label], *(round(v) for v in (box.x0, box.y0, box.x1, box.y1)))
            for box in picture.boxes
        ]
        for picture in dataset.pictures
    }


def reasons(dataset):
    return {row.where: row.reason for row in dataset.rejected}


@pytest.mark.parametrize("form", WRITERS)
def test_every_layout_gives_the_same_boxes(tmp_path, form):
    items = made_pictures.scenes(6, n_val=2)
    dataset = read(WRITERS[form](tmp_path / "set", items), "detect")
    assert dataset.form == form
    assert named_boxes(dataset) == {
        each.name: [(made_pictures.CLASSES[row[0]], *row[1:]) for row in each.objects]
        for each in items
    }
    assert not dataset.rejected
    if form != "label-studio":
        splits = {picture.path.name: picture.split for picture in dataset.pictures}
        assert splits == {each.name: each.split for each in items}


@pytest.mark.parametrize("form", ["yolo", "coco"])
def test_outlines_become_the_masks_they_were_drawn_from(tmp_path, form):
    items = made_pictures.scenes(3, n_val=1)
    if form == "yolo":
        root = made_pictures.write_yolo(tmp_path, items, polygons=True)
    else:
        root = made_pictures.write_coco(tmp_path, items)
    dataset = read(root, "segment")
    assert masks.pixel_classes(dataset) == ("background", "square", "disc")
    by_name = {picture.path.name: picture for picture in dataset.pictures}
    for each in items:
        labels = masks.pixel_labels(by_name[each.name], dataset)
        assert (labels == each.mask).mean() > 0.99


def test_a_folder_that_is_no_data_set_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    made_pictures.save(tmp_path / "a.png", made_pictures.scene(0).rgb)
    for task in ("detect", "segment", "classify"):
        with pytest.raises(DataError, match="not a data set") as refusal:
            read(tmp_path, task)
        assert "1 .png" in refusal.value.why
    with pytest.raises(NotFound):
        read(tmp_path / "none", "detect")
    with pytest.raises(NotFound, match="addresses are not opened"):
        read("https://example.org/set.zip", "detect")
    (tmp_path / "set.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="archive"):
        read(tmp_path / "set.zip", "detect")


# YOLO


def yolo_set(root, lines, names="[cat, dog]", size=(100, 50)):
    """One picture with these label lines, and another with a valid one."""
    rng = np.random.default_rng(0)
    for stem, text in (("a", "\n".join(lines)), ("b", "0 0.5 0.5 0.2 0.2")):
        rgb = rng.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
        made_pictures.save(root / "train/images" / f"{stem}.png", rgb)
        (root / "train/labels").mkdir(exist_ok=True)
        (root / "train/labels" / f"{stem}.txt").write_text(text)
    (root / "data.yaml").write_text(f"train: ../train/images\nval: ../train/images\nnames: {names}")
    return root


ODD_LINES = {
    "0 0.5 0.5 0.2": "columns",
    "0 0.5 0.5 0.2 x": "no number",
    "0 nan 0.5 0.2 0.2": "finite",
    "0 0.5 inf 0.2 0.2": "finite",
    "7 0.5 0.5 0.2 0.2": "not declared",
    "-1 0.5 0.5 0.2 0.2": "not declared",
    "0.5 0.5 0.5 0.2 0.2": "not declared",
    "0 50 25 20 10": "pixels",
    "0 0.5 -0.3 0.2 0.2": "outside 0..1",
    "0 0.5 0.5 0 0.2": "no area",
    "0 0.5 0.5 -0.2 0.2": "outside 0..1",
    "0 0.5 0.5 0.001 0.5": "half a pixel",
    "0 0.1 0.1 0.1 0.1 0.1 0.1": "no area",
    "1 0.5 0.5 0.4 0.4": "same label as in line",
}


def test_each_odd_line_is_rejected_with_its_number(tmp_path):
    lines = ["1 0.5 0.5 0.4 0.4", *ODD_LINES]
    dataset = read(yolo_set(tmp_path, lines), "detect")
    assert named_boxes(dataset)["a.png"] == [("dog", 30, 15, 70, 35)]
    rejected = reasons(dataset)
    for number, (line, word) in enumerate(ODD_LINES.items(), 2):
        assert word in rejected[f"train/labels/a.txt:{number}"], line
    assert any("Roboflow" in note for note in dataset.notes)


def test_a_picture_whose_labels_are_all_wrong_is_left_out_not_taken_as_empty(tmp_path):
    dataset = read(yolo_set(tmp_path, ["9 0.5 0.5 0.2 0.2"]), "detect")
    assert [picture.path.name for picture in dataset.pictures] == ["b.png"]
    assert "none of its labels" in reasons(dataset)["train/images/a.png"]


def test_confidence_edges_and_missing_labels(tmp_path):
    root = yolo_set(tmp_path, ["0 0.95 0.5 0.12 0.2 0.87"])
    made_pictures.save(root / "train/images/c.JPG", made_pictures.scene(1).rgb)
    (root / "train/labels/d.txt").write_text("0 0.5 0.5 0.1 0.1")
    dataset = read(root, "detect")
    assert named_boxes(dataset)["a.png"] == [("cat", 89, 20, 100, 30)]
    assert named_boxes(dataset)["c.JPG"] == []
    assert "without a picture" in reasons(dataset)["train/labels/d.txt"]
    assert any("no label file" in note for note in dataset.notes)


def test_corners_in_place_of_centre_and_size_are_told(tmp_path):
    lines = [f"0 0.{i} 0.{i} 0.9 0.95" for i in range(60, 66)]
    root = yolo_set(tmp_path, lines)
    assert read(root, "detect").pictures  # one valid centre and size among them: no rule
    (root / "train/labels/b.txt").write_text("")
    with pytest.raises(DataError, match="corners"):
        read(root, "detect")


@pytest.mark.parametrize(
    ("names", "classes", "box_class"),
    [
        ("[cat, dog]", ("cat", "dog"), "cat"),
        ("{0: cat, 3: dog}", ("cat", "dog"), "cat"),
        ("{3: dog, 0: cat}", ("cat", "dog"), "cat"),
        ("[cat, cat]", ("cat", "cat (1)"), "cat"),
        ("[1, 2]", ("1", "2"), "1"),
        ("names.txt", ("猫", "犬"), "猫"),
    ],
)
def test_class_names_come_in_several_forms(tmp_path, names, classes, box_class):
    (tmp_path / "names.txt").write_text("猫\n犬\n")
    dataset = read(yolo_set(tmp_path, ["0 0.5 0.5 0.2 0.2"], names), "detect")
    assert dataset.classes == classes
    assert named_boxes(dataset)["a.png"][0][0] == box_class


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- 1",
        "names: [a",
        "train: x\nnames: []",
        "train: nowhere\nnames: [a]",
        "names: [a, b]\nnc: 2",
        "train: 3\nnames: [a]",
        "train: train/images\nnames: {a: 0}",
        "train: train/images\nnames: [[a], {b: 1}]",
        "train: train/images\nnames: /etc/hostname",
        "&a [*a]",
        "train: ../../../../../etc\nnames: [a]\nval: train/images",
    ],
)
def test_a_broken_yaml_is_refused(tmp_path, text):
    yolo_set(tmp_path, ["0 0.5 0.5 0.2 0.2"])
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError):
        read(tmp_path / "data.yaml", "detect")


@pytest.mark.parametrize("form", ["list", "txt", "path", "absolute", "moved"])
def test_a_yaml_names_its_folders_in_several_ways(tmp_path, form):
    items = made_pictures.scenes(4, n_val=1)
    root = made_pictures.write_yolo(tmp_path / "set", items)
    (root / "train.txt").write_text(
        "./images/train/scene000.png\nimages/train/none.png\n/etc/a.png"
    )
    texts = {
        "list": "train: [images/train]\nval: [images/val]",
        "txt": "train: train.txt\nval: images/val",
        "path": "path: set\ntrain: images/train\nval: images/val",
        "absolute": f"path: {root}\ntrain: {root}/images/train\nval: images/val",
        "moved": "path: /content/gone\ntrain: images/train\nval: images/val",
    }
    place = tmp_path / "other.yaml" if form == "path" else root / "data.yaml"
    place.write_text(texts[form] + "\nnames: [square, disc]")
    dataset = read(place, "detect")
    n_train = len(dataset.of_split("train"))
    assert (n_train, len(dataset.of_split("val"))) == ((1, 1) if form == "txt" else (3, 1))
    if form == "txt":
        assert "no picture" in reasons(dataset)["train.txt:2"]
        assert "leads out" in reasons(dataset)["train.txt:3"]


def test_folders_without_a_yaml(tmp_path):
    items = made_pictures.scenes(4, n_val=1)
    root = made_pictures.write_yolo(tmp_path / "a", items, yaml=False)
    dataset = read(root, "detect")
    assert dataset.form == "yolo" and set(dataset.classes) <= {"0", "1"}
    (root / "classes.txt").write_text("square\ndisc\n")
    dataset = read(root, "detect")
    assert dataset.classes == ("square", "disc")
    assert {picture.split for picture in dataset.pictures} == {"train", "val"}


def test_a_linked_folder_of_pictures_is_read(tmp_path):
    root = made_pictures.write_yolo(tmp_path / "set", made_pictures.scenes(4, n_val=1))
    (root / "images").rename(tmp_path / "elsewhere")
    (root / "images").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert len(read(root, "detect").pictures) == 4


@pytest.mark.parametrize("name", ["classes.txt", "notes.json", "labels/classes.txt"])
def test_class_lists_that_disagree_are_refused_with_both_orders(tmp_path, name):
    root = made_pictures.write_yolo(tmp_path, made_pictures.scenes(4))
    rows = [{"id": 0, "name": "disc"}, {"id": 1, "name": "square"}]
    text = json.dumps({"categories": rows}) if name.endswith("json") else "disc\nsquare\n"
    (root / name).write_text(text)
    with pytest.raises(DataError, match="disagree") as refusal:
        read(root, "detect")
    assert "square, disc" in refusal.value.why and "disc, square" in refusal.value.why


def test_boxes_alone_do_not_segment(tmp_path):
    root = made_pictures.write_yolo(tmp_path, made_pictures.scenes(4))
    with pytest.raises(DataError, match="outlines"):
        read(root, "segment")


# Folders of classes


def test_folders_of_classes(tmp_path):
    items = made_pictures.scenes(12)
    dataset = read(made_pictures.write_folders(tmp_path / "a", items), "classify")
    assert dataset.form == "folders" and dataset.classes == ("disc", "square")
    for picture in dataset.pictures:
        assert picture.path.parent.name == dataset.classes[picture.label]
        assert picture.path.parent.parent.name == picture.split
    root = made_pictures.write_folders(tmp_path / "b" / "inner", items, splits=False)
    made_pictures.save(root / "disc" / "deep" / "猫.png", items[0].rgb)
    (root / "disc" / "broken.jpg").write_bytes(b"<html></html>")
    made_pictures.save(root / "loose.png", items[0].rgb)
    dataset = read(tmp_path / "b", "classify")
    assert {picture.split for picture in dataset.pictures} == {""}
    assert len(dataset.pictures) == 13
    rejected = reasons(dataset)
    assert "HTML" in rejected["inner/disc/broken.jpg"]
    assert "no folder of a class" in rejected["inner/loose.png"]
    with pytest.raises(DataError, match="1 class"):
        (tmp_path / "c").mkdir()
        root = made_pictures.write_folders(tmp_path / "c", items[:1])
        read(root, "classify")


@pytest.mark.parametrize("form", ["yolo", "coco", "voc", "masks"])
def test_folders_of_other_layouts_are_no_classes(tmp_path, form):
    writers = {**WRITERS, "masks": made_pictures.write_masks}
    writers[form](tmp_path, made_pictures.scenes(4))
    with pytest.raises(DataError):
        read(tmp_path, "classify")
    if form == "masks":
        for each in made_pictures.scenes(4):
            made_pictures.save(tmp_path / "flat/images" / each.name, each.rgb)
            made_pictures.save(tmp_path / "flat/masks" / each.name, each.mask)
        with pytest.raises(DataError, match="not a data set"):
            read(tmp_path / "flat", "classify")


# Masks


@pytest.mark.parametrize(
    ("values", "names", "classes"),
    [
        ((0, 1, 2), "", ("background", "value 1", "value 2")),
        ((0, 1, 2), "ground\nsquare\ndisc", ("ground", "square", "disc")),
        ((0, 1, 2), "square\ndisc", ("background", "square", "disc")),
        ((0, 128, 255), "ground\nsquare\ndisc", ("ground", "square", "disc")),
        ((0, 1, 255), "ground\nsquare", ("ground", "square")),
        ((0, 1, 255), "", ("background", "value 1", "value 255")),
        ((0, 255, 255), "", ("background", "foreground")),
        ((0, 255, 255), "cell", ("background", "cell")),
    ],
)
def test_values_of_masks_become_classes(tmp_path, values, names, classes):
    items = made_pictures.scenes(8)
    root = made_pictures.write_masks(tmp_path, items, values)
    if names:
        (root / "classes.txt").write_text(names)
    dataset = read(root, "segment")
    assert dataset.form == "masks"
    if values == (0, 1, 255) and not names:
        assert any("255" in note for note in dataset.notes)
        return
    assert dataset.classes == classes
    by_name = {picture.path.name: picture for picture in dataset.pictures}
    for each in items:
        labels = masks.pixel_labels(by_name[each.name], dataset)
        third = -1 if values[2] == 255 and names == "ground\nsquare" else min(2, len(classes) - 1)
        assert (labels == np.array([0, 1, third])[each.mask]).all()


def test_masks_as_jpeg_are_told_and_denoised(tmp_path):
    items = made_pictures.scenes(6)
    root = made_pictures.write_masks(tmp_path, items, (0, 255, 255), suffix=".jpg")
    dataset = read(root, "segment")
    assert any("noise" in note for note in dataset.notes)
    by_name = {picture.path.name: picture for picture in dataset.pictures}
    for each in items:
        labels = masks.pixel_labels(by_name[each.name], dataset)
        assert (labels == (each.mask > 0)).mean() > 0.99


@pytest.mark.parametrize("has_list", [True, False])
def test_colours_of_masks(tmp_path, has_list):
    items = made_pictures.scenes(6)
    colours = np.array([[0, 0, 0], [250, 0, 10], [0, 128, 64]], np.uint8)
    for each in items:
        made_pictures.save(tmp_path / "JPEGImages" / each.name, each.rgb)
        rgb = colours[each.mask]
        rgb[0, 0] = [9, 9, 200]
        made_pictures.save(tmp_path / "SegmentationClass" / each.name, rgb)
    if has_list:
        text = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndisc:0,128,64::\n"
        (tmp_path / "labelmap.txt").write_text(text + "square:250,0,10::\n")
    dataset = read(tmp_path, "segment")
    labels = masks.pixel_labels(dataset.pictures[0], dataset)
    if has_list:
        assert dataset.classes == ("background", "disc", "square")
        assert labels[0, 0] == -1 and any("ignored" in note for note in dataset.notes)
        assert (np.array([0, 2, 1])[items[0].mask] == labels).mean() > 0.999
    else:
        assert set(dataset.classes) == {"background", "#008040", "#fa000a", "#0909c8"}


def test_palettes_count_by_index_unless_they_differ(tmp_path):
    items = made_pictures.scenes(4)
    palette = [0, 0, 0, 255, 0, 0, 0, 255, 0]
    for swapped in (False, True):
        root = tmp_path / str(swapped)
        for i, each in enumerate(items):
            made_pictures.save(root / "images" / each.name, each.rgb)
            swap = swapped and i % 2
            index = np.array([0, 2, 1], np.uint8)[each.mask] if swap else each.mask
            image = Image.fromarray(index).convert("L")
            image.putpalette([0, 0, 0, 0, 255, 0, 255, 0, 0] if swap else palette)
            (root / "masks").mkdir(exist_ok=True)
            image.save(root / "masks" / each.name)
        dataset = read(root, "segment")
        two = ("#00ff00", "#ff0000") if swapped else ("value 1", "value 2")
        assert dataset.classes == ("background", *two)
        order = np.array([0, 2, 1] if swapped else [0, 1, 2])
        for picture, each in zip(dataset.pictures, items, strict=True):
            assert (masks.pixel_labels(picture, dataset) == order[each.mask]).all()


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("train/image/7.png", "train/label/7.png"),
        ("train/a.jpg", "train/a_mask.png"),
        ("imgs/carvana_01.jpg", "train_masks/carvana_01_mask.gif"),
        ("img/image_12.png", "gt/mask_012.png"),
        ("images/training/x.jpg", "annotations/training/x.png"),
        ("train/21_training.tif", "trainannot/21_manual1.gif"),
        ("leftImg8bit/train/bonn_1_leftImg8bit.png", "gtFine/train/bonn_1_gtFine_labelIds.png"),
    ],
)
def test_pictures_find_their_masks(tmp_path, image, mask):
    each = made_pictures.scene(3)
    made_pictures.save(tmp_path / image, each.rgb)
    made_pictures.save(tmp_path / mask, each.mask)
    if image.startswith("imgs"):
        (tmp_path / "imgs").rename(tmp_path / "train")
        image = image.replace("imgs", "train")
    assert masks.find_pairs(tmp_path) == [(tmp_path / image, tmp_path / mask)]


def test_pairs_that_do_not_fit_are_listed(tmp_path):
    items = made_pictures.scenes(6)
    root = made_pictures.write_masks(tmp_path, items)
    made_pictures.save(root / "images/train/extra.png", items[0].rgb)
    made_pictures.save(root / "masks/train/lost.png", items[0].mask)
    made_pictures.save(root / "masks/train/scene001.png", items[0].mask[:20])
    (root / "masks/train/scene002.png").write_bytes(b"")
    dataset = read(root, "segment")
    rejected = reasons(dataset)
    assert "no mask" in rejected["images/train/extra.png"]
    assert "without a picture" in rejected["masks/train/lost.png"]
    assert "64x20" in rejected["masks/train/scene001.png"]
    assert "empty" in rejected["masks/train/scene002.png"]
    assert len(dataset.pictures) == 4


def test_photos_and_plain_masks_are_refused(tmp_path):
    items = made_pictures.scenes(4)
    rng = np.random.default_rng(0)
    for name, mask in (
        ("photo", rng.integers(0, 255, (48, 64, 3)).astype(np.uint8)),
        ("plain", np.zeros((48, 64), np.uint8)),
    ):
        for each in items:
            made_pictures.save(tmp_path / name / "images" / each.name, each.rgb)
            made_pictures.save(tmp_path / name / "masks" / each.name, mask)
        with pytest.raises(DataError, match="masks do not hold classes"):
            read(tmp_path / name, "segment")
