"""Pictures generated, made again, and LoRAs put on: tiny random pipelines of the real classes."""

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import made_pipelines
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

pytest.importorskip("diffusers", reason="installed by make test")
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.lora_conversion_utils import _maybe_map_sgm_blocks_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from onecard import api
from onecard.errors import DataError, NotFound, OneCardError, SettingsError
from onecard.reporting import Reporter
from onecard.tasks.diffusion import (
    lora_files,
    lora_metadata,
    lora_names,
    lora_use,
    memory_switches,
    pipeline,
    png_metadata,
    prompts,
)

STEPS = {"num_inference_steps": 3}
LONG = "a red apple on a table and a blue house, " * 8 + "an old dog"
FAMILIES = {"sd": "stable_diffusion", "sdxl": "stable_diffusion_xl"}


class Told(Reporter):
    def __init__(self):
        self.lines = []

    def line(self, text=""):
        self.lines.append(text)

    def warn(self, text):
        self.lines.append(f"warning: {text}")

    @property
    def text(self):
        return "\n".join(self.lines)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Name of a maker in made_pipelines, with options -> folder, each made once."""
    root, known = tmp_path_factory.mktemp("pipelines"), {}

    def make(name="stable_diffusion", **options):
        key = (name, *sorted(options.items()))
        if key not in known:
            folder = root / f"{name}-{len(known)}"
            known[key] = getattr(made_pipelines, name)(folder, **options)
        return known[key]

    return make


@pytest.fixture(scope="session")
def loras(made, tmp_path_factory):
    """(family, form, alpha) -> (LoRA file, picture of the pipeline that it was taken from)."""
    root, known = tmp_path_factory.mktemp("loras"), {}

    def make(family="sd", form="diffusers", alpha=2.0, **metadata):
        key = (family, alpha)
        if key not in known:
            pipe = fresh(made(FAMILIES[family]))
            state = made_pipelines.adapt(pipe, alpha=alpha)
            known[key] = state, floats(pipe)
        state, live = known[key]
        path = root / f"{family}-{form}-{alpha:g}-{len(metadata)}.safetensors"
        values = lora_metadata.build(title="t", kind=family, rank=4, alpha=alpha, **metadata)
        lora_files.write(path, state, form=form, family=family, alpha=alpha, metadata=values)
        return path, live

    return make


def fresh(folder):
    pipeline.silence()
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def floats(pipe):
    """[H, W, 3] of one picture, by diffusers alone."""
    return pipe(
        "a red apple",
        num_inference_steps=2,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images[0]


def generate(folder, out, reporter=None, prompt="a red apple", **values):
    """Paths of the pictures."""
    values = {"model": str(folder), "seed": 7, "output_dir": str(out), **STEPS, **values}
    config = api.configure("diffusion", "generate", values={"prompt": prompt, **values})
    result = api.run("diffusion", "generate", config, card="cpu", reporter=reporter)
    return [Path(row["path"]) for row in result.data["pictures"]]


def again(picture, out, reporter=None, **values):
    values = {"picture": str(picture), "output_dir": str(out), **values}
    config = api.configure("diffusion", "again", values=values)
    return api.run("diffusion", "again", config, card="cpu", reporter=reporter).data


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


# Pictures


def test_a_user_makes_pictures_and_makes_one_again(made, onecard, tmp_path):
    folder = made()
    result = onecard(
        *("diffusion", "generate", "a", "red", "apple", "--model", folder, "--num_images", 2),
        *("--seed", 1, "--num_inference_steps", 3, "--output_dir", tmp_path / "out"),
    )
    assert result.code == 0, result.err
    files = sorted((tmp_path / "out").glob("*.png"))
    assert [file.name for file in files] == ["a-red-apple-1.png", "a-red-apple-2.png"]
    assert not np.array_equal(pixels(files[0]), pixels(files[1]))
    assert "fp32" in result.err  # what a CPU computes in is told
    second = onecard("diffusion", "again", files[1])
    assert second.code == 0, second.err
    assert "equal, bit for bit" in second.out


def test_a_picture_does_not_depend_on_the_others(made, tmp_path):
    three = generate(made(), tmp_path / "three", num_images=3)
    alone = generate(made(), tmp_path / "alone", seed=9)
    assert np.array_equal(pixels(three[2]), pixels(alone[0]))
    at_once = generate(made(), tmp_path / "batch", num_images=3, batch_size=3)
    assert np.abs(pixels(at_once[2]) - pixels(alone[0])).max() <= 2  # kernels of another size round


def test_a_picture_is_the_one_that_diffusers_makes(made, tmp_path):
    ours = pixels(generate(made(), tmp_path, negative_prompt="blurred")[0])
    theirs = fresh(made())(
        "a red apple",
        negative_prompt="blurred",
        generator=torch.Generator().manual_seed(7),
        **STEPS,
    )
    assert np.array_equal(ours, np.asarray(theirs.images[0]).astype(int))


@pytest.mark.parametrize("maker", ["stable_diffusion_xl", "stable_diffusion_3", "flux"])
@pytest.mark.parametrize("mode", ["text", "image", "inpaint"])
def test_other_families(made, tmp_path, maker, mode):
    values = {} if maker != "flux" else {"imgsz": 64}
    if mode != "text":
        Image.new("RGB", (64, 64), "red").save(tmp_path / "start.png")
        values |= {"init_image": str(tmp_path / "start.png"), "strength": 0.7}
    if mode == "inpaint":
        Image.new("L", (64, 64), 255).save(tmp_path / "mask.png")
        values["mask_image"] = str(tmp_path / "mask.png")
    (path,) = generate(made(maker), tmp_path / "out", **values)
    assert pixels(path).std() > 1
    assert again(path, tmp_path / "again")["equal"]


@pytest.mark.parametrize(
    "values",
    [
        {"negative_prompt": "blurred", "guidance_scale": 3.5, "imgsz": 96, "height": 64},
        {"scheduler": "euler-a", "num_images": 2},
        {"scheduler": "dpm++"},
        {"scheduler": "unipc"},
        {"scheduler": "lcm"},
        {"guidance_scale": 0},
        {"prompt": LONG, "negative_prompt": "low"},
        {"prompt": "一顆紅色的蘋果", "num_images": 3, "batch_size": 3},
        {"attn_implementation": "eager"},
        {"vae_tiling": True, "vae_slicing": True},
    ],
    ids=lambda value: str(value)[:60],
)
def test_again_is_equal(made, tmp_path, values):
    path = generate(made(), tmp_path / "out", **values)[-1]
    data = again(path, tmp_path / "again")
    assert data["equal"] and data["max_difference"] == 0
    assert png_metadata.record(Path(data["path"])) == png_metadata.record(path)


def test_v_prediction_is_another_picture(made, tmp_path):
    path = generate(made(prediction_type="v_prediction"), tmp_path / "v")[0]
    other = generate(made(), tmp_path / "e")[0]
    assert not np.array_equal(pixels(path), pixels(other))


def test_switches_are_told_with_their_cost(made, tmp_path):
    values = {"model": str(made()), "seed": 7, "output_dir": str(tmp_path), "vae_tiling": True}
    values |= {"prompt": "a", "offload": "model", **STEPS}
    told = Told()
    config = api.configure("diffusion", "generate", values=values)
    result = api.run("diffusion", "generate", config, card="cpu", reporter=told)
    assert re.search(r"vae_tiling: .*decoding took \d+\.\d\d s a picture \(measured\)", result.text)
    assert "--offload model does nothing" in told.text


def test_existing_files_stay(made, tmp_path):
    first = generate(made(), tmp_path)[0]
    before = first.read_bytes()
    second = generate(made(), tmp_path, **{"guidance_scale": 2})[0]
    assert second != first and first.read_bytes() == before


def test_ctrl_c_keeps_what_is_finished(made, tmp_path):
    words = [
        *("diffusion", "generate", "a red apple", "--model", str(made()), "--num_images", "200"),
        *("--seed", "1", "--num_inference_steps", "40", "--output_dir", str(tmp_path / "out")),
    ]
    child = subprocess.Popen(
        [sys.executable, "-m", "onecard", *words], stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 100
    while not list((tmp_path / "out").glob("*.png")) and time.monotonic() < end:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=60)
    files = sorted((tmp_path / "out").iterdir())
    assert child.returncode == 130
    assert "Traceback" not in told and "of 200 pictures" in told
    assert 0 < len(files) < 200
    for file in files:  # whole, and nothing half-written beside them
        assert pixels(file).shape == (64, 64, 3)
        assert png_metadata.record(file)["settings"]["seed"] >= 1


def test_the_safety_checker_is_on(made, tmp_path):
    folder, told = made(flags_everything=True), Told()
    path = generate(folder, tmp_path / "on", told)[0]
    assert pixels(path).max() == 0
    assert "safety checker blackened 1 of 1" in told.text
    path = generate(folder, tmp_path / "off", safety_checker=False)[0]
    assert pixels(path).max() > 0
    assert again(path, tmp_path / "again")["equal"]


# Prompts


def test_a_long_prompt_is_read_to_its_end(made, tmp_path):
    told = Told()
    cat = generate(made(), tmp_path / "a", told, prompt=LONG)[0]
    dog = generate(made(), tmp_path / "b", prompt=LONG.replace("an old dog", "a white cat"))[0]
    assert not np.array_equal(pixels(cat), pixels(dog))
    assert "read in 2 chunks" in told.text


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_are_each_read_as_a_prompt_of_their_own(made, family):
    """The prompt is short and the negative one long: both get two chunks, the second of the prompt
    is empty."""
    pipe = fresh(made(FAMILIES[family]))
    long = prompts.embed(pipe, family, "a red apple", LONG, guided=True).values
    plain = prompts.embed(pipe, family, "a red apple", "", guided=True).values
    empty = prompts.embed(pipe, family, "", "", guided=True).values
    both = long["prompt_embeds"]
    assert both.shape == long["negative_prompt_embeds"].shape
    assert both.shape[1] == 2 * 77
    torch.testing.assert_close(both[:, :77], plain["prompt_embeds"])
    torch.testing.assert_close(both[:, 77:], empty["prompt_embeds"])
    if family == "sdxl":
        torch.testing.assert_close(long["pooled_prompt_embeds"], plain["pooled_prompt_embeds"])


def test_chunks_are_cut_between_words(made):
    tokenizer = fresh(made()).tokenizer
    text = "a red apple and a blue house, " * 9 + "extraordinary " * 20
    rows = prompts.chunks(tokenizer, text)
    assert [token for row in rows for token in row] == tokenizer(
        text, add_special_tokens=False
    ).input_ids
    for row in rows[:-1]:
        assert len(row) <= 75
        assert tokenizer.convert_ids_to_tokens(row[-1:])[0].endswith("</w>")
    assert tokenizer.convert_ids_to_tokens(rows[0][-1:]) == [",</w>"]


def test_what_a_transformer_does_not_read_is_told(made, tmp_path):
    told = Told()
    generate(made("flux"), tmp_path, told, prompt=LONG, imgsz=64, negative_prompt="low")
    assert "does not see" in told.text and "an old dog" in told.text.replace(" ,", ",")
    assert "negative prompt has no effect" in told.text


# LoRA files


@pytest.mark.parametrize(
    ("family", "alpha"), [("sd", 4.0), ("sd", 2.0), ("sd", 3.0), ("sdxl", 3.0)]
)
@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_both_forms_load_here_and_in_diffusers(made, loras, family, form, alpha):
    """Convolutions and text encoders included. diffusers' form holds the scale: 3 / 4 rounds."""
    path, live = loras(family, form, alpha)
    off = floats(fresh(made(FAMILIES[family])))
    theirs = fresh(made(FAMILIES[family]))
    theirs.load_lora_weights(str(path))
    ours = fresh(made(FAMILIES[family]))
    ((file, fit),) = lora_files.apply(ours, [(path, 1.0)])
    assert not fit.unmatched and not fit.misfits
    assert file.rank == 4
    assert np.abs(floats(ours) - floats(theirs)).max() == 0
    assert np.abs(floats(ours) - live).max() <= (1e-4 if alpha == 3 else 0)
    assert np.abs(live - off).max() > 0.01


