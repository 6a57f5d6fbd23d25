"""Plans of vision-language models against transformers' own classes on fake tensors, with their
pictures: an answer, and a step of onecard's training. No weight is computed or allocated."""

import json
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="installed by make test")
peft = pytest.importorskip("peft", reason="installed by make test")
transformers = pytest.importorskip("transformers", reason="installed by make test")

from allocator import allocated_bytes, peak_bytes  # noqa: E402

from onecard import api  # noqa: E402
from onecard.errors import DataError, SettingsError  # noqa: E402
from onecard.memory import fake_tensor_vlm  # noqa: E402
from onecard.memory.estimators import vlm, vlm_training  # noqa: E402
from onecard.tasks.vlm import memory, planned_models  # noqa: E402
from onecard.training import frozen_head  # noqa: E402
from onecard.units import GIB  # noqa: E402

WITHIN = 0.02


def error(plan, **values):
    config = api.configure_plan(plan, values=values)
    traced, planned = fake_tensor_vlm.check(memory.TRACER, config)
    return planned / traced - 1


LYING = ("weights", "vision tower", "trained weights", "optimizer", "gradients")


def errors(config):
    """(of the total, of what comes and goes beside weights and optimizer)."""
    model, asked = memory.TRACER(config)
    answers = isinstance(asked, vlm.Look)
    run, planner = (
        (fake_tensor_vlm.answer, vlm.talk) if answers else (fake_tensor_vlm.step, vlm_training.step)
    )
    static, peak = run(model, asked)
    terms = [term for term in planner(model, asked) if term.name != "workspace"]
    total = sum(term.bytes for term in terms)
    passing = sum(term.bytes for term in terms if term.name not in LYING)
    if not answers:  # pixels lie there before a step
        rows = asked.recipe.B
        wide = 4.0 if asked.recipe.compute_fp32 else 2.0
        static -= rows * vlm.pixel_bytes(model, vlm.pictures_of(model, asked), wide)
    return total / peak - 1, passing / (peak - static) - 1


def agrees(config):
    of_all, beside = errors(config)
    assert of_all == pytest.approx(0, abs=WITHIN)
    assert beside == pytest.approx(0, abs=0.05)


# An answer


@pytest.mark.parametrize(
    ("model", "values"),
    [
        ("llava-1.5-7b", {"quant": "nf4"}),
        ("llava-1.5-7b", {"quant": "bf16", "max_new_tokens": 4, "num_images": 3}),
        ("qwen2.5-vl-7b", {"quant": "nf4", "imgsz": 448}),
        ("qwen2.5-vl-7b", {"quant": "nf4-dq", "imgsz": 672, "height": 1100}),
        ("qwen2.5-vl-7b", {"quant": "bf16", "imgsz": 896, "max_new_tokens": 4}),
        ("qwen2.5-vl-7b", {"quant": "nf4", "imgsz": 1280}),
        ("qwen2-vl-2b", {"quant": "fp32", "imgsz": 448, "batch_size": 2}),
        ("qwen2-vl-2b", {"imgsz": 1280, "max_new_tokens": 4}),
        ("qwen3-vl-4b", {"quant": "nf4", "imgsz": 1280}),
        ("smolvlm2-256m", {"quant": "bf16"}),
        ("smolvlm2-2.2b", {"quant": "nf4", "max_new_tokens": 3000, "max_pixels": 590_000}),
        ("gemma-3-4b", {"quant": "bf16"}),
        ("paligemma-3b", {"quant": "bf16"}),
    ],
)
def test_an_answer(model, values):
    agrees(api.configure_plan("vlm", values={"model": model, **values}))


def test_the_weights_are_those_of_the_class():
    """Before anything is read: the count of the table, of two halves and a head."""
    for name in ("llava-1.5-7b", "qwen2.5-vl-7b", "qwen3-vl-2b", "smolvlm2-500m", "gemma-3-4b"):
        model = planned_models.find(name).model
        lying, _ = fake_tensor_vlm.answer(model, vlm.Look(images=0, answer=1))
        counted = 2 * (model.words.n_params + model.beside)
        assert counted == pytest.approx(lying, rel=0.005), name


