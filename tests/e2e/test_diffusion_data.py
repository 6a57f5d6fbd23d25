"""diffusion: sets of pictures read and judged, latents and embeddings cached, on odd files."""

import json
import resource
import struct
from pathlib import Path

import made_pictures
import made_pipelines
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from PIL import Image

from onecard.errors import DataError, NotFound, SettingsError
from onecard.reporting import Reporter
from onecard.tasks.diffusion import cache, dataset
from onecard.tasks.diffusion.cache import LatentCache, TextCache, module_fingerprint
from onecard.tasks.diffusion.configs import CheckConfig


class Told(Reporter):
    """Keeps warnings."""

    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


def photo(seed, width=96, height=96):
    return made_pictures.scene(seed, width, height).rgb


def folder_of(path, n=4, **settings):
    for i in range(n):
        made_pictures.save(path / f"p{i}.png", photo(i, **settings))
    return path


def read(folder, side=64, step=16, reporter=None, **settings):
    more = {key: settings.pop(key) for key in ("val_share", "seed") if key in settings}
    config = CheckConfig(data=str(folder), **settings)
    return dataset.read(config, side, step, reporter or Reporter(), **more)


def names(pictures):
    return [picture.name for picture in pictures]


# Reading


def test_every_odd_file_is_used_or_named(tmp_path):
    """What people put in a folder: each file is a picture of the set, or left out with a reason."""
    folder = folder_of(tmp_path / "set", 3)
    (folder / "caption notes.txt").write_text("not of a picture")
    Image.fromarray(photo(10)).convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    clear = Image.fromarray(photo(11)).convert("RGBA")
    clear.putalpha(Image.fromarray(np.tile(np.arange(96, dtype=np.uint8) * 2, (96, 1))))
    clear.save(folder / "clear.png")
    frames = [Image.fromarray(photo(20 + i)) for i in range(3)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(photo(12)).convert("L").save(folder / "grey.webp")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(13, 128, 80)).save(folder / "turned.jpg", exif=exif, quality=95)
    Image.fromarray(photo(14, 50, 50)).save(folder / "tiny.png")
    (folder / "tiny-too.png").write_bytes((folder / "tiny.png").read_bytes())
    (folder / "same.png").write_bytes((folder / "p0.png").read_bytes())
    Image.fromarray(photo(1)).save(folder / "again.jpg", quality=80)
    (folder / "cut.png").write_bytes((folder / "p2.png").read_bytes()[:900])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "page.jpg").write_bytes(b"<!doctype html><html>404")
    (folder / "phone.heic").write_bytes(struct.pack(">I", 24) + b"ftypheic" + bytes(80))
    (folder / "logo.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    (folder / ".hidden.png").write_bytes(b"x")
    told = Told()
    training_set = read(folder, side=96, min_side=64, reporter=told)
    assert names(training_set.pictures) == [
        *("clear.png", "cmyk.jpg", "grey.webp", "moving.gif", "p0.png", "p1.png", "p2.png"),
        "turned.jpg",
    ]
    reasons = dict(training_set.rejected)
    assert set(reasons) == {
        *("again.jpg", "cut.png", "empty.jpg", "logo.svg", "page.jpg", "phone.heic", "same.png"),
        *("tiny.png", "tiny-too.png"),
    }
    assert "HEIC" in reasons["phone.heic"] and "SVG" in reasons["logo.svg"]
    assert "50x50" in reasons["tiny.png"]
    assert reasons["same.png"] == "it is the same file as p0.png"
    assert reasons["again.jpg"] == "it is nearly the same picture as p1.png"
    text = "\n".join(told.warnings)
    assert "9 files are left out" in text
    assert "animations, their first frame counts: moving.gif (3 frames)" in text
    assert "transparent and lie on white" in text and "clear.png" in text
    assert "8 pictures are few" in text
    by_name = {picture.name: picture for picture in training_set.pictures}
    assert (by_name["turned.jpg"].width, by_name["turned.jpg"].height) == (80, 128)
    for picture in training_set.pictures:
        values = dataset.pixels(picture)
        assert values.shape == (3, picture.bucket[1], picture.bucket[0])
        assert values.dtype == torch.float32 and values.abs().max() <= 1
    left = dataset.pixels(by_name["clear.png"])[:, :, 0]
    assert (left > 0.95).all()  # nearly transparent there


def test_pixels_are_those_of_the_picture(tmp_path):
    """A picture of the bucket's own size keeps every pixel; its mirror is the mirror."""
    folder = folder_of(tmp_path / "set", 1, width=64, height=64)
    (picture,) = read(folder).pictures
    expected = torch.from_numpy(photo(0, 64, 64)).permute(2, 0, 1) / 127.5 - 1
    assert torch.allclose(dataset.pixels(picture), expected, atol=1e-6)
    assert torch.equal(dataset.pixels(picture, flip=True), dataset.pixels(picture).flip(2))


def test_the_middle_is_cut_out(tmp_path):
    rgb = np.zeros((100, 300, 3), np.uint8)
    rgb[:, :100], rgb[:, 100:200], rgb[:, 200:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    made_pictures.save(tmp_path / "set/a.png", rgb)
    (picture,) = read(tmp_path / "set", buckets=False).pictures
    values = dataset.pixels(picture)
    assert picture.bucket == (64, 64)
    assert (values[1] > 0.9).all() and (values[0] < -0.9).all()


@pytest.mark.parametrize("what", ["nothing", "gone", "empty", "texts", "broken", "small base"])
def test_a_folder_without_a_usable_picture_is_refused(tmp_path, what):
    folder = tmp_path / "set"
    folder.mkdir()
    if what == "texts":
        (folder / "a.txt").write_text("a")
    if what == "broken":
        (folder / "a.jpg").write_bytes(b"\xff\xd8\xff" + b"x" * 50)
    location, side = {"nothing": "", "gone": str(tmp_path / "gone")}.get(what, folder), 64
    error = {"nothing": SettingsError, "gone": NotFound}.get(what, DataError)
    if what == "small base":
        folder_of(folder, 1)
        side, error = 8, SettingsError
    with pytest.raises(error) as fault:
        read(location, side=side)
    assert fault.value.why and fault.value.fix
    if what == "broken":
        assert "all 1 files are left out" in fault.value.why


def test_one_picture_and_very_many(tmp_path, monkeypatch):
    told = Told()
    assert len(read(folder_of(tmp_path / "one", 1), reporter=told).pictures) == 1
    assert "one picture is all there is" in told.warnings[0]
    assert len(read(tmp_path / "one/p0.png").pictures) == 1  # the file itself
    monkeypatch.setattr(dataset, "MANY", 12)
    folder_of(tmp_path / "many", 14)
    warnings = read(tmp_path / "many").warnings
    assert any("14 pictures are many for a LoRA" in text for text in warnings)


def test_held_out_pictures_are_chosen_by_their_hash(tmp_path):
    folder = folder_of(tmp_path / "set", 24)
    one = read(folder, val_share=0.25, seed=3)
    assert len(one.val) == 6 and len(one.pictures) == 18
    (folder / "p1.png").rename(folder / "zzz.png")  # another order, the same files
    other = read(folder, val_share=0.25, seed=3)
    assert {p.sha256 for p in one.val} == {p.sha256 for p in other.val}
    assert {p.sha256 for p in read(folder, val_share=0.25, seed=4).val} != {
        p.sha256 for p in one.val
    }
    assert len(read(folder, val_share=None).val) == 2
    assert len(read(folder_of(tmp_path / "few", 8), val_share=None).val) == 0
    assert len(read(tmp_path / "few", val_share=0.89).pictures) >= 1


def test_near_copies_stay_on_one_side(tmp_path):
    folder = folder_of(tmp_path / "set", 6)
    for i in range(6):
        Image.fromarray(photo(i)).save(folder / f"q{i}.jpg", quality=85)
    for seed in range(5):
        both = read(folder, val_share=0.4, seed=seed, allow_duplicates=True)
        sides = [{name[1] for name in names(part)} for part in (both.pictures, both.val)]
        assert len(both.pictures) + len(both.val) == 12 and both.val
        assert not sides[0] & sides[1]


def test_the_fingerprint_follows_files_captions_and_sizes(tmp_path):
    folder = folder_of(tmp_path / "set", 3)
    first = read(folder).fingerprint
    assert read(folder).fingerprint == first
    assert read(folder, side=48).fingerprint != first
    (folder / "p0.txt").write_text("something else")
    assert read(folder).fingerprint != first


def test_a_picture_that_changed_or_went_away(tmp_path):
    pictures = read(folder_of(tmp_path / "set", 2)).pictures
    pictures[0].path.unlink()
    with pytest.raises(NotFound, match=r"p0.png is gone"):
        dataset.pixels(pictures[0])
    made_pictures.save(pictures[1].path, photo(40))
    with pytest.raises(DataError, match=r"p1.png is another picture now"):
        dataset.pixels(pictures[1])


# The command


def test_check_shows_what_will_be_learned(onecard, tmp_path):
    folder = folder_of(tmp_path / "圖", 12)
    for i in range(11):
        (folder / f"p{i}.txt").write_text("一張水墨畫" if i else "一張照片", encoding="utf-8")
    made_pictures.save(folder / "small.png", photo(50, 30, 30))
    words = ("--trigger", "水墨", "--imgsz", 96, "--min_side", 64)
    data = onecard("diffusion", "check", folder, *words, "--json").data
    assert data["n_pictures"] == 12 and data["n_rejected"] == 1
    assert data["captions"] == {"files": 11, "template": 1}
    assert data["buckets"] == {"96x96": 12}
    assert any("1 of 12 captions lack the trigger" in text for text in data["warnings"])
    artifacts = Path(data["run"]) / "artifacts"
    for name in ("pictures.png", "left-out.png"):
        with Image.open(artifacts / name) as sheet:
            assert sheet.width > 300
    report = json.loads((artifacts / "check.json").read_text(encoding="utf-8"))
    assert report["fingerprint"] == data["fingerprint"]
    refusal = onecard("diffusion", "check", tmp_path / "nowhere")
    assert refusal.code == 6 and "why:" in refusal.err


# A captioning model


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    """BLIP with random weights and a vocabulary of a few words."""
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
        BlipTextConfig,
        BlipVisionConfig,
    )

    folder = tmp_path_factory.mktemp("blip")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "[DEC]",
        *["a", "dog", "cat", "on", "grass", "red"],
    ]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), bos_token="[DEC]")
    torch.manual_seed(0)
    text = BlipTextConfig(
        vocab_size=len(words),
        hidden_size=32,
        encoder_hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=16,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=5,
        sep_token_id=3,
        eos_token_id=3,
    )
    vision = BlipVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    config = BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
    model = BlipForConditionalGeneration(config)
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[:6] = -1e4  # it speaks in words, without an end
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    BlipProcessor(BlipImageProcessor(size=size), tokenizer).save_pretrained(folder)
    return folder


