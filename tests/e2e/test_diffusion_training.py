"""A LoRA trained on tiny pipelines: resumed after a kill, in both file forms, with class pictures,
text encoders, buckets, without caches; what cannot be trained is refused."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="installed by make test")
pytest.importorskip("diffusers", reason="installed by make test")
import made_pipelines  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from onecard import api  # noqa: E402
from onecard.errors import DataError, DoesNotFit, OneCardError, SettingsError  # noqa: E402
from onecard.memory.architectures import pipeline_folder  # noqa: E402
from onecard.memory.estimators import diffusion  # noqa: E402
from onecard.reporting import Reporter  # noqa: E402
from onecard.runs.record import Run  # noqa: E402
from onecard.tasks.diffusion import (  # noqa: E402
    adapters,
    dataset,
    inputs,
    lora_files,
    pipeline,
    prior,
)
from onecard.tasks.diffusion.objective import Objective  # noqa: E402
from onecard.tasks.diffusion.trainer import Batches, Trainer, cpu_threads  # noqa: E402
from onecard.training import ram  # noqa: E402

BRIEF = {"max_train_steps": 4, "save_steps": 2, "validation_steps": 0, "num_eval_images": 0}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return made_pipelines.stable_diffusion(tmp_path_factory.mktemp("base") / "sd")


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    return made_pipelines.stable_diffusion_xl(tmp_path_factory.mktemp("base") / "sdxl")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve of three sizes, with captions."""
    folder = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for i in range(12):
        rgb = np.full((96, 96 + 48 * (i % 3), 3), draw.integers(0, 255, 3), np.uint8)
        x, y = draw.integers(5, 60, 2)
        rgb[y : y + 25, x : x + 25] = draw.integers(0, 255, 3)
        rgb += draw.integers(0, 20, rgb.shape, dtype=np.uint8)
        Image.fromarray(rgb).save(folder / f"p{i:02d}.png")
        (folder / f"p{i:02d}.txt").write_text(f"a picture of a sks dog, number {i % 3}")
    return folder


def train(model, data, out, **values):
    settings = {"model": str(model), "data": str(data), "trigger": "sks", "output_dir": str(out)}
    config = api.configure("diffusion", "train", values={**settings, **BRIEF, **values})
    return api.run("diffusion", "train", config)


def weights(folder, name="lora.safetensors"):
    return load_file(folder / name)


def largest_difference(a, b):
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a)


# The result


def test_a_training_leaves_files_that_load_again(base, pictures, tmp_path):
    result = train(base, pictures, tmp_path / "out")
    metrics = result.data["metrics"]
    assert metrics["diffusers_difference"]["value"] == 0.0
    assert metrics["kohya_difference"]["value"] < 1e-5
    assert metrics["lora_on_off"]["value"] > 0
    assert [path.rpartition("/")[2] for path in result.data["files"]] == [
        "lora.safetensors",
        "lora-kohya.safetensors",
    ]
    assert "sks" in (tmp_path / "out" / "MODEL_CARD.md").read_text()


def test_a_lora_says_what_it_is_and_nothing_of_this_machine(base, pictures, tmp_path):
    train(base, pictures, tmp_path / "out", rank=3, lora_alpha=6)
    for name in ("lora.safetensors", "lora-kohya.safetensors"):
        with safe_open(tmp_path / "out" / name, "pt") as file:
            metadata = file.metadata()
        assert metadata["ss_network_dim"] == "3" and metadata["ss_network_alpha"] == "6"
        assert metadata["modelspec.trigger_phrase"] == "sks"
        assert json.loads(metadata["onecard"])["step"] == 4
        assert str(tmp_path) not in json.dumps(metadata)
        assert str(pictures) not in json.dumps(metadata)


