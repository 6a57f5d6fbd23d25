"""Plans of vision-language models: every command, sizes of pictures, what is fitted to a card."""

import json
from dataclasses import replace

import gguf
import numpy as np
import pytest
import random_gguf
from PIL import Image

from onecard import api, tasks
from onecard.config import Config
from onecard.errors import DataError, NotFound, OneCardError, SettingsError
from onecard.memory import devices, fallbacks
from onecard.memory.architectures import vlms
from onecard.memory.architectures.vlm import pictures, tiles_of
from onecard.memory.estimators import training, vlm_training
from onecard.tasks.vlm import memory, planned_models, planned_pictures
from onecard.tasks.vlm.configs import (
    AskConfig,
    ChatConfig,
    CheckConfig,
    DescribeConfig,
    EvaluateConfig,
    ExportConfig,
    ExtractConfig,
    PlanConfig,
    ProjectorConfig,
    ServeConfig,
    TrainConfig,
    TrainPlanConfig,
)
from onecard.units import GIB

CARD = devices.find("12gb")
CPU = devices.find("cpu")
ANSWERS = (AskConfig, ChatConfig, ServeConfig, ExtractConfig, DescribeConfig, EvaluateConfig)


def planned(config, device=CARD):
    return memory.plan(config, device)


def total(config, device=CARD):
    return planned(config, device).total_bytes