def test_a_file_that_diffusers_saved_keeps_its_alpha(made, tmp_path):
    pipe = fresh(made())
    state = made_pipelines.adapt(pipe, alpha=1.0, text=False)
    live = floats(pipe)
    layers = {name.removeprefix("unet."): value for name, value in state.items()}
    pipe.save_lora_weights(
        tmp_path,
        unet_lora_layers=layers,
        unet_lora_adapter_metadata=pipe.unet.peft_config["default"].to_dict(),
    )
    ours = fresh(made())
    lora_files.apply(ours, [(tmp_path / "pytorch_lora_weights.safetensors", 1.0)])
    assert np.abs(floats(ours) - live).max() == 0


def test_two_loras_are_mixed_by_weight(made, loras, tmp_path):
    one, two = loras()[0], loras(alpha=4.0)[0]
    pictures = [
        pixels(generate(made(), tmp_path / str(n), lora=lora)[0])
        for n, lora in enumerate(
            [(), (f"{one}",), (f"{two}:1",), (f"{one}:0.5", f"{two}:0.5"), (f"{one}:0.5",)]
        )
    ]
    for i, picture in enumerate(pictures):
        for other in pictures[:i]:
            assert not np.array_equal(picture, other)


def test_a_lora_is_taken_off_again(made, loras):
    pipe = fresh(made())
    before = floats(pipe)
    lora_files.apply(pipe, [(loras()[0], 1.0)])
    assert np.abs(floats(pipe) - before).max() > 0
    lora_files.apply(pipe, [])
    assert np.abs(floats(pipe) - before).max() == 0