# A training step


@pytest.mark.parametrize(
    ("model", "values"),
    [
        ("llava-1.5-7b", {}),
        ("llava-1.5-7b", {"per_device_train_batch_size": 3, "lora_r": 64}),
        ("qwen2.5-vl-7b", {"imgsz": 448}),
        ("qwen2.5-vl-7b", {"imgsz": 896}),
        ("qwen3-vl-2b", {"imgsz": 448, "vision_tower": "full"}),
        ("gemma-3-4b", {"vision_tower": "lora"}),
        ("smolvlm2-256m", {"load_in_4bit": False}),
        ("smolvlm2-256m", {"gradient_checkpointing": False, "vision_tower": "lora"}),
        ("qwen2-vl-2b", {"imgsz": 280, "load_in_4bit": False, "gradient_checkpointing": False}),
    ],
)
def test_a_training_step(model, values):
    agrees(api.configure_plan("vlm-qlora", values={"model": model, **values}))


@pytest.mark.parametrize(
    "values",
    [
        {"language_model": "frozen"},
        {"projector": "frozen", "per_device_train_batch_size": 2},
        {"load_in_4bit": True, "gradient_checkpointing": True, "num_images": 2},
        {
            "model": "qwen3-vl-2b",
            "language_model": "full",
            "gradient_checkpointing": True,
            "imgsz": 448,
        },
    ],
)
def test_a_step_of_the_command_itself(values):
    settings = {"model": "smolvlm2-500m", "text_tokens": 200, **values}
    agrees(api.configure("vlm", "train", values=settings))


def test_a_frozen_tower_keeps_nothing():
    """Its step needs no more than its reading, however deep the tower is."""
    model = planned_models.find("smolvlm2-256m").model
    config = api.configure_plan("vlm-lora", values={"model": "smolvlm2-256m"})
    static, peak = fake_tensor_vlm.step(*memory.TRACER(config))
    reading = vlm.tower_hump(model, 1, vlm.pictures_of(model, vlm.Look()), 2.0, autocast=True)
    assert peak - static < 1.2 * reading


# In torch's allocator


