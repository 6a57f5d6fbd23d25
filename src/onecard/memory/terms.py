"""The arithmetic of memory: pure functions of counts, in bytes. No torch, no files, no card.

Letters: B batch, T tokens, L layers, D width, F feed-forward, H heads, G kv heads, K head width, V vocabulary.
"""

from onecard.units import MIB

BITS_PER_WEIGHT = {
    # llama.cpp, tools/quantize/README.md: measured on Llama-3.1-8B. Other shapes differ by a few per cent (a large
    # vocabulary is kept at higher precision); once a GGUF is on disk its header is read instead.
    "f16": 16.0005, "q8_0": 8.5008, "q6_k": 6.5633, "q5_k_m": 5.7036, "q5_k_s": 5.5704, "q4_k_m": 4.8944,
    "q4_k_s": 4.6672, "iq4_xs": 4.4597, "q3_k_l": 4.2979, "q2_k": 3.1593,
}
KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes per value of the KV cache: ggml blocks of 32 values with one fp16 scale."""
CUDA_CONTEXT_BYTES = 500 * MIB
"""Context plus cuBLAS workspace of one process. A guess between published 300 and 700 MiB, until it is calibrated."""


def quantized_weights(n_params: float, quant: str) -> int:
    """Bytes of a model's weights in a GGUF quantization.

    >>> round(quantized_weights(8.03e9, "q4_k_m") / 1e9, 2)
    4.91
    """
    return round(n_params * BITS_PER_WEIGHT[quant] / 8)


def kv_cache(T: int, L: int, G: int, K: int, bytes_per_value: float = 2.0, B: int = 1) -> int:
    """Bytes of keys and values: two tensors of (L, B, T, G, K).

    >>> kv_cache(T=8192, L=28, G=8, K=128) // MIB
    896
    """
    return round(2 * L * B * T * G * K * bytes_per_value)


def llama_compute(T: int, D: int, F: int, n_ubatch: int = 512) -> int:
    """Bytes of llama.cpp's compute buffer: the widest activations of one micro-batch plus the attention mask.

    A guess that lies 15 % above the 18.6 MiB that SmolLM2-135M printed at T=4096 (see tests/e2e/test_engine.py).
    """
    return round(n_ubatch * 4 * (2 * F + 3 * D + 1.5 * T))


def flat_index(n_vectors: int, dim: int) -> int:
    """Bytes of a FAISS flat index: fp32 vectors and a 64-bit id each.

    >>> flat_index(100_000, 384) // MIB
    147
    """
    return n_vectors * (dim * 4 + 8)
