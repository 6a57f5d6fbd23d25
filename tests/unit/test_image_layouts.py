"""Odd entries of COCO, VOC, Label Studio and CSV files: each is listed, none is read outside."""

import json

import made_pictures
import numpy as np
import pytest
from PIL import Image

from onecard.datasets.images import decode, geometry, label_studio, masks
from onecard.datasets.images.reader import read
from onecard.errors import DataError


def named_boxes(dataset):
    return {
        picture.path.name: [
            (dataset.classes[box.label], *(round(v) for v in (box.x0, box.y0, box.x1, box.y1)))
            for box in picture.boxes
        ]
        for picture in dataset.pictures
    }


def reasons(dataset):
    return {row.where: row.reason for row in dataset.rejected}


# COCO

BOX = [10, 5, 20, 20]


def coco_set(root, annotations, images=None, categories=None, size=(64, 48)):
    """a.png and b.png with these annotations in one file; category 7 is cat, 3 is dog."""
    for i, stem in enumerate("ab"):
        scene = made_pictures.scene(i, *size)
        made_pictures.save(root / "images" / f"{stem}.png", scene.rgb)
    images = images or [
        {"id": i, "file_name": f"{stem}.png", "width": size[0], "height": size[1]}
        for i, stem in enumerate("ab")
    ]
    categories = categories or [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
    rows = {"images": images, "annotations": annotations, "categories": categories}
    (root / "labels.json").write_text(json.dumps(rows))
    return root


def test_ids_of_categories_may_have_gaps_and_any_order(tmp_path):
    rows = [{"image_id": 0, "category_id": 7, "bbox": BOX}]
    dataset = read(coco_set(tmp_path, rows), "detect")
    assert dataset.classes == ("dog", "cat")
    assert named_boxes(dataset) == {"a.png": [("cat", 10, 5, 30, 25)], "b.png": []}
    assert any("order of their ids" in note for note in dataset.notes)


ODD_ANNOTATIONS = {
    "no image": {"image_id": 99, "category_id": 7, "bbox": BOX},
    "no image:": {"category_id": 7, "bbox": BOX},
    "not declared": {"image_id": 0, "category_id": 8, "bbox": BOX},
    "no bbox": {"image_id": 0, "category_id": 7},
    "no bbox of four": {"image_id": 0, "category_id": 7, "bbox": [1, 2, 3]},
    "malformed": {"image_id": 0, "category_id": 7, "bbox": [1, None, 3, 4]},
    "no area": {"image_id": 0, "category_id": 7, "bbox": [1, 1, 0, 4]},
    "not a number": {"image_id": 0, "category_id": 7, "bbox": [1, float("nan"), 3, 4]},
    "outside the picture": {"image_id": 0, "category_id": 7, "bbox": [900, 900, 9, 9]},
    "malformed:": {"image_id": 0, "category_id": 7, "segmentation": {"counts": "\x00", "size": 9}},
    "runs cover": {"image_id": 0, "category_id": 7, "segmentation": {"counts": [3, 4]}},
    "malformed: ": {"image_id": 0, "category_id": 7, "segmentation": [[{}, 1]]},
    "odd count": {"image_id": 0, "category_id": 7, "segmentation": [[1, 2, 3]]},
}


def test_each_odd_annotation_is_rejected_with_its_place(tmp_path):
    rows = [{"image_id": 0, "category_id": 3, "bbox": BOX}, *ODD_ANNOTATIONS.values(), "x", None]
    dataset = read(coco_set(tmp_path, rows), "detect")
    assert named_boxes(dataset)["a.png"] == [("dog", 10, 5, 30, 25)]
    rejected = reasons(dataset)
    for i, word in enumerate(ODD_ANNOTATIONS, 1):
        assert word.strip(": ") in rejected[f"labels.json:annotations[{i}]"], word
    assert len(rejected) == len(rows) - 1


def test_odd_images_of_a_coco_file(tmp_path):
    images = [
        {"id": 0, "file_name": "a.png", "width": 0, "height": 0},
        {"id": 1, "file_name": "../../../../etc/passwd"},
        {"id": 2, "file_name": "/etc/hostname"},
        {"id": 3, "file_name": "gone.png"},
        {"id": 3, "file_name": "b.png"},
        {"id": 5, "file_name": "somewhere/else/a.png"},
        {"file_name": "b.png"},
        "x",
    ]
    rows = [{"image_id": 0, "category_id": 7, "bbox": [50, 40, 100, 100]}]
    made_pictures.save(tmp_path / "images" / "unlisted.png", made_pictures.scene(9).rgb)
    dataset = read(coco_set(tmp_path, rows, images), "detect")
    assert named_boxes(dataset) == {"a.png": [("cat", 50, 40, 64, 48)]}
    rejected = reasons(dataset)
    assert "leads out" in rejected["labels.json:image 1"]
    assert "leads out" in rejected["labels.json:image 2"]
    assert "does not exist" in rejected["labels.json:image 3"]
    assert "second image" in rejected["labels.json:images[4]"]
    assert "same file" in rejected["labels.json:image 5"]
    assert "no whole id" in rejected["labels.json:images[6]"]
    notes = " ".join(dataset.notes)
    assert "cut" in notes and "another width and height" in notes and "unlisted.png" in notes


def test_a_picture_outside_is_never_read(tmp_path):
    made_pictures.save(tmp_path / "secret.png", made_pictures.scene(5).rgb)
    root = tmp_path / "set"
    images = [{"id": 0, "file_name": "../secret.png"}, {"id": 1, "file_name": "a.png"}]
    dataset = read(coco_set(root, [], images), "detect")
    assert [picture.path.name for picture in dataset.pictures] == ["a.png"]


def test_crowds_and_runs(tmp_path):
    mask = made_pictures.scene(0).mask == made_pictures.scene(0).mask.max()
    runs = list(geometry.mask_runs(mask))
    shape = {"counts": runs, "size": [48, 64]}
    rows = [
        {"image_id": 0, "category_id": 7, "bbox": BOX, "iscrowd": 1, "segmentation": shape},
        {"image_id": 1, "category_id": 7, "bbox": BOX, "segmentation": shape},
    ]
    root = coco_set(tmp_path, rows)
    assert [p.boxes[0].crowd for p in read(root, "detect").pictures] == [True, False]
    dataset = read(root, "segment")
    for picture, value in zip(dataset.pictures, (-1, 2), strict=True):
        labels = masks.pixel_labels(picture, dataset)
        assert (labels[mask] == value).all() and (labels[~mask] == 0).all()


def test_roboflows_export_with_its_dummy_class(tmp_path):
    categories = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "animals"},
        {"id": 2, "name": "dog", "supercategory": "animals"},
    ]
    for number, split in enumerate(("train", "valid", "test")):
        made_pictures.save(tmp_path / split / "a.jpg", made_pictures.scene(number).rgb)
        rows = {
            "images": [{"id": 0, "file_name": "a.jpg", "width": 64, "height": 48}],
            "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": BOX}],
            "categories": categories,
        }
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(rows))
    dataset = read(tmp_path, "detect")
    assert dataset.classes == ("cat", "dog")
    splits = {picture.name: picture.split for picture in dataset.pictures}
    assert splits == {"train/a.jpg": "train", "valid/a.jpg": "val", "test/a.jpg": "test"}


