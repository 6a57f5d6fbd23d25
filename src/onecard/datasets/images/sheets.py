"""Contact sheets: pictures as small tiles with their labels drawn in, to be looked at."""

import colorsys
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from onecard import fsio
from onecard.datasets.images import decode, geometry, masks
from onecard.datasets.images.records import Box, Detection, ImageDataset, Picture
from onecard.datasets.splits import hash_rank
from onecard.errors import OneCardError

TILE = 320
"""Width and height of a tile's picture (px)."""
CAPTION = 22
GAP = 6
FONT_PX = 14
MASK_SHARE = 0.45
"""Of a mask's colour in its overlay."""
FONTS = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
    "/System/Library/Fonts/PingFang.ttc",
    "/System/Library/Fonts/Hiragino Sans GB.ttc",
    "C:/Windows/Fonts/msyh.ttc",
    "C:/Windows/Fonts/msjh.ttc",
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
)
"""Those with letters of East Asia first; without any, Pillow's own draws boxes for such letters."""

Rgb = NDArray[np.uint8]
Colour = tuple[int, int, int]
Labels = Sequence[Box | Detection] | NDArray[np.integer] | int | None
"""Boxes; HxW class numbers of pixels (negative: none); a class of the whole picture; nothing."""
Tile = tuple[Rgb, Labels, str]
"""Picture, labels, caption."""


def contact_sheet(
    pictures: Sequence[Picture],
    classes: Sequence[str] | ImageDataset,
    path: Path,
    n: int = 24,
    draw: bool = True,
    seed: int = 0,
) -> Path:
    """Writes a PNG of at most `n` pictures, the same for the same seed, in the order of names.

    With the data set in place of `classes` its masks are drawn too; `draw` leaves labels away.
    A picture that cannot be read is a grey tile with the reason. Raises DataError for a path that
    cannot be written.
    """
    dataset = classes if isinstance(classes, ImageDataset) else None
    names = dataset.classes if dataset else tuple(classes)  # type: ignore[arg-type]
    ranked = sorted(pictures, key=lambda picture: hash_rank(seed, picture.name))
    chosen = sorted(ranked[:n], key=lambda picture: picture.name)
    tiles = [_tile_of(picture, dataset, draw) for picture in chosen]
    return draw_tiles(tiles, names, path)


def _tile_of(picture: Picture, dataset: ImageDataset | None, draw: bool) -> Tile:
    caption = f"{picture.split} {Path(picture.name).name}".strip()
    try:
        rgb = decode.read_rgb(picture.path)
        if not draw:
            return rgb, None, caption
        if picture.mask is not None:
            has_values = dataset is not None and dataset.mask_values
            labels = masks.pixel_labels(picture, dataset) if dataset and has_values else None
            return rgb, labels, caption
    except OneCardError as fault:
        return np.full((TILE, TILE, 3), 128, np.uint8), None, f"{caption}: {fault.why}"
    return rgb, picture.boxes or (picture.label if picture.label >= 0 else None), caption