def test_a_captioning_model_looks_at_the_pictures(tmp_path, blip):
    folder = folder_of(tmp_path / "set", 5)
    settings = {"caption_source": "model", "caption_model": str(blip), "trigger": "sks"}
    pictures = read(folder, **settings).pictures
    assert {picture.caption_source for picture in pictures} == {"model"}
    assert all(picture.caption.startswith("sks, ") for picture in pictures)
    assert [p.caption for p in read(folder, **settings).pictures] == [p.caption for p in pictures]


def test_what_is_no_captioning_model_is_refused(tmp_path):
    folder = folder_of(tmp_path / "set", 1)
    with pytest.raises(SettingsError, match="no model that looks"):
        read(folder, caption_source="model")
    with pytest.raises(NotFound):
        read(folder, caption_source="model", caption_model="nobody/nothing")
    made_pipelines.stable_diffusion(tmp_path / "base")
    with pytest.raises(DataError):
        model = str(tmp_path / "base/text_encoder")
        read(folder, caption_source="model", caption_model=model)


# Latents


@pytest.fixture(scope="module")
def vaes():
    """The two kinds of encoders, tiny."""
    torch.manual_seed(0)
    kl = AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        scaling_factor=0.4,
        shift_factor=0.1,
    ).eval()
    widths = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    tiny = AutoencoderTiny(**widths, **blocks, latent_channels=4, scaling_factor=2.0).eval()
    return {"kl": kl, "tiny": tiny}


