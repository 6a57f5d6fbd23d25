"""Picture files to RGB arrays, upright, with a plain refusal of all that is no picture."""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from onecard.errors import DataError, NotFound

SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".png",
        ".webp",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".gif",
        ".ppm",
        ".pgm",
        ".pnm",
        ".avif",
    ]
)
"""Endings of picture files, in lower case."""
Image.init()  # registers the decoders: Image.open alone knows the most usual five
FORMATS = tuple(
    name
    for name in ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "AVIF")
    if name in Image.OPEN
)
"""Pillow's names of what is decoded. EPS and others that start a program are never tried."""
MAX_PIXELS = 100_000_000
"""A 100-megapixel camera's picture takes 300 MB decoded; a file of a few kB can promise billions
of pixels (a decompression bomb), which the header alone gives away."""
MAX_BYTES = 1 << 30
MIN_SIDE = 2
"""A picture with a side of 1 px is a tracking pixel or a broken file."""
MAX_RATIO = 100
"""Of the longer to the shorter side: 640 px resized still leave 6 px of the shorter one."""
ORIENTATION = 0x0112
"""The EXIF tag."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)

Rgb = NDArray[np.uint8]


def is_picture(path: Path) -> bool:
    """By its ending, in upper or lower case; hidden files are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_rgb(path: str | Path) -> Rgb:
    """A picture as HxWx3 uint8 RGB, upright by its EXIF orientation.

    Transparent parts lie on white. Of an animation it is the first frame. CMYK, grey, palette and
    black-and-white pictures become RGB. Grey with more than 8 bits is scaled by its depth, not
    stretched, so that pictures of one set stay comparable: 12 bits where no value is above 4095,
    else 16; floats in 0..1 by 255, other floats from their least to their greatest.
    Raises NotFound, DataError.
    """
    path = Path(path)
    with _opened(_bytes_of(path), str(path)) as image:
        return _rgb(image)


def read_rgb_bytes(data: bytes, name: str = "the picture") -> Rgb:
    """`read_rgb` of a file's bytes; `name` is what a refusal calls it. Raises DataError."""
    with _opened(data, name) as image:
        return _rgb(image)


def picture_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of the upright picture, from the header. Raises NotFound, DataError."""
    path = Path(path)
    _require_file(path)
    with path.open("rb") as file, _image(file, str(path), file.read(4096)) as image:
        return upright_size(image)


def orientation(path: Path) -> int:
    """1 to 8 by EXIF, 1 for upright as it is stored. Raises NotFound, DataError."""
    _require_file(path)
    with path.open("rb") as file, _image(file, str(path), file.read(4096)) as image:
        return _orientation(image)


def upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if _orientation(image) in SIDEWAYS else (width, height)


def thumbnail(data: bytes, name: str, side: int) -> Rgb:
    """A picture stretched to side x side x 3, for comparing. A JPEG is decoded at an eighth of its
    size where that is enough. Raises DataError, for a truncated file too."""
    with _opened(data, name) as image:
        image.draft("RGB", (side * 2, side * 2))
        rgb = Image.fromarray(_rgb(image))
        return np.asarray(rgb.resize((side, side), Image.Resampling.BOX))


def read_mask_image(path: Path) -> Image.Image:
    """A mask, loaded: mode P with its palette's indices, L, I or RGB. Alpha is dropped, and of
    black and white white is 255. Raises NotFound, DataError."""
    with _opened(_bytes_of(path), str(path)) as image:
        image.load()
        if image.mode in ("P", "L", "RGB"):
            return image.copy()
        if image.mode.startswith("I"):
            return Image.fromarray(np.asarray(image).astype(np.int32))
        return image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")


# Opening


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise NotFound(
            f"there is no picture {path}",
            why="it is a folder" if path.is_dir() else "nothing lies at that path",
            fix="check the path; addresses are not opened, download the picture first",
        )
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise _refusal(str(path), f"the file has {size:,} bytes, more than a picture needs")


def _bytes_of(path: Path) -> bytes:
    _require_file(path)
    try:
        return path.read_bytes()
    except OSError as fault:
        raise _refusal(str(path), fault.strerror or str(fault), "check its permissions") from None


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[Image.Image]:
    with _image(io.BytesIO(data), name, data[:4096]) as image:
        yield image


@contextmanager
def _image(file: IO[bytes], name: str, head: bytes) -> Iterator[Image.Image]:
    """The picture with its header read. Whatever the decoder raises, then or later, is a DataError:
    Pillow's plugins raise a dozen classes on broken files, and name none of them."""
    if fault := _no_picture(head):
        raise _refusal(name, *fault)
    try:
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and odd EXIF, judged below
            with Image.open(file, formats=FORMATS) as image:
                _check_size(image.size, name)
                yield image
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise _refusal(name, *_too_large(0, 0)) from None
    except MemoryError:
        raise _refusal(name, "there is not enough memory for it", "make it smaller") from None
    except (UnidentifiedImageError, ImportError):
        # ultralytics, once imported, replaces Pillow's open by one that asks for an HEIF plugin
        raise _refusal(name, "the file is no picture of a known kind") from None
    except Exception as fault:
        why = "the file is damaged or cut off"
        raise _refusal(name, f"{why}: {fault}"[:200], "copy or export it again") from None