@pytest.mark.parametrize(
    "values",
    [
        {"rank": 2, "lora_alpha": 8, "train_text_encoder": True},
        {"cache_latents": False, "flip": True, "gradient_checkpointing": False},
        {"ema": True, "noise_offset": 0.1, "snr_gamma": 0, "train_batch_size": 3},
        {"optim": "adafactor", "lr_scheduler": "constant", "lora_dropout": 0.2},
        {"buckets": False, "gradient_accumulation_steps": 2, "caption_source": "template"},
    ],
)
def test_every_setting_trains(base, pictures, tmp_path, values):
    result = train(base, pictures, tmp_path / "out", **values)
    assert result.data["metrics"]["lora_on_off"]["value"] > 0
    assert result.data["metrics"]["kohya_difference"]["value"] < 1e-5


def test_sdxl_trains_with_both_text_encoders(xl, pictures, tmp_path):
    train(xl, pictures, tmp_path / "out", train_text_encoder=True, rank=2)
    file = lora_files.read(tmp_path / "out" / "lora-kohya.safetensors")
    parts = {name.split("_")[1] for name in file.adapters}
    assert parts == {"unet", "te1", "te2"}


def test_a_velocity_is_learned_where_the_base_gives_one(tmp_path, pictures):
    model = made_pipelines.stable_diffusion(tmp_path / "v", prediction_type="v_prediction")
    train(model, pictures, tmp_path / "out")
    with safe_open(tmp_path / "out" / "lora.safetensors", "pt") as file:
        assert file.metadata()["modelspec.prediction_type"] == "v"


def test_the_loss_falls_on_one_picture(base, tmp_path):
    """Learned by heart: the check that gradients reach the adapters."""
    folder = tmp_path / "one"
    folder.mkdir()
    rgb = np.zeros((64, 64, 3), np.uint8)
    rgb[:32] = (250, 40, 40)
    Image.fromarray(rgb).save(folder / "a.png")
    result = train(
        base,
        folder,
        tmp_path / "out",
        max_train_steps=60,
        validation_steps=60,
        learning_rate=1e-2,
        num_validation_images=1,
        rank=8,
    )
    metrics = result.data["metrics"]
    before = metrics["base.training_pictures_mse"]["value"]
    assert metrics["tuned.training_pictures_mse"]["value"] < 0.9 * before


def test_sample_grids_and_validation_losses_are_kept(base, pictures, tmp_path):
    result = train(
        base, pictures, tmp_path / "out", validation_steps=2, num_validation_images=2, val_share=0.2
    )
    grids = sorted(path.name for path in (tmp_path / "out" / "samples").iterdir())
    assert grids == ["step-000000.png", "step-000002.png", "step-000004.png"]
    assert "tuned.validation_mse" in result.data["metrics"]


# Class pictures


def test_class_pictures_are_made_once_and_learned(base, pictures, tmp_path):
    values = {"with_prior_preservation": True, "class_prompt": "a dog", "num_class_images": 2}
    train(base, pictures, tmp_path / "with", **values)
    made = sorted((tmp_path / "with" / "class").iterdir())
    assert [path.name for path in made] == ["00000.png", "00001.png"]
    train(base, pictures, tmp_path / "without")
    assert largest_difference(weights(tmp_path / "with"), weights(tmp_path / "without")) > 0


@pytest.mark.parametrize("text_encoder", [False, True])
def test_class_pictures_held_to_the_base_teach_nothing_alone(
    base, pictures, tmp_path, text_encoder
):
    """New adapters change nothing: the base's own output is already met, to the last bit."""
    loaded = pipeline.load(str(base))
    config = api.configure(
        "diffusion",
        "train",
        values={"model": str(base), "data": str(pictures), "train_text_encoder": text_encoder},
    )
    nets = adapters.attach(loaded.pipe, config)
    objective = Objective.of(loaded.pipe.scheduler, "auto", 5.0, 0.0)
    encoders = inputs.Encoders(
        loaded.pipe,
        loaded.family,
        loaded.device,
        tmp_path,
        caches=False,
        trains_text=text_encoder,
        flip=False,
        reporter=Reporter(),
    )
    rows = dataset.read(config, 64, 16, Reporter()).pictures[:2]
    encoders.prepare(rows, [])
    trainer = Trainer(loaded.pipe, "sd", nets, objective, encoders, config, loaded.device)
    draw = torch.Generator().manual_seed(0)
    assert float(trainer._prior_loss(rows[:1], draw)) == 0.0
    for weight in trainer.weights.values():
        torch.nn.init.normal_(weight, std=0.1)
    moved = trainer._prior_loss(rows[:1], draw)
    moved.backward()
    assert float(moved) > 0
    assert all(weight.grad is not None for weight in trainer.weights.values())