def test_equal_adapters_give_equal_bytes(made, tmp_path):
    state = made_pipelines.adapt(fresh(made()))
    metadata = {f"key{n}": str(n) for n in range(20)}
    for form in ("diffusers", "kohya"):
        one, two = (
            lora_files.write(tmp_path / name, dict(rows), form=form, alpha=3, metadata=metadata)
            for name, rows in (("a", state), ("b", reversed(state.items())))
        )
        assert one.read_bytes() == two.read_bytes()
        assert set(load_file(one)) == set(load_file(two))


def test_what_other_programs_read_in_the_metadata(made, loras):
    path, _ = loras("sdxl", "kohya", trigger="sks", size=(64, 64), tags={"sks dog": 3, "grass": 1})
    values = lora_files.read(path).metadata
    assert values["ss_network_module"] == "networks.lora"
    assert (values["ss_network_dim"], values["ss_network_alpha"]) == ("4", "2")
    assert values["ss_base_model_version"] == "sdxl_base_v1-0"
    assert json.loads(values["ss_tag_frequency"])["data"]["sks dog"] == 3
    assert values["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert values["modelspec.trigger_phrase"] == "sks"
    assert values["modelspec.resolution"] == "64x64"
    raw = path.read_bytes()
    body = raw[8 + int.from_bytes(raw[:8], "little") :]
    assert values["sshs_model_hash"] == hashlib.sha256(body).hexdigest()


def kohya_rule(net, prefix, blocks):
    """Names by sd-scripts' own walk (networks/lora.py, create_modules): linear layers and 1x1
    convolutions below the classes that it replaces."""
    for name, module in net.named_modules():
        if type(module).__name__ in blocks:
            for child, layer in module.named_modules():
                one = isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (1, 1)
                if isinstance(layer, torch.nn.Linear) or one:
                    yield name, child, f"{prefix}.{name}.{child}".replace(".", "_")


SD15 = {"cross_attention_dim": 768}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 2048,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
}


