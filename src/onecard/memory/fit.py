"""Makes an inference plan fit: which quantization a card holds, and how many layers go on it. Pure arithmetic over facts."""

from dataclasses import dataclass

from onecard.memory import terms
from onecard.memory.card import Card
from onecard.memory.gguf import Header
from onecard.memory.plan import Term

BEST_FIRST = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_l", "q2_k")
"""Q8_0 down to Q2_K, by perplexity loss on Llama-3.1-8B (llama.cpp, tools/quantize/README.md)."""
WANTED = "q4_k_m"
"""Below this the loss is felt (same source): it is kept, with layers on the CPU, before a smaller one is taken."""


@dataclass(frozen=True)
class Shape:
    """The counts of a language model that memory depends on."""

    n_params: float
    layers: int
    width: int
    ffn: int
    kv_heads: int
    head_width: int
    weight_bytes: int = 0
    """Exact where a file's header was read; 0 means: by the quantization."""
    max_tokens: int = 0

    @classmethod
    def from_header(cls, header: Header) -> "Shape":
        heads = header.number("attention.head_count", 1)
        width = header.number("embedding_length")
        n_params = 0
        for tensor in header.tensors:
            count = 1
            for extent in tensor.shape:
                count *= extent
            n_params += count
        return cls(n_params, header.number("block_count"), width, header.number("feed_forward_length"),
                   header.number("attention.head_count_kv", heads), header.number("attention.key_length", width // max(heads, 1)),
                   header.data_bytes, header.number("context_length"))

    def weights(self, quant: str) -> int:
        return self.weight_bytes or terms.quantized_weights(self.n_params, quant)


def inference_terms(shape: Shape, quant: str, n_ctx: int, kv_type: str, n_ubatch: int) -> list[Term]:
    """Weights, KV cache and compute buffer of one llama.cpp context."""
    kv = terms.kv_cache(n_ctx, shape.layers, shape.kv_heads, shape.head_width, terms.KV_BYTES[kv_type])
    how = "read from the file's header" if shape.weight_bytes else f"{shape.n_params / 1e9:.2f}e9 x {terms.BITS_PER_WEIGHT[quant]:.2f} bits"
    return [
        Term("weights", shape.weights(quant), f"{quant}: {how}"),
        Term("KV cache", kv, f"2 x {shape.layers} layers x {n_ctx} tokens x {shape.kv_heads} heads x {shape.head_width} x {kv_type}"),
        Term("compute", terms.llama_compute(n_ctx, shape.width, shape.ffn, n_ubatch), f"one micro-batch of {n_ubatch} tokens"),
    ]


def layers_on_card(shape: Shape, quant: str, n_ctx: int, kv_type: str, n_ubatch: int, card: Card) -> int:
    """How many of the layers (plus one for the output head) a card holds beside context and buffers; 0 for none.

    Layers are taken as equal in size; the output head as one layer more, as llama.cpp counts them.
    """
    weights, kv, compute = (term.bytes for term in inference_terms(shape, quant, n_ctx, kv_type, n_ubatch))
    room = card.free_bytes - terms.CUDA_CONTEXT_BYTES - compute
    per_layer = (weights + kv) / (shape.layers + 1)
    return max(0, min(shape.layers + 1, int(room / per_layer)))


def best_quant(shape: Shape, n_ctx: int, kv_type: str, n_ubatch: int, card: Card, have: tuple[str, ...]) -> str:
    """The best quantization of `have` that the card holds whole; the usual one when none does.

    On a CPU speed is bound by the bytes read per token, so the usual one is taken there too.
    """
    known = [quant for quant in BEST_FIRST if quant in have] or list(have[:1])
    usual = WANTED if WANTED in known else known[-1]
    if card.device == "cpu":
        return usual
    for quant in known[: known.index(usual) + 1]:
        if layers_on_card(shape, quant, n_ctx, kv_type, n_ubatch, card) > shape.layers:
            return quant
    return usual
