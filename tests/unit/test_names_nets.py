"""Names of models of pictures, films and sound that users type: planned with the published number
of weights, or refused with a reason; none is taken for its neighbour."""

import csv
from pathlib import Path

import pytest

from onecard import api
from onecard.errors import OneCardError
from onecard.memory import formats
from onecard.memory.architectures import listeners
from onecard.memory.estimators import diffusion, speech, vision, vlm
from onecard.memory.simulator import Tape

ROWS = list(
    csv.DictReader((Path(__file__).parents[1] / "validation/names_nets.csv").open(encoding="utf-8"))
)
TOLERANCE = 0.03
"""Published numbers are rounded, some count a network after its layers were joined."""


def millions(task, name):
    """Weights of what a name is planned as."""
    if task == "vlm":
        model = vlm.find(name)[1]
        return (model.words.n_params + model.beside) / 1e6
    if task == "diffusion":
        return diffusion.net_params(diffusion.find(name)) / 1e6
    if task == "asr":
        other = listeners.named(name)
        return (other[1].params if other else speech.find(name)[1].n_params) / 1e6
    t = Tape(grad=True)
    net = vision.of_task(name, task, 0, "yolov8n")
    net.run(t, t.tensor(1, 3, 224, 224))
    return t.params / 1e6


def planned(task, name):
    config = api.configure_plan(task, values={"model": name})
    return api.plan(api.plan_task(task).name, config, card="24gb")


def outcome(row):
    """right, refused (though it should be planned) or wrong."""
    try:
        plan = planned(row["task"], row["name"])
    except OneCardError as fault:
        assert fault.what and fault.why and fault.fix
        if row["expected"] == "planned":
            return "refused"
        return "right" if row["millions_or_reason"].lower() in str(fault).lower() else "wrong"
    if row["expected"] == "refused":
        return "wrong"
    assert plan.total_bytes > 0
    want = float(row["millions_or_reason"])
    return "right" if abs(millions(row["task"], row["name"]) / want - 1) < TOLERANCE else "wrong"


def test_names_are_planned_right_or_refused_right():
    found = {f"{row['task']} {row['name']}": outcome(row) for row in ROWS}
    assert len(found) >= 90
    assert [name for name, result in found.items() if result == "wrong"] == []
    right = sum(result == "right" for result in found.values())
    missing = [name for name, result in found.items() if result == "refused"]
    assert right >= 0.95 * len(found), missing


NEIGHBOURS = [
    ("vlm", "smolvlm2-1b"),
    ("vlm", "qwen2.5-vl-14b"),
    ("vlm", "paligemma2-9b"),
    ("vlm", "internvl3-58b"),
    ("diffusion", "flux.1-pro-ultra"),
    ("diffusion", "sdxl-medical"),
    ("diffusion", "z-image-turbo-2"),
    ("classify", "vit-basel"),
    ("classify", "efficientnet-b9"),
    ("detect", "yolo26q"),
    ("detect", "rt-detr-r500"),
    ("asr", "large-v4"),
    ("asr", "parakeet-tdt-0.6b-medical"),
]


@pytest.mark.parametrize(("task", "name"), NEIGHBOURS)
def test_no_model_is_taken_for_its_neighbour(task, name):
    with pytest.raises(OneCardError):
        planned(task, name)


FORMATS = [
    *formats.PLAIN,
    *formats.LINEAR,
    *formats.MIXTURES,
    *formats.ALIASES,
    *("exl2-4.65", "exl3-3.0", "exl2-", "exl3-x", "q9", "", "NF4", "none", "ud-q4_k_xl", "fp2"),
]
COMMANDS = [
    ("vlm", {"model": "smolvlm2-256m"}),
    ("diffusion", {"model": "sd-1.5"}),
    ("diffusion", {"model": "z-image-turbo", "offload": "model"}),
    ("diffusion-lora", {"model": "sd-1.5"}),
    ("llm-infer", {"model": "smollm2-135m"}),
    ("llm-infer", {"model": "smollm2-135m", "engine": "transformers"}),
    ("llm-infer", {"model": "smollm2-135m", "engine": "vllm"}),
]