@pytest.mark.parametrize(("family", "values", "count"), [("sd", SD15, 192), ("sdxl", SDXL, 722)])
def test_kohyas_names_of_a_unet_one_by_one(family, values, count):
    """192 and 722 are the numbers of layers that sd-scripts tells when it starts."""
    with torch.device("meta"):
        net = UNet2DConditionModel(**values)
    rows = list(kohya_rule(net, "lora_unet", ("Transformer2DModel",)))
    assert len(rows) == count
    ours = {
        lora_names.kohya_name("unet", f"{name}.{child}", family): by_rule
        for name, child, by_rule in rows
    }
    assert len(ours) == count
    if family == "sd":
        assert all(name == by_rule for name, by_rule in ours.items())
    else:  # diffusers knows the way from Stability's blocks to its own
        keys = {f"{name}.lora_down.weight": torch.empty(0) for name in ours}
        mapped = _maybe_map_sgm_blocks_to_diffusers(dict(keys), net.config)
        for theirs, own in (("input", "down"), ("output", "up")):
            mapped = {key.replace(f"{theirs}_blocks", f"{own}_blocks") for key in mapped}
        mapped = {key.replace("middle_block", "mid_block") for key in mapped}
        assert mapped == {f"{by_rule}.lora_down.weight" for by_rule in ours.values()}
        for known in (  # of files that sd-scripts wrote
            "lora_unet_input_blocks_4_1_proj_in",
            "lora_unet_input_blocks_8_1_transformer_blocks_9_ff_net_0_proj",
            "lora_unet_middle_block_1_transformer_blocks_3_attn2_to_k",
            "lora_unet_output_blocks_0_1_transformer_blocks_0_attn1_to_out_0",
            "lora_unet_output_blocks_5_1_proj_out",
        ):
            assert known in ours


def test_kohyas_names_of_the_layers_between():
    """As sd-scripts' own UNet of SDXL names them (library/sdxl_original_unet.py)."""
    for name, expected in {
        "conv_in": "input_blocks.0.0",
        "conv_out": "out.2",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "down_blocks.0.resnets.1.conv1": "input_blocks.2.0.in_layers.2",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
        "down_blocks.1.resnets.0.conv_shortcut": "input_blocks.4.0.skip_connection",
        "down_blocks.2.resnets.1.time_emb_proj": "input_blocks.8.0.emb_layers.1",
        "mid_block.resnets.1.conv2": "middle_block.2.out_layers.3",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.2.2.conv",
        "up_blocks.2.resnets.2.conv2": "output_blocks.8.0.out_layers.3",
    }.items():
        assert lora_names.sgm_name(name) == expected


@pytest.mark.parametrize(
    ("component", "family", "prefix"),
    [
        ("text_encoder", "sd", "lora_te"),
        ("text_encoder", "sdxl", "lora_te1"),
        ("text_encoder_2", "sdxl", "lora_te2"),
    ],
)
def test_kohyas_names_of_a_text_encoder(component, family, prefix):
    with torch.device("meta"):
        net = CLIPTextModel(CLIPTextConfig())  # 12 layers, as CLIP-L
    rows = list(kohya_rule(net, prefix, ("CLIPAttention", "CLIPMLP")))
    assert len(rows) == 72
    for name, child, by_rule in rows:
        ours = lora_names.kohya_name(component, f"{name}.{child}", family)
        assert ours == by_rule.replace(f"{prefix}_", f"{prefix}_text_model_").replace(
            "text_model_text_model", "text_model"
        )


def kohya_flux():
    """As sd-scripts' networks/lora_flux.py names the layers of Black Forest Labs' own code."""
    torch.manual_seed(0)
    shapes = {
        "double_blocks_0_img_attn_proj": (32, 32),
        "double_blocks_0_txt_attn_qkv": (96, 32),
        "single_blocks_0_linear2": (32, 160),
    }
    for name, (out, inner) in shapes.items():
        yield f"lora_unet_{name}.lora_down.weight", torch.randn(4, inner) * 0.1
        yield f"lora_unet_{name}.lora_up.weight", torch.randn(out, 4) * 0.5
        yield f"lora_unet_{name}.alpha", torch.tensor(2.0)


