"""Texts of a PNG: what was written is read, and a hostile file gives a plain refusal."""

import json
import struct
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from onecard.errors import DataError, OneCardError, SettingsError
from onecard.tasks.diffusion import again_settings, png_metadata
from onecard.tasks.diffusion.configs import AgainConfig

HEADER = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
RECORD = {
    "settings": {
        "prompt": "a red apple, 蘋果",
        "negative_prompt": "blurred\nlow",
        "model": "sd-1.5",
        "seed": 5,
        "num_inference_steps": 20,
        "guidance_scale": 7.5,
        "scheduler": "euler-a",
        "init_image": "",
        "strength": 0.8,
        "lora": ["~/style.safetensors:0.8"],
    },
    "model": {"name": "sd-1.5", "fingerprint": "sampled:0123456789abcdef"},
    "loras": [{"file": "style.safetensors", "sha256": "ab" * 32, "weight": 0.8}],
    "size": [512, 768],
    "sampler": "EulerAncestralDiscrete",
    "batch": [5],
    "packages": {"onecard": "0.1"},
}


def chunk(kind, body, crc=None):
    crc = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", crc)


def png(path, *chunks, end=True):
    data = png_metadata.SIGNATURE + chunk(b"IHDR", HEADER) + b"".join(chunks)
    path.write_bytes(data + (chunk(b"IEND", b"") if end else b""))
    return path


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path, pnginfo=png_metadata.build(RECORD))
    assert png_metadata.record(path) == {"version": 1, **RECORD}
    assert png_metadata.read(path) == Image.open(path).text  # as Pillow reads it


def test_the_text_that_other_programs_read():
    values = png_metadata.from_a1111(png_metadata.a1111_text(RECORD))
    assert values == {
        "prompt": "a red apple, 蘋果",
        "negative_prompt": "blurred\nlow",
        "loras": [("style", 0.8)],
        "num_inference_steps": 20,
        "seed": 5,
        "guidance_scale": 7.5,
        "imgsz": 512,
        "height": 768,
        "scheduler": "euler-a",
    }
    text = png_metadata.a1111_text(RECORD)
    assert text.startswith("a red apple, 蘋果 <lora:style:0.8>\nNegative prompt: blurred\nlow\n")
    assert 'Lora hashes: "style: abababababab"' in text


def test_a_text_of_a1111_itself():
    text = (
        "masterpiece, (cat:1.2) <lora:add_detail:0.5>, on a sofa\nNegative prompt: bad, worse\n"
        "Steps: 28, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 3216, Size: 512x704, Model hash: "
        'ab, Lora hashes: "add_detail: 7c6bad76eb54", Version: v1.6.0'
    )
    values = png_metadata.from_a1111(text)
    assert values["prompt"] == "masterpiece, (cat:1.2), on a sofa"
    assert (values["seed"], values["imgsz"], values["height"]) == (3216, 512, 704)
    assert values["scheduler"] == "dpm++"
    line = png_metadata.command_line(text)
    assert line.startswith("onecard diffusion generate 'masterpiece, (cat:1.2), on a sofa'")


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_a_packed_text(tmp_path, kind):
    packed = zlib.compress(json.dumps(RECORD).encode())
    body = b"onecard\0" + (b"\0" if kind == b"zTXt" else b"\1\0\0\0") + packed
    assert png_metadata.record(png(tmp_path / "a.png", chunk(kind, body))) == RECORD


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_a_bomb_is_not_unpacked(tmp_path, kind):
    packed = zlib.compress(b" " * (64 << 20))
    body = b"onecard\0" + (b"\0" if kind == b"zTXt" else b"\1\0\0\0") + packed
    with pytest.raises(DataError, match="unpacks to more than 256 kB"):
        png_metadata.read(png(tmp_path / "a.png", chunk(kind, body)))


TEXT = chunk(b"tEXt", b"onecard\0" + json.dumps(RECORD).encode())


@pytest.mark.parametrize(
    ("chunks", "end", "word"),
    [
        ((), False, "cut off"),
        ((struct.pack(">I4s", 1 << 31, b"IDAT"),), True, "cut off"),
        ((chunk(b"tEXt", b"onecard\0{}", crc=5),), True, "damaged"),
        ((chunk(b"zTXt", b"onecard\0\0no zlib"),), True, "damaged"),
        ((TEXT[:40],), False, "damaged"),
        ((chunk(b"tEXt", b"onecard\0" + b"[" * 100_000),), True, "no JSON object"),
        ((chunk(b"tEXt", b"onecard\0[1]"),), True, "no JSON object"),
        ((chunk(b"tEXt", b"onecard\0" + b" " * (1 << 20)),), True, "no such text"),
        ((chunk(b"tEXt", b"x\0y") * 100_001,), True, "more than 100,000 parts"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_files_that_are_refused(tmp_path, chunks, end, word):
    with pytest.raises(DataError) as fault:
        png_metadata.record(png(tmp_path / "a.png", *chunks, end=end))
    assert word in str(fault.value)


def test_the_first_of_two_texts_counts(tmp_path):
    second = chunk(b"tEXt", b"onecard\0{}")
    assert png_metadata.record(png(tmp_path / "a.png", TEXT, second)) == RECORD


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=300), st.integers(0, 400), st.booleans())
def test_damage_anywhere_gives_a_refusal_or_the_same(tmp_path, noise, place, cut):
    whole = png(tmp_path / "a.png", TEXT).read_bytes()
    data = whole[:place] + noise + (b"" if cut else whole[place + len(noise) :])
    (tmp_path / "b.png").write_bytes(data)
    try:
        record = png_metadata.record(tmp_path / "b.png")
    except OneCardError:
        return
    assert record == RECORD


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([*RECORD["settings"], "batch", "loras", "imgsz", "offload"]), VALUES)
def test_any_value_is_judged_as_if_it_had_been_typed(tmp_path, name, value):
    record = {**RECORD, "settings": dict(RECORD["settings"])}
    (record if name in ("batch", "loras") else record["settings"])[name] = value
    body = b"onecard\0" + json.dumps(record).encode()
    path = png(tmp_path / "a.png", chunk(b"tEXt", body))
    try:
        config, _ = again_settings.read(AgainConfig(picture=str(path)))
    except OneCardError:
        return
    assert config.num_images == 1 and "://" not in config.model


def test_no_picture_is_named():
    with pytest.raises(SettingsError, match="no picture"):
        again_settings.read(AgainConfig())
