"""Memory of a language model that answers: weights, KV cache and buffers in llama.cpp, transformers
and vLLM. Pure arithmetic.

Letters: V vocabulary, D width, F feed-forward, L layers, H heads, G kv heads, K head width, B
sequences, T tokens.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from onecard.memory import formats
from onecard.memory.architectures.layers import LM, FileWeights, Layer
from onecard.memory.plan import Term
from onecard.units import MIB

KV_BYTES = {
    "fp32": 4.0,
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0 + 8 / 128,
    "int4": 0.5 + 8 / 128,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
"""Bytes a value: ggml blocks of 32 values with fp16 scales; int8 with two fp32 a head of 128."""
GATHER_BYTES = 33 * MIB
"""cuBLAS workspace of transformers' process on Hopper (32 MiB) and small change, seen as the
constant of Qwen3's published table; 8 MiB on older cards."""
LLAMACPP = ("embedded", "llama.cpp")
"""Engines that read GGUF files only: onecard's own llama.cpp, and other programs of it."""
Build = Literal["embedded", "server", "before", "fa-off"]
"""llama.cpp's compute buffer by what reserves it. embedded and server (builds from 2026-06, pull
request 23861 of llama.cpp): one row of logits a sequence; before, and in programs of their own:
logits of a whole micro-batch; without flash attention, score matrices too."""
ONE_ROW_BUILD = 9400
"""First build whose server reserves one row of logits a sequence: 9272 of 2026-05-22 does not
(issue 23527), the change came in on 2026-06-01."""


def build_of(number: int, flash_attn: bool = True) -> Build:
    """The kind of buffer by a build's number; 0, an unknown one, means the larger."""
    if not flash_attn:
        return "fa-off"
    return "server" if number >= ONE_ROW_BUILD else "before"


