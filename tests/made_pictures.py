"""Small data sets of pictures: coloured squares and discs on a noisy ground, in every layout.

scenes = made_pictures.scenes(12)
made_pictures.write_yolo(tmp_path / "set", scenes)
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("square", "disc")
COLOURS = ((220, 40, 30), (30, 90, 220))


@dataclass
class Scene:
    """One picture with what is on it."""

    name: str
    rgb: np.ndarray
    objects: list[tuple[int, int, int, int, int]]
    """(class, x0, y0, x1, y1) in pixels."""
    mask: np.ndarray
    """0 for the ground, class + 1."""
    split: str

    @property
    def size(self):
        return self.rgb.shape[1], self.rgb.shape[0]


def scene(seed, width=64, height=48, n_objects=2, split="train", name=""):
    """Objects do not overlap: each has a column of its own. Pictures of two seeds differ in their
    ground too, so that they are no duplicates."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 200, (6, 8, 3)).astype(np.uint8)
    ground = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    rgb = np.array(ground, np.int16) + rng.integers(-12, 12, (height, width, 3))
    rgb = np.clip(rgb, 0, 255).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    objects = []
    step = width // max(1, n_objects)
    for i in range(n_objects):
        label = int(rng.integers(2))
        side = int(rng.integers(min(8, step - 3), min(step - 2, height - 4)))
        x0 = i * step + int(rng.integers(1, step - side))
        y0 = int(rng.integers(1, height - side))
        y, x = np.mgrid[:side, :side] + 0.5
        inside = np.ones((side, side), bool)
        if label == 1:
            inside = (x - side / 2) ** 2 + (y - side / 2) ** 2 <= (side / 2) ** 2
        rgb[y0 : y0 + side, x0 : x0 + side][inside] = COLOURS[label]
        mask[y0 : y0 + side, x0 : x0 + side][inside] = label + 1
        objects.append((label, x0, y0, x0 + side, y0 + side))
    return Scene(name or f"scene{seed:03d}.png", rgb, objects, mask, split)


def scenes(n, n_val=None, n_test=0, **settings):
    """The last `n_val` (a quarter) are for validation, and `n_test` before them for the test."""
    n_val = n // 4 if n_val is None else n_val
    splits = ["train"] * (n - n_val - n_test) + ["test"] * n_test + ["val"] * n_val
    return [scene(i, split=split, **settings) for i, split in enumerate(splits)]


def save(path, rgb, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path, **settings)
    return path


def outline(label, x0, y0, x1, y1):
    """x y x y ... of an object."""
    if label == 0:
        return [x0, y0, x1, y0, x1, y1, x0, y1]
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    xs = (x0 + x1) / 2 + (x1 - x0) / 2 * np.cos(turn)
    ys = (y0 + y1) / 2 + (y1 - y0) / 2 * np.sin(turn)
    return np.stack([xs, ys], 1).ravel().tolist()


def yolo_line(size, label, x0, y0, x1, y1, polygons=False):
    width, height = size
    if polygons:
        points = outline(label, x0, y0, x1, y1)
        shares = [value / (height if i % 2 else width) for i, value in enumerate(points)]
    else:
        shares = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height]
        shares += [(x1 - x0) / width, (y1 - y0) / height]
    return " ".join([str(label), *(f"{value:.6f}" for value in shares)])


def write_yolo(root, items, polygons=False, yaml=True):
    """images/<split>, labels/<split> and data.yaml."""
    for each in items:
        save(root / "images" / each.split / each.name, each.rgb)
        lines = [yolo_line(each.size, *row, polygons=polygons) for row in each.objects]
        text = root / "labels" / each.split / Path(each.name).with_suffix(".txt")
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text("".join(line + "\n" for line in lines))
    if yaml:
        splits = sorted({each.split for each in items})
        places = "".join(f"{split}: images/{split}\n" for split in splits)
        (root / "data.yaml").write_text(f"{places}nc: 2\nnames: {list(CLASSES)}\n")
    return root