@pytest.mark.parametrize(
    "text", ["", "{", '{"images": 1, "annotations": []}', "[]", "null", "[" * 9999]
)
def test_broken_json_is_refused(tmp_path, text):
    made_pictures.save(tmp_path / "a.png", made_pictures.scene(0).rgb)
    (tmp_path / "labels.json").write_text(text)
    for place in (tmp_path, tmp_path / "labels.json"):
        with pytest.raises(DataError):
            read(place, "detect")


def test_label_studios_coco_and_its_notes_must_agree(tmp_path):
    root = coco_set(tmp_path, [{"image_id": 0, "category_id": 7, "bbox": BOX}])
    (root / "classes.txt").write_text("dog\ncat\n")
    assert read(root, "detect").classes == ("dog", "cat")
    (root / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match="disagree"):
        read(root, "detect")


# Pascal VOC


def voc_set(root, *xmls, size=(64, 48)):
    """a.xml, b.xml ... with a picture each."""
    (root / "Annotations").mkdir(parents=True)
    for i, text in enumerate(xmls):
        stem = "abcdefgh"[i]
        made_pictures.save(root / "JPEGImages" / f"{stem}.JPG", made_pictures.scene(i, *size).rgb)
        (root / "Annotations" / f"{stem}.xml").write_text(text, encoding="utf-8")
    return root


def voc(*objects, head="<filename>a.jpg</filename>"):
    return f"<annotation>{head}{''.join(objects)}</annotation>"


