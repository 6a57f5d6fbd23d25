"""A data set of any layout as the files that Ultralytics reads: links to the pictures, a label file
each, data.yaml. Pictures that OpenCV reads otherwise than Pillow are written anew."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from PIL import Image

from onecard import fsio
from onecard.datasets.images.decode import read_rgb
from onecard.datasets.images.records import Box, Detection, Picture, fingerprint
from onecard.reporting import Reporter

LINKED = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP"}
"""Endings that are linked, where the file is what its ending says and has three 8-bit channels."""
MARK = "fingerprint.json"


def write(
    folder: Path,
    splits: Mapping[str, Sequence[Picture]],
    classes: Sequence[str],
    reporter: Reporter,
    *,
    outlines: bool = False,
) -> Path:
    """data.yaml of the folder, written anew unless it holds these very labels. Raises DataError."""
    mark = {name: fingerprint(pictures) for name, pictures in splits.items()}
    mark["classes"] = json.dumps(list(classes))
    if (folder / MARK).is_file() and json.loads((folder / MARK).read_text()) == mark:
        return folder / "data.yaml"
    shutil.rmtree(folder, ignore_errors=True)
    total = sum(map(len, splits.values()))
    with reporter.progress("pictures", total) as bar:
        for name, pictures in splits.items():
            (folder / "images" / name).mkdir(parents=True)
            (folder / "labels" / name).mkdir(parents=True)
            for number, picture in enumerate(pictures):
                stem = f"{number:06d}"  # two pictures of one name in two folders
                _write_picture(picture, folder / "images" / name / stem)
                text = label_lines(picture.boxes, picture.width, picture.height, outlines)
                (folder / "labels" / name / f"{stem}.txt").write_text(text)
                bar.step()
    rows: dict[str, object] = {"path": str(folder.resolve())}
    rows |= {name: f"images/{name}" for name in splits}
    rows["names"] = dict(enumerate(classes))
    text = yaml.safe_dump(rows, allow_unicode=True, sort_keys=False)
    fsio.write_text(folder / "data.yaml", text)
    fsio.write_text(folder / MARK, json.dumps(mark))
    return folder / "data.yaml"


def _write_picture(picture: Picture, target: Path) -> None:
    suffix = picture.path.suffix.lower()
    if suffix in LINKED and _is_plain(picture.path, LINKED[suffix]):
        target.with_suffix(suffix).symlink_to(picture.path.resolve())
    else:
        Image.fromarray(read_rgb(picture.path)).save(target.with_suffix(".png"), compress_level=1)


def _is_plain(path: Path, form: str) -> bool:
    """Whether every decoder gives the same: RGB or grey in 8 bits, and no rotation noted."""
    with Image.open(path) as image:
        upright = image.getexif().get(0x0112, 1) == 1
        return image.format == form and image.mode in ("RGB", "L") and upright


def label_lines(
    boxes: Sequence[Box | Detection], width: int, height: int, outlines: bool = False
) -> str:
    """One line an object: class, then centre and size as shares of the picture, or its outline.

    Crowds are left out: the format has no word for them.
    """
    lines = []
    for box in boxes:
        if isinstance(box, Box) and box.crowd:
            continue
        if outlines and box.polygons:
            polygon = max(box.polygons, key=len)
            pairs = zip(polygon[::2], polygon[1::2], strict=True)
            shares = [value for x, y in pairs for value in (x / width, y / height)]
        else:
            shares = [
                (box.x0 + box.x1) / 2 / width,
                (box.y0 + box.y1) / 2 / height,
                (box.x1 - box.x0) / width,
                (box.y1 - box.y0) / height,
            ]
            if outlines:  # a plain box as an outline of four corners
                x, y, w, h = shares
                x0, y0, x1, y1 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
                shares = [x0, y0, x1, y0, x1, y1, x0, y1]
        values = " ".join(f"{min(max(share, 0.0), 1.0):.6f}" for share in shares)
        lines.append(f"{box.label} {values}\n")
    return "".join(lines)
