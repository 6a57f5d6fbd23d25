"""diffusion: sizes that pictures are learned in, captions, blur."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from onecard.errors import DataError, SettingsError
from onecard.reporting import Reporter
from onecard.tasks.diffusion import buckets, captions, overlays, sharpness
from onecard.tasks.diffusion.configs import CheckConfig

bases = st.tuples(st.integers(1, 24), st.sampled_from([8, 16, 32, 64]))
"""(side in steps, step)."""
lengths = st.integers(2, 9000)

# Sizes


@given(bases, lengths, lengths)
def test_a_bucket_is_no_larger_than_the_square_nor_than_the_picture(base, width, height):
    n, step = base
    bucket = buckets.assign(width, height, n * step, step)
    if bucket is None:
        assert min(width, height) < 2 * step  # not even a small square, or half of one
        return
    assert bucket[0] <= width and bucket[1] <= height
    assert not bucket[0] % step and not bucket[1] % step
    assert bucket[0] * bucket[1] <= (n * step) ** 2
    assert 0.5 <= bucket[0] / bucket[1] <= 2


@given(bases, lengths, lengths)
def test_a_turned_picture_gets_the_turned_bucket(base, width, height):
    n, step = base
    bucket = buckets.assign(width, height, n * step, step)
    turned = buckets.assign(height, width, n * step, step)
    assert turned == (bucket and bucket[::-1])


@given(bases, st.integers(1, 5000), st.floats(0.5, 2))
def test_a_large_picture_loses_little(base, more, ratio):
    """From six steps up: a smaller base has few sizes."""
    n, step = base
    width = int(2 * n * step * max(1, ratio)) + more
    height = round(width / ratio)
    if min(width, height) < 2 * n * step:
        return
    bucket = buckets.assign(width, height, n * step, step)
    assert bucket in buckets.sizes(n * step, step)
    apart = [buckets.kept_share(width, height, size) for size in buckets.sizes(n * step, step)]
    assert buckets.kept_share(width, height, bucket) == pytest.approx(max(apart))
    if n >= 6:
        assert buckets.kept_share(width, height, bucket) > 0.8


@given(lengths, lengths, bases)
def test_without_ratios_the_middle_is_cut_out_square(width, height, base):
    n, step = base
    square = buckets.assign_square(width, height, n * step, step)
    if square is None:
        assert min(width, height) < step
    else:
        assert square[0] == square[1] <= min(width, height, n * step)
        assert square[0] + step > min(width, height, n * step)


def test_a_side_that_is_no_multiple_is_cut_down():
    assert (448, 448) in buckets.sizes(500, 64)
    assert buckets.sizes(32, 64) == ()


# Captions


def picture_files(folder, *names):
    folder.mkdir(exist_ok=True)
    rows = []
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        rows.append((name, path))
    return rows


def read(rows, folder, describe=None, count_tokens=None, **settings):
    config = CheckConfig(data=str(folder), **settings)
    return captions.read(rows, folder, config, Reporter(), describe, count_tokens)


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "big5", "gb18030"])
def test_a_caption_file_in_any_encoding(tmp_path, codec):
    """Chinese, with line breaks; code pages need more than a word to be told apart."""
    rows = picture_files(tmp_path, "a.png")
    text = "一張水墨畫風格的山水，遠處有一座小橋，\n橋上有一位老人牽著一匹馬慢慢走過，天空飄著細雨"
    (tmp_path / "a.txt").write_bytes(text.encode(codec))
    result = read(rows, tmp_path, trigger="水墨畫風")
    assert result.texts == {"a.png": text.replace("\n", " ")}
    assert result.sources == {"a.png": "a.txt"}
    assert not any("trigger" in text for text in result.warnings)


def test_files_win_over_tables_and_tables_over_the_template(tmp_path):
    rows = picture_files(tmp_path, "a.png", "b.png", "sub/c.png", "d-e_1.png", "f.png")
    (tmp_path / "a.TXT").write_text("sks a")
    table = [("a.png", "other"), ("b.png", "sks b"), ("sub/c.png", "sks c"), ("gone.png", "x")]
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in table]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    (tmp_path / "f.png.txt").write_text(" \n ")
    result = read(rows, tmp_path, trigger="sks", caption="{name} by {trigger}")
    assert result.texts == {
        "a.png": "sks a",
        "b.png": "sks b",
        "sub/c.png": "sks c",
        "d-e_1.png": "d e 1 by sks",
        "f.png": "f by sks",
    }
    text = "\n".join(result.warnings)
    assert "1 captions are empty: f.png" in text
    assert "another in a table, the file's counts: a.png" in text
    assert "1 rows of tables name no picture: gone.png" in text
    assert "2 of 5 pictures have no caption of their own" in text


def test_a_csv_table_below_the_folder(tmp_path):
    rows = picture_files(tmp_path, "sub/a.png")
    (tmp_path / "sub/metadata.csv").write_text('file_name,caption\na.png,"red, sks"\n')
    assert read(rows, tmp_path, trigger="sks").texts == {"sub/a.png": "red, sks"}
    (tmp_path / "sub/metadata.csv").write_text("file_name,label\na.png,3\n")
    with pytest.raises(DataError, match="has no captions"):
        read(rows, tmp_path)


def test_a_caption_that_is_needed_and_missing(tmp_path):
    rows = picture_files(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "a.txt").write_text("sks")
    (tmp_path / "b.txt").write_bytes(bytes(range(32)) * 50)
    with pytest.raises(DataError, match="2 of 3 pictures have no caption") as fault:
        read(rows, tmp_path, caption_source="files")
    assert "b.png, c.png" in fault.value.why


def test_templates_that_cannot_be_filled_in(tmp_path):
    rows = picture_files(tmp_path, "a.png")
    with pytest.raises(SettingsError, match=r"has .colour."):
        read(rows, tmp_path, caption="a {colour} {trigger}", trigger="sks")
    with pytest.raises(SettingsError, match="there is none"):
        read(rows, tmp_path, caption="a {trigger}")
    assert read(rows, tmp_path).texts == {"a.png": "a picture"}
    assert read(rows, tmp_path, caption="a { 50% } {name}").texts == {"a.png": "a { 50% } a"}


def test_a_model_knows_no_trigger(tmp_path):
    rows = picture_files(tmp_path, "a.png", "b.png", "c.png")
    answers = {"a.png": "a dog\non grass", "b.png": "a SKS dog", "c.png": " "}
    result = read(rows, tmp_path, lambda _: answers, trigger="sks", caption_source="model")
    assert result.texts["a.png"] == "sks, a dog on grass"
    assert result.texts["b.png"] == "a SKS dog"
    assert result.sources == {"a.png": "model", "b.png": "model", "c.png": "template"}
    with pytest.raises(SettingsError, match="no model that looks"):
        read(rows, tmp_path, caption_source="model")


@pytest.mark.parametrize(
    "text, trigger, there",
    [
        ("a photo of sks dog", "sks", True),
        ("SKS", "sks", True),
        ("a sks-style house", "sks", True),
        ("desks and masks", "sks", False),
        ("sks2 dog", "sks", False),
        ("sks_dog", "sks", False),
        ("masks, sks", "sks", True),
        ("a <sks> dog", "<sks>", True),
        ("x<sks>y", "<sks>", True),
        ("my  dog\nrex", "Dog Rex", True),
        ("ｓｋｓ 犬", "sks", True),
        ("用sks風格", "sks", True),
        ("水墨畫風的山", "水墨畫", True),
        ("水彩畫", "水墨畫", False),
        ("sks가 있다", "sks", True),
        ("Straße", "STRASSE", True),
        ("éclair", "e\u0301clair", True),
        ("anything", " ", False),
    ],
)
def test_the_trigger_in_a_caption(text, trigger, there):
    assert captions.has_trigger(text, trigger) is there


def test_captions_without_the_trigger_are_named(tmp_path):
    rows = picture_files(tmp_path, *(f"{i}.png" for i in range(9)))
    for i in range(8):
        (tmp_path / f"{i}.txt").write_text("a dog" if i else "sks")
    (warning,) = [text for text in read(rows, tmp_path, trigger="sks").warnings if "lack" in text]
    assert warning.startswith("7 of 9 captions lack the trigger 'sks'")
    assert "1.png, 2.png, 3.png, 4.png, 5.png and 2 more" in warning


def test_long_captions_are_told(tmp_path):
    rows = picture_files(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_text("dog " * 90)
    (tmp_path / "b.txt").write_text("狗" * 20)
    (warning,) = read(rows, tmp_path).warnings
    assert "a.png (92 tokens by estimate)" in warning and "b.png" not in warning
    (warning,) = read(rows, tmp_path, count_tokens=lambda text: 3 * len(text)).warnings
    assert "a.png" in warning and "by estimate" not in warning


# Blur


def drawing(seed, side=384):
    """Flat discs with outlines, drawn large and scaled down, so that edges are smooth and sharp."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (2 * side, 2 * side), tuple(rng.integers(120, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(7):
        x, y, size = rng.integers(0, side, 3).tolist()
        colour = tuple(rng.integers(0, 256, 3).tolist())
        draw.ellipse((x, y, x + size + 60, y + size + 60), fill=colour, outline="black", width=6)
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))