def thing(x0, y0, x1, y1, name="cat", more=""):
    corners = zip(("xmin", "ymin", "xmax", "ymax"), (x0, y0, x1, y1), strict=True)
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners)
    return f"\n<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def test_odd_objects_of_a_voc_file(tmp_path):
    objects = {
        thing(10, 10, 20, 20): "",
        thing(20, 30, 10, 20): "",  # corners in the other order
        thing(50, 40, 90, 90): "",  # beyond the picture
        thing(5, 5, 5, 9): "no area",
        thing(500, 5, 600, 9): "outside the picture",
        thing("x", 5, 6, 9): "no number",
        thing("nan", 5, 6, 9): "not a number",
        thing("", 5, 6, 9): "no number",
        "\n<object><name>cat</name></object>": "no &lt;bndbox".replace("&lt;", "<"),
        "\n<object><bndbox/></object>": "no usable name",
        thing(1, 1, 9, 9, more="<difficult>1</difficult>"): "",
    }
    dataset = read(voc_set(tmp_path, voc(*objects), voc(thing(1, 1, 9, 9, "dog"))), "detect")
    boxes = named_boxes(dataset)["a.JPG"]
    assert boxes == [
        ("cat", *row)
        for row in ((10, 10, 20, 20), (10, 20, 20, 30), (50, 40, 64, 48), (1, 1, 9, 9))
    ]
    assert dataset.pictures[0].boxes[3].crowd
    rejected = reasons(dataset)
    for line, word in enumerate(objects.values(), 2):
        assert word in rejected.get(f"Annotations/a.xml:{line}", ""), word
        assert bool(word) == (f"Annotations/a.xml:{line}" in rejected)
    notes = " ".join(dataset.notes)
    assert "other order" in notes and "difficult" in notes and "cut to it" in notes
    assert "name another file" in notes  # b.xml names a.jpg


BOMB = """<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;">
<!ENTITY z SYSTEM "file:///etc/passwd">]>
<annotation><filename>&z;</filename><object><name>&y;</name></object></annotation>"""


def test_broken_and_dangerous_xml_is_listed_and_takes_no_other_file_along(tmp_path):
    texts = [voc(thing(1, 1, 9, 9)), BOMB, "<annotation><object>", voc(thing(1, 1, 9, 9, "ü犬"))]
    dataset = read(voc_set(tmp_path, *texts), "detect")
    assert set(named_boxes(dataset)) == {"a.JPG", "d.JPG"}
    assert dataset.classes == ("cat", "ü犬")
    rejected = reasons(dataset)
    assert "entities" in rejected["Annotations/b.xml"]
    assert "not XML" in rejected["Annotations/c.xml"]
    assert any("no annotation file" in note for note in dataset.notes)


def test_lists_of_imagesets(tmp_path):
    root = voc_set(tmp_path, *[voc(thing(1, 1, 9, 9), head="")] * 4)
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb  1\nzz\n\n")
    (lists / "val.txt").write_text("c.jpg\nb\n")
    (lists / "cat_train.txt").write_text("a 1\nb -1\n")
    dataset = read(root, "detect")
    splits = {picture.path.stem: picture.split for picture in dataset.pictures}
    assert splits == {"a": "train", "b": "train", "c": "val"}
    rejected = reasons(dataset)
    assert "no picture zz" in rejected["ImageSets/Main/train.txt:3"]
    assert "train.txt:2" in rejected["ImageSets/Main/val.txt:2"]
    assert any("no list" in note for note in dataset.notes)


def test_xml_beside_pictures_in_folders_of_splits(tmp_path):
    for i, split in enumerate(("train", "valid")):
        made_pictures.save(tmp_path / split / "x.png", made_pictures.scene(i).rgb)
        text = voc(thing(1 + i, 1, 9, 9), head="<filename>x.png</filename>")
        (tmp_path / split / "x.xml").write_text(text)
    dataset = read(tmp_path, "detect")
    assert [(p.name, p.split, p.boxes[0].x0) for p in dataset.pictures] == [
        ("train/x.png", "train", 1),
        ("valid/x.png", "val", 2),
    ]