def real_model(folder):
    """A LLaVA of random weights, large enough that its activations count."""
    config = transformers.LlavaConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": 4096,
            "hidden_size": 256,
            "intermediate_size": 688,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "use_cache": False,
        },
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 192,
            "intermediate_size": 768,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 224,
            "patch_size": 14,
        },
        image_token_index=5,
        tie_word_embeddings=False,
    )
    config.save_pretrained(folder)
    return transformers.LlavaForConditionalGeneration(config).requires_grad_(False)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_plan_against_a_real_step(tmp_path, checkpointing):
    """PEFT's own adapters and copy of the projector, the trainer's own loss, in fp32."""
    net = real_model(tmp_path)
    lora = peft.LoraConfig(
        r=8,
        target_modules=r".*language_model.*(q|k|v|o|gate|up|down)_proj",
        modules_to_save=["multi_modal_projector"],
    )
    tuned = peft.get_peft_model(net, lora).train()
    if checkpointing:
        net.model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
    trained = [weight for weight in tuned.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    ids = torch.cat([torch.full((2, 256), 5), torch.randint(6, 4000, (2, 64))], dim=1)
    pixels, labels = torch.randn(2, 3, 224, 224), ids.clone()
    labels[:, :256] = -100
    mask = torch.ones_like(ids)
    mask[1, -1] = 0

    def micro_batch():
        out = net.model(input_ids=ids, attention_mask=mask, pixel_values=pixels, use_cache=False)
        hidden = out.last_hidden_state.flatten(0, 1)
        del out
        frozen_head.answer_loss(net, hidden, labels.flatten()).backward()

    micro_batch()
    optimizer.step()
    gradients = 4 * sum(weight.numel() for weight in trained)
    measured = allocated_bytes(tuned, optimizer=optimizer) + gradients + peak_bytes(micro_batch)
    config = api.configure_plan(
        "vlm-lora",
        values={
            "model": str(tmp_path),
            "lora_r": 8,
            "text_tokens": 64,
            "per_device_train_batch_size": 2,
        },
    )
    model, step = memory.TRACER(config)
    recipe = replace(step.recipe, weights="fp32", compute_fp32=True, checkpointing=checkpointing)
    terms = vlm_training.step(model, replace(step, recipe=recipe))
    pixel_bytes = pixels.numel() * 4  # lay there before
    assert sum(term.bytes for term in terms) == pytest.approx(measured + pixel_bytes, rel=0.05)


# Within a card


@pytest.mark.parametrize(
    ("plan", "values"),
    [
        ("vlm", {"model": "llava-1.5-7b", "quant": "nf4"}),
        ("vlm-qlora", {"model": "llava-1.5-7b"}),
        ("vlm-qlora", {"model": "qwen2.5-vl-7b", "imgsz": 1280}),
    ],
)
def test_seven_billion_weights_on_twelve_gib(plan, values):
    assert api.plan("vlm", api.configure_plan(plan, values=values), card="12gb").fits


def test_a_folder_of_a_family_is_traced(tmp_path):
    """A model that stands in no table: its own config.json is built."""
    config = transformers.Qwen3VLConfig(
        text_config={
            "hidden_size": 512,
            "intermediate_size": 1536,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 64,
            "vocab_size": 32_000,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [12, 10, 10],
            },
        },
        vision_config={
            "hidden_size": 384,
            "intermediate_size": 1536,
            "depth": 6,
            "num_heads": 6,
            "out_hidden_size": 512,
            "patch_size": 16,
            "deepstack_visual_indexes": [1, 3],
        },
        tie_word_embeddings=True,
    )
    config.save_pretrained(tmp_path)
    assert error("vlm", model=str(tmp_path), imgsz=640) == pytest.approx(0, abs=0.03)
    assert error("vlm-lora", model=str(tmp_path), imgsz=640) == pytest.approx(0, abs=0.03)


# The command


def test_the_command_tells_both(onecard):
    out = onecard("plan", "vlm", "smolvlm2-256m", "--trace", "--json")
    assert out.code == 0 and abs(out.data["error"]) < 0.05
    assert out.data["traced_bytes"] > 0.7 * GIB


@pytest.mark.parametrize(
    ("plan", "values", "fault"),
    [
        ("vlm", {"model": "internvl2-8b"}, DataError),
        ("vlm", {"model": "llava-1.6-34b"}, DataError),
        ("vlm", {"model": "llava-1.5-7b", "quant": "awq-int4"}, DataError),
        ("vlm-qlora", {"model": "llava-1.5-7b", "loss": "upcast"}, DataError),
        ("vlm-qlora", {"model": "llava-1.5-7b", "optim": "lion"}, DataError),
        ("vlm", {"model": "llava-1.5-7b", "engine": "llama.cpp"}, SettingsError),
    ],
)
def test_what_cannot_be_traced_says_so(plan, values, fault):
    config = api.configure_plan(plan, values=values)
    with pytest.raises(fault) as refusal:
        fake_tensor_vlm.check(memory.TRACER, config)
    assert refusal.value.why and refusal.value.fix


def test_a_class_that_breaks_is_a_refusal(tmp_path):
    """A config whose counts do not go together."""
    values = {
        "model_type": "llava",
        "text_config": {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 7},
        "vision_config": {"model_type": "clip_vision_model", "image_size": 30, "patch_size": 14},
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises((DataError, SettingsError)):
        error("vlm", model=str(tmp_path))


def test_a_step_that_the_class_does_not_take_is_a_refusal():
    """SmolVLM casts its features to the tower's 16 bits, beside embeddings in fp32."""
    values = {"model": "smolvlm2-256m", "language_model": "full", "text_tokens": 64}
    with pytest.raises(DataError, match="does not run on fake tensors"):
        fake_tensor_vlm.check(memory.TRACER, api.configure("vlm", "train", values=values))
