"""What a stranger's files and a user's slips do to diffusion: refused with a reason before work is
done, never with a traceback; what is meant by `last`."""

import importlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

torch = pytest.importorskip("torch", reason="installed by make test")
pytest.importorskip("diffusers", reason="installed by make test")
import made_pipelines  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from onecard import api  # noqa: E402
from onecard.errors import DataError, NotFound, OneCardError, SettingsError  # noqa: E402
from onecard.reporting import Reporter  # noqa: E402
from onecard.tasks.diffusion import (  # noqa: E402
    captions,
    features,
    lora_use,
    memory,
    pipeline,
    places,
    prior,
    training_facts,
)
from onecard.tasks.diffusion import train as training_command  # noqa: E402
from onecard.tasks.diffusion.configs import CheckConfig, EvaluateConfig, TrainConfig  # noqa: E402
from onecard.tasks.diffusion.generate import model_fingerprint  # noqa: E402

QUICK = {
    **{"max_train_steps": 2, "save_steps": 1, "validation_steps": 0, "num_eval_images": 0},
    **{"trigger": "sks", "rank": 2},
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return made_pipelines.stable_diffusion(tmp_path_factory.mktemp("base") / "sd")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for i in range(3):
        rgb = draw.integers(0, 255, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(rgb).save(folder / f"p{i}.png")
    return folder


def run(command, **values):
    config = api.configure(
        "diffusion",
        command,
        values={
            name: value if isinstance(value, int | float) else str(value)
            for name, value in values.items()
        },
    )
    return api.run("diffusion", command, config)


def generate(base, **values):
    return run("generate", **{"prompt": "a dog", "model": base, "num_inference_steps": 1, **values})


@pytest.fixture(scope="module")
def training(base, pictures, tmp_path_factory):
    """The folder of a brief training."""
    out = tmp_path_factory.mktemp("training") / "out"
    run("train", model=base, data=pictures, output_dir=out, **QUICK)
    return out


def with_record(path, record):
    """A PNG that says so of itself."""
    info = PngImagePlugin.PngInfo()
    info.add_text("onecard", json.dumps(record))
    Image.new("RGB", (64, 64)).save(path, pnginfo=info)
    return path


def written(model, **values):
    """The record of a picture of that model."""
    settings = {"prompt": "a dog", "model": str(model), "seed": 5, "num_inference_steps": 1}
    return {"settings": {**settings, **values}, "batch": [5]}


# Folders


@pytest.mark.parametrize("command", ["generate", "again", "train", "evaluate"])
def test_an_output_dir_that_is_a_file_is_refused_before_any_work(tmp_path, pictures, command):
    (tmp_path / "file").write_text("mine")
    source = {"train": {"data": str(pictures)}, "evaluate": {"run_id": "nothing"}}.get(command, {})
    for path in ("file", "file/deeper/still", "x" * 300):
        with pytest.raises(SettingsError, match="nothing can be written"):
            places.require_writable(str(tmp_path / path))
    module = importlib.import_module(f"onecard.tasks.diffusion.{command}")
    config = api.configure(
        "diffusion", command, values={**source, "output_dir": str(tmp_path / "file")}
    )
    # the command itself: a plan would look for the model first
    with pytest.raises(SettingsError, match="nothing can be written"):
        getattr(module, command)(config, None)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_is_not_there_yet_is_fine_and_is_not_made(tmp_path):
    places.require_writable(str(tmp_path / "a" / "b"))
    assert not (tmp_path / "a").exists()


def test_missing_pictures_are_refused_before_a_model_is_loaded(tmp_path, base, monkeypatch):
    monkeypatch.setattr(pipeline, "load", None)
    (tmp_path / "empty").mkdir()
    common = {**QUICK, "model": base, "output_dir": tmp_path / "out"}
    for data, kind in (("", SettingsError), (tmp_path / "no", NotFound)):
        with pytest.raises(kind):
            run("train", data=data, **common)
    with pytest.raises(DataError, match="no picture to learn from"):
        run("train", data=tmp_path / "empty", **common)
    Image.new("RGB", (96, 96)).save(tmp_path / "a.png")
    wanted = {"with_prior_preservation": True, "class_prompt": "a dog"}
    for folder in ("no", "empty"):
        with pytest.raises(OneCardError) as refusal:
            run("train", data=tmp_path, class_data=tmp_path / folder, **wanted, **common)
        assert "--class_data" in refusal.value.fix
    assert not (tmp_path / "out").exists()


def test_last_is_the_newest_training_not_the_pictures_made_since(training, base, home):
    generate(base)
    assert training_facts.training_folder("last") == training
    assert training_facts.training_folder("run:last") == training
    assert lora_use.parse(["run:last:0.5"])[0].path == training / "lora.safetensors"


# LoRA files


def test_odd_lora_files_are_refused_by_name(training, base, tmp_path, home):
    weights = load_file(training / "lora.safetensors")
    no_rank = {
        name: (value[:0] if ".lora_A" in name else value[:, :0]).contiguous()
        for name, value in weights.items()
    }
    save_file(no_rank, tmp_path / "rank0.safetensors")
    with pytest.raises(DataError, match="is no LoRA"):
        generate(base, lora=tmp_path / "rank0.safetensors")
    for pattern in ({"to_q": "abc"}, {"to_q": None}, ["x"]):
        text = json.dumps({"unet.lora_alpha": 2, "unet.alpha_pattern": pattern})
        save_file(weights, tmp_path / "odd.safetensors", {"lora_adapter_metadata": text})
        generate(base, lora=tmp_path / "odd.safetensors")
    file = training / "lora.safetensors"
    for name, kind, what in (
        (f"{file}:abc", SettingsError, "weight 'abc'"),
        (f"{file}:", SettingsError, "weight ''"),
        (" ", SettingsError, "names no file"),
        (tmp_path / "no.safetensors", NotFound, "there is no LoRA"),
    ):
        with pytest.raises(kind, match=what):
            lora_use.parse([str(name)])


def test_a_lora_to_compose_with_is_looked_at_before_pictures_are_made(training, tmp_path, base):
    for path in (tmp_path / "no.safetensors", tmp_path / "other.safetensors"):
        save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
        with pytest.raises(OneCardError, match="LoRA"):
            run("evaluate", run_id=training, compose_lora=path, output_dir=tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_damaged_facts_of_a_training_are_refused(training, tmp_path):
    facts = json.loads((training / training_facts.FACTS).read_text())
    damages = ({"model": 5}, {"model": " "}, {"pictures": [1]}, {"imgsz": "x"})
    for damage in (*damages, {"validation_prompts": 4}):
        (tmp_path / training_facts.FACTS).write_text(json.dumps({**facts, **damage}))
        with pytest.raises(DataError, match="is not usable"):
            training_facts.read(EvaluateConfig(), tmp_path)


def test_unknown_features_are_refused_with_those_that_there_are():
    with pytest.raises(NotFound) as refusal:
        features.load("nosuch", Reporter())
    assert "dinov2" in refusal.value.fix


# Pictures of a stranger


def test_what_a_picture_says_in_odd_types_is_refused(base, tmp_path):
    fingerprint = model_fingerprint(base)
    for loras in (5, "x", {"a": 1}):
        said = {**written(base), "loras": loras, "model": {"fingerprint": fingerprint}}
        run("again", picture=with_record(tmp_path / "a.png", said), output_dir=tmp_path / "out")
    for name in ("prompt", "negative_prompt"):
        said = written(base, **{name: "a \ud800 dog"})
        with pytest.raises(SettingsError, match=f"{name} is no text"):
            run("again", picture=with_record(tmp_path / "b.png", said))


def test_an_address_or_a_missing_path_as_a_model_is_told_as_one():
    for name, what in (("http://x/y", "is an address"), ("/no/such", "there is no model /no/such")):
        with pytest.raises(NotFound, match=what):
            memory.find(name)


# Training


def test_steps_that_break_the_model_end_the_training_with_a_reason(base, pictures, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(DataError, match="gradient's norm is inf at the first step"):
        run(
            *("train",),
            **{**QUICK, "lora_alpha": 1e6, "learning_rate": 0.99, "snr_gamma": 0},
            **{"model": overflowing(base, tmp_path / "model"), "data": pictures},
            output_dir=out,
        )
    for file in out.rglob("*.safetensors"):
        assert all(
            bool(v.isfinite().all()) for v in load_file(file).values() if v.is_floating_point()
        )


def overflowing(base, folder):
    """A base whose activations are finite and whose gradients are not."""
    shutil.copytree(base, folder)
    file = next((folder / "unet").glob("*.safetensors"))
    weights = load_file(file)
    name = "conv_out.weight"
    save_file({**weights, name: weights[name] * 1e17}, file)
    return folder


def test_seeds_that_overflow_are_refused():
    with pytest.raises(SettingsError):
        api.configure("diffusion", "train", values={"seed": 2**63})


def test_words_in_braces_of_a_class_prompt_are_no_template(base, pictures, tmp_path):
    wanted = {"with_prior_preservation": True, "class_prompt": "a {dog}", "num_class_images": 2}
    common = {**QUICK, "model": base, "data": pictures, "save_steps": 0, "max_train_steps": 1}
    run("train", output_dir=tmp_path / "out", **wanted, **common)
    assert (tmp_path / "out" / "lora.safetensors").is_file()


def test_class_pictures_that_were_blackened_are_not_learned_from(base, tmp_path, monkeypatch):
    def batches(loaded, texts, seeds, *rest, **more):
        for i, seed in enumerate(seeds):
            image = Image.effect_noise((64, 64), 50 + i).convert("RGB")
            yield [pipeline.Picture(image, seed, (seed,), flagged=i == 1)]

    monkeypatch.setattr(pipeline, "batches", batches)
    config = TrainConfig(
        with_prior_preservation=True, class_prompt="a dog", num_class_images=3, trigger="sks"
    )
    reporter = Told()
    rows = prior.pictures(config, None, 64, 16, tmp_path, SimpleNamespace(reporter=reporter))
    assert [row.name for row in rows] == ["00000.png", "00002.png"]
    assert {row.caption for row in rows} == {"a dog"}
    assert any("blackened 1 class picture" in text for text in reporter.texts)


class Told(Reporter):
    def __init__(self):
        self.texts = []

    def warn(self, text):
        self.texts.append(text)


def test_captions_of_odd_bytes_and_links_out_of_the_folder(tmp_path):
    outside, data = tmp_path / "outside.txt", tmp_path / "data"
    outside.write_text("a secret")
    data.mkdir()
    (data / "a.txt").symlink_to(outside)
    (data / "b.txt").write_text("a dog")
    named = [(name, data / name) for name in ("a.png", "b.png", "c\udcff.png")]
    reporter = Told()
    config = CheckConfig(data=str(data), caption="a {name}")
    texts = captions.read(named, data, config, reporter).texts
    assert all(text.encode() for text in texts.values())
    assert any("outside the folder" in text and "a.txt" in text for text in reporter.texts)
    assert not any("b.txt" in text for text in reporter.texts)


def test_a_caption_of_megabytes_is_cut_and_told(tmp_path):
    (tmp_path / "a.txt").write_text("sks " * 2_000_000)
    reporter = Told()
    named = [("a.png", tmp_path / "a.png")]
    texts = captions.read(named, tmp_path, CheckConfig(data=str(tmp_path)), reporter).texts
    assert len(texts["a.png"]) == captions.MAX_LETTERS
    assert any("is cut" in text for text in reporter.texts)


def test_a_model_of_nan_is_refused_rather_than_a_black_picture(base, pictures, tmp_path):
    folder = shutil.copytree(base, tmp_path / "model")
    file = next((folder / "unet").glob("*.safetensors"))
    save_file({name: value * torch.nan for name, value in load_file(file).items()}, file)
    with pytest.raises(DataError, match="gives no numbers"):
        generate(folder, output_dir=tmp_path / "out")
    assert not list(tmp_path.rglob("*.png"))
    with pytest.raises(DataError, match="at the first step"):
        run("train", model=folder, data=pictures, output_dir=tmp_path / "lora", **QUICK)


def test_names_in_a_lora_file_do_not_flood_a_message(tmp_path, base):
    pair = {
        f"unet.{'x' * 10_000}\n.{part}.weight": torch.ones(2, 2) for part in ("lora_A", "lora_B")
    }
    save_file(pair, tmp_path / "long.safetensors")
    with pytest.raises(DataError) as refusal:
        generate(base, lora=tmp_path / "long.safetensors")
    assert len(str(refusal.value)) < 2000 and "x\n." not in str(refusal.value)
    whole = {name: value.int() for name, value in pair.items()}
    save_file(whole, tmp_path / "whole.safetensors")
    with pytest.raises(DataError, match="is no LoRA"):
        generate(base, lora=tmp_path / "whole.safetensors")


@pytest.mark.parametrize("name", ["trigger", "caption", "class_prompt", "validation_prompts"])
def test_words_that_are_no_text_are_refused_before_a_model_is_loaded(name, pictures, monkeypatch):
    monkeypatch.setattr(pipeline, "load", None)
    words = ("a \udcff",) if name == "validation_prompts" else "a \udcff"
    values = {"data": str(pictures), "class_prompt": "a dog", "with_prior_preservation": True}
    config = TrainConfig(**{**values, name: words})
    with pytest.raises(SettingsError, match=f"{name} is no text"):
        training_command.train(config, None)
