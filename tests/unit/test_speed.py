"""The roofline against published tokens/s.

Source: XiongjieDai/GPU-Benchmarks-on-LLM-Inference, README at commit 00dd2bd (llama.cpp; Llama 3 8B
of May 2024, Llama 2 7B of December 2023).
A run that makes n tokens has n / 2 in its cache on the average.
"""

import pytest

from onecard.memory import devices, throughput
from onecard.memory.architectures import lm
from onecard.memory.estimators import llm_inference

PUBLISHED = {
    ("4070ti", "llama-3-8b", "q4_k_m"): {512: 83.50, 1024: 82.21, 4096: 78.59, 8192: 73.46},
    ("4080", "llama-3-8b", "q4_k_m"): {512: 108.15, 1024: 106.22, 4096: 100.44, 8192: 93.71},
    ("4080", "llama-3-8b", "f16"): {512: 40.58, 1024: 40.29, 4096: 39.44},
    ("3090", "llama-3-8b", "q4_k_m"): {512: 115.42, 1024: 111.74, 4096: 97.31, 8192: 87.49},
    ("3090", "llama-3-8b", "f16"): {512: 47.40, 1024: 46.51, 4096: 44.79, 8192: 42.62},
    ("4090", "llama-3-8b", "q4_k_m"): {512: 130.58, 1024: 127.74, 4096: 119.44, 8192: 110.66},
    ("4090", "llama-3-8b", "f16"): {512: 54.84, 1024: 54.34, 4096: 52.63, 8192: 50.88},
    ("4080", "llama-2-7b", "q4_0"): {512: 118.01},
    ("4080", "llama-2-7b", "f16"): {512: 44.2},
    ("3090", "llama-2-7b", "q4_0"): {512: 120.6},
    ("3090", "llama-2-7b", "f16"): {512: 51.85},
    ("4090", "llama-2-7b", "q4_0"): {512: 149.37},
    ("4090", "llama-2-7b", "f16"): {512: 60.78},
}
PROMPTS = {("4070ti", 3936.29), ("4080", 5389.74), ("3090", 4030.40), ("4090", 7138.99)}


@pytest.mark.parametrize(
    ("name", "model", "quant", "made", "published"),
    [(*key, made, rate) for key, row in PUBLISHED.items() for made, rate in row.items()],
)
def test_answers_within_a_quarter(name, model, quant, made, published):
    counts = lm.find(model)
    rate = throughput.decode_tokens_per_s(
        counts, llm_inference.llamacpp(counts, quant, made), devices.find(name), made // 2
    )
    assert rate == pytest.approx(published, rel=0.25)


@pytest.mark.parametrize(("name", "published"), sorted(PROMPTS))
def test_prompts_within_a_third(name, published):
    assert throughput.prompt_tokens_per_s(
        lm.find("llama-3-8b"), devices.find(name)
    ) == pytest.approx(published, rel=0.34)


def test_layers_off_the_card_slow_it_down_and_experts_count_only_when_used():
    model, one = lm.find("llama-3-8b"), devices.find("4070ti")
    whole = llm_inference.llamacpp(model, "q4_k_m", 4096)
    half = llm_inference.llamacpp(model, "q4_k_m", 4096, place=llm_inference.Placement(16))
    total = next(t.bytes for t in whole if t.name == "weights")
    assert (
        throughput.decode_tokens_per_s(model, half, one, 1, total_weights=total)
        < throughput.decode_tokens_per_s(model, whole, one, 1, total_weights=total) / 2
    )
    mixture, dense = lm.find("qwen3-30b-a3b"), lm.find("qwen2.5-32b")

    def rate(model):
        terms = llm_inference.llamacpp(model, "q4_k_m", 4096)
        return throughput.decode_tokens_per_s(model, terms, devices.find("3090"), 1)

    assert rate(mixture) > 3 * rate(dense)
    assert throughput.decode_tokens_per_s(model, whole, devices.find("12gb"), 1) == 0
