"""Picture files to arrays: every mode upright, and plain refusals of what is no picture."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from onecard.datasets.images import decode
from onecard.errors import DataError, NotFound


def corner(width=60, height=40):
    """Black with a white top left corner."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[: height // 4, : width // 3] = 255
    return Image.fromarray(rgb)


def png_header(width, height):
    """A PNG that promises a size and holds nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_read_upright(tmp_path, suffix, orientation):
    """Which corner is white when the camera was turned, by EXIF 2.3's table of orientations."""
    path, exif = tmp_path / f"a.{suffix}", Image.Exif()
    exif[decode.ORIENTATION] = orientation
    corner().save(path, exif=exif)
    rgb = decode.read_rgb(path)
    assert rgb.shape == ((60, 40, 3) if orientation > 4 else (40, 60, 3))
    assert decode.picture_size(path) == (rgb.shape[1], rgb.shape[0])
    corners = [rgb[2, 2], rgb[2, -3], rgb[-3, -3], rgb[-3, 2]]
    white = [1, 2, 3, 4, 1, 2, 3, 4][orientation - 1] - 1
    assert [c.mean() > 200 for c in corners] == [i == white for i in range(4)]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK", "RGB"])
def test_every_mode_becomes_rgb(mode):
    file = io.BytesIO()
    corner().convert(mode).save(file, "TIFF" if mode == "CMYK" else "PNG")
    rgb = decode.read_rgb_bytes(file.getvalue())
    assert rgb.shape == (40, 60, 3) and rgb.dtype == np.uint8
    assert rgb[1, 1].min() > 230 and rgb[-2, -2].max() < 60


def test_transparent_parts_lie_on_white():
    rgba = np.zeros((10, 10, 4), np.uint8)
    rgba[:5, :, 3] = 255
    file = io.BytesIO()
    Image.fromarray(rgba).save(file, "PNG")
    rgb = decode.read_rgb_bytes(file.getvalue())
    assert rgb[:5].max() == 0 and rgb[5:].min() == 255


@pytest.mark.parametrize(
    ("values", "brightest"), [((0, 65535), 255), ((0, 4095), 255), ((0, 200), 200), ((0, 8192), 32)]
)
def test_deep_grey_is_scaled_by_its_depth(tmp_path, values, brightest):
    grey = np.full((8, 8), values[0], np.uint16)
    grey[0, 0] = values[1]
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert decode.read_rgb(tmp_path / "a.png").max() == brightest


def test_the_first_frame_of_an_animation_counts(tmp_path):
    red, blue = (Image.new("RGB", (9, 9), colour) for colour in ("red", "blue"))
    red.save(tmp_path / "a.gif", save_all=True, append_images=[blue])
    assert decode.read_rgb(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


REFUSED = {
    "empty": b"",
    "HTML": b"\r\n<!DOCTYPE html><html><body>404</body></html>",
    "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9"></svg>',
    "LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
    "PDF": b"%PDF-1.4 ...",
    "zero bytes": b"\0" * 5000,
    "known kind": b"GARBAGE" * 40,
    "100 million": png_header(20_000, 20_000),
    "100  million": png_header(2**31 - 1, 2**31 - 1),
    "more than 100 million": png_header(12_000, 10_000),
    "1x1": png_header(1, 1),
    "strip": png_header(2, 5000),
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_is_no_picture_is_refused_with_its_reason(tmp_path, word):
    path = tmp_path / "a.png"
    path.write_bytes(REFUSED[word])
    for read in (decode.read_rgb, decode.picture_size):
        with pytest.raises(DataError) as refusal:
            read(path)
        assert word.split()[-1].lower() in str(refusal.value).lower()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_every_cut_and_every_changed_byte_gives_a_picture_or_a_refusal(kind):
    file = io.BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8)).save(file, kind)
    whole = file.getvalue()
    n_refused = 0
    for i in range(60):
        data = bytearray(whole)
        if i % 2:
            data = data[: int(rng.integers(1, len(whole)))]
        else:
            for at in rng.integers(0, min(200, len(whole)), 4):
                data[at] = int(rng.integers(256))
        try:
            assert decode.read_rgb_bytes(bytes(data)).ndim == 3
        except DataError:
            n_refused += 1
    assert n_refused > 20


def test_nothing_but_files_is_opened(tmp_path):
    for name in ("http://127.0.0.1:9/a.png", tmp_path, tmp_path / "none.png"):
        with pytest.raises(NotFound):
            decode.read_rgb(name)


def test_endings_count_in_any_case(tmp_path):
    names = ["a.JPG", "b.WebP", "c.tiff", "d.txt", ".e.png", "f.svg"]
    assert [decode.is_picture(tmp_path / name) for name in names] == [True] * 3 + [False] * 3


def test_a_library_that_replaces_pillows_open_changes_no_refusal(tmp_path, monkeypatch):
    """Ultralytics does: for what Pillow does not know it imports a plugin that may be missing."""

    def replaced(*words, **settings):
        raise ModuleNotFoundError("No module named 'pi_heif'")

    path = tmp_path / "a.png"
    path.write_bytes(b"neither this nor that" * 20)
    monkeypatch.setattr(decode.Image, "open", replaced)
    with pytest.raises(DataError) as refusal:
        decode.read_rgb(path)
    assert "no picture of a known kind" in refusal.value.why