def part(plan, name):
    return sum(term.bytes for term in plan.terms if term.name == name)


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    """No hub, and no cache of its client."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-cache"))


# Every command


@pytest.mark.parametrize("schema", ANSWERS)
@pytest.mark.parametrize("device", [CARD, CPU], ids=["card", "cpu"])
def test_a_command_that_answers(schema, device):
    plan = planned(schema(model="qwen3-vl-2b", imgsz=448), device)
    names = {term.name for term in plan.terms}
    assert {"weights", "vision tower", "KV cache", "activations"} <= names
    on_cpu = device.type == "cpu"
    assert ("program" in names) == on_cpu
    assert ("CUDA context" in names) != on_cpu and ("workspace" in names) != on_cpu
    assert plan.choices["quant"] == ("fp32" if on_cpu else "bf16")
    assert plan.choices["tokens of the pictures"] == 196
    assert any("896x896 px" in note for note in plan.notes)
    many = schema in (ExtractConfig, DescribeConfig, EvaluateConfig)
    assert plan.choices["questions at once"] == (8 if many else 1)


@pytest.mark.parametrize("schema", ANSWERS)
def test_a_server_holds_its_model(schema):
    plan = planned(schema(model="what it calls it", base_url="http://localhost:1"))
    assert plan.total_bytes == 0 and "server" in plan.notes[0]


@pytest.mark.parametrize("config", [CheckConfig(), ExportConfig(), ProjectorConfig()])
def test_a_command_that_loads_no_model(config):
    assert planned(config).terms == ()
    assert list(memory.fallbacks(config)) == list(memory.switches(config)) == []


@pytest.mark.parametrize("device", [CARD, CPU], ids=["card", "cpu"])
def test_a_training(device):
    plan = planned(TrainConfig(model="smolvlm2-256m"), device)
    names = {term.name for term in plan.terms}
    assert {"weights", "vision tower", "trained weights", "optimizer", "gradients"} <= names
    assert ("program" in names) == (device.type == "cpu")
    assert ("CUDA context" in names) == (device.type != "cpu")
    assert plan.choices["format"] == ("bf16" if device.type != "cpu" else "fp32")


def test_only_the_projector_is_trained():
    config = ProjectorConfig(
        vision_model="openai/clip-vit-large-patch14-336", model="vicuna-7b", text_tokens=64
    )
    plan = planned(config, devices.find("24gb"))
    whole = vlms.named("llava-1.5-7b")
    frozen = part(plan, "weights") + part(plan, "vision tower")
    n_projector = whole.projector
    assert part(plan, "trained weights") == 4 * n_projector
    assert part(plan, "optimizer") == 8 * n_projector
    both = 2 * (whole.words.n_params + whole.beside - n_projector)
    assert frozen == pytest.approx(both, rel=0.001)
    assert plan.choices["tokens of the pictures"] == 576


def test_what_is_trained_costs_sixteen_bytes():
    """fp32 weights, their gradients and AdamW's two states; PEFT's first form stays beside."""
    base = TrainConfig(model="qwen3-vl-2b", projector="frozen", imgsz=224)
    for change in ({"projector": "full"}, {"vision_tower": "full"}, {"vision_tower": "lora"}):
        more = base.model_copy(update=change)
        before, after = planned(base, devices.find("80gb")), planned(more, devices.find("80gb"))
        n = (part(after, "trained weights") - part(before, "trained weights")) // 4
        assert n > 1_000_000
        assert part(after, "optimizer") - part(before, "optimizer") == 8 * n
        assert part(after, "gradients") - part(before, "gradients") == 4 * n
        assert part(after, "vision tower") == part(before, "vision tower")


def test_a_frozen_tower_is_cheaper_than_a_trained_one():
    totals = [
        total(TrainConfig(model="qwen3-vl-2b", vision_tower=what, imgsz=896))
        for what in ("frozen", "lora", "full")
    ]
    assert totals == sorted(totals) and totals[2] > 1.5 * totals[0]


@pytest.mark.parametrize(
    "change",
    [
        {"gradient_checkpointing": True},
        {"load_in_4bit": True},
        {"load_in_8bit": True},
        {"optim": "adamw-8bit"},
        {"lora_r": 4},
        {"text_tokens": 64},
        {"imgsz": 224},
        {"max_pixels": 100_000},
        {"language_model": "frozen"},
    ],
    ids=str,
)
def test_a_setting_that_saves_does(change):
    base = TrainConfig(model="qwen2.5-vl-7b", imgsz=896, max_new_tokens=1)
    device = devices.find("80gb")
    steps = [vlm_training.step(*memory.TRACER(config)) for config in (base, _with(base, change))]
    before, after = (sum(term.bytes for term in step) for step in steps)
    assert after < before
    assert planned(base, device).total_bytes > 0


def _with(config, change):
    return config.model_copy(update=change)


def test_pictures_and_rows_add_up():
    base = TrainConfig(model="smolvlm2-256m", gradient_checkpointing=True)
    assert total(_with(base, {"num_images": 4})) > total(base)
    assert total(_with(base, {"per_device_train_batch_size": 4})) > total(base)
    answer = PlanConfig(model="llava-1.5-7b", num_images=64, quant="nf4")
    assert total(answer) > total(_with(answer, {"num_images": 1})) + 64 * 500 * 2**19


def test_a_full_training_needs_no_frozen_weights():
    config = TrainConfig(model="qwen3-vl-2b", language_model="full", imgsz=448)
    plan = planned(config, devices.find("80gb"))
    assert part(plan, "weights") == 0
    assert part(plan, "trained weights") > 4 * 1_700_000_000


def test_the_answers_before_a_training_fit_too():
    """Eight questions at once where they fit, fewer where not, never more than the step needs."""
    config = TrainConfig(
        model="llava-1.5-7b", load_in_4bit=True, gradient_checkpointing=True, max_new_tokens=2048
    )
    small, large = planned(config, devices.find("10gb")), planned(config, devices.find("32gb"))
    assert small.fits and small.choices["questions at once"] < 8
    assert large.choices["questions at once"] == 8
    # eight caches of 576 + 512 + 2048 tokens
    cache = 8 * 3136 * vlms.named("llava-1.5-7b").words.kv_values * 2
    assert part(large, "activations") > cache


# Names


def test_a_model_is_found_by_all_its_names(tmp_path):
    values = {
        "model_type": "qwen2_5_vl",
        "hidden_size": 2048,
        "num_hidden_layers": 4,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "intermediate_size": 4096,
        "vocab_size": 1000,
        "vision_config": {"hidden_size": 1280, "depth": 4, "out_hidden_size": 2048},
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    for name in (tmp_path, tmp_path / "config.json"):
        known = planned_models.find(str(name))
        assert known.model.family == "qwen2_5_vl" and known.model.tower.L == 4
    for name in ("llava-1.5-7b", "llava-hf/llava-1.5-7b-hf", "hf:llava-hf/llava-1.5-7b-hf"):
        assert planned_models.find(name).name == "llava-1.5-7b"


def test_an_adapter_is_its_base_and_its_file(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(bytes(1000))
    (tmp_path / "base.json").write_text(
        json.dumps({"model": "smolvlm2-256m", "folder": str(tmp_path / "gone")})
    )
    known = planned_models.find(str(tmp_path))
    assert known.adapter_bytes == 1000 and known.model.name == "smolvlm2-256m"
    plan = planned(AskConfig(model=str(tmp_path)))
    assert part(plan, "adapter") == 1000


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", SettingsError),
        ("gpt-4v", NotFound),
        ("someone/unheard-of", NotFound),
        ("openbmb/MiniCPM-V-4", NotFound),
        ("run:20260101-no-such-run", NotFound),
        ("a" * 5000, SettingsError),
    ],
)
def test_what_is_not_known_is_refused(name, fault):
    for config in (AskConfig(model=name), TrainConfig(model=name), PlanConfig(model=name)):
        with pytest.raises(fault) as refusal:
            planned(config)
        assert refusal.value.why and refusal.value.fix


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"model_type": "bert"}', '{"model_type": "llava", "vision_config": 3}'],
)
def test_a_folder_that_is_no_such_model_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(OneCardError):
        planned(AskConfig(model=str(tmp_path)))


def test_an_adapter_of_nothing_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text("[1]")
    with pytest.raises(DataError):
        planned(AskConfig(model=str(tmp_path)))


def test_a_tower_that_cannot_be_joined_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    for name, fault in ((str(tmp_path), DataError), ("nobody/no-tower", NotFound)):
        with pytest.raises(fault):
            planned(ProjectorConfig(vision_model=name))


@pytest.mark.parametrize("quant", ["q4_k_m", "awq-int4", "nonsense"])
def test_a_format_that_is_not_loaded_is_refused(quant):
    with pytest.raises(SettingsError):
        planned(AskConfig(model="llava-1.5-7b", quant=quant))


# Pictures


def written(path, width, height, **how):
    Image.new("RGB", (width, height), "white").save(path, **how)
    return str(path)


def test_the_sizes_are_those_of_the_files(tmp_path):
    """By the header, upright; what is no picture, or broken, is left to the command."""
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = written(tmp_path / "wide.png", 800, 200)
    turned = written(tmp_path / "turned.jpg", 300, 100, exif=exif)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    words = (wide, turned, str(tmp_path / "broken.png"), str(tmp_path / "gone.png"), "What is it?")
    odd = ("\0", "x" * 5000, "~nobody/x.png", str(tmp_path))
    config = AskConfig(model="qwen2.5-vl-3b", images=words + odd)
    assert planned_pictures.sizes_of(config) == ((800, 200), (100, 300))
    plan = planned(config)
    assert plan.choices["pictures"] == 2
    model = vlms.named("qwen2.5-vl-3b")
    one, two = tiles_of(model, 800, 200)[2], tiles_of(model, 100, 300)[2]
    assert plan.choices["tokens of the pictures"] == one + two
    larger = _with(config, {"images": (written(tmp_path / "large.png", 3000, 2000),)})
    assert total(larger) > plan.total_bytes


def test_a_named_size_stands_for_the_files(tmp_path):
    config = AskConfig(images=(written(tmp_path / "a.png", 900, 900),), imgsz=224, height=448)
    assert planned_pictures.sizes_of(config) == ((224, 448),)


def test_documents_are_read_one_at_a_time(tmp_path):
    files = tuple(written(tmp_path / f"{n}.png", 100 * n, 100 * n) for n in (3, 9, 1))
    config = ExtractConfig(images=files, model="qwen3-vl-2b")
    assert planned_pictures.sizes_of(config) == ((900, 900),)


@pytest.mark.parametrize(
    ("name", "size", "max_pixels", "tokens"),
    [
        ("llava-1.5-7b", (4000, 3000), 0, 576),
        ("qwen2.5-vl-7b", (448, 448), 0, 256),
        ("qwen3-vl-8b", (448, 448), 0, 196),
        ("smolvlm2-256m", (64, 64), 0, 17 * 64),  # every picture is scaled to the longest edge
        ("smolvlm2-256m", (2048, 512), 0, 5 * 64),
        ("smolvlm2-256m", (2048, 2048), 512 * 512, 64),
        ("smolvlm2-256m", (2048, 2048), 1024 * 1024, 5 * 64),
        ("smolvlm2-256m", (2048, 2048), 1, 64),
        ("internvl3-8b", (448, 448), 100_000, 2 * 256),
        ("gemma-3-4b", (9000, 10), 1, 256),
    ],
)
def test_a_picture_becomes_tokens(name, size, max_pixels, tokens):
    assert pictures(vlms.named(name), (size,), 0, max_pixels).tokens == tokens


SIZED = sorted(name for name in vlms.TABLE if planned_pictures.takes_sizes(vlms.named(name)))


@pytest.mark.parametrize("name", SIZED)
def test_more_pixels_are_never_fewer_tokens(name):
    model = vlms.named(name)
    sides = (1, 28, 224, 448, 900, 1792, 5000, 16_384)
    counts = [pictures(model, ((side, side),)).tokens for side in sides]
    assert counts == sorted(counts) and counts[0] > 0
    limited = [pictures(model, ((5000, 3000),), 0, side**2).tokens for side in sides]
    assert limited == sorted(limited)


# Fitted to the card


def test_the_best_width_that_fits_is_taken():
    config = AskConfig(model="qwen2.5-vl-7b", imgsz=448)
    chosen = {card: planned(config, devices.find(card)) for card in ("24gb", "12gb", "8gb")}
    quants = [plan.choices["quant"] for plan in chosen.values()]
    assert quants == ["bf16", "int8", "nf4"]
    assert "does not fit" in chosen["8gb"].notes[0]
    assert "does not fit" not in " ".join(chosen["24gb"].notes)
    assert planned(_with(config, {"quant": "bf16"})).choices["quant"] == "bf16"


def test_the_resolution_is_lowered_to_the_largest_that_fits():
    config = AskConfig(model="qwen2.5-vl-7b", imgsz=3584, quant="nf4")
    device = devices.find("9gb")
    assert not planned(config, device).fits
    changes = list(memory.switches(config))
    fitted = fallbacks.fit(config, device, memory.plan, changes, closely=True)
    assert fitted.plan.fits
    assert [set(row.changes) for row in fitted.fallbacks] == [{"max_pixels"}]
    assert "small things are lost" in fitted.fallbacks[0].cost
    sides = [change["max_pixels"] for change, _ in changes]
    assert sides == sorted(sides, reverse=True)
    larger = sides[sides.index(fitted.config.max_pixels) - 1]
    assert larger > fitted.config.max_pixels
    assert not planned(_with(config, {"max_pixels": larger}), device).fits
    assert min(sides) >= 224**2 * 0.9


def test_a_floor_that_is_too_high_comes_down_with_it():
    config = AskConfig(model="qwen2.5-vl-7b", imgsz=2000, min_pixels=3_000_000)
    for change, _ in memory.switches(config):
        changed = _with(config, change)
        assert changed.min_pixels <= max(changed.max_pixels, 1)


def test_a_model_of_one_size_is_not_lowered():
    assert list(memory.switches(AskConfig(model="llava-1.5-7b"))) == []


def test_a_training_switches_what_changes_no_result():
    config = TrainConfig(model="qwen3-vl-2b", per_device_train_batch_size=4)
    names = [set(change) for change, _ in memory.switches(config)]
    assert {"gradient_checkpointing"} in names
    assert all(row & {"gradient_checkpointing", "per_device_train_batch_size"} for row in names)
    for change, _ in memory.switches(config):
        changed = _with(config, change)
        rows = changed.per_device_train_batch_size * changed.gradient_accumulation_steps
        assert rows == 4 * config.gradient_accumulation_steps


@pytest.mark.parametrize("card", ["8gb", "12gb", "24gb"])
@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(model="qwen2.5-vl-7b", per_device_train_batch_size=4, imgsz=1280),
        TrainConfig(model="smolvlm2-2.2b", vision_tower="full", num_images=2),
        ProjectorConfig(vision_model="openai/clip-vit-large-patch14", model="qwen2.5-7b"),
        EvaluateConfig(model="qwen3-vl-8b", imgsz=4096),
        TrainPlanConfig(model="qwen3-vl-8b", loss="onecard", per_device_train_batch_size=4),
    ],
    ids=lambda config: f"{type(config).__name__}-{config.model}",
)
def test_the_fallbacks_save_and_end(config, card):
    device = devices.find(card)
    fitted = fallbacks.fit(config, device, memory.plan, memory.fallbacks(config))
    assert all(row.saved_bytes > 0 for row in fitted.fallbacks)
    if card != "8gb":
        assert fitted.plan.fits, fitted.plan.render()


@pytest.mark.parametrize(("card", "name"), [("24gb", "qwen3-vl-8b"), ("4gb", "qwen3-vl-2b")])
def test_auto_takes_the_best_that_fits(card, name, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    config, reason = memory.resolve_auto(AskConfig(), devices.find(card))
    assert config.model == name and card.removesuffix("gb") in reason


def test_auto_takes_what_can_be_had():
    """On a CPU the smallest; offline of those that lie here."""
    config, reason = memory.resolve_auto(TrainConfig(), CPU)
    assert config.model == "smolvlm2-256m" and "no GPU" in reason
    config, reason = memory.resolve_auto(AskConfig(), CARD)
    assert config.model == "smolvlm2-256m" and "out of reach" in reason


def test_auto_takes_one_that_lies_here(tmp_path, monkeypatch):
    repo = "models--Qwen--Qwen3-VL-4B-Instruct"
    folder = tmp_path / "cache" / repo / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    assert memory.resolve_auto(AskConfig(), CARD)[0].model == "smolvlm2-256m"  # no weights yet
    (folder / "model.safetensors").write_bytes(b"")
    config, reason = memory.resolve_auto(AskConfig(), CARD)
    assert config.model == "qwen3-vl-4b" and "on this machine" in reason


@pytest.mark.parametrize(
    "config",
    [
        AskConfig(model="llava-1.5-7b"),
        EvaluateConfig(run_id="some"),
        AskConfig(base_url="http://localhost:1"),
        CheckConfig(),
    ],
)
def test_auto_leaves_a_named_model(config):
    assert memory.resolve_auto(config, CARD) == (config, "")


# llama.cpp


def vision_half(path, width=256, kind="qwen2.5vl_merger", side=560):
    """A clip file of a small tower that gives tokens of `width`."""
    writer = gguf.GGUFWriter(str(path), "clip")
    writer.add_string("clip.projector_type", kind)
    writer.add_bool("clip.has_vision_encoder", True)
    for name, value in (
        ("embedding_length", 64),
        ("block_count", 2),
        ("attention.head_count", 4),
        ("feed_forward_length", 128),
        ("patch_size", 14),
        ("image_size", side),
    ):
        writer.add_uint32(f"clip.vision.{name}", value)
    writer.add_tensor("v.patch_embd.weight", np.zeros((64, 3, 14, 14), np.float16))
    writer.add_tensor("mm.2.bias", np.zeros(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def pair(tmp_path):
    """A language model's file, and its vision half beside it."""
    vision_half(tmp_path / "mmproj-model-f16.gguf")
    return random_gguf.write(tmp_path / "model.gguf", "llama")