def cells(
    layer: Layer, T: int, n_ubatch: int = 512, n_parallel: int = 1, whole_window: bool = False
) -> int:
    """Cells of llama.cpp's cache for one layer of a cache of T tokens over all sequences: a
    windowed layer keeps the window of each sequence and one micro-batch, in steps of 256.

    >>> from onecard.memory.architectures.lm import find
    >>> [cells(layer, 65536, n_parallel=4) for layer in find("gpt-oss-120b").layers[:2]]
    [1024, 65536]
    """
    if not layer.kv_values:
        return 0
    if not layer.window or whole_window:
        return T
    return min(-(-min(T, layer.window * n_parallel + n_ubatch) // 256) * 256, T)


def kv_layer_bytes(lm: LM, T: int, k_type: str = "f16", v_type: str = "", **how: Any) -> list[int]:
    """Bytes of llama.cpp's KV cache, one a layer; `how` as for `cells`."""
    k, v = KV_BYTES[k_type], KV_BYTES[v_type or k_type]
    return [
        round(cells(layer, T, **how) * (layer.k_values * k + layer.v_values * v))
        for layer in lm.layers
    ]


def kv_bytes(lm: LM, T: int, k_type: str = "f16", v_type: str = "", **how: Any) -> int:
    """Bytes of llama.cpp's KV cache, to the byte; the recurrent state of a hybrid model is not in
    it.

    >>> from onecard.memory.architectures.lm import find
    >>> kv_bytes(find("llama-3.1-8b"), 8192) // 2**20
    1024
    """
    return sum(kv_layer_bytes(lm, T, k_type, v_type, **how))


def llamacpp_compute(
    lm: LM,
    T: int,
    n_ubatch: int = 512,
    build: Build = "embedded",
    device: str = "cuda",
) -> tuple[int, str]:
    """Bytes of llama.cpp's compute buffer, and the arithmetic in words.

    embedded and server: measured here to 5 % on a grid of models, contexts and micro-batches (CPU;
    tests/e2e/test_engine_buffers.py): three feed-forward rows, five of the model's width and an
    fp16 mask for each length of cache. On CUDA published logs show two to four of the model's
    width: four are taken.
    before and fa-off: published logs of Llama, Llama-2, Phi-2, Qwen2.5, Qwen3, GLM and Gemma
    (tests/validation). Before, the mask was made in fp32 and cast: 6 bytes a cell.
    """
    n = min(n_ubatch, T)
    output = 4 * n * (lm.V + lm.D)
    if build == "fa-off":
        scores = 4 * n * (1 + 4 * lm.D + T * (1 + lm.H))
        return (
            max(scores, output),
            f"{n} tokens: max of score matrices ({lm.H} heads x {T}) and logits ({lm.V} words), "
            "fp32",
        )
    residuals = 5 if device == "cpu" else 4
    values = max(_widest(lm, layer, n, residuals) for layer, _ in lm.groups)
    each = 6 if build == "before" else 2
    caches = {
        (layer.window > 0, cells(layer, T, n_ubatch=n_ubatch))
        for layer, _ in lm.groups
        if layer.kv_values
    }
    mask_cells = sum(size for _, size in caches)
    mask = each * n * mask_cells
    total = 4 * values + mask
    if build == "before" and output > total:
        return output, f"logits of {n} tokens x ({lm.V} words + {lm.D}), fp32"
    return total, f"{n} tokens x {values // n} values fp32, mask of {mask_cells} cells x {each} B"


def _widest(lm: LM, layer: Layer, n: int, residuals: int) -> int:
    """Values that a layer's graph holds for n tokens at its widest part: the feed-forward, what
    its experts give before they are summed, attention, or the recurrent mixer and its state."""
    q, kv = layer.H * layer.K, layer.kv_values
    attention = 2 * q + kv + 3 * lm.D
    if layer.latent:  # queries, their sums and what these become, all as wide as the rank
        attention = layer.H * (2 * layer.latent + layer.k_values) + 3 * lm.D
    # what the experts give, twice while it is weighed: up to 20 % more where it lies in fragments
    outputs = 2 * layer.experts_used * lm.D + 3 * lm.D if layer.experts_used else 0
    mixer = n * layer.mixer_width + (2 * layer.state_values if layer.mixer_width else 0)
    return max(n * max(3 * layer.F + residuals * lm.D, outputs, attention), mixer)


@dataclass(frozen=True)
class Placement:
    """Which of a model's layers lie on the card."""

    n_gpu_layers: int = -1
    """As llama.cpp counts them: the last ones, the output head is one more; -1 for all."""
    n_cpu_moe: int = 0
    """First layers whose experts stay in the computer's memory."""

    def on_card(self, L: int) -> int:
        """How many of L layers, and the head, lie on the card."""
        return L + 1 if self.n_gpu_layers < 0 else min(self.n_gpu_layers, L + 1)

    def first(self, L: int) -> int:
        """The first layer on the card; L where the head alone is, L + 1 where nothing is."""
        return L + 1 - self.on_card(L)


WHOLE = Placement()


def weights_on_card(lm: LM, quant: str, place: Placement) -> int:
    """Bytes of the weights that lie on the card; the tables of words stay in the computer's memory,
    except where the table is the head."""
    weights = formats.gguf(lm, quant)
    first = place.first(lm.L)
    blocks = sum(
        size - (weights.experts[i] if i < place.n_cpu_moe else 0)
        for i, size in enumerate(weights.layers)
        if i >= first
    )
    if first > lm.L:
        return blocks
    head = weights.head or weights.embedding - lookup_bytes(lm, weights)
    return blocks + head + weights.rest


def lookup_bytes(lm: LM, weights: FileWeights) -> int:
    """Of the tables' bytes, those of the second one (Gemma 3n, 4), which never lies on a card."""
    if not lm.lookup_params:
        return 0
    return round(weights.embedding * lm.lookup_params / (lm.lookup_params + lm.embedding_params))


def llamacpp(
    lm: LM,
    quant: str,
    T: int,
    *,
    k_type: str = "f16",
    v_type: str = "",
    n_ubatch: int = 512,
    n_parallel: int = 1,
    place: Placement = WHOLE,
    whole_window: bool = False,
    build: Build = "embedded",
    device: str = "cuda",
) -> list[Term]:
    """What lies on the card (or, on a CPU, in its memory), layer by layer.

    `quant`: a mixture; empty for the file's own types.
    """
    how = {"n_ubatch": n_ubatch, "n_parallel": n_parallel, "whole_window": whole_window}
    layers = kv_layer_bytes(lm, T, k_type, v_type, **how)
    first = place.first(lm.L) if device == "cuda" else 0
    share = "all layers"
    if device == "cuda":
        weights = weights_on_card(lm, quant, place)
        if first:
            share = f"{lm.L + 1 - first} of {lm.L + 1} layers"
        if place.n_cpu_moe > first:
            share += f", experts of {place.n_cpu_moe - first} layers in the computer's memory"
    else:
        weights = formats.gguf(lm, quant).total
    read = ": read from the file's header" if lm.file else ""
    compute, why = llamacpp_compute(lm, T, n_ubatch, build, device)
    out = [
        Term("weights", weights, f"{quant or lm.stored}, {share}{read}"),
        Term("KV cache", sum(layers[first:]), cache_reason(lm.layers[first:], T, k_type, how)),
    ]
    if device == "cpu" and lm.file and lm.file.repacked:
        out.append(
            Term(
                "repacked weights",
                lm.file.repacked,
                "matrices laid out anew for this CPU beside the file's",
            )
        )
    states = [layer.state_values for layer in lm.layers[first:] if layer.state_values]
    if states:
        out.append(
            Term(
                "recurrent state",
                4 * sum(states) * n_parallel,
                f"{len(states)} layers x {max(states)} values fp32 x {n_parallel} sequences",
            )
        )
    return [*out, Term("compute", compute, why)]


def cache_reason(layers: Sequence[Layer], T: int, k_type: str, how: dict[str, Any]) -> str:
    """The cache's arithmetic in words: layers of equal cells and width together."""
    groups = Counter((cells(layer, T, **how), layer.kv_values) for layer in layers)
    parts = [
        f"{count} layers x {size} cells x {values} values"
        for (size, values), count in sorted(groups.items(), reverse=True)
        if values
    ]
    return f"({' + '.join(parts) or 'no layer keeps keys'}) x {k_type}"


def checkpoint_bytes(lm: LM, format: str) -> int:
    """Of the weights in a format of transformers: what the checkpoint's own index says where it
    lies in this format."""
    if lm.stored_bytes and format == (lm.stored or "bf16"):
        return lm.stored_bytes
    return formats.hf(lm, format).total


def _hf_values(layer: Layer, tokens: int) -> int:
    """Values that transformers caches in a layer: a window no longer than itself; latent attention
    (DeepSeek) as whole keys and values of all heads."""
    if layer.kv_values and not layer.v_values:
        values = layer.H * layer.K + sum(matrix.columns for matrix in layer.role("o"))
    else:
        values = layer.kv_values
    return values * min(tokens, layer.window or tokens)


def transformers(
    lm: LM,
    format: str,
    prompt: int,
    generated: int,
    *,
    B: int = 1,
    kv_type: str = "f16",
    old_cache: bool = False,
    all_logits: bool = False,
) -> list[Term]:
    """transformers' generate at the end of the answer, when the cache is longest.

    `old_cache`: tuples of before 4.36 and of models with code of their own: each new token copies
    the cache, so that two live at once.
    `all_logits`: of the whole prompt, in 16 bits and in fp32 (before 4.45).
    AWQ's kernels hold a feed-forward row for each token of the prompt; others read it in less than
    the cache still grows by.
    """
    weights = checkpoint_bytes(lm, format)
    tokens = prompt + generated
    copies = 2 if old_cache and KV_BYTES[kv_type] >= 2 else 1
    values = sum(_hf_values(layer, tokens) * n for layer, n in lm.groups)
    cache = round(B * values * KV_BYTES[kv_type] * copies) + 4 * B * lm.state_values
    reading = 2 * B * prompt * lm.F if format.startswith("awq") else 0
    reason = f"{copies} x {B} x {tokens} tokens x {values // max(tokens, 1)} values x {kv_type}"
    why = f"AWQ reads {B} x {prompt} tokens x {lm.F} in 16 bits"
    if format.startswith("exl2"):
        reading, why = exl2_scratch(lm), f"ExLlama's scratch for {EXL2_TOKENS} tokens"
    if all_logits and (logits := 6 * B * prompt * lm.V) > reading:
        reading, why = logits, f"logits of {B} x {prompt} tokens x {lm.V} words in fp32 and 16 bits"
    return [
        Term("weights", weights, f"{lm.n_params / 1e9:.2f}e9 in {format}"),
        Term("KV cache", cache, reason),
        *([Term("activations", reading, why)] if reading else []),
        Term("workspace", GATHER_BYTES, "cuBLAS and buffers of the last token"),
    ]


EXL2_TOKENS = 2048
"""ExLlamaV2's max_input_len: prompts are read in pieces of so many tokens."""


def exl2_scratch(lm: LM) -> int:
    """What ExLlamaV2 takes when it loads a model: the largest matrix opened to 16 bits, and rows of
    one piece of a prompt: two of the feed-forward, four of the model's width."""
    largest = max(m.rows * m.columns for layer, _ in lm.groups for m in layer.matrices)
    return 2 * largest + 2 * EXL2_TOKENS * (2 * lm.F + 4 * lm.D)


def vllm(
    lm: LM,
    format: str,
    T: int,
    total_bytes: int,
    *,
    utilization: float = 0.9,
    graphs: bool = True,
    kv_type: str = "f16",
) -> list[Term]:
    """vLLM takes its share of the card whatever the model needs: weights, CUDA graphs and a step of
    logits, and cache with all the rest."""
    weights = checkpoint_bytes(lm, format)
    # its profiling run: 8192 tokens in one batch, logits of 256 sequences
    step = 8192 * 2 * (2 * lm.F + 4 * lm.D) + 256 * lm.V * 4
    # CUDA graphs of 35 batch sizes: 0.5 to 1 GiB in its logs for 32 to 40 layers
    drawn = 20 * lm.L * MIB if graphs else 0
    room = round(total_bytes * utilization) - weights - step - drawn
    each = KV_BYTES[kv_type] * lm.kv_values or 1
    return [
        Term("weights", weights, f"{lm.n_params / 1e9:.2f}e9 in {format}"),
        Term("activations", step, "the profiling run of 8192 tokens"),
        Term("CUDA graphs", drawn, f"{lm.L} layers"),
        Term(
            "KV cache",
            max(room, round(T * each)),
            f"the rest of {utilization:.0%} of the card: {max(room, 0) // max(round(each), 1)} "
            f"tokens; {T} are needed at least",
        ),
    ]
