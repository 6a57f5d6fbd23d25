"""Other programs' formulas beside a plan."""

import pytest

from onecard import api
from onecard.errors import SettingsError
from onecard.memory import peers
from onecard.memory.architectures import lm

GIB = 2**30


def test_a_formula_of_gguf_files_is_near_the_plan_of_a_plain_model():
    """Llama 3.1 8B in Q4_K_M with 8,192 tokens: its author measured a median error of 365 MiB."""
    model = lm.find("llama-3.1-8b")
    found = peers.oobabooga(model, 4_920_000_000, 8192, "f16", -1)
    assert found.bytes == pytest.approx(6.68 * GIB, rel=0.01)


@pytest.mark.parametrize(("weight_bytes", "expected"), [(16.1e9, 16.06e9), (4.9e9, 4.015e9)])
def test_accelerate_counts_weights_by_their_width(weight_bytes, expected):
    found = peers.accelerate_inference(lm.find("llama-3.1-8b"), weight_bytes)
    assert found.bytes == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("plan", ["llm-infer", "qlora", "lora", "full"])
def test_a_plan_is_shown_beside_them(plan):
    config = api.configure_plan(plan, values={"model": "qwen3-0.6b"})
    task = "chat" if plan == "llm-infer" else "finetune"
    found = api.compare_plan(task, config, card="12gb")
    assert found.data["peers"]
    assert "leaves out" in found.text


def test_a_task_without_peers_says_so():
    config = api.configure_plan("classify", values={"model": "vit-base"})
    with pytest.raises(SettingsError, match="no other program"):
        api.compare_plan("classify", config, card="12gb")
