"""How fast: a roofline over the card's bandwidth and arithmetic. Pure arithmetic; says nothing for
a card whose figures are not known.

A token of an answer reads every weight and the whole cache once; a prompt and a training step are
bound by the tensor cores.
"""

from collections.abc import Sequence

from onecard.memory.architectures.layers import LM
from onecard.memory.devices import Device
from onecard.memory.estimators.llm_inference import KV_BYTES
from onecard.memory.plan import Term

WEIGHT_SHARE = 0.93
"""Of the bandwidth that reading weights reaches, and LAYER_S the kernels' time beside it: both from
Llama-3-8B in Q4_K_M and F16 on four cards
(XiongjieDai/GPU-Benchmarks-on-LLM-Inference @00dd2bd, May 2024, llama.cpp):
tests/unit/test_speed.py holds 27 figures within 25 %."""
LAYER_S = 85e-6
CACHE_SHARE = 0.4
"""The cache is read less well than weights (same source, 8192 against 512 tokens)."""
HOST_GB_S = 50.0
"""Bandwidth of the computer's own memory for layers left there: two channels of DDR5-5600 reach
about half of their 90 GB/s. A guess."""
TENSOR = 2.0
"""fp16 tensor throughput with fp32 accumulation, in shader fp32 TFLOPS: GeForce Ampere, Ada and
Blackwell whitepapers."""
PROMPT_SHARE = 0.65
"""Of the tensor throughput that llama.cpp reaches over a prompt of 512 tokens: 0.6 to 0.9 in the
same source."""
TRAIN_SHARE = 0.4
"""Of the tensor throughput that a training step reaches. A guess until a run is calibrated."""


def decode_tokens_per_s(
    lm: LM,
    parts: Sequence[Term],
    device: Device,
    T: int,
    kv_type: str = "f16",
    total_weights: int = 0,
) -> float:
    """Tokens/s of one answer with T tokens in the cache; 0 where the card's bandwidth is not known.

    `total_weights`: bytes on and off the card.
    """
    if not device.bandwidth_gb_s:
        return 0.0
    on_card = next((part.bytes for part in parts if part.name == "weights"), 0)
    off_card = max(total_weights - on_card, 0)
    active = lm.active_params / (lm.linear_params + lm.embedding_params)
    values = sum(n * layer.kv_values * min(T, layer.window or T) for layer, n in lm.groups)
    cache = values * KV_BYTES[kv_type] + 4 * lm.state_values
    seconds = on_card * active / (device.bandwidth_gb_s * 1e9 * WEIGHT_SHARE) + cache / (
        device.bandwidth_gb_s * 1e9 * CACHE_SHARE
    )
    return 1 / (seconds + off_card * active / (HOST_GB_S * 1e9) + lm.L * LAYER_S)


def prompt_tokens_per_s(lm: LM, device: Device) -> float:
    """Tokens/s of reading a prompt of some hundred tokens that lies on the card whole; 0 where it
    is not known."""
    return (
        device.fp32_tflops * 1e12 * TENSOR * PROMPT_SHARE / (2 * lm.active_params)
        if device.fp32_tflops
        else 0.0
    )


def train_tokens_per_s(lm: LM, device: Device, method: str, checkpointing: bool) -> float:
    """Tokens/s of training: 2 FLOP a weight forward, 2 for the gradient of what comes in, 2 for
    that of trained weights, 2 for a second forward."""
    passes = 4 + (2 if method == "full" else 0) + (2 if checkpointing else 0)
    return (
        device.fp32_tflops * 1e12 * TENSOR * TRAIN_SHARE / (passes * lm.active_params)
        if device.fp32_tflops
        else 0.0
    )
