"""diffusion evaluate: checkpoints of random weights on a tiny pipeline, and its real pictures."""

import json
import shutil
from pathlib import Path

import made_pipelines
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
)

from onecard.errors import DataError, NotFound, SettingsError
from onecard.memory import devices
from onecard.memory.plan import Plan
from onecard.reporting import Reporter
from onecard.runs.record import Run, fingerprint
from onecard.tasks.diffusion import (
    comparison,
    evaluate,
    features,
    lora_files,
    memory,
    pipeline,
)
from onecard.tasks.diffusion.configs import EvaluateConfig
from onecard.tasks.diffusion.pipeline import Sampling

FEW = Sampling(num_inference_steps=3, guidance_scale=1.0)
OFFLINE = "efficientnet-lite0"


class Told(Reporter):
    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


def run_without_folder(reporter=None):
    return Run(None, reporter or Reporter(), Plan((), devices.find("auto")))


def tinting_lora(path, loaded, strength, seed=0):
    """On the UNet's last convolution, in diffusers' form: it predicts more or less noise in each
    channel, which tints every picture. The seed draws the tint."""
    layer = loaded.pipe.unet.conv_out
    tint = torch.randn(layer.out_channels, 1, 1, 1, generator=torch.Generator().manual_seed(seed))
    state = {
        "unet.conv_out.lora_A.weight": torch.ones(1, layer.in_channels, 3, 3) / 9,
        "unet.conv_out.lora_B.weight": tint * strength,
    }
    return lora_files.write(path, state)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return made_pipelines.stable_diffusion(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def loaded(base):
    return pipeline.load(str(base), quant="fp32")


@pytest.fixture
def training(tmp_path, base, loaded):
    """A folder as a training leaves it: its pictures are those that checkpoint 200 makes, so that
    it is the one that has learned them; 300 tints the other way."""
    out = tmp_path / "out"
    for step, strength in ((100, 0.01), (200, 1.0), (300, -1.0)):
        tinting_lora(out / f"loras/checkpoint-{step:06d}.safetensors", loaded, strength)
    lora_files.apply(loaded, [(out / "loras/checkpoint-000200.safetensors", 1.0)])
    rows = []
    options = {key: value for key, value in vars(FEW).items() if key != "negative_prompt"}
    for i, image in enumerate(pipeline.sample(loaded, "sks", n=8, seed=500, **options)):
        path = tmp_path / "pictures" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        image.save(path)
        rows.append(
            {"path": str(path), "name": path.name, "caption": "sks", "sha256": fingerprint(path)}
        )
    lora_files.apply(loaded, [])
    facts = {
        "model": str(base),
        "name": "tiny",
        "quant": "fp32",
        "trigger": "sks",
        "class_prompt": "",
        "imgsz": 64,
        "height": 64,
        "pictures": rows,
    }
    (out / "diffusion.json").write_text(json.dumps(facts))
    return out


def compare(loaded, out, n=8, reporter=None, **options):
    facts = json.loads((out / "diffusion.json").read_text())
    paths = sorted((out / "loras").glob("checkpoint-*.safetensors"))
    checkpoints = [(int(path.stem[-6:]), path) for path in paths]
    options = {"features_name": OFFLINE, "sampling": FEW, **options}
    run = run_without_folder(reporter)
    return comparison.compare(loaded, checkpoints, facts, n, out, run, **options)


def test_the_checkpoint_that_makes_the_training_pictures_is_found(loaded, training):
    """16 pictures of eight prompts each; the order of fidelity is known."""
    result = compare(loaded, training, 16)
    means = {step: np.mean(list(rows["fidelity"].values())) for step, rows in result.scores.items()}
    assert means[200] > max(means[step] for step in (0, 100, 300))
    assert result.recommended == 200 and result.verdict == "chosen"
    assert max(result.scores[0]["drift"].values()) < 1e-6
    followed = np.mean(list(result.scores[0]["prompt_fidelity"].values()))
    assert followed < 0.8  # no word means anything to this base: chance is .5
    drift = [np.mean(list(result.scores[step]["drift"].values())) for step in (100, 200)]
    assert 0 < drift[0] < drift[1]
    report = json.loads((training / "eval/comparison.json").read_text())
    assert report["features"] == OFFLINE and report["recommended"] == 200
    assert len(report["prompts"]) == 8 and len(report["scores"]["200"]["fidelity"]) == 16
    assert (training / "eval/comparison.svg").read_text().startswith("<svg")
    with Image.open(training / "eval/grid.png") as grid:
        assert grid.height > 4 * 300  # the base and three checkpoints
    assert "200 *" in result.table and OFFLINE in result.render()
    assert not loaded.pipe.get_active_adapters()
    assert result.metrics["fidelity"]["value"] > result.metrics["base_fidelity"]["value"]


def test_a_stopped_comparison_goes_on(loaded, training, monkeypatch):
    calls = []
    inner = pipeline._batch

    def counted(*words):
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return inner(*words)

    monkeypatch.setattr(pipeline, "_batch", counted)
    with pytest.raises(KeyboardInterrupt):
        compare(loaded, training, 4)
    assert not loaded.pipe.get_active_adapters()
    first = compare(loaded, training, 4)
    assert len(calls) == 20 + (4 * 8 - 19)
    n = len(calls)
    assert compare(loaded, training, 4).scores == first.scores and len(calls) == n
    picture = next((training / "eval/step-000100").glob("*.png"))
    picture.write_bytes(picture.read_bytes()[:200])
    other = next((training / "eval/step-000200").glob("*.png"))
    shutil.copy(next((training / "eval/step-000300").glob("*.png")), other)
    assert compare(loaded, training, 4).scores == first.scores and len(calls) == n + 2
    tinting_lora(training / "loras/checkpoint-000300.safetensors", loaded, 1.0, 9)
    assert compare(loaded, training, 4).scores[300] != first.scores[300]
    assert len(calls) == n + 2 + 8


def test_few_pictures_are_inconclusive(loaded, training):
    result = compare(loaded, training, 8)
    assert result.recommended is None and result.verdict == "inconclusive"
    assert "4 prompts are too few to tell" in result.reason
    assert "recommended: no checkpoint (inconclusive)" in result.render()


def test_checkpoints_that_cannot_be_read_or_do_not_fit_are_left_out(loaded, training):
    loras = training / "loras"
    (loras / "checkpoint-000100.safetensors").write_bytes(b"cut")
    weights = {"lora_A": torch.ones(1, 5), "lora_B": torch.ones(5, 1)}
    foreign = {f"unet.conv_out.{part}.weight": value for part, value in weights.items()}
    lora_files.write(loras / "checkpoint-000300.safetensors", foreign)
    told = Told()
    result = compare(loaded, training, 4, told)
    assert set(result.scores) == {0, 200} and len(told.warnings) == 2
    (loras / "checkpoint-000200.safetensors").unlink()
    with pytest.raises(DataError, match="no checkpoint could be compared"):
        compare(loaded, training, 4)
    shutil.rmtree(loras)
    with pytest.raises(SettingsError, match="no checkpoint to compare"):
        compare(loaded, training, 4)


def test_training_pictures_that_went_away(loaded, training, tmp_path):
    for i in range(6):
        (tmp_path / f"pictures/{i}.png").unlink()
    told = Told()
    result = compare(loaded, training, 4, told)
    assert "6 training pictures cannot be read" in told.warnings[0]
    assert "copies cannot be counted" in result.render()
    shutil.rmtree(tmp_path / "pictures")
    with pytest.raises(DataError, match="the training pictures are not there"):
        compare(loaded, training, 4)


def test_together_with_another_lora(loaded, training, tmp_path):
    other = tinting_lora(tmp_path / "other.safetensors", loaded, 1.0, 7)
    result = compare(loaded, training, 4, compose_lora=str(other))
    assert "together with other.safetensors: fidelity" in result.render()
    report = json.loads((training / "eval/comparison.json").read_text())
    assert report["composed"]["fidelity"]["delta"]["value"] != 0


def test_a_blackened_picture_is_not_measured(training, tmp_path):
    checked = made_pipelines.stable_diffusion(tmp_path / "checked", flags_everything=True)
    with pytest.raises(DataError, match="no picture to measure"):
        compare(pipeline.load(str(checked), quant="fp32"), training, 4, Told())


def test_base_and_pictures_that_lie_elsewhere_now(training, tmp_path, base):
    shutil.move(tmp_path / "pictures", tmp_path / "moved")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "moved/another.png")
    facts = json.loads((training / "diffusion.json").read_text())
    (training / "diffusion.json").write_text(json.dumps({**facts, "model": "/gone"}))
    settings = {
        "run_id": str(training),
        "num_eval_images": 4,
        "num_inference_steps": 1,
        "features": OFFLINE,
        "output_dir": str(tmp_path / "eval_out"),
    }
    told = Told()
    config = EvaluateConfig(**settings, data=str(tmp_path / "moved"), model=str(base))
    assert memory.plan(config, devices.find("auto")).total_bytes > 0
    result = evaluate.evaluate(config, run_without_folder(told))
    assert result.data["verdict"] == "inconclusive"
    report = json.loads((tmp_path / "eval_out/eval/comparison.json").read_text())
    assert report["sampling"]["num_inference_steps"] == 1
    assert not any("none of the training's pictures" in text for text in told.warnings)
    with pytest.raises(SettingsError, match="holds pictures of a comparison"):
        evaluate.evaluate(config, run_without_folder())
    with pytest.raises(DataError, match="the training pictures are not there"):
        other = EvaluateConfig(**settings, model=str(base), resume=True)
        evaluate.evaluate(other, run_without_folder(told))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": 3, "pictures": 4}'])