def texture(seed, side=384):
    """Detail of all sizes, as in photos: noise whose power falls with frequency."""
    rng = np.random.default_rng(seed)
    rgb = np.zeros((side, side, 3), np.float32)
    for scale in (4, 8, 16, 32, 64, 128, side):
        coarse = rng.normal(0, 60 / scale**0.4, (scale, scale, 3)).astype(np.float32)
        rgb += cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(rgb * 1.5 + 128, 0, 255).astype(np.uint8)


def soft(rgb, sigma, grain=0.0):
    values = cv2.GaussianBlur(rgb, (0, 0), sigma).astype(np.float32)
    values += np.random.default_rng(0).normal(0, grain, rgb.shape)
    return np.clip(values, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("make", [drawing, texture])
@pytest.mark.parametrize("grain", [0, 3])
def test_a_blurred_picture_stands_out_in_its_set(make, grain):
    pictures = [make(i) for i in range(8)]
    pictures[2], pictures[5] = soft(pictures[2], 3, grain), soft(pictures[5], 4, grain)
    values = [sharpness.sharpness(rgb) for rgb in pictures]
    assert sharpness.blurred(values) == [2, 5]


def test_strong_blur_is_told_without_a_set_to_compare():
    for make in (drawing, texture):
        assert sharpness.blurred([sharpness.sharpness(soft(make(1), 4))]) == [0]
        assert sharpness.blurred([sharpness.sharpness(make(1))]) == []


def test_a_soft_background_is_no_blur():
    rgb = soft(drawing(3), 6)
    rgb[130:260, 130:260] = drawing(3)[130:260, 130:260]
    assert sharpness.blurred([sharpness.sharpness(rgb)]) == []


def test_a_plain_picture_cannot_be_judged():
    assert sharpness.sharpness(np.full((64, 64, 3), 200, np.uint8)) is None
    assert sharpness.blurred([None, None]) == []


# Marks on all pictures


def marked(rgb, share):
    """A row of letters on the picture, `share` of white."""
    mask = np.zeros(rgb.shape[:2], np.uint8)
    cv2.putText(mask, "photos.example", (132, 360), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 2)
    alpha = mask[..., None] / 255 * share
    return (rgb * (1 - alpha) + 255 * alpha).astype(np.uint8)


def place_of(pictures):
    marks = overlays.Marks()
    for rgb in pictures:
        marks.add(rgb)
    return marks.place()


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_watermark_on_all_pictures(share):
    pictures = [texture(i) for i in range(10)]
    assert place_of(pictures) == ""
    watermarked = [marked(rgb, share) for rgb in pictures]
    assert place_of(watermarked) == "bottom centre"
    watermarked[4] = pictures[4]  # one without it
    assert place_of(watermarked) == "bottom centre"
    assert place_of([*watermarked[:5], *pictures[5:]]) == ""
    assert place_of(watermarked[:7]) == ""  # too few to tell


def test_a_frame_around_all_pictures():
    framed = [drawing(i).copy() for i in range(9)]
    for rgb in framed:
        rgb[:9] = rgb[-9:] = 0
        rgb[:, :9] = rgb[:, -9:] = 0
    assert place_of(framed) == "all over"