@pytest.fixture
def pictures(tmp_path):
    return read(folder_of(tmp_path / "set", 4)).pictures


def latent_cache(folder, vae):
    return LatentCache(folder, vae, module_fingerprint(vae))


def test_latents_of_a_distribution_are_drawn(tmp_path, vaes, pictures):
    vae = vaes["kl"]
    store = latent_cache(tmp_path / "cache", vae)
    assert store.prepare(pictures, Reporter(), flips=True) == pictures
    for flip in (False, True):
        with torch.no_grad():
            values = dataset.pixels(pictures[1], flip)[None]
            expected = vae.encode(values).latent_dist
        drawn = store.latents(pictures[1], flip, torch.Generator().manual_seed(7))
        noise = torch.randn(expected.mean[0].shape, generator=torch.Generator().manual_seed(7))
        sample = (expected.mean[0] + expected.std[0] * noise - 0.1) * 0.4
        assert torch.allclose(drawn, sample, atol=1e-6)
        mean = store.latents(pictures[1], flip)
        assert torch.allclose(mean, (expected.mean[0] - 0.1) * 0.4, atol=1e-6)
        assert not torch.equal(mean, drawn)


def test_latents_of_a_tiny_encoder_are_as_it_gives_them(tmp_path, vaes, pictures):
    store = latent_cache(tmp_path / "cache", vaes["tiny"])
    store.prepare(pictures, Reporter())
    with torch.no_grad():
        expected = vaes["tiny"].encode(dataset.pixels(pictures[0])[None]).latents[0] * 2
    drawn = store.latents(pictures[0], generator=torch.Generator().manual_seed(1))
    assert torch.allclose(drawn, expected, atol=1e-6)