@pytest.mark.parametrize("kind", ["flux", "stable_diffusion_3", "kohya"])
def test_loras_of_transformers(made, tmp_path, kind):
    folder, path = made("flux" if kind == "kohya" else kind), tmp_path / "lora.safetensors"
    if kind == "kohya":
        save_file(dict(kohya_flux()), path)
    else:
        pipe = fresh(folder)
        pipe.transformer.add_adapter(
            LoraConfig(r=4, lora_alpha=2, target_modules=["to_q", "to_v", "to_out.0"])
        )
        for name, weight in pipe.transformer.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
        state = get_peft_model_state_dict(pipe.transformer)
        state = {f"transformer.{name}": value for name, value in state.items()}
        lora_files.write(path, state, alpha=2.0)
    theirs, ours = fresh(folder), fresh(folder)
    off = floats(theirs)
    theirs.load_lora_weights(str(path))
    ((_, fit),) = lora_files.apply(ours, [(path, 1.0)])
    assert not fit.unmatched
    assert np.abs(floats(ours) - floats(theirs)).max() == 0
    assert np.abs(floats(ours) - off).max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_half_precision_files(made, tmp_path, form, dtype):
    state = made_pipelines.adapt(fresh(made()))
    halves = {name: value.to(dtype) for name, value in state.items()}
    path = lora_files.write(tmp_path / "lora.safetensors", halves, form=form, alpha=2.0)
    theirs, ours = fresh(made()), fresh(made())
    theirs.load_lora_weights(str(path))
    lora_files.apply(ours, [(path, 1.0)])
    assert np.abs(floats(ours) - floats(theirs)).max() == 0


# Memory switches that a CPU can take


def test_layers_kept_in_fp8(made, loras):
    loaded = pipeline.load(str(made()), quant="fp32")
    plain = floats(loaded.pipe)
    wanted = memory_switches.Formats("fp8-layerwise", (), torch.float32)
    options, cpu = memory_switches.Options(), torch.device("cpu")
    (switch,) = memory_switches.take(loaded.pipe, "sd", wanted, options, cpu, Reporter())
    kinds = {weight.dtype for weight in loaded.pipe.unet.parameters()}
    assert torch.float8_e4m3fn in kinds
    assert 0 < np.abs(floats(loaded.pipe) - plain).mean() < 0.1
    assert "fp8-layerwise" in switch.render({"denoising": 1.0}, 1)
    assert lora_use.put_on(loaded, lora_use.parse([str(loras()[0])]), "a dog", Reporter())


def test_what_is_quantized_by_bitsandbytes(made):
    index = json.loads((made("stable_diffusion_3") / "model_index.json").read_text())
    wanted = memory_switches.Formats("nf4-dq", ("fp16", "fp16", "int8"), torch.bfloat16)
    rows = memory_switches.quantization(wanted, index).quant_mapping
    assert set(rows) == {"transformer", "text_encoder_3"}
    assert rows["transformer"].bnb_4bit_use_double_quant
    assert rows["transformer"].bnb_4bit_compute_dtype == torch.bfloat16
    assert rows["text_encoder_3"].load_in_8bit
    everything = memory_switches.Formats("nf4", (), torch.bfloat16)
    assert len(memory_switches.quantization(everything, index).quant_mapping) == 4
    nothing = memory_switches.Formats("fp16", (), torch.float16)
    assert memory_switches.quantization(nothing, index) is None
    short = memory_switches.Formats("fp16", ("nf4",), torch.float16)
    refused(SettingsError, lambda: memory_switches.quantization(short, index), "3 text encoders")


# LoRAs that do not fit


def refused(kind, call, *words):
    with pytest.raises(kind) as fault:
        call()
    text = str(fault.value)
    for word in words:
        assert word in text, text
    return text


def test_a_lora_of_another_base(made, loras, tmp_path):
    sd, sdxl = loras()[0], loras("sdxl")[0]
    wide = made(width=48)
    for folder, lora in ((wide, sd), (made(), sdxl), (made("stable_diffusion_xl"), sd)):
        text = refused(
            DataError,
            lambda f=folder, file=lora: generate(f, tmp_path, lora=(str(file),)),
            "for another base",
            "in the file",
        )
        assert re.search(r"\d+ x \d+ in the file, \d+ x \d+ in the model", text)
    assert not list(tmp_path.iterdir())


def test_a_lora_none_of_whose_names_match(made, tmp_path):
    tensors = {
        "unet.strange.to_q.lora_A.weight": torch.ones(4, 8),
        "unet.strange.to_q.lora_B.weight": torch.ones(8, 4),
    }
    save_file(tensors, tmp_path / "odd.safetensors")
    refused(
        DataError,
        lambda: generate(made(), tmp_path / "out", lora=(str(tmp_path / "odd.safetensors"),)),
        "does nothing on",
        "unet.strange.to_q",
    )


