"""Tapes, and the networks that are written for them."""

import itertools
import json

import pytest

from onecard import api, tasks
from onecard.cli.app import main
from onecard.errors import NotFound, SettingsError
from onecard.memory import devices, fallbacks
from onecard.memory.architectures import backbones
from onecard.memory.estimators import diffusion, speech, vision, vlm
from onecard.memory.simulator import Tape

HELD = devices.find("12gb")
PUBLISHED = {  # millions of weights: the projects' own tables
    "yolov5n": 1.9,
    "yolov5s": 7.2,
    "yolov5m": 21.2,
    "yolov5l": 46.5,
    "yolov5x": 86.7,
    "yolov8n": 3.2,
    "yolov8s": 11.2,
    "yolov8m": 25.9,
    "yolov8l": 43.7,
    "yolov8x": 68.2,
    "yolo11n": 2.6,
    "yolo11s": 9.4,
    "yolo11m": 20.1,
    "yolo11l": 25.3,
    "yolo11x": 56.9,
    "yolox-tiny": 5.06,
    "yolox-s": 9.0,
    "yolox-m": 25.3,
    "yolox-l": 54.2,
    "yolox-x": 99.1,
    "rtmdet-s": 8.89,
    "rtmdet-m": 24.71,
    "rtmdet-l": 52.3,
    "rtmdet-x": 94.86,
    "yolov7tiny": 6.2,
    "resnet18": 11.7,
    "resnet50": 25.6,
    "resnet101": 44.5,
    "vit-base": 86.6,
    "vit-large": 304.3,
    "convnext-tiny": 28.6,
    "convnext-base": 88.6,
    "faster-rcnn-r50": 41.5,
    "retinanet-r50": 37.7,
    "unet": 31.0,
    "yolov8n-seg": 3.4,
    "rt-detr-r18": 20.2,
    "rt-detr-r50": 42.9,
    "d-fine-n": 3.79,
    "d-fine-s": 10.3,
    "d-fine-m": 19.6,
    "d-fine-l": 31.3,
    "d-fine-x": 62.7,
    "rf-detr-nano": 30.5,
    "rf-detr-small": 32.1,
    "rf-detr-medium": 33.7,
    "rf-detr-large": 33.9,
    "yolov8s-seg": 11.8,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_have_the_published_number_of_weights(name):
    t = Tape(grad=True)
    vision.find(name).run(t, t.tensor(1, 3, 224, 224))
    assert t.params / 1e6 == pytest.approx(PUBLISHED[name], rel=0.02)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("tiny", 37.76),
        ("base", 72.59),
        ("small", 241.73),
        ("medium", 763.86),
        ("large-v2", 1543.30),
        ("large-v3-turbo", 808.88),
    ],
)
def test_whisper_has_the_published_number_of_weights(name, millions):
    assert speech.find(name)[1].n_params / 1e6 == pytest.approx(millions, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("sd-1.5", 859.5),
        ("sd-2.1", 865.9),
        ("sdxl", 2567.5),
        ("flux.1", 11901),
        ("sd3-medium", 2028),
        ("qwen-image", 20430),
        ("pixart", 610),
    ],
)
def test_generators_have_the_published_number_of_weights(name, millions):
    assert diffusion.net_params(diffusion.find(name)) / 1e6 == pytest.approx(millions, rel=0.02)


