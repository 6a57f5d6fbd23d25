"""Memory of a language model that answers: weights, KV cache and buffers in llama.cpp, transformers
and vLLM. Pure arithmetic.

Letters: V vocabulary, D width, F feed-forward, L layers, H heads, G kv heads, K head width, B
sequences, T tokens.
"""

from typing import Literal

from onecard.memory import formats
from onecard.memory.architectures.lm import LM
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
Build = Literal["now", "2025", "fa-off"]
"""llama.cpp's buffers by age: `now` reserves one row of logits; before, a whole micro-batch;
without flash attention, score matrices too."""


def kv_layers(
    lm: LM, T: int, n_ubatch: int = 512, n_parallel: int = 1, whole_window: bool = False
) -> list[tuple[int, int]]:
    """[(layers, cells)] of llama.cpp's cache: windowed layers keep the window and one micro-batch,
    in steps of 256 cells.

    >>> from onecard.memory.architectures.lm import find
    >>> kv_layers(find("gpt-oss-120b"), 65536, n_parallel=4)
    [(18, 65536), (18, 1024)]
    """
    whole, windowed = lm.layer_kinds()
    if not windowed:
        return [(whole, T)]
    cells = -(-min(T, lm.window * n_parallel + n_ubatch) // 256) * 256
    return [(whole, T), (windowed, T if whole_window else min(cells, T))]


def kv_bytes(
    lm: LM,
    T: int,
    k_type: str = "f16",
    v_type: str = "",
    *,
    B: int = 1,
    n_ubatch: int = 512,
    n_parallel: int = 1,
    whole_window: bool = False,
) -> int:
    """Bytes of llama.cpp's KV cache, to the byte; the recurrent state of a hybrid model is not in
    it.

    >>> from onecard.memory.architectures.lm import find
    >>> kv_bytes(find("llama-3.1-8b"), 8192) // 2**20
    1024
    """
    k, v = KV_BYTES[k_type], KV_BYTES[v_type or k_type]
    each = (
        lm.kv_values * k if lm.kv_rank else lm.G * lm.K * (k + v)
    )  # MLA keeps one shared latent, no values apart
    return round(
        B
        * sum(
            layers * cells * each
            for layers, cells in kv_layers(lm, T, n_ubatch, n_parallel, whole_window)
        )
    )


def llamacpp_compute(
    lm: LM, T: int, n_ubatch: int = 512, build: Build = "now", device: str = "cuda"
) -> tuple[int, str]:
    """Bytes of llama.cpp's compute buffer, and the arithmetic in words.

    now: measured here to 0.1 % on a grid of widths, heads, contexts and micro-batches (CPU;
    tests/e2e/test_plan.py): three feed-forward rows, five
    of the model's width and the fp16 mask. On CUDA published logs show two to four of the model's
    width: three are taken.
    2025 and fa-off: published logs of Llama, Llama-2, Phi-2, Qwen2.5 and Gemma (tests/validation).
    """
    output = 4 * n_ubatch * (lm.V + lm.D)
    if build == "fa-off":
        scores = 4 * n_ubatch * (1 + 4 * lm.D + T * (1 + lm.H))
        return (
            max(scores, output),
            f"{n_ubatch} tokens: max of score matrices ({lm.H} heads x {T}) and logits ({lm.V} "
            "words), fp32",
        )
    if build == "2025":
        return output, f"logits of {n_ubatch} tokens x ({lm.V} words + {lm.D}), fp32"
    F = lm.experts_used * lm.expert_ffn + lm.shared_ffn if lm.experts else lm.F
    wide = 5 if device == "cpu" else 3
    return n_ubatch * (
        4 * (3 * F + wide * lm.D) + 2 * T
    ), f"{n_ubatch} tokens x (3 x {F} + {wide} x {lm.D}) fp32, mask of {T} fp16"


def llamacpp(
    lm: LM,
    quant: str,
    T: int,
    *,
    k_type: str = "f16",
    v_type: str = "",
    n_ubatch: int = 512,
    n_parallel: int = 1,
    n_gpu_layers: int = -1,
    experts_on_cpu: bool = False,
    whole_window: bool = False,
    build: Build = "now",
    device: str = "cuda",
    exact_bytes: int = 0,
) -> list[Term]:
    """What lies on the card (or, on a CPU, in its memory). `exact_bytes` replaces the mixture's sum
    where a file's header was read.

    Layers count as equal; the output head is one more, as llama.cpp counts them, and goes first
    today (26 of 49 layers: 25 and the head; once it went last).
    The input table stays in the computer's memory.
    """
    weights = formats.gguf(lm, quant)
    head = weights.head or weights.embedding
    total = exact_bytes or weights.total
    if device == "cuda" and not lm.tied:
        total -= weights.embedding
    layers = lm.L + 1 if n_gpu_layers < 0 else min(n_gpu_layers, lm.L + 1)
    body = total - head
    if experts_on_cpu and lm.experts:
        experts = (lm.L - lm.dense_layers) * 3 * lm.D * lm.experts * lm.expert_ffn
        body -= round(experts * weights.linears / lm.linear_params)
    blocks, head_from = min(layers, lm.L), lm.L
    if build == "now":
        blocks, head_from = max(layers - 1, 0), 0
    on_card = round(body * blocks / lm.L) + (head if layers > head_from else 0)
    share = f"{layers} of {lm.L + 1} layers" if layers <= lm.L else "all layers"
    cache = kv_bytes(
        lm, T, k_type, v_type, n_ubatch=n_ubatch, n_parallel=n_parallel, whole_window=whole_window
    )
    parts = " + ".join(
        f"{n} layers x {cells} cells"
        for n, cells in kv_layers(lm, T, n_ubatch, n_parallel, whole_window)
    )
    compute, why = llamacpp_compute(lm, T, n_ubatch, build, device)
    out = [
        Term(
            "weights",
            on_card,
            f"{quant}, {share}"
            + (", experts in the computer's memory" if experts_on_cpu else "")
            + (": read from the file's header" if exact_bytes else ""),
        ),
        Term(
            "KV cache",
            round(cache * blocks / lm.L),
            f"({parts}) x {lm.kv_values} values x {k_type}",
        ),
    ]
    if device == "cpu" and lm.repacked_bytes:
        out.append(
            Term(
                "repacked weights",
                lm.repacked_bytes,
                "matrices laid out anew for this CPU beside the file's",
            )
        )
    if lm.state_bytes:
        out.append(
            Term(
                "recurrent state",
                lm.state_bytes * n_parallel,
                f"{lm.L - lm.layer_kinds()[0]} layers without attention",
            )
        )
    return [*out, Term("compute", compute, why)]


def transformers(
    lm: LM,
    format: str,
    prompt: int,
    generated: int,
    *,
    B: int = 1,
    kv_type: str = "f16",
    old_cache: bool = False,
) -> list[Term]:
    """transformers' generate at the end of the answer, when the cache is longest.

    `old_cache`: tuples of before 4.36 and of models with code of their own: each new token copies
    the cache, so that two live at once.
    AWQ's kernels hold a feed-forward row for each token of the prompt; others read it in less than
    the cache still grows by.
    """
    weights = formats.hf(lm, format).total
    each = KV_BYTES[kv_type] * lm.kv_values * (lm.attention_layers or lm.L)
    copies = 2 if old_cache and KV_BYTES[kv_type] >= 2 else 1
    cache = round(B * (prompt + generated) * each * copies)
    reading = 2 * B * prompt * lm.F if format.startswith("awq") else 0
    reason = (
        f"{copies} x {B} x {prompt + generated} tokens x {lm.L} layers x {lm.kv_values} values x "
        f"{kv_type}"
    )
    return [
        Term("weights", weights, f"{lm.n_params / 1e9:.2f}e9 in {format}"),
        Term("KV cache", cache, reason),
        *(
            [Term("activations", reading, f"AWQ reads {B} x {prompt} tokens x {lm.F} in 16 bits")]
            if reading
            else []
        ),
        Term("workspace", GATHER_BYTES, "cuBLAS and buffers of the last token"),
    ]


def vllm(
    lm: LM, format: str, T: int, total_bytes: int, *, utilization: float = 0.9, graphs: bool = True
) -> list[Term]:
    """vLLM takes its share of the card whatever the model needs: weights, CUDA graphs and a step of
    logits, and cache with all the rest."""
    weights = formats.hf(lm, format).total
    # its profiling run: 8192 tokens in one batch, logits of 256 sequences
    step = 8192 * 2 * (2 * lm.F + 4 * lm.D) + 256 * lm.V * 4
    # CUDA graphs of 35 batch sizes: 0.5 to 1 GiB in its logs for 32 to 40 layers
    drawn = 20 * lm.L * MIB if graphs else 0
    room = round(total_bytes * utilization) - weights - step - drawn
    each = KV_BYTES["f16"] * lm.kv_values * (lm.attention_layers or lm.L)
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