def test_captions_beside_class_pictures_are_theirs(base, pictures, tmp_path):
    config = api.configure(
        "diffusion",
        "train",
        values={
            "with_prior_preservation": True,
            "class_prompt": "a dog",
            "class_data": str(pictures),
            "num_class_images": 3,
        },
    )
    rows = prior.pictures(config, None, 64, 16, tmp_path, Run(None, Reporter(), None))
    assert [row.caption for row in rows] == [
        f"a picture of a sks dog, number {i}" for i in (0, 1, 2)
    ]


def test_class_pictures_without_a_class_are_refused(base, pictures, tmp_path):
    with pytest.raises(SettingsError, match="class pictures have no caption"):
        train(base, pictures, tmp_path / "out", with_prior_preservation=True)


# Kill and resume


def test_a_stopped_training_ends_with_the_same_adapter(base, pictures, tmp_path, monkeypatch):
    values = {"max_train_steps": 6, "save_steps": 2, "ema": True, "flip": True, "lora_dropout": 0.1}
    train(base, pictures, tmp_path / "whole", **values)
    calls = iter(range(100))
    monkeypatch.setattr(ram.RamWatch, "short", lambda watch, step: next(calls) == 2)
    with pytest.raises(DoesNotFit, match="memory is nearly full after step 3"):
        train(base, pictures, tmp_path / "cut", **values)
    monkeypatch.undo()
    train(base, pictures, tmp_path / "cut", resume=True, **values)
    for name in (
        "lora.safetensors",
        "lora-kohya.safetensors",
        "loras/checkpoint-000004.safetensors",
    ):
        whole, cut = weights(tmp_path / "whole", name), weights(tmp_path / "cut", name)
        assert largest_difference(whole, cut) == 0.0, name