def draw_tiles(tiles: Sequence[Tile], classes: Sequence[str], path: Path, columns: int = 0) -> Path:
    """Writes tiles as one PNG, with a legend where masks are drawn. Colours go by class number.

    Raises DataError for a path that cannot be written.
    """
    columns = columns or max(1, min(6, math.ceil(math.sqrt(len(tiles)))))
    rows = max(1, math.ceil(len(tiles) / columns))
    legend = _legend(tiles, classes, columns * (TILE + GAP))
    images = [draw_labels(rgb, labels, classes, TILE) for rgb, labels, _ in tiles]
    tall = max((image.height for image in images), default=TILE)
    size = (columns * (TILE + GAP) + GAP, rows * (tall + CAPTION + GAP) + GAP + legend.height)
    sheet = Image.new("RGB", size, "white")
    for i, (image, (_, _, caption)) in enumerate(zip(images, tiles, strict=True)):
        x = GAP + i % columns * (TILE + GAP)
        y = GAP + i // columns * (tall + CAPTION + GAP)
        sheet.paste(image, (x + (TILE - image.width) // 2, y + (tall - image.height) // 2))
        _text(ImageDraw.Draw(sheet), (x, y + tall + 2), caption, "black", TILE)
    sheet.paste(legend, (GAP, size[1] - legend.height))
    with fsio.atomic_write(path) as draft:
        sheet.save(draft, "PNG", compress_level=3)
    return path


def draw_labels(rgb: Rgb, labels: Labels, classes: Sequence[str], side: int) -> Image.Image:
    """A picture with its labels, its longer side `side` px."""
    height, width = rgb.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(np.ascontiguousarray(rgb, np.uint8)).resize(size)
    if isinstance(labels, np.ndarray):
        return _with_mask(image, labels)
    draw = ImageDraw.Draw(image, "RGBA")
    if isinstance(labels, int):
        _tag(draw, (0, 0), _name(labels, classes), colour_of(labels), size)
    elif labels is not None:
        for box in sorted(labels, key=lambda box: -(box.x1 - box.x0) * (box.y1 - box.y0)):
            _draw_box(draw, box, classes, scale, size, (width, height))
    return image


def colour_of(label: int) -> Colour:
    """Of a class: hues apart by the golden ratio, so that neighbours in number differ."""
    if label < 0:
        return (160, 160, 160)
    hue = (0.02 + label * 0.618034) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.9, (1.0, 0.75)[label // 8 % 2])
    return round(red * 255), round(green * 255), round(blue * 255)


def _draw_box(
    draw: ImageDraw.ImageDraw,
    box: Box | Detection,
    classes: Sequence[str],
    scale: float,
    size: tuple[int, int],
    full: tuple[int, int],
) -> None:
    colour = colour_of(box.label)
    corners = [box.x0 * scale, box.y0 * scale, box.x1 * scale, box.y1 * scale]
    runs = getattr(box, "runs", ())
    if box.polygons:
        for points in box.polygons:
            outline = [value * scale for value in points]
            draw.polygon(outline, fill=(*colour, 70), outline=(*colour, 255), width=2)
    elif runs:
        mask = geometry.runs_mask(runs, *full)
        shade = Image.fromarray(mask.astype(np.uint8) * 110).resize(size)
        draw.bitmap((0, 0), shade, fill=(*colour, 110))
    else:
        draw.rectangle(corners, outline=(*colour, 255), width=2)
    name = _name(box.label, classes)
    if getattr(box, "crowd", False):
        name += " (crowd)"
    if isinstance(box, Detection):
        name += f" {box.score:.2f}"
    _tag(draw, (corners[0], corners[1]), name, colour, size)


def _with_mask(image: Image.Image, labels: NDArray[np.integer]) -> Image.Image:
    """Class 0 is left as it is: most often the background."""
    small = np.asarray(
        Image.fromarray(labels.astype(np.int32)).resize(image.size, Image.Resampling.NEAREST)
    )
    pixels = np.asarray(image, np.float32).copy()
    for label in np.unique(small):
        if label != 0:
            inside = small == label
            colour = np.asarray(colour_of(int(label)), np.float32)
            pixels[inside] = (1 - MASK_SHARE) * pixels[inside] + MASK_SHARE * colour
    return Image.fromarray(pixels.astype(np.uint8))


def _legend(tiles: Sequence[Tile], classes: Sequence[str], width: int) -> Image.Image:
    """Colours of the classes in masks; of no height without masks."""
    labels = sorted(
        {
            int(label)
            for _, each, _ in tiles
            if isinstance(each, np.ndarray)
            for label in np.unique(each)
        }
    )
    if not labels:
        return Image.new("RGB", (width, 0))
    lines = math.ceil(len(labels) / max(1, width // 160))
    legend = Image.new("RGB", (width, lines * CAPTION + GAP), "white")
    draw = ImageDraw.Draw(legend)
    per_line = max(1, width // 160)
    for i, label in enumerate(labels):
        x, y = i % per_line * 160, i // per_line * CAPTION
        fill = colour_of(label) if label else (255, 255, 255)
        draw.rectangle((x, y + 2, x + 14, y + 16), fill=fill, outline="black")
        _text(draw, (x + 20, y), _name(label, classes) if label >= 0 else "ignored", "black", 136)
    return legend


# Text


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for path in FONTS:
        try:
            return ImageFont.truetype(path, FONT_PX)
        except OSError:
            continue
    return ImageFont.load_default(FONT_PX)


def _name(label: int, classes: Sequence[str]) -> str:
    return classes[label] if 0 <= label < len(classes) else str(label)


def _shown(text: str) -> str:
    """In one line, without what a font cannot draw: half surrogates of broken file names."""
    text = text.encode("utf-8", "replace").decode()
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _text(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, fill: str, width: int
) -> None:
    """A text cut to `width` px, in its middle: names of one set begin and end alike."""
    shown, font = _shown(text), _font()
    while len(shown) > 4 and draw.textlength(shown, font=font) > width:
        half = (len(shown) - 2) // 2
        shown = shown[:half] + "…" + shown[-half + 1 :]
    draw.text(place, shown, fill=fill, font=font)


def _tag(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    colour: Colour,
    size: tuple[int, int],
) -> None:
    """A name on its colour, inside the tile."""
    shown, font = _shown(text)[:40], _font()
    left, top, right, bottom = draw.textbbox((0, 0), shown, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = max(0.0, min(place[0], size[0] - width))
    y = max(0.0, min(place[1] - height, size[1] - height))
    draw.rectangle((x, y, x + width, y + height), fill=(*colour, 215))
    light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    draw.text((x + 2 - left, y + 2 - top), shown, fill="black" if light else "white", font=font)