def test_the_vision_half_beside_a_file_is_counted(pair):
    config = AskConfig(model=str(pair), imgsz=560)
    card, cpu = planned(config), planned(config, CPU)
    for plan in (card, cpu):
        assert part(plan, "vision tower") > 64 * 3 * 14 * 14 * 2
        assert part(plan, "vision compute") > 0 and part(plan, "KV cache") > 0
        assert plan.choices["tokens of the pictures"] == 400
        assert any("1792x1792 px 4,096 tokens" in note for note in plan.notes)
    assert card.choices["n_gpu_layers"] == 5 and cpu.choices["n_gpu_layers"] == 0
    assert part(card, "CUDA context") > 0 == part(cpu, "CUDA context")
    named = _with(config, {"mmproj": str(pair.with_name("mmproj-model-f16.gguf"))})
    assert total(named) == card.total_bytes
    what_if = PlanConfig(model=str(pair), engine="llama.cpp", imgsz=560)
    assert planned(what_if).choices["tokens of a picture"] == 400


def test_pictures_are_scaled_to_their_limit(pair):
    config = AskConfig(model=str(pair), imgsz=1120)
    small = planned(_with(config, {"max_pixels": 560 * 560}))
    assert small.choices["tokens of the pictures"] == 400
    assert part(small, "vision compute") < part(planned(config), "vision compute")