@pytest.mark.parametrize(("task", "values"), COMMANDS)
def test_every_format_is_planned_or_refused(task, values):
    """No task falls over a format that another one knows."""
    sizes = {}
    for format in FORMATS:
        try:
            config = api.configure_plan(task, values={**values, "quant": format})
            plan = api.plan(api.plan_task(task).name, config, card="24gb")
        except OneCardError as fault:
            assert fault.why and fault.fix, (task, format)
            continue
        assert plan.total_bytes > 0
        sizes[format] = plan.total_bytes
    assert len(sizes) >= 5
    if "nf4" in sizes and "bf16" in sizes:
        assert sizes["nf4"] <= sizes["bf16"]


SETTINGS = [
    *[(task, "quant", values) for task, values in COMMANDS],
    ("qlora", "weights", {"model": "smollm2-135m"}),
    ("diffusion", "text_encoder_quant", {"model": "sd-1.5"}),
]


@pytest.mark.parametrize(("task", "setting", "values"), SETTINGS)
@pytest.mark.parametrize("word", formats.ALIASES)
def test_a_format_has_the_same_words_in_every_setting(task, setting, values, word):
    """Where another program's word for a format is refused, the format itself is, too."""

    def outcome(format):
        try:
            config = api.configure_plan(task, values={**values, setting: format})
            return api.plan(api.plan_task(task).name, config, card="24gb").total_bytes
        except OneCardError as fault:
            return fault.fix

    assert outcome(word) == outcome(formats.ALIASES[word])


@pytest.mark.parametrize("quant", ["bogus", "q9_k", "nf4", "fp16"])
def test_a_comparison_refuses_an_unknown_format_as_the_plan_does(quant):
    config = api.configure_plan("llm-infer", values={"model": "smollm2-135m", "quant": quant})
    with pytest.raises(OneCardError, match="cannot be planned in"):
        api.compare_plan("chat", config, card="12gb")


@pytest.mark.parametrize("word", ["no", "false", "", "off", "None"])
def test_no_offload_in_any_word(word):
    values = {"model": "sdxl", "offload": word}
    plain = planned("diffusion", "sdxl").total_bytes
    config = api.configure_plan("diffusion", values=values)
    assert api.plan("diffusion", config, card="24gb").total_bytes == plain


def test_a_picture_is_scaled_as_its_model_does():
    model = vlm.find("qwen2.5-vl-7b")[1]
    assert vlm.tiles_of(model, 1024, 1024)[2] == 1369
    assert vlm.tiles_of(model, 8192, 8192)[2] == 16_384  # 12845056 px of 28 x 28 a token
    assert vlm.tiles_of(model, 8192, 8192, max_pixels=1_003_520)[2] <= 1280
    assert vlm.tiles_of(model, 28, 28)[2] == 4  # 3136 px
    assert vlm.tiles_of(vlm.find("llava-1.5-7b")[1], 4000, 3000)[2] == 576


def test_logits_of_the_whole_prompt_and_the_answer_are_counted():
    model = vlm.find("qwen2-vl-2b")[1]
    size = {
        (answer, every): sum(
            t.bytes
            for t in vlm.talk(
                model, vlm.Look(width=1024, height=1024, answer=answer, all_logits=every)
            )
        )
        for answer in (0, 16_384, 32_768)
        for every in (False, True)
    }
    # a short answer fits where the tower was at work; of a long one each token counts
    longer = size[32_768, False] - size[16_384, False]
    assert longer == pytest.approx(16_384 * model.words.kv_values * 2, rel=0.05)
    assert size[0, True] - size[0, False] > 1369 * model.words.V * 4 * 0.9