def test_damaged_facts(training, text):
    (training / "diffusion.json").write_text(text)
    with pytest.raises(DataError, match="is not usable"):
        evaluate.evaluate(EvaluateConfig(run_id=str(training)), run_without_folder())


# Features


def test_features_of_transformers_models(tmp_path):
    """DINOv2 and CLIP with random weights: their real classes and files."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    Dinov2Model(Dinov2Config(**size, image_size=28, patch_size=14)).save_pretrained(tmp_path / "d")
    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28)
    processor.save_pretrained(tmp_path / "d")
    tokenizer = made_pipelines.clip_tokenizer(tmp_path / "c")
    text = CLIPTextConfig(
        **size, vocab_size=len(tokenizer), intermediate_size=32, eos_token_id=tokenizer.eos_token_id
    )
    vision = CLIPVisionConfig(**size, intermediate_size=32, image_size=28, patch_size=14)
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16
    )
    CLIPModel(config).save_pretrained(tmp_path / "c")
    processor.save_pretrained(tmp_path / "c")
    tokenizer.save_pretrained(tmp_path / "c")
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)) for _ in range(3)]
    for name, width in (("d", 32), ("c", 16)):
        extractor = features.load(str(tmp_path / name), Reporter())
        rows = extractor.pictures(images)
        assert rows.shape == (3, width) and np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
        assert not np.allclose(rows[0], rows[1])
    assert extractor.reads_text and extractor.texts(["a dog", "a cat on a tree"]).shape == (2, 16)
    assert "clip" in extractor.name


def test_features_that_are_not_there():
    with pytest.raises(NotFound):
        features.load("nobody/nothing", Reporter())
    assert features.load("auto", Reporter()).name == OFFLINE


# The command


def test_evaluate_of_a_folder(onecard, training, tmp_path):
    words = ("--num_eval_images", 4, "--num_inference_steps", 1, "--features", OFFLINE)
    data = onecard("diffusion", "evaluate", training, *words, "--json").data
    assert data["verdict"] == "inconclusive" and "base_fidelity" in data["metrics"]
    scores = json.loads((tmp_path / data["run"] / "scores.json").read_text())
    assert scores["metrics"]["fidelity"]["n"] == 4
    artifacts = tmp_path / data["run"] / "artifacts"
    lines = [json.loads(line) for line in (artifacts / "items.jsonl").read_text().splitlines()]
    to_vote_on = [row["pictures"] for row in lines if "pictures" in row]
    assert len(to_vote_on) >= len(lines) / 2  # those with the trigger
    assert all(Path(row[name]).is_file() for row in to_vote_on for name in ("base", "tuned"))
    assert len(lines) == 8 and "drift" in lines[-1]["scores"] | lines[0]["scores"]
    assert (artifacts / "grid.png").exists() and (artifacts / "comparison.svg").exists()
    refusal = onecard("diffusion", "evaluate", tmp_path)
    assert refusal.code == 6 and "is no training of a LoRA" in refusal.err