def test_a_cache_that_is_too_small_is_told(pair):
    plan = planned(AskConfig(model=str(pair), imgsz=1120, n_ctx=1024))
    assert any("--n_ctx" in note for note in plan.notes)


def test_requests_at_once_have_a_cache_each(pair):
    one, four = (planned(ServeConfig(model=str(pair), n_parallel=n, imgsz=280)) for n in (1, 4))
    assert part(four, "KV cache") == 4 * part(one, "KV cache")


def test_layers_make_room_for_the_vision_half(pair):
    """On a card that holds the language model alone, one layer at least stays off it."""
    config = AskConfig(model=str(pair), imgsz=1792)
    whole = total(config)
    tight = replace(CARD, free_bytes=whole - 1)
    assert planned(config, tight).choices["n_gpu_layers"] < 5
    assert planned(config, tight).fits


@pytest.mark.parametrize("mmproj", ["gone.gguf", "model.gguf", "broken.gguf", "wide.gguf"])
def test_a_vision_half_that_is_none_is_refused(pair, mmproj):
    pair.with_name("broken.gguf").write_bytes(b"GGUF" + bytes(20))
    vision_half(pair.with_name("wide.gguf"), width=512)
    with pytest.raises((DataError, NotFound)) as refusal:
        planned(AskConfig(model=str(pair), mmproj=str(pair.with_name(mmproj))))
    assert refusal.value.why and refusal.value.fix


