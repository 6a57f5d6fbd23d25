"""The plan's arithmetic against published figures, and its words."""

import json

import pytest

from onecard import api
from onecard.errors import NotFound, SettingsError
from onecard.memory import formats
from onecard.memory.architectures import lm
from onecard.memory.estimators import llm_inference, training

MIB, GIB = 2**20, 2**30


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen2.5-1.5B-Instruct", 1.544),
        ("llama3.1:8b", 8.030),
        ("google/gemma-2-2b-it", 2.614),
        ("phi-2", 2.780),
        ("Qwen3-4B", 4.022),
        ("gpt-oss-120b", 116.8),
        ("deepseek-v3", 671.0),
        ("mixtral-8x7b-instruct-v0.1", 46.70),
        ("gpt2", 0.1244),
        ("SmolLM2-135M-Instruct", 0.1345),
    ],
)
def test_weights_of_the_table_sum_up_to_the_published_number(name, billions):
    assert lm.find(name).n_params / 1e9 == pytest.approx(billions, rel=0.001)


@pytest.mark.parametrize(
    ("name", "quant", "mib", "with_table"),
    [
        ("open_llama_7b", "f16", 12603.02, False),
        ("Qwen3-4B", "q4_k_m", 2375.91, False),
        ("GLM-Z1-32B-0414", "iq4_xs", 16303.48, False),
        ("gemma-3-27b-it-qat", "q4_k_m", 15773.97, False),
        ("trilm-3.9b", "f16", 7317.71, False),
        ("qwen2.5-14b", "q4_k_m", 8148.38, False),
    ],
)
def test_gguf_weights_as_llamacpp_logged_them(name, quant, mib, with_table):
    """Published logs: what lies on the card, without the input table unless it is the head."""
    model = lm.find(name)
    held = formats.gguf(model, quant)
    assert (held.total - (0 if model.tied else held.embedding)) / MIB == pytest.approx(
        mib, rel=1e-4
    )


def test_bits_per_weight_as_llamacpp_publishes_them():
    model = lm.find("llama-3.1-8b")  # tools/quantize/README.md
    for quant, bits in {
        "q4_k_m": 4.8944,
        "q4_k_s": 4.6672,
        "q5_k_m": 5.7036,
        "q5_k_s": 5.5704,
        "q6_k": 6.5633,
        "q3_k_l": 4.2979,
        "q2_k": 3.1593,
        "q8_0": 8.5008,
        "q3_k_m": 3.9960,
        "iq1_s": 2.0042,
        "iq1_m": 2.1460,
        "iq2_xxs": 2.3824,
        "iq2_xs": 2.5882,
        "iq2_s": 2.7403,
        "iq2_m": 2.9294,
        "iq3_xxs": 3.2548,
        "iq3_xs": 3.4977,
        "iq3_s": 3.6606,
        "iq3_m": 3.7628,
        "q2_k_s": 2.9697,
        "q3_k_s": 3.6429,
    }.items():
        assert formats.gguf(model, quant).total * 8 / 8.03e9 == pytest.approx(bits, rel=5e-4), quant