def test_unmatched_names_are_told(made, loras, tmp_path):
    tensors = load_file(loras()[0])
    for part, shape in (("A", (4, 8)), ("B", (8, 4))):
        tensors[f"unet.strange.to_q.lora_{part}.weight"] = torch.ones(shape)
    save_file(tensors, tmp_path / "more.safetensors")
    told = Told()
    generate(made(), tmp_path / "out", told, lora=(str(tmp_path / "more.safetensors"),))
    assert "1 unmatched: unet.strange.to_q" in told.text
    assert re.search(r"LoRA on differs from LoRA off: \d", told.text)


@pytest.mark.parametrize("change", ["zeros", "nan", "dora", "cut", "text", "empty", "model"])
def test_a_lora_that_cannot_be_used(made, loras, tmp_path, change):
    tensors, path = load_file(loras()[0]), tmp_path / "bad.safetensors"
    word = {"zeros": "changes nothing", "nan": "breaks the model", "dora": "no plain LoRA"}
    if change in ("zeros", "nan"):
        value = 0.0 if change == "zeros" else float("nan")
        tensors = {
            name: torch.full_like(t, value) if "lora_B" in name else t
            for name, t in tensors.items()
        }
    elif change == "dora":
        name = next(iter(tensors)).rpartition(".lora_")[0]
        tensors[f"{name}.dora_scale"] = torch.ones(3)
    elif change == "model":
        tensors = load_file(made() / "vae" / "diffusion_pytorch_model.safetensors")
    save_file(tensors, path)
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    if change in ("text", "empty"):
        path.write_text("no weights" if change == "text" else "")
    generated = lambda: generate(made(), tmp_path / "out", lora=(str(path),))  # noqa: E731
    refused(DataError, generated, word.get(change, "bad.safetensors"))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_pickle_is_not_opened(made, tmp_path):
    for name in ("lora.ckpt", "lora.pt", "renamed.safetensors"):
        torch.save({"a": torch.ones(2)}, tmp_path / name)
        lora = (str(tmp_path / name),)
        refused(DataError, lambda lora=lora: generate(made(), tmp_path, lora=lora), "pickle")
    model = str(tmp_path / "lora.ckpt")
    refused(DataError, lambda: pipeline.load(model), "pickle")
    refused(DataError, lambda: generate(model, tmp_path / "out"), "pickle")


def test_words_on_the_command_line(loras, tmp_path):
    path = loras()[0]
    assert lora_use.parse([str(path)])[0].weight == 1
    assert lora_use.parse([f"{path}:-0.5"])[0].weight == -0.5
    odd = tmp_path / "name:2"
    shutil.copy(path, odd)
    assert lora_use.parse([str(odd)])[0] == lora_use.Choice(odd, 1.0)
    for weight in ("nan", "inf", "1e9"):
        refused(SettingsError, lambda w=weight: lora_use.parse([f"{path}:{w}"]), weight)
    refused(NotFound, lambda: lora_use.parse(["run:none"]), "none")
    refused(NotFound, lambda: lora_files.read(tmp_path / "missing.safetensors"), "nothing lies")
    refused(NotFound, lambda: lora_files.read("https://host/x.safetensors"), "address")


def test_a_trigger_that_the_prompt_lacks_is_told(made, loras, tmp_path):
    path, told = loras(trigger="sks")[0], Told()
    generate(made(), tmp_path, told, lora=(str(path),))
    assert "lacks the trigger" in told.text and "'sks'" in told.text
    told = Told()
    generate(made(), tmp_path, told, prompt="a SKS dog", lora=(str(path),))
    assert "trigger" not in told.text


# Again


def test_again_refuses_another_lora_and_another_model(made, loras, tmp_path):
    lora = tmp_path / "mine.safetensors"
    shutil.copy(loras()[0], lora)
    path = generate(made(), tmp_path / "out", lora=(f"{lora}:0.7",))[0]
    assert again(path, tmp_path / "a")["equal"]
    shutil.copy(loras(alpha=4.0)[0], lora)
    refused(DataError, lambda: again(path, tmp_path / "b"), "another LoRA")
    lora.unlink()
    refused(NotFound, lambda: again(path, tmp_path / "c"), "no LoRA")
    moved = f"{loras()[0]}:0.7"
    assert again(path, tmp_path / "d", lora=(moved,))["equal"]
    other = str(made(seed=1))
    refused(
        DataError, lambda: again(path, tmp_path / "e", model=other, lora=(moved,)), "another model"
    )


def test_again_sees_an_edited_picture(made, tmp_path):
    path = generate(made(), tmp_path / "out")[0]
    image = Image.open(path)
    info = PngImagePlugin.PngInfo()
    for name, text in image.text.items():
        info.add_text(name, text)
    image = image.convert("RGB")
    image.putpixel((3, 3), (1, 2, 3))
    image.save(tmp_path / "edited.png", pnginfo=info)
    data = again(tmp_path / "edited.png", tmp_path / "again")
    assert not data["equal"] and data["share_different"] == pytest.approx(1 / 64**2)