# Pictures that a camera turned


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_labels_of_the_stored_picture_are_turned_with_it(tmp_path, orientation):
    """A white rectangle in the stored picture lies where its label says in the upright one."""
    stored = np.zeros((40, 64, 3), np.uint8)
    stored[4:14, 30:60] = 255
    exif = Image.Exif()
    exif[decode.ORIENTATION] = orientation
    corners = [30, 4, 60, 14]
    outline = [30, 4, 60, 4, 60, 14, 30, 14]
    runs = list(geometry.mask_runs(stored[..., 0] > 0))
    for i, shape in enumerate(([outline], {"counts": runs})):
        root = tmp_path / f"coco{i}"
        made_pictures.save(root / "a.png", stored, exif=exif)
        row = {"image_id": 0, "category_id": 1, "bbox": [30, 4, 30, 10], "segmentation": shape}
        image = {"id": 0, "file_name": "a.png", "width": 64, "height": 40}
        rows = {"images": [image], "annotations": [row], "categories": [{"id": 1, "name": "x"}]}
        (root / "labels.json").write_text(json.dumps(rows))
        dataset = read(root, "segment")
        upright = decode.read_rgb(dataset.pictures[0].path)[..., 0] > 0
        assert upright.shape == (64, 40)
        assert ((masks.pixel_labels(dataset.pictures[0], dataset) == 1) == upright).all()
        assert any("EXIF" in note for note in dataset.notes)
    size = "<size><width>64</width><height>40</height></size>"
    made_pictures.save(tmp_path / "voc/a.png", stored, exif=exif)
    (tmp_path / "voc/a.xml").write_text(voc(thing(*corners), head=size))
    box = read(tmp_path / "voc", "detect").pictures[0].boxes[0]
    assert (geometry.object_mask(box, 40, 64) == upright).all()


# Label Studio


def test_label_studio_tasks(tmp_path):
    items = made_pictures.scenes(6)
    root = made_pictures.write_label_studio(tmp_path, items)
    tasks = json.loads((root / "project.json").read_text())
    turned = tasks[0]["annotations"][0]["result"][0]["value"]
    turned |= {"x": 50, "y": 25, "width": 25, "height": 25, "rotation": 90}
    tasks[1]["annotations"][0]["was_cancelled"] = True
    newer = json.loads(json.dumps(tasks[2]["annotations"][0]))
    newer["result"] = newer["result"][:1]
    newer["updated_at"] = "2026-01-02"
    tasks[2]["annotations"].append(newer)
    tasks[3]["data"] = {"image": "https://example.org/x/scene003.png?a=1"}
    tasks[3].pop("file_upload")
    tasks[4]["data"] = {"image": "/data/local-files/?d=a%2Fscene004.png"}
    tasks[5]["data"] = {"image": "../../etc/passwd.png"}
    tasks[5].pop("file_upload")
    tasks += [None, {"id": 9, "data": {}, "annotations": []}]
    (root / "project.json").write_text(json.dumps(tasks))
    dataset = read(root, "detect")
    boxes = named_boxes(dataset)
    assert set(boxes) == {f"scene00{i}.png" for i in (0, 2, 3, 4)}
    # 25 % of 64x48 is 16x12: turned about (32, 12) clockwise it lies left of it
    assert boxes["scene000.png"][0][1:] == (20, 12, 32, 28)
    assert len(boxes["scene002.png"]) == 1
    rejected = reasons(dataset)
    assert "no picture passwd.png" in rejected["project.json:[5]"]
    assert "no task" in rejected["project.json:[6]"]
    notes = " ".join(dataset.notes)
    assert "rotated" in notes and "newest" in notes and "skipped" in notes