@pytest.mark.parametrize(
    ("name", "tokens", "options", "mib"),
    [
        ("open_llama_7b", 2048, {}, 1024),
        ("Qwen3-4B", 8192, {}, 1152),
        ("GLM-Z1-32B-0414", 32768, {}, 1952),
        ("gemma-3-27b-it", 32768, {"whole_window": True}, 15872),
        ("qwen2.5-coder-1.5b", 16384, {}, 448),
        ("gpt-oss-120b", 65536, {"n_parallel": 4}, 2304 + 18),
        ("qwen3.6-27b", 32768, {}, 2048),
        ("llama-3.1-8b", 1024, {"k_type": "iq4_nl", "v_type": "f16"}, 82),
    ],
)
def test_kv_cache_as_llamacpp_logged_it(name, tokens, options, mib):
    options = dict(options)
    got = (
        llm_inference.kv_bytes(
            lm.find(name),
            tokens,
            options.pop("k_type", "f16"),
            options.pop("v_type", ""),
            **options,
        )
        / MIB
    )
    assert got == pytest.approx(mib if name != "gpt-oss-120b" else 2304 + 36, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "form", "B", "T", "attention", "rest_fp32", "optimizer", "r", "mib"),
    [
        ("Qwen2.5-1.5B", "fp16", 2, 1024, "sdpa", False, "adamw", 32, 7401.81),
        ("Qwen2.5-1.5B", "nf4", 2, 1024, "sdpa", True, "adamw", 32, 6827.67),
        ("SmolLM2-135M", "fp16", 1, 4096, "sdpa", False, "adamw", 32, 3148.11),
        ("TinyLlama-1.1B-Chat", "nf4", 12, 1024, "sdpa", True, "adamw", 32, 9371.7),
        ("Qwen2.5-7B", "nf4-dq", 1, 1024, "sdpa", True, "paged-adamw-8bit", 16, 10.0023 * 1024),
    ],
)
def test_adapter_training_as_torch_counted_it(
    name, form, B, T, attention, rest_fp32, optimizer, r, mib
):
    """fitcheck-llm 0.3.1 and can-i-finetune-this, torch.cuda.max_memory_allocated (MEMORY-NOTES.md,
    section 4): within 1.5 %."""
    recipe = training.Recipe(
        "qlora", form, B, T, r, ("q", "k", "v", "o"), optimizer, True, attention, rest_fp32
    )
    assert sum(term.bytes for term in training.step(lm.find(name), recipe)) / MIB == pytest.approx(
        mib, rel=0.015
    )


def test_every_knob_turns_the_right_way():
    model = lm.find("llama-3.1-8b")

    def total(**k):
        return sum(
            t.bytes
            for t in training.step(
                model, training.Recipe(**{"method": "qlora", "weights": "nf4-dq", "T": 2048, **k})
            )
        )

    base = total()
    assert total(B=2) > base < total(T=4096) and total(r=64) > base
    assert (
        total(optimizer="adamw-8bit") < base
        and total(checkpointing=False) > base
        and total(attention="eager") > base
    )
    assert total(loss="fused") < total(loss="chunked") < base and total(rest_fp32=True) > base

    def whole(**k):
        return sum(
            t.bytes
            for t in training.step(model, training.Recipe(**{"method": "full", "T": 512, **k}))
        )

    assert (
        whole(zero=3, shards=4) < whole(zero=2, shards=4) < whole()
        and whole(optimizer_in_backward=True) < whole()
    )


def test_experts_on_the_cpu_and_few_layers_shrink_what_lies_on_the_card():
    model = lm.find("qwen3-30b-a3b")

    def total(layers=-1, experts=0):
        place = llm_inference.Placement(layers, experts)
        parts = llm_inference.llamacpp(model, "q4_k_m", 8192, place=place)
        return sum(t.bytes for t in parts)

    assert total(experts=48) < 3 * GIB < 16 * GIB < total()
    assert total(10) < total(20) < total(48) < total()
    assert total(experts=48) < total(experts=20) < total(experts=1) < total()


def test_vllm_takes_its_share_and_tells_the_tokens():
    parts = llm_inference.vllm(lm.find("llama-3.1-8b"), "bf16", 4096, 24 * GIB)
    assert (
        sum(t.bytes for t in parts) == pytest.approx(0.9 * 24 * GIB, rel=0.001)
        and "tokens" in parts[-1].reason
    )