def with_text(tmp_path, name, values):
    info = PngImagePlugin.PngInfo()
    info.add_text("onecard", values if isinstance(values, str) else json.dumps(values))
    Image.new("RGB", (64, 64)).save(tmp_path / name, pnginfo=info)
    return tmp_path / name


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"settings": {"model": "https://host/model"}}, "address"),
        ({"settings": {"lora": ["https://host/x.safetensors"]}}, "address"),
        ({"settings": {"lora": ["x"] * 100}}, "100 LoRAs"),
        ({"settings": {"imgsz": 10**9}}, "imgsz"),
        ({"settings": {"num_inference_steps": "; rm -rf /"}}, "num_inference_steps"),
        ({"settings": {"guidance_scale": float("inf")}}, "guidance_scale"),
        ({"settings": {"seed": -5}}, "seed"),
        ({"settings": {"model": ["a", {}]}}, "model"),
        ({"settings": {"model": "owner/that-is-nowhere"}}, "owner/that-is-nowhere"),
        ({"settings": {"model": "/etc/passwd"}}, "/etc/passwd"),
        ({"settings": {"init_image": "/etc/passwd"}}, "/etc/passwd"),
        ({"batch": list(range(300))}, "batch"),
        ({"batch": "x"}, "batch"),
        ({"batch": [1, 2]}, "not in its batch"),
        ({"batch": [True, 7.5]}, "seeds"),
        ({"model": None}, "another model"),
        ({"model": {"fingerprint": 5}}, "another model"),
        ({"loras": [{"sha256": "0"}]}, "missing"),
        ({"settings": 5}, "JSON object with settings"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_hostile_settings_in_a_picture(made, tmp_path, change, word):
    path = generate(made(), tmp_path / "out")[0]
    record = png_metadata.record(path)
    for name, value in change.items():
        both = isinstance(value, dict) and name == "settings"
        record[name] = {**record[name], **value} if both else value
    refused(OneCardError, lambda: again(with_text(tmp_path, "x.png", record), tmp_path), word)


def test_unknown_settings_are_passed_over(made, tmp_path):
    path = generate(made(), tmp_path / "out")[0]
    record = png_metadata.record(path)
    record["settings"] |= {"__class__": "x", "new_in_2030": 5, "output_dir": "/", "compile": True}
    record["more"] = ["x"]
    assert again(with_text(tmp_path, "x.png", record), tmp_path / "again")["path"].startswith(
        str(tmp_path)
    )


def test_a_picture_without_settings(made, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "plain.png")
    refused(DataError, lambda: again(tmp_path / "plain.png", tmp_path), "does not say")
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.jpg")
    refused(DataError, lambda: again(tmp_path / "photo.jpg", tmp_path), "no PNG")
    refused(NotFound, lambda: again(tmp_path / "none.png", tmp_path), "no picture")
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat\nNegative prompt: low\nSteps: 20, Sampler: Euler a, Seed: 5")
    Image.new("RGB", (64, 64)).save(tmp_path / "other.png", pnginfo=info)
    refused(
        DataError,
        lambda: again(tmp_path / "other.png", tmp_path),
        "onecard diffusion generate 'a cat' --negative_prompt low --num_inference_steps 20",
    )


def test_the_home_is_not_named_in_a_picture(made, tmp_path, monkeypatch):
    shutil.copytree(made(), tmp_path / "model")
    monkeypatch.setenv("HOME", str(tmp_path))
    path = generate(tmp_path / "model", tmp_path / "out")[0]
    assert png_metadata.record(path)["model"]["name"] == "~/model"
    assert str(tmp_path) not in path.read_bytes().decode("latin-1")
    assert again(path, tmp_path / "again")["equal"]


# Pictures to start from, and settings


@pytest.mark.parametrize(
    "kind", ["cmyk.jpg", "moving.gif", "clear.png", "grey16.png", "turned.jpg"]
)
def test_odd_pictures_to_start_from(made, tmp_path, kind):
    path, rng = tmp_path / kind, np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 255, (70, 90, 3), dtype=np.uint8))
    if kind == "cmyk.jpg":
        rgb.convert("CMYK").save(path)
    elif kind == "moving.gif":
        rgb.save(path, save_all=True, append_images=[rgb.rotate(90)] * 3)
    elif kind == "clear.png":
        rgb.putalpha(Image.new("L", rgb.size, 0))
        rgb.save(path)
    elif kind == "grey16.png":
        Image.fromarray(rng.integers(0, 65535, (70, 90)).astype(np.uint16)).save(path)
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        rgb.save(path, exif=exif)
    made_path = generate(made(), tmp_path / "out", init_image=str(path), strength=0.5)[0]
    wide = (64, 88) if kind == "turned.jpg" else (88, 64)
    assert Image.open(made_path).size == wide
    assert again(made_path, tmp_path / "again")["equal"]