def write_coco(root, items, ids=(1, 2)):
    """annotations/instances_<split>2017.json and <split>2017/."""
    for split in sorted({each.split for each in items}):
        images, annotations = [], []
        for number, each in enumerate(items):
            if each.split != split:
                continue
            save(root / f"{split}2017" / each.name, each.rgb)
            width, height = each.size
            row = {"id": number, "file_name": each.name, "width": width, "height": height}
            images.append(row)
            for label, x0, y0, x1, y1 in each.objects:
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": number,
                        "category_id": ids[label],
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": (x1 - x0) * (y1 - y0),
                        "iscrowd": 0,
                        "segmentation": [outline(label, x0, y0, x1, y1)],
                    }
                )
        categories = [{"id": i, "name": name} for i, name in zip(ids, CLASSES, strict=True)]
        rows = {"images": images, "annotations": annotations, "categories": categories}
        path = root / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows))
    return root


def voc_xml(each, objects=None):
    width, height = each.size
    rows = "".join(
        f"<object><name>{CLASSES[label]}</name><difficult>0</difficult><bndbox><xmin>{x0}</xmin>"
        f"<ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>\n"
        for label, x0, y0, x1, y1 in (each.objects if objects is None else objects)
    )
    return (
        f"<annotation><filename>{each.name}</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size>\n{rows}</annotation>"
    )


def write_voc(root, items):
    """JPEGImages, Annotations and ImageSets/Main."""
    lists = {}
    for each in items:
        save(root / "JPEGImages" / each.name, each.rgb)
        path = root / "Annotations" / Path(each.name).with_suffix(".xml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(voc_xml(each))
        lists.setdefault(each.split, []).append(Path(each.name).stem)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for split, stems in lists.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems) + "\n")
    return root


def label_studio_task(each, i, name=None):
    width, height = each.size
    result = [
        {
            "type": "rectanglelabels",
            "original_width": width,
            "original_height": height,
            "value": {
                "x": 100 * x0 / width,
                "y": 100 * y0 / height,
                "width": 100 * (x1 - x0) / width,
                "height": 100 * (y1 - y0) / height,
                "rotation": 0,
                "rectanglelabels": [CLASSES[label]],
            },
        }
        for label, x0, y0, x1, y1 in each.objects
    ]
    name = name or f"{0xAB12CD00 + i:08x}-{each.name}"
    return {
        "id": i,
        "file_upload": name,
        "data": {"image": f"/data/upload/1/{name}"},
        "annotations": [{"was_cancelled": False, "result": result}],
    }


def write_label_studio(root, items):
    """project.json and the pictures beside it, uploaded under a name with a hash in front."""
    for each in items:
        save(root / each.name, each.rgb)
    tasks = [label_studio_task(each, i) for i, each in enumerate(items)]
    (root / "project.json").write_text(json.dumps(tasks))
    return root


def write_csv(root, items):
    """labels.csv with a box in each row, and images/."""
    rows = [["filename", "class", "xmin", "ymin", "xmax", "ymax", "split"]]
    for each in items:
        save(root / "images" / each.name, each.rgb)
        for label, *corners in each.objects:
            rows.append([each.name, CLASSES[label], *corners, each.split])
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


def write_folders(root, items, splits=True):
    """<split>/<class>/: the class is that of the first object."""
    for each in items:
        place = root / each.split if splits else root
        save(place / CLASSES[each.objects[0][0]] / each.name, each.rgb)
    return root


def write_masks(root, items, values=(0, 1, 2), splits=True, suffix=".png"):
    """images/<split> and masks/<split>."""
    table = np.zeros(256, np.uint8)
    table[: len(values)] = values
    for each in items:
        below = each.split if splits else ""
        save(root / "images" / below / each.name, each.rgb)
        settings = {"quality": 90} if suffix == ".jpg" else {}
        name = Path(each.name).with_suffix(suffix).name
        save(root / "masks" / below / name, table[each.mask], **settings)
    return root