def test_a_tape_frees_what_nothing_needs():
    t = Tape(wide=4)
    x = t.tensor(1, 8, 16, 16)
    one = 8 * 16 * 16 * 4
    x = t.act(x, "silu")
    assert t.now == one and t.peak == 2 * one
    t = Tape(grad=True, wide=4, device=False)
    y = t.act(t.conv(t.tensor(1, 8, 16, 16), 8, 3), "silu")
    assert t.now == 3 * one  # what the convolution and the activation read, and the result
    loss = t.op((1,), [y])
    del y
    t.backward(loss)
    assert (
        t.now == -(-8 * 8 * 9 * 4 // 512) * 512 + 512
    )  # one gradient of the weights, and the loss


def test_checkpointing_keeps_less_and_gives_the_same_gradients():
    peaks, grown = [], []
    for checkpointing in (False, True):
        t = Tape(grad=True, wide=2, weights=2)
        x = t.tensor(4, 64, 256)
        for _ in range(8):
            x = (
                t.kept(lambda v, t=t: backbones.encoder_layer(t, v, 4, 1024), x)
                if checkpointing
                else backbones.encoder_layer(t, x, 4, 1024)
            )
        loss = t.op((1,), [x])
        del x
        t.backward(loss)
        peaks.append(t.peak)
        grown.append((t.params, t.now))
    assert peaks[1] < peaks[0] and grown[0] == grown[1]


def planned(name, card="12gb", **values):
    return api.plan(api.plan_task(name).name, api.configure_plan(name, values=values), card=card)


@pytest.mark.parametrize("imgsz", [320, 640])
def test_more_images_need_more(imgsz):
    sizes = [
        planned("detect", model="yolov8n", batch=batch, imgsz=imgsz).total_bytes
        for batch in (2, 4, 8)
    ]
    assert all(small < large for small, large in itertools.pairwise(sizes))


def test_16_bits_need_less():
    half = planned("detect", model="yolov8n", amp=True)
    assert half.total_bytes < planned("detect", model="yolov8n", amp=False).total_bytes


TOO_LARGE = {("llava-1.5-7b", "8gb"), ("qwen2.5-vl-7b", "8gb"), ("large-v3", "8gb")}
"""(model, card) where no change is left that makes it fit."""


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("detect", {"model": "yolo11x", "batch": 64, "amp": False}),
        ("segment", {"model": "unet", "batch": 32, "imgsz": 1024}),
        ("classify", {"model": "vit-large", "batch": 256, "imgsz": 384, "optimizer": "adamw"}),
        (
            "diffusion",
            {"model": "sdxl", "num_images": 8, "quant": "fp32", "attn_implementation": "eager"},
        ),
        (
            "diffusion-lora",
            {"model": "sdxl", "train_batch_size": 16, "gradient_checkpointing": False},
        ),
        ("diffusion", {"model": "flux.1"}),
        ("asr-full", {"model": "large-v3", "per_device_train_batch_size": 16, "bf16": False}),
        ("asr", {"model": "large-v3", "batch_size": 64}),
        ("vlm-lora", {"model": "llava-1.5-7b", "per_device_train_batch_size": 8}),
        ("vlm", {"model": "qwen2.5-vl-7b", "batch_size": 4}),
        (
            "tinylm",
            {"n_layer": 24, "n_embd": 768, "n_head": 12, "per_device_train_batch_size": 256},
        ),
    ],
)
@pytest.mark.parametrize("card", ["8gb", "12gb", "24gb"])
def test_the_fallbacks_end_with_what_fits(name, values, card):
    task = api.plan_task(name).name
    config = api.configure_plan(name, values=values)
    memory = tasks.memory(tasks.get(task))
    device = devices.find(card)
    fitted = fallbacks.fit(config, device, memory.plan, memory.fallbacks(config))
    if fitted.plan.verdict != "fits":
        assert (values["model"], card) in TOO_LARGE
        return
    assert fitted.plan.total_bytes == memory.plan(fitted.config, device).total_bytes
    assert all(row.saved_bytes > 0 for row in fitted.fallbacks)


@pytest.mark.parametrize("task", tasks.names())
def test_every_model_that_fit_tries_is_known(task):
    memory = tasks.memory(tasks.get(task))
    rows = memory.fit_rows() if hasattr(memory, "fit_rows") else ()
    for row in rows:
        for model in row.models:
            config = row.config.model_copy(update={"model": model})
            assert memory.plan(config, HELD).total_bytes > 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["detect", "yolov9000"], 6),
        (["detect", "resnet50"], 2),
        (["detect"], 2),
        (["detect", "yolov8n", "--imgsz", "0"], 2),
        (["detect", "yolov8n", "--batch", "-2"], 2),
        (["diffusion", "midjourney"], 6),
        (["diffusion", "stable-diffusion-9"], 6),
        (["diffusion"], 2),
        (["asr", "whisper-huge"], 6),
        (["asr", "--model", ""], 2),
        (["asr-lora", "tiny", "--target_modules", "x"], 2),
        (["vlm", "gpt-4v"], 6),
        (["vlm"], 2),
        (["vlm", "smolvlm", "--format", "q4_k_m"], 2),
        (["tinylm", "--n_embd", "100"], 2),
        (["tinylm", "--n_head", "6", "--n_kv_head", "4"], 2),
        (["tinylm", "--n_kv_head", "12"], 2),
        (["detect", "faster-rcnn-r7"], 6),
        (["diffusion", "sdxl", "--format", "q9"], 2),
    ],
)
def test_bad_words_are_refused(words, code, capsys):
    assert main(["plan", *words]) == code
    told = capsys.readouterr().err
    for word in ("error:", "why:", "fix:"):
        assert word in told


def test_plans_come_as_json(capsys):
    for words in (
        ["detect", "yolov8n"],
        ["diffusion-lora", "sdxl"],
        ["asr", "large-v3"],
        ["vlm", "smolvlm-2.2b"],
        ["tinylm"],
    ):
        assert main(["plan", *words, "--card", "24gb", "--json"]) == 0
        plan = json.loads(capsys.readouterr().out)
        assert plan["total_bytes"] == sum(term["bytes"] for term in plan["terms"])
        assert plan["verdict"].startswith("fits")


def test_names_in_any_spelling():
    assert (
        vision.find("YOLOv8-n").task == "detect"
        and vision.find("yolov8m-seg.pt").task == "segment"
        and vision.find("Faster R-CNN X101-32x4d").task == "detect"
    )
    assert (
        diffusion.find("stabilityai/stable-diffusion-xl-base-1.0").name == "sdxl"
        and diffusion.find("black-forest-labs/FLUX.1-dev").name == "flux.1"
    )
    assert (
        speech.find("openai/whisper-tiny.en")[0] == "whisper-tiny"
        and speech.find("turbo")[0] == "whisper-large-v3-turbo"
    )
    assert (
        vlm.find("HuggingFaceTB/SmolVLM-Instruct")[0] == "smolvlm-2.2b"
        and vlm.find("Qwen/Qwen2.5-VL-7B-Instruct")[0] == "qwen2.5-vl-7b"
    )
    with pytest.raises(NotFound):
        speech.find("whisper")
    with pytest.raises(SettingsError):
        planned("classify", model="unet")
