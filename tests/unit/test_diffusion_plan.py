"""Plans of diffusion: memory switches that a run takes by itself, the sample grid's peak, pipelines
known from their files alone."""

import json
import struct

import pytest

from onecard import api, tasks
from onecard.api import running
from onecard.errors import DataError, NotFound, OneCardError
from onecard.memory import devices
from onecard.memory.architectures import pipeline_folder
from onecard.memory.estimators import diffusion
from onecard.reporting import Reporter
from onecard.tasks.diffusion import memory


class Lines(Reporter):
    def __init__(self):
        self.lines = []

    def line(self, text=""):
        self.lines.append(text)


def switched(card, **values):
    config = api.configure("diffusion", "generate", values=values)
    reporter = Lines()
    device = devices.find(card)
    config = running._with_switches(tasks.get("diffusion"), config, device, reporter)
    return config, reporter.lines


def planned(short, card="24gb", **values):
    return api.plan("diffusion", api.configure_plan(short, values=values), card=card)


def test_a_run_takes_the_switches_that_make_it_fit_and_tells_their_cost():
    config, lines = switched("8gb", model="sdxl", num_images=4)
    assert config.offload == "model" and config.vae_tiling
    assert any("some seconds slower" in line for line in lines)
    assert config.quant == "fp16" and config.num_images == 4, "these would change the pictures"


def test_what_fits_is_left_alone():
    config, lines = switched("24gb", model="sdxl")
    assert config == api.configure("diffusion", "generate", values={"model": "sdxl"})
    assert lines == []


def test_what_no_switch_makes_fit_is_left_for_the_refusal():
    config, lines = switched("2gb", model="flux.1", imgsz=2048)
    assert config.offload == "none" and lines == []


@pytest.mark.parametrize(("card", "name"), [("4gb", "sd-1.5"), ("8gb", "sdxl"), ("cpu", "sd-1.5")])
def test_auto_takes_the_larger_model_that_fits(card, name):
    config = api.configure("diffusion", "generate")
    assert memory.resolve_auto(config, devices.find(card))[0].model == name


def test_a_sample_grid_is_part_of_the_plan():
    without = planned("diffusion-lora", model="sdxl", validation_steps=0)
    whole = planned("diffusion-lora", model="sdxl")
    tiled = planned("diffusion-lora", model="sdxl", vae_tiling=True)
    assert without.total_bytes < tiled.total_bytes < whole.total_bytes
    reasons = " ".join(term.reason for term in whole.terms)
    assert "highest while a sample is made" in reasons


def test_text_encoders_that_learn_stay_on_the_card():
    frozen = planned("diffusion-lora", model="sd-1.5", validation_steps=0)
    learning = planned(
        "diffusion-lora", model="sd-1.5", validation_steps=0, train_text_encoder=True
    )
    assert learning.total_bytes - frozen.total_bytes > 123e6 * 2, "CLIP-L has 123 million weights"


def test_a_lora_of_sd15_and_pictures_of_sdxl_fit_12_gb():
    lora = planned("diffusion-lora", "12gb", model="sd-1.5", imgsz=512, rank=8)
    pictures = planned("diffusion", "12gb", model="sdxl")
    assert lora.fits and pictures.fits


def test_an_out_of_memory_keeps_the_effective_batch():
    config = api.configure("diffusion", "train", values={"model": "sdxl", "train_batch_size": 8})
    changes = [row for row, _ in memory.fallbacks(config) if "train_batch_size" in row]
    sizes = [row["train_batch_size"] * row["gradient_accumulation_steps"] for row in changes]
    assert sizes == [8, 8, 8]


# Files

SD15_UNET = {
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
}
CLIP = {
    "architectures": ["CLIPTextModel"],
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "intermediate_size": 3072,
    "vocab_size": 49408,
}
VAE = {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512]}