def test_a_file_without_a_vision_half_reads_text(tmp_path):
    plan = planned(AskConfig(model=str(random_gguf.write(tmp_path / "m.gguf", "llama"))))
    assert any("reads text only" in note for note in plan.notes)


def test_a_gguf_without_a_file_is_told_so():
    plan = planned(ChatConfig(model="someone/some-GGUF", engine="llama.cpp"))
    assert plan.total_bytes == 0 and "known once" in plan.notes[0]


def test_a_what_if_of_llama_cpp_needs_both_halves():
    with pytest.raises(SettingsError, match="vision half"):
        planned(PlanConfig(model="llava-1.5-7b", engine="llama.cpp"))


# Others' loops stay what they were


def test_the_what_if_of_others_is_theirs():
    """The language model's step with the picture among its tokens, and the tower's."""
    config = TrainPlanConfig(model="llava-1.5-7b", load_in_4bit=True)
    plan = planned(config, CARD)
    recipe = training.Recipe("qlora", "nf4-dq", 1, 832, 16, keeps_logits=False)
    step = sum(term.bytes for term in training.step(vlms.named("llava-1.5-7b").words, recipe))
    beside = part(plan, "vision tower") + part(plan, "tower's activations")
    assert plan.total_bytes - part(plan, "CUDA context") == step + beside
    own = planned(_with(config, {"loss": "onecard"}))
    assert part(own, "optimizer") > part(plan, "optimizer")  # the projector's, too


def test_seven_billion_weights_fit_twelve_gib():
    for name, values in (
        ("vlm", {"model": "llava-1.5-7b", "quant": "nf4"}),
        ("vlm-qlora", {"model": "llava-1.5-7b"}),
    ):
        plan = api.plan("vlm", api.configure_plan(name, values=values), card="12gb")
        assert plan.total_bytes < 12 * GIB


@pytest.mark.parametrize("first", range(4))
def test_every_model_of_the_table_is_planned(first):
    device = devices.find("80gb")
    for name in sorted(vlms.TABLE)[first::4]:
        plans = [planned(AskConfig(model=name), device)]
        config = TrainPlanConfig(model=name, load_in_4bit=True, loss="onecard")
        plans.append(planned(config, device))
        for plan in plans:
            assert plan.total_bytes > 0
            assert all(term.bytes >= 0 and term.reason for term in plan.terms), name


def test_every_schema_of_the_task_is_planned_or_refused():
    for schema in tasks.configs(tasks.get("vlm")).values():
        config = schema()
        assert isinstance(config, Config)
        try:
            assert planned(config, CPU).device is CPU
        except OneCardError as fault:
            assert fault.why and fault.fix