def test_inpainting_keeps_what_is_black(made, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "start.png")
    mask = Image.new("L", (32, 32), 0)  # of another size, which is scaled and told
    mask.paste(255, (16, 0, 32, 32))
    mask.save(tmp_path / "mask.png")
    told = Told()
    values = {name: str(tmp_path / f"{name.split('_')[0]}.png") for name in ("mask_image",)}
    values |= {"init_image": str(tmp_path / "start.png"), "strength": 1.0}
    path = generate(made(), tmp_path / "out", told, **values)[0]
    assert "mask is scaled from 32 x 32" in told.text
    all_white = tmp_path / "white.png"
    Image.new("L", (64, 64), 255).save(all_white)
    whole = generate(made(), tmp_path / "white", **{**values, "mask_image": str(all_white)})[0]
    gaps = np.abs(pixels(path) - pixels(whole)).mean(axis=(0, 2))
    assert gaps[:24].mean() > gaps[40:].mean()
    assert again(path, tmp_path / "again")["equal"]


@pytest.mark.parametrize(
    ("mask", "word"),
    [
        (Image.new("L", (64, 64), 0), "black everywhere"),
        (Image.new("L", (64, 32), 255), "shapes differ"),
        (None, "there is no picture"),
    ],
)
def test_masks_that_do_not_fit(made, tmp_path, mask, word):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "start.png")
    if mask:
        mask.save(tmp_path / "mask.png")
    values = {"init_image": str(tmp_path / "start.png"), "mask_image": str(tmp_path / "mask.png")}
    refused(OneCardError, lambda: generate(made(), tmp_path / "out", **values), word)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"imgsz": 100}, "--imgsz 96 or 104"),
        ({"quant": "q9"}, "q9"),
        ({"num_frames": 9}, "films"),
        ({"prompt": "  "}, "no prompt"),
        ({"mask_image": "x.png"}, "mask without a picture"),
        ({"init_image": "missing.png"}, "missing.png"),
        ({"model": "missing/folder/x"}, "missing/folder/x"),
        ({"model": "https://host/model"}, "https://host/model"),
        ({"model": "no-such-model"}, "no-such-model"),
        ({"tiny_vae": True}, "taesd"),
        ({"text_encoder_quant": ("nf4", "nf4")}, "text_encoder_quant"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_settings_that_are_refused(made, tmp_path, values, word):
    values = {"prompt": "a red apple", **values}
    call = lambda: generate(values.pop("model", made()), tmp_path / "out", **values)  # noqa: E731
    refused(OneCardError, call, word)
    assert not (tmp_path / "out").exists()


def test_a_sampler_that_does_not_fit(made, tmp_path):
    call = lambda: generate(made("flux"), tmp_path, imgsz=64, scheduler="ddim")  # noqa: E731
    refused(SettingsError, call, "flow matching")


def test_too_little_strength(made, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "start.png")
    values = {"init_image": str(tmp_path / "start.png"), "strength": 0.1}
    refused(SettingsError, lambda: generate(made(), tmp_path / "out", **values), "less than one")


def test_an_output_folder_that_is_a_file(made, tmp_path):
    (tmp_path / "file").write_text("x")
    refused(OneCardError, lambda: generate(made(), tmp_path / "file"), "file")
    assert (tmp_path / "file").read_text() == "x"


def test_models_that_are_refused(made, tmp_path):
    def copy(name):
        return Path(shutil.copytree(made(), tmp_path / name))

    own = copy("own")
    index = json.loads((own / "model_index.json").read_text())
    (own / "mine.py").write_text("raise SystemExit('ran')")
    for name, row in (("_class_name", ["mine", "Mine"]), ("unet", ["mine", "Mine"])):
        (own / "model_index.json").write_text(json.dumps({**index, name: row}))
        refused(OneCardError, lambda: pipeline.load(str(own)), str(own))
    pickled = copy("pickled")
    (pickled / "unet" / "diffusion_pytorch_model.safetensors").rename(
        pickled / "unet" / "diffusion_pytorch_model.bin"
    )
    refused(DataError, lambda: pipeline.load(str(pickled)), "pickle")
    cut = copy("cut")
    file = cut / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    refused(DataError, lambda: pipeline.load(str(cut)), str(cut))
    lacking = copy("lacking")
    shutil.rmtree(lacking / "text_encoder")
    refused(DataError, lambda: pipeline.load(str(lacking)), "text_encoder")
    single = tmp_path / "single.safetensors"
    save_file({"model.diffusion_model.x": torch.ones(1)}, single)
    refused(DataError, lambda: pipeline.load(str(single)), "go online once")
    (tmp_path / "empty").mkdir()
    refused(DataError, lambda: pipeline.load(str(tmp_path / "empty")), "model_index.json")
    refused(NotFound, lambda: pipeline.load(str(tmp_path / "no.safetensors")), "nothing lies")
