"""How fast: a roofline over the card's bandwidth and arithmetic. Pure arithmetic; says nothing for
a card whose figures are not known.

A token of an answer reads every weight and the whole cache once; a prompt and a training step are
bound by the tensor cores.
"""

from onecard.memory.architectures.layers import LM, FileWeights
from onecard.memory.devices import Device
from onecard.memory.estimators.llm_inference import KV_BYTES, WHOLE, Placement, lookup_bytes

WEIGHT_SHARE = 0.83
"""Of the bandwidth that reading weights reaches. This, LAYER_S, EXPERT_S and CACHE_SHARE are fitted
to 36 published figures of llama.cpp on GeForce cards (2023 to 2026) and hold 15 of 16 others, from
other sources and cards, within 25 % (tests/validation/speeds.csv; docs/concepts/plan.md)."""
LAYER_S = 51e-6
"""The kernels' time of one layer beside reading it."""
EXPERT_S = 19e-6
"""What a layer with experts takes beyond that."""
CACHE_SHARE = 1.0
"""Of the bandwidth that reading the cache reaches, with flash attention."""
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


def active_bytes(lm: LM, weights: FileWeights, place: Placement = WHOLE) -> tuple[float, float]:
    """(bytes on the card, bytes in the computer's memory) that one token of an answer reads: of
    experts those that it passes, of tables the output head alone."""
    card = host = 0.0
    first = place.first(lm.L)
    for i, layer in enumerate(lm.layers):
        expert = next((matrix for matrix in layer.matrices if matrix.is_expert), None)
        passed = weights.experts[i] * expert.used / expert.count if expert else 0.0
        rest = weights.layers[i] - weights.experts[i]
        if i < first:
            host += rest + passed
        elif i < place.n_cpu_moe:
            card, host = card + rest, host + passed
        else:
            card += rest + passed
    head = (weights.head or weights.embedding - lookup_bytes(lm, weights)) + weights.rest
    return (card + head, host) if first <= lm.L else (card, host + head)


def decode_tokens_per_s(
    lm: LM,
    read: tuple[float, float],
    device: Device,
    T: int,
    kv_type: str = "f16",
) -> float:
    """Tokens/s of one answer with T tokens in the cache; 0 where the card's bandwidth is not known.

    `read`: bytes of weights that a token reads, on the card and off it (`active_bytes`). A layer
    with a window reads what it keeps; a recurrent state is read and written.
    """
    if not device.bandwidth_gb_s:
        return 0.0
    bandwidth = device.bandwidth_gb_s * 1e9
    values = sum(n * layer.kv_values * min(T, layer.window or T) for layer, n in lm.groups)
    cache = values * KV_BYTES[kv_type] + 8 * lm.state_values
    seconds = read[0] / (bandwidth * WEIGHT_SHARE) + cache / (bandwidth * CACHE_SHARE)
    experts = sum(n for layer, n in lm.groups if layer.experts_used)
    return 1 / (seconds + read[1] / (HOST_GB_S * 1e9) + lm.L * LAYER_S + experts * EXPERT_S)


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