def folder(path, **parts):
    rows = {"unet": SD15_UNET, "text_encoder": CLIP, "vae": VAE, **parts}
    for name, values in rows.items():
        (path / name).mkdir(parents=True)
        (path / name / "config.json").write_text(json.dumps(values))
    index = {"_class_name": "StableDiffusionPipeline"}
    (path / "model_index.json").write_text(json.dumps(index))
    return path


def test_a_finetune_of_sd15_is_planned_as_sd15(tmp_path):
    own = pipeline_folder.read(folder(tmp_path / "mine"))
    assert diffusion.net_params(own) == diffusion.net_params(diffusion.find("sd-1.5"))
    table, files = (
        planned("diffusion", model=name).total_bytes for name in ("sd-1.5", str(tmp_path / "mine"))
    )
    assert files == pytest.approx(table, rel=0.01)


def test_an_inpainting_unet_makes_latents_of_four_channels(tmp_path):
    unet = {**SD15_UNET, "in_channels": 9}
    assert pipeline_folder.read(folder(tmp_path / "mine", unet=unet)).channels == 4


@pytest.mark.parametrize(
    "unet",
    [
        {},
        {"block_out_channels": "many"},
        {**SD15_UNET, "down_block_types": ["KDownBlock2D"] * 4},
        {**SD15_UNET, "block_out_channels": [320, None, 1, 2]},
        {**SD15_UNET, "layers_per_block": [1, 2, 3, 4]},
        {**SD15_UNET, "transformer_layers_per_block": ["a"] * 4},
        [],
        "text",
    ],
)
def test_strange_configs_are_told(tmp_path, unet):
    with pytest.raises(OneCardError):
        pipeline_folder.read(folder(tmp_path / "mine", unet=unet))


def single_file(path, *names):
    header = json.dumps(
        {name: {"dtype": "F16", "shape": [4, 4], "data_offsets": [0, 32]} for name in names}
    ).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 32)
    return path


@pytest.mark.parametrize(
    ("names", "model"),
    [
        (["conditioner.embedders.1.model.ln_final.weight"], "sdxl"),
        (["cond_stage_model.transformer.text_model.final_layer_norm.weight"], "sd-1.5"),
        (["cond_stage_model.model.ln_final.weight"], "sd-2.1"),
        (["model.diffusion_model.joint_blocks.37.x_block.attn.qkv.weight"], "sd3.5-large"),
        (["model.diffusion_model.joint_blocks.0.x_block.attn2.qkv.weight"], "sd3.5-medium"),
        (["double_blocks.18.img_attn.qkv.weight"], "flux.1"),
    ],
)
def test_a_single_file_is_known_by_its_names(tmp_path, names, model):
    path = single_file(tmp_path / "model.safetensors", *names)
    assert pipeline_folder.read(path).name == model


@pytest.mark.parametrize(
    "content",
    [b"", b"abc", b"\xff" * 64, struct.pack("<Q", 1 << 40), struct.pack("<Q", 2) + b"[]"],
)
def test_what_is_no_safetensors_file_is_told(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError):
        pipeline_folder.read(path)


def test_a_lora_is_no_model(tmp_path):
    path = single_file(tmp_path / "style.safetensors", "lora_unet_x.lora_down.weight")
    with pytest.raises(DataError, match="not known"):
        pipeline_folder.read(path)


def test_a_missing_file_is_told():
    with pytest.raises(NotFound, match="nothing lies at that path"):
        planned("diffusion", model="/nowhere/model.safetensors")


def test_a_repository_in_the_hubs_own_cache_is_planned_without_a_connection(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NotFound, match="hub is out of reach"):
        planned("diffusion", model="someone/finetune")
    folder(tmp_path / "hub" / "models--someone--finetune" / "snapshots" / "abc")
    own = planned("diffusion", model="someone/finetune").total_bytes
    assert own == pytest.approx(planned("diffusion", model="sd-1.5").total_bytes, rel=0.01)


def test_a_generator_that_is_not_described_is_refused_with_what_is_missing():
    with pytest.raises(NotFound, match="two denoisers"):
        planned("diffusion", model="Wan-AI/Wan2.2-T2V-A14B-Diffusers")
