"""The tapes against the real classes on fake tensors, forward and back: within 5 %."""

import pytest

trace_nets = pytest.importorskip("onecard.memory.fake_tensor_nets", reason="installed by make test")
import made_pipelines  # noqa: E402

from onecard import api  # noqa: E402
from onecard.memory import fake_tensor_diffusion as trace_diffusion  # noqa: E402
from onecard.memory.architectures import denoisers as nets  # noqa: E402
from onecard.memory.estimators import diffusion, speech  # noqa: E402
from onecard.memory.simulator import Tape  # noqa: E402


@pytest.mark.parametrize(
    ("task", "name", "imgsz", "batch"),
    [
        ("detect", "yolov8n", 320, 2),
        ("detect", "yolov8m", 640, 1),
        ("detect", "yolo11n", 320, 2),
        ("detect", "yolo11x", 320, 1),
        ("segment", "yolov8n-seg", 320, 2),
        ("segment", "yolo11s-seg", 320, 1),
        ("segment", "deeplabv3-r50", 256, 2),
        ("classify", "resnet18", 224, 4),
        ("classify", "resnet50", 224, 2),
        ("classify", "resnet101", 320, 1),
        ("classify", "vit-base", 224, 2),
        ("classify", "convnext-tiny", 224, 2),
        ("classify", "convnext-base", 256, 1),
    ],
)
def test_networks_of_images(task, name, imgsz, batch):
    traced, planned = trace_nets.check(
        task, api.configure_plan(task, values={"model": name, "imgsz": imgsz, "batch": batch})
    )
    assert planned == pytest.approx(traced, rel=0.05)


def check_diffusion(plan, **values):
    return trace_diffusion.check("diffusion", api.configure_plan(plan, values=values))


@pytest.mark.parametrize(
    ("name", "imgsz", "values"),
    [
        ("sd-1.5", 512, {}),
        ("sd-1.5", 256, {"gradient_checkpointing": False}),
        ("sd-1.5", 384, {"quant": "fp32", "train_batch_size": 2}),
        ("sd-2.1", 256, {"rank": 64}),
        ("sdxl", 512, {}),
    ],
)
def test_a_step_of_a_lora(name, imgsz, values):
    values = {"rank": 8, "model": name, "imgsz": imgsz, **values}
    traced, planned = check_diffusion("diffusion-lora", **values)
    assert planned == pytest.approx(traced, rel=0.02)


def test_a_lora_of_a_folder(tmp_path):
    """A base that stands in no table: its own UNet is traced."""
    folder = made_pipelines.stable_diffusion_xl(tmp_path / "sdxl")
    traced, planned = check_diffusion("diffusion-lora", rank=4, model=str(folder))
    assert planned == pytest.approx(traced, rel=0.03)


@pytest.mark.parametrize(
    ("name", "imgsz", "values"),
    [
        ("sd-1.5", 512, {"num_images": 2}),
        ("sd-2.1", 768, {"quant": "fp32"}),
        ("sdxl", 1024, {}),
        ("sdxl", 1024, {"vae_tiling": True}),
    ],
)
def test_pictures_made(name, imgsz, values):
    traced, planned = check_diffusion("diffusion", model=name, imgsz=imgsz, **values)
    assert planned == pytest.approx(traced, rel=0.02)


def test_the_decoder_of_a_picture():
    t = Tape(device=False)
    nets.decode(t, t.tensor(2, 4, 64, 64))
    traced = trace_diffusion.decoding(2, 512, 512, trace_nets.torch.float32)
    assert t.peak == pytest.approx(traced, rel=0.01)


@pytest.mark.parametrize(
    ("name", "batch", "tokens"),
    [("tiny", 2, 60), ("base", 1, 200), ("small", 2, 100), ("large-v3-turbo", 1, 60)],
)
def test_whisper(name, batch, tokens):
    traced, planned = trace_nets.check_whisper(speech.find(name)[1], batch, tokens)
    assert planned == pytest.approx(traced, rel=0.05)


def test_a_pipeline_without_a_unet_says_so(onecard):
    assert onecard("plan", "diffusion", "flux.1", "--trace").code == 5
    done = onecard("plan", "asr", "tiny", "--batch_size", "1", "--trace", "--json")
    assert done.code == 0 and abs(done.data["error"]) < 0.05


def test_the_network_is_what_the_library_has():
    """Weights of the real UNets, to the last one."""
    from diffusers import UNet2DConditionModel

    torch = trace_nets.torch
    for name in trace_diffusion.UNETS:
        with torch.device("meta"):
            real = UNet2DConditionModel(sample_size=64, **trace_diffusion.UNETS[name])
        assert diffusion.net_params(diffusion.find(name)) == sum(
            p.numel() for p in real.parameters()
        )