def test_a_killed_training_ends_with_the_same_adapter(base, pictures, tmp_path):
    steps = {"max_train_steps": 40, "save_steps": 5}
    train(base, pictures, tmp_path / "whole", **steps)
    out = tmp_path / "killed"
    words = [sys.executable, "-m", "onecard", "diffusion", "train", str(pictures)]
    flags = {**BRIEF, **steps, "model": base, "trigger": "sks", "output_dir": out}
    words += [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not list(out.glob("checkpoints/step-*.safetensors")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "lora.safetensors").exists(), "it ended before it was killed"
    train(base, pictures, out, resume=True, **steps)
    assert largest_difference(weights(tmp_path / "whole"), weights(out)) == 0.0


def test_an_8_bit_optimizer_goes_on_where_memory_ran_out(base, pictures, tmp_path, monkeypatch):
    """The fallback from AdamW: its adapters are kept, its moments are not."""
    step, failed = Trainer.step, []

    def failing(trainer, *rest):
        if trainer.config.optim == "adamw" and trainer.state.step == 3:
            failed.append(trainer.config)
            raise torch.OutOfMemoryError("of the test")
        return step(trainer, *rest)

    monkeypatch.setattr(Trainer, "step", failing)
    monkeypatch.setattr(
        "onecard.tasks.diffusion.memory.fallbacks",
        lambda config: iter([({"optim": "adamw-8bit"}, "of the test")]),
    )
    result = train(base, pictures, tmp_path / "out", save_steps=2, optim="adamw")
    assert len(failed) == 1
    assert result.data["memory_changes"][0]["changes"] == {"optim": "adamw-8bit"}
    assert result.data["metrics"]["lora_on_off"]["value"] > 0


def test_another_training_is_not_resumed(base, pictures, tmp_path):
    train(base, pictures, tmp_path / "out")
    with pytest.raises(SettingsError, match="differs from this one"):
        train(base, pictures, tmp_path / "out", resume=True, rank=2)


def test_a_picture_removed_meanwhile_costs_no_step(base, pictures, tmp_path, monkeypatch):
    """Without a cache: the work so far is kept, and the refusal names the picture."""
    folder = tmp_path / "data"
    folder.mkdir()
    for path in pictures.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    whole = Batches.__getitem__
    order = iter(range(100))

    def losing(batches, number):
        if next(order) == 2:
            for path in folder.glob("*.png"):
                path.unlink()
        return whole(batches, number)

    monkeypatch.setattr(Batches, "__getitem__", losing)
    with pytest.raises(OneCardError, match=re.escape("is gone")):
        train(base, folder, tmp_path / "out", cache_latents=False)
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == [
        "step-0000002.safetensors"
    ]


def test_a_full_disk_is_told_before_the_caches_are_written(base, pictures, tmp_path, monkeypatch):
    usage = os.statvfs(tmp_path)
    monkeypatch.setattr(
        "onecard.training.output_dir.shutil.disk_usage",
        lambda path: type("usage", (), {"free": 1000, "total": usage.f_blocks})(),
    )
    with pytest.raises(DataError, match="no room for the "):
        train(base, pictures, tmp_path / "out")


# Refusals


@pytest.mark.parametrize("kind", ["stable_diffusion_3", "flux"])
def test_a_transformer_is_refused(kind, pictures, tmp_path):
    model = getattr(made_pipelines, kind)(tmp_path / kind)
    with pytest.raises(SettingsError, match="cannot be trained here"):
        train(model, pictures, tmp_path / "out")


def test_a_whole_denoiser_is_refused(base, pictures, tmp_path):
    with pytest.raises(SettingsError, match="whole denoiser"):
        train(base, pictures, tmp_path / "out", method="full")


def test_an_empty_folder_is_refused(base, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(OneCardError):
        train(base, tmp_path / "none", tmp_path / "out")


# Parts


def test_the_plan_of_a_folder_counts_its_weights_to_the_last(base, xl):
    for folder in (base, xl):
        pipe = pipeline.load(str(folder)).pipe
        real = sum(weight.numel() for weight in pipe.unet.parameters())
        assert diffusion.net_params(pipeline_folder.read(folder)) == real


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_min_snr_weights(base, kind):
    """Hang et al. 2023: min(snr, gamma) / snr for noise, / (snr + 1) for a velocity."""
    objective = Objective.of(pipeline.load(str(base)).pipe.scheduler, kind, 5.0, 0.0)
    steps = torch.tensor([0, 250, 999])
    signal_share = objective.scheduler.alphas_cumprod[steps]
    snr = signal_share / (1 - signal_share)
    expected = snr.clamp(max=5.0) / (snr if kind == "epsilon" else snr + 1)
    assert torch.allclose(objective.weights(steps), expected)


def test_each_epoch_gives_every_picture_once_in_batches_of_one_size():
    class Row:
        def __init__(self, number):
            self.number, self.bucket = number, (64, 64 + 32 * (number % 2))

    rows = [Row(i) for i in range(11)]
    batches = Batches(rows, 4, seed=3)
    epochs = [
        [batches[i + batches.per_epoch * epoch] for i in range(batches.per_epoch)]
        for epoch in range(2)
    ]
    for epoch in epochs:
        assert sorted(row.number for batch in epoch for row in batch) == list(range(11))
        assert all(len({row.bucket for row in batch}) == 1 for batch in epoch)
    orders = [[row.number for batch in epoch for row in batch] for epoch in epochs]
    assert orders[0] != orders[1]


@pytest.mark.parametrize(("side", "threads"), [(64, 1), (2048, 2)])
def test_a_small_network_takes_one_thread_and_gives_the_others_back(base, tmp_path, side, threads):
    """By its size alone, so that a resumed training adds in the same order."""

    class Row:
        unet = pipeline.load(str(base)).pipe.unet
        config = api.configure("diffusion", "train")
        device = torch.device("cpu")

    torch.set_num_threads(2)
    with cpu_threads(Row, [(side, side), (32, 32)]):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