def encodings(vae, monkeypatch):
    """How often the encoder was asked."""
    calls = []
    encode = vae.encode
    monkeypatch.setattr(vae, "encode", lambda x: calls.append(x.shape) or encode(x))
    return calls


def test_only_what_is_missing_is_encoded(tmp_path, vaes, pictures, monkeypatch):
    vae, folder = vaes["kl"], tmp_path / "cache"
    calls = encodings(vae, monkeypatch)
    latent_cache(folder, vae).prepare(pictures[:3], Reporter())
    assert len(calls) == 3
    store = latent_cache(folder, vae)
    store.prepare(pictures, Reporter())
    assert len(calls) == 4
    before = store.latents(pictures[0])
    files = sorted(folder.glob("*.safetensors"))
    cut = store._files.path(store.key(pictures[0]))
    cut.write_bytes(cut.read_bytes()[:-40])  # a copy that broke off
    foreign = store._files.path(store.key(pictures[1]))
    foreign.write_bytes(store._files.path(store.key(pictures[2])).read_bytes())
    store._files.path(store.key(pictures[3])).write_bytes(b"")
    store.prepare(pictures, Reporter())
    assert len(calls) == 7 and sorted(folder.glob("*.safetensors")) == files
    assert torch.equal(store.latents(pictures[0]), before)


def test_another_encoder_has_other_latents(tmp_path, vaes, pictures, monkeypatch):
    vae = vaes["kl"]
    latent_cache(tmp_path / "cache", vae).prepare(pictures, Reporter())
    other = AutoencoderKL.from_config(vae.config)
    other.load_state_dict(vae.state_dict())
    assert module_fingerprint(other) == module_fingerprint(vae)
    with torch.no_grad():
        next(other.parameters()).flatten()[0] += 1e-3
    assert module_fingerprint(other) != module_fingerprint(vae)
    calls = encodings(other, monkeypatch)
    latent_cache(tmp_path / "cache", other).prepare(pictures, Reporter())
    assert len(calls) == len(pictures)


def test_a_file_lost_in_training_is_made_again_or_named(tmp_path, vaes, pictures):
    store = latent_cache(tmp_path / "cache", vaes["kl"])
    store.prepare(pictures, Reporter())
    before = store.latents(pictures[0])
    path = store._files.path(store.key(pictures[0]))
    path.unlink()
    assert torch.equal(store.latents(pictures[0]), before) and path.exists()
    path.unlink()
    store.release()
    with pytest.raises(DataError, match=r"the latents of p0.png are gone"):
        store.latents(pictures[0])