def _no_picture(head: bytes) -> tuple[str, str] | None:
    """(why, fix) for files that people take for pictures."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1024].lower()
    if not head:
        return "the file is empty", "copy or download it again"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "it is an HTML page: the download failed", "download the picture itself"
    if start.startswith((b"<svg", b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in head.lower():
        return "it is an SVG drawing, which has no pixels", "export it as PNG"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS", "fetch the files: git lfs pull"
    if head.startswith(b"%PDF"):
        return "it is a PDF", "export its pages as PNG"
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"hevc", b"msf1"):
        return "it is a HEIC photo, which is not decoded here", "convert it to JPEG"
    if not head.strip(b"\0"):
        return "it holds zero bytes only: a copy broke off", "copy it again"
    return None


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise _refusal(name, *_too_large(width, height))
    if min(size) < MIN_SIDE:
        raise _refusal(name, f"it is {width}x{height} pixels: nothing can be seen on it")
    if max(size) > MAX_RATIO * min(size):
        raise _refusal(name, f"it is a strip of {width}x{height} pixels", "cut it into parts")


def _too_large(width: int, height: int) -> tuple[str, str]:
    shown = f"{width:,}x{height:,} pixels are" if width else "its pixels are"
    why = f"{shown} more than {MAX_PIXELS // 1_000_000} million, which would fill the memory"
    return why, "make it smaller, or cut it into tiles"


def _refusal(name: str, why: str, fix: str = "leave it out, or replace it") -> DataError:
    return DataError(f"{name} is not a usable picture", why=why, fix=fix)


# Pixels


def _orientation(image: Image.Image) -> int:
    """1 to 8 by EXIF; 1 where there is none, or a broken one."""
    if image.format == "TIFF":
        return 1  # Pillow turns a TIFF itself, and gives its upright size
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, struct.error):
        return 1


def _rgb(image: Image.Image) -> Rgb:
    orientation = _orientation(image)  # before loading, which may close the file
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        grey = _eight_bits(np.asarray(image))
        upright = Image.fromarray(grey)
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        upright = Image.new("RGBA", rgba.size, "white")
        upright.alpha_composite(rgba)
    else:
        upright = image.convert("RGB")
    if orientation in TURNS:
        upright = upright.transpose(TURNS[orientation])
    return np.array(upright.convert("RGB"))


def _eight_bits(values: NDArray[np.generic]) -> Rgb:
    """Grey of 16 or 32 bits, or floats, in 8 bits; see `read_rgb`."""
    grey = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(grey.min()), float(grey.max())
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        grey = grey * 255
    elif values.dtype.kind == "f" or low < 0 or high > 65535:
        grey = (grey - low) * (255 / ((high - low) or 1))
    elif high > 4095:
        grey = grey / 257
    elif high > 255:
        grey = grey / 16.06  # 4095 -> 255
    return np.clip(np.round(grey), 0, 255).astype(np.uint8)