def test_a_config_of_a_folder_is_read_and_a_strange_one_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "model_type": "qwen2",
                "hidden_size": 896,
                "intermediate_size": 4864,
                "num_hidden_layers": 24,
                "num_attention_heads": 14,
                "num_key_value_heads": 2,
                "vocab_size": 151936,
                "tie_word_embeddings": True,
                "max_position_embeddings": 32768,
            }
        )
    )
    assert lm.find(str(tmp_path)).n_params == lm.find("qwen2.5-0.5b").n_params
    for text in (
        "{}",
        "[]",
        "not json",
        '{"hidden_size": 0, "num_attention_heads": 0, "num_hidden_layers": 1, "vocab_size": 1}',
        '{"hidden_size": -8, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 1}',
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(Exception) as fault:
            lm.find(str(tmp_path))
        assert getattr(fault.value, "code", 0) == 5, text
    with pytest.raises(NotFound, match="lama"):
        lm.find("lama-3.1-8b")


def planned(card, **values):
    config = api.configure_plan("qlora", values={"model": "llama-3.1-8b", **values})
    return api.plan("finetune", config, card=card)


def test_the_plan_says_fits_closely_and_does_not_fit():
    """A trainer of transformers' own: loss in fp32, AdamW in fp32."""
    usual = {"loss": "upcast", "attn_implementation": "sdpa", "optim": "adamw_torch"}
    assert planned("24gb", **usual).verdict == "fits"
    assert planned("8gb", **usual).verdict == "does not fit"
    verdicts = {
        planned("4070ti", max_seq_length=tokens, **usual).verdict
        for tokens in range(2048, 4096, 64)
    }
    assert "fits closely" in verdicts
    assert planned("4070ti", max_seq_length=2304, **{**usual, "loss": "fused"}).verdict == "fits"


def test_onecards_own_trainer_needs_less_than_the_usual_one():
    usual = planned("24gb", loss="upcast", attn_implementation="sdpa", optim="adamw_torch")
    assert planned("24gb").total_bytes < 0.9 * usual.total_bytes


@pytest.mark.parametrize(
    "values", [{"weights": "q9"}, {"target_modules": ["x"]}, {"model": ""}, {"max_seq_length": 0}]
)
def test_what_cannot_be_planned_is_refused(values):
    with pytest.raises(SettingsError):
        planned("12gb", **values)


def test_an_unknown_name_is_unknown():
    """No model is planned as a neighbour whose name begins alike."""
    for name in ("llama-3.1-80b", "gpt2-xxl", "qwen3-coder-481b", "falcon-h1-8b", "phi-4-max"):
        with pytest.raises(NotFound):
            planned("12gb", model=name)


def notes(**values):
    config = api.configure_plan("llm-infer", values={"model": "qwen3-30b-a3b", **values})
    return " ".join(api.plan("chat", config, card="24gb").notes)


@pytest.mark.parametrize(
    ("values", "flags"),
    [
        ({"n_cpu_moe": 8}, "--n-cpu-moe 8"),
        ({"n_gpu_layers": 20, "kv_type": "q8_0"}, "-ctk q8_0 -ctv q8_0 -ngl 20"),
        ({"n_gpu_layers": 20}, "PARAMETER num_gpu 20"),
        ({"engine": "vllm", "n_ctx": 8192, "kv_type": "fp8"}, "--kv-cache-dtype fp8"),
    ],
)
def test_flags_of_other_programs_are_printed(values, flags):
    assert flags in notes(**values)


@pytest.mark.parametrize(
    ("engine", "kv_type"),
    [("llama.cpp", "fp8"), ("embedded", "int8"), ("transformers", "q8_0"), ("vllm", "q4_0")],
)
def test_a_cache_type_of_another_engine_is_refused(engine, kv_type):
    with pytest.raises(SettingsError, match="has no type"):
        notes(engine=engine, kv_type=kv_type)


@pytest.mark.parametrize("quant", [*formats.MIXTURES, *formats.PLAIN, *formats.LINEAR, "exl2-4.5"])
@pytest.mark.parametrize("engine", ["embedded", "transformers", "vllm"])
def test_every_format_is_planned_or_refused(engine, quant):
    try:
        assert notes(engine=engine, quant=quant) is not None
    except SettingsError as fault:
        assert fault.fix


@pytest.mark.parametrize(
    ("build", "flash_attn", "engine", "mib"),
    [
        (0, True, "llama.cpp", 300.75),
        (9272, True, "llama.cpp", 300.75),
        (9500, True, "llama.cpp", 84.5),
        (0, True, "embedded", 84.5),
    ],
)
def test_the_build_decides_the_compute_buffer(build, flash_attn, engine, mib):
    """Qwen2.5-3B: 4 x 512 x (151936 + 2048) of logits before June 2026 (MEMORY-NOTES.md)."""
    values = {"model": "qwen2.5-3b", "engine": engine, "build": build, "n_ctx": 4096}
    config = api.configure_plan("llm-infer", values=values)
    terms = {t.name: t.bytes for t in api.plan("chat", config, card="12gb").terms}
    assert terms["compute"] / MIB == pytest.approx(mib, rel=0.01)