def test_a_picture_removed_or_changed_while_caching_is_left_out(tmp_path, vaes, pictures):
    pictures[1].path.unlink()
    made_pictures.save(pictures[2].path, photo(77))
    told = Told()
    store = latent_cache(tmp_path / "cache", vaes["kl"])
    usable = store.prepare(pictures, told, flips=True)
    assert names(usable) == ["p0.png", "p3.png"]
    assert len(told.warnings) == 2 and told.warnings[0].startswith("p1.png is left out: ")
    with pytest.raises(DataError, match="no picture is left"):
        store.prepare(pictures[1:3], told)


def test_half_precision_that_overflows_is_computed_in_full(tmp_path, pictures):
    """SDXL's encoder says of itself that it needs fp32 (force_upcast): its inner values are above
    65504, as this one's are, whose first layer is too loud."""
    torch.manual_seed(0)
    vae = AutoencoderKL(latent_channels=4, block_out_channels=(32,), force_upcast=True).eval()
    with torch.no_grad():
        vae.encoder.conv_in.weight *= 40_000 / vae.encoder.conv_in.weight.abs().max()
    full = latent_cache(tmp_path / "full", vae)
    full.prepare(pictures[:1], Reporter())
    expected = full.latents(pictures[0])
    half = AutoencoderKL.from_config(vae.config).eval()
    half.load_state_dict(vae.half().state_dict())
    store = latent_cache(tmp_path / "half", half.half())
    store.prepare(pictures[:1], Reporter())
    assert torch.allclose(store.latents(pictures[0]), expected, atol=0.02)


def test_a_disk_without_room_is_told_before_it_is_full(tmp_path, vaes, pictures, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr(cache.output_dir.shutil, "disk_usage", lambda _: Usage(9000))
    with pytest.raises(DataError, match="has no room for the latents") as fault:
        latent_cache(folder, vaes["kl"]).prepare(pictures, Reporter())
    assert str(folder) in str(fault.value) and "1 of 4 are written" in fault.value.fix


class Usage:
    def __init__(self, free):
        self.free = free


def test_a_file_that_cannot_be_written_whole(tmp_path, vaes, pictures):
    """The kernel refuses to write beyond a limit, as a full disk does; nothing half is left."""
    store = latent_cache(tmp_path / "cache", vaes["kl"])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(DataError, match="takes no more latents") as fault:
            store.prepare(pictures, Reporter())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path / "cache") in fault.value.what
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_stop_between_pictures_leaves_a_usable_cache(tmp_path, vaes, pictures, monkeypatch):
    vae = vaes["kl"]
    encode, calls = vae.encode, []

    def interrupted(values):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(values)

    monkeypatch.setattr(vae, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        latent_cache(tmp_path / "cache", vae).prepare(pictures, Reporter())
    store = latent_cache(tmp_path / "cache", vae)
    store.prepare(pictures, Reporter())
    assert len(calls) == 5  # two before the stop, one at it, two after it
    assert not list((tmp_path / "cache").glob(".*"))


# Captions' embeddings


def test_embeddings_are_computed_once_for_each_caption(tmp_path):
    calls = []

    def encode(prompt):
        calls.append(prompt)
        return {"hidden": torch.full((1, 3, 4), float(len(prompt))), "pooled": torch.ones(2)}

    store = TextCache(tmp_path / "cache", "clip")
    store.prepare(["a", "狗", "a", ""], encode, Reporter())
    store.prepare(["狗", "b"], encode, Reporter())
    assert calls == ["a", "狗", "", "b"]
    assert torch.equal(store.embeddings("狗")["hidden"], torch.full((1, 3, 4), 1.0))
    other = TextCache(tmp_path / "cache", "another encoder")
    with pytest.raises(DataError, match="is gone"):
        other.embeddings("狗")
    store._files.path(store.key("a")).write_bytes(b"damaged")
    with pytest.raises(DataError, match="is gone"):
        store.embeddings("a")
    store.prepare(["a"], encode, Reporter())
    assert torch.equal(store.embeddings("a")["pooled"], torch.ones(2))


def test_embeddings_keep_their_number_type(tmp_path):
    store = TextCache(tmp_path / "cache", "t5")
    values = torch.randn(2, 3).to(torch.bfloat16)
    store.prepare(["x"], lambda _: {"hidden": values}, Reporter())
    assert torch.equal(store.embeddings("x")["hidden"], values)