def brush(mask):
    """Label Studio's runs of a mask, each row of pixels written out, not compressed."""
    bits = f"{mask.size * 4:032b}" + f"{7:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16))
    values = np.repeat((mask * 255).ravel(), 4)
    for start in range(0, len(values), 8):
        block = values[start : start + 8]
        if len(set(block)) == 1:
            bits += "1" + "00" + f"{len(block) - 1:03b}" + f"{block[0]:08b}"
        else:
            bits += "0" + "01" + f"{len(block) - 1:04b}" + "".join(f"{v:08b}" for v in block)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def test_brushes_polygons_and_choices_of_label_studio(tmp_path):
    items = made_pictures.scenes(3)
    root = made_pictures.write_label_studio(tmp_path, items)
    tasks = json.loads((root / "project.json").read_text())
    mask = items[0].mask > 0
    assert (label_studio.brush_mask(brush(mask), 64, 48) == mask).all()
    points = [[10, 10], [60, 10], [60, 60]]
    shapes = [
        {"rle": brush(mask), "brushlabels": ["disc"]},
        {"points": points, "polygonlabels": ["square"]},
        {"x": 50, "y": 50, "radiusX": 25, "radiusY": 25, "ellipselabels": ["disc"]},
    ]
    for task, value in zip(tasks, shapes, strict=True):
        size = {"original_width": 64, "original_height": 48}
        task["annotations"][0]["result"] = [
            {"type": "shape", "value": value, **size},
            {"type": "choices", "value": {"choices": ["day"]}},
        ]
    tasks[1]["annotations"][0]["result"][1]["value"]["choices"] = ["night"]
    (root / "project.json").write_text(json.dumps(tasks))
    dataset = read(root, "segment")
    labels = [masks.pixel_labels(picture, dataset) for picture in dataset.pictures]
    assert ((labels[0] == 1) == mask).all()
    assert (labels[1] == 2).sum() == pytest.approx(0.5 * 0.5 * 0.5 * 64 * 48, rel=0.05)
    assert (labels[2] == 1).sum() == pytest.approx(np.pi * 16 * 12, rel=0.05)
    dataset = read(root, "classify")
    assert dataset.classes == ("day", "night")
    assert [picture.label for picture in dataset.pictures] == [0, 1, 0]
    tasks[0]["annotations"][0]["result"][0]["value"]["rle"] = [0, 1, 2]
    (root / "project.json").write_text(json.dumps(tasks))
    assert "malformed" in reasons(read(root, "segment"))["project.json:[0].result[0]"]


# CSV


def csv_set(root, text, name="labels.csv", n=4):
    for i in range(n):
        made_pictures.save(root / "pics" / f"p{i}.png", made_pictures.scene(i).rgb)
    (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    "text",
    [
        "filename,label\np0.png,cat\np1.png,dog\np2.png,cat\n",
        "Image;Class\npics/p0.png;cat\npics\\p1.png;dog\np2;cat\n",
        "id,breed\np0,cat\np1,dog\np2,cat\n",
        "filename, cat, dog\np0.png,1,0\np1.png,0,1\np2.png,1,0\n",
        "path,label,split\np0.png,cat,train\np1.png,dog,valid\np2.png,cat,test\n",
        "p0.png,cat\np1.png,dog\np2.png,cat\n",
    ],
)
def test_tables_of_classes(tmp_path, text):
    dataset = read(csv_set(tmp_path, text), "classify")
    assert dataset.form == "csv" and dataset.classes == ("cat", "dog")
    assert [picture.label for picture in dataset.pictures] == [0, 1, 0]
    if "split" in text:
        assert [picture.split for picture in dataset.pictures] == ["train", "val", "test"]


@pytest.mark.parametrize(
    ("head", "row", "corners"),
    [
        ("filename,class,xmin,ymin,xmax,ymax", "p0.png,cat,10,5,30,25", (10, 5, 30, 25)),
        ("image,label,x,y,w,h", "p0.png,cat,10,5,20,20", (10, 5, 30, 25)),
        ("filename,width,height,class,xmin,ymin,xmax,ymax", "p0.png,9,9,cat,1,2,3,4", (1, 2, 3, 4)),
        ("image,label,x1,y1,x2,y2", "p0.png,cat,.25,.25,.5,.5", (16, 12, 32, 24)),
    ],
)
def test_tables_of_boxes(tmp_path, head, row, corners):
    odd = [row.replace("p0", "gone"), row.replace("cat", ""), row.replace("p0.png", "../../x.png")]
    dataset = read(csv_set(tmp_path, "\n".join([head, row, *odd])), "detect")
    assert named_boxes(dataset) == {"p0.png": [("cat", *corners)]}
    rejected = reasons(dataset)
    assert "no picture" in rejected["labels.csv:3"] and "no class" in rejected["labels.csv:4"]
    assert "leads out" in rejected["labels.csv:5"]


def test_rows_that_contradict_each_other_are_listed(tmp_path):
    text = "filename,label\np0.png,cat\np0.png,dog\np1.png,dog\np1.png,dog\np2.png,\np3.png,cat\n"
    dataset = read(csv_set(tmp_path, text), "classify")
    assert [picture.path.stem for picture in dataset.pictures] == ["p1", "p3"]
    rejected = reasons(dataset)
    assert "2 classes" in rejected["labels.csv:2"] and "no class" in rejected["labels.csv:6"]
    with pytest.raises(DataError, match="boxes"):
        read(tmp_path / "labels.csv", "detect")
