"""Bytes of a model's weights in every usual format, tensor by tensor where the format mixes types.
Knows counts, no files.

GGUF mixtures follow llama.cpp (src/llama-quant.cpp); the others are the formats' own constants.
"""

from dataclasses import dataclass

from onecard.memory.architectures.gguf import BLOCKS
from onecard.memory.architectures.lm import LM

PLAIN = {"fp32": 4.0, "f32": 4.0, "bf16": 2.0, "fp16": 2.0, "f16": 2.0}
# bytes a weight of a linear layer; embeddings, norms and (where it says so) the head stay in 16
# bits
LINEAR = {
    "int8": 1.0 + 4 / 4096,  # LLM.int8: one fp32 scale a row (about 4096 wide)
    "fp8": 1.0 + 4 / 128**2,  # one fp32 scale a block of 128 x 128
    "nf4": 0.5 + 4 / 64,  # QLoRA (Dettmers 2023): one fp32 scale for 64 weights
    "nf4-dq": 0.5
    + 1 / 64
    + 4 / (64 * 256),  # the scales themselves in 8 bits, with one fp32 for 256 of them
    "int4": 0.5 + 2 / 128 + 0.5 / 128,
    "gptq-int4": 0.5 + 2 / 128 + 0.5 / 128,  # groups of 128: fp16 scale, 4-bit zero point
    "gptq-int4-32g": 0.5 + 2 / 32 + 0.5 / 32,
    "gptq-int8": 1.0 + 2 / 128 + 1 / 128,
    "awq-int4": 0.5 + 2 / 128 + 0.5 / 128,
    "awq-int4-32g": 0.5 + 2 / 32 + 0.5 / 32,
}
MIXTURES = {  # GGUF name -> (most matrices, attn_v and some ffn_down, output head)
    "q2_k": ("q2_k", "q4_k", "q6_k"),
    "q3_k_s": ("q3_k", "q3_k", "q6_k"),
    "q3_k_m": ("q3_k", "q5_k", "q6_k"),
    "q3_k_l": ("q3_k", "q5_k", "q6_k"),
    "q4_0": ("q4_0", "q4_0", "q6_k"),
    "q4_1": ("q4_1", "q4_1", "q6_k"),
    "q4_k_s": ("q4_k", "q5_k", "q6_k"),
    "q4_k_m": ("q4_k", "q6_k", "q6_k"),
    "q5_0": ("q5_0", "q5_0", "q6_k"),
    "q5_k_s": ("q5_k", "q5_k", "q6_k"),
    "q5_k_m": ("q5_k", "q6_k", "q6_k"),
    "q6_k": ("q6_k", "q6_k", "q6_k"),
    "q8_0": ("q8_0", "q8_0", "q8_0"),
    "iq4_xs": ("iq4_xs", "iq4_xs", "q6_k"),
    "iq4_nl": ("iq4_nl", "iq4_nl", "q6_k"),
    "f16": ("f16", "f16", "f16"),
    "bf16": ("bf16", "bf16", "bf16"),
    "f32": ("f32", "f32", "f32"),
}
GGUF_ONLY = frozenset(MIXTURES) - frozenset(PLAIN)
NARROW = {
    "q2_k": "q4_0",
    "q3_k": "q4_0",
    "q4_k": "q5_0",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
    "iq4_xs": "iq4_nl",
}
"""What a row takes whose width is no multiple of 256."""
_SIZES = {name: (values, size) for name, values, size in BLOCKS.values()}


@dataclass(frozen=True)
class Weights:
    """Bytes, apart where they may lie apart."""

    linears: int
    embedding: int
    """The table of the input words: llama.cpp leaves it in the computer's memory."""
    head: int
    """0 when it is the table itself."""
    small: int

    @property
    def total(self) -> int:
        return self.linears + self.embedding + self.head + self.small


def bits(format: str) -> float:
    """Bits of an EXL2 name, as exl2-4.65; 0 for another format."""
    return float(format.removeprefix("exl2-").rstrip("b")) if format.startswith("exl2-") else 0.0


def known(format: str) -> bool:
    return format in PLAIN or format in LINEAR or format in MIXTURES or format.startswith("exl2-")


def hf(lm: LM, format: str, rest_bytes: float = 2.0) -> Weights:
    """As transformers, bitsandbytes, GPTQ, AWQ and EXL2 hold them; `rest_bytes` a weight for what
    is not quantized.

    >>> from onecard.memory.architectures.lm import find
    >>> round(hf(find("llama-3.1-8b"), "nf4").total / 2**30, 2)
    5.61
    """
    if format in PLAIN:
        each = PLAIN[format]
        return Weights(
            round(lm.linear_params * each),
            round(lm.embedding_params * each),
            0 if lm.tied else round(lm.embedding_params * each),
            round(lm.small_params * each),
        )
    each = bits(format) / 8 or LINEAR[format]
    head = 0.0
    if not lm.tied or format == "fp8":
        # fp8 checkpoints hold the head apart; EXL2 keeps it in 6 bits
        head = lm.embedding_params * (6 / 8 if bits(format) else rest_bytes)
    return Weights(
        round(lm.linear_params * each),
        round(lm.embedding_params * rest_bytes),
        round(head),
        round(lm.small_params * rest_bytes),
    )


def gguf(lm: LM, quant: str) -> Weights:
    """As a GGUF file holds them: every tensor with the type that llama.cpp's mixture gives it.

    >>> from onecard.memory.architectures.lm import find
    >>> round(gguf(find("llama-3.1-8b"), "q4_k_m").total / 1e9, 2)
    4.91
    """
    usual, _, output = MIXTURES[quant]
    total = 0
    for layer in range(lm.L):
        value, down, out = _finer(lm, quant, layer)
        total += sum(
            _matrix(*matrix)
            for matrix in [*_attention(lm, usual, value, out), *_mlp(lm, usual, down, layer)]
        )
    table = _matrix(lm.V, lm.D, output if lm.tied else usual)
    return Weights(total, table, 0 if lm.tied else _matrix(lm.V, lm.D, output), lm.small_params * 4)


def _finer(lm: LM, quant: str, layer: int) -> tuple[str, str, str]:
    """Types of attn_v, ffn_down and attn_output in one layer (llama_tensor_get_type; IQ types with
    an importance matrix, as they are published)."""
    usual, fine, _ = MIXTURES[quant]
    more = (
        layer < lm.L // 8 or layer >= 7 * lm.L // 8 or (layer - lm.L // 8) % 3 == 2
    )  # use_more_bits
    first, few_heads = layer < lm.L // 8, lm.H >= 4 * lm.G
    value = fine if more else usual
    down, out = value, usual
    if quant == "q4_k_s":
        value, down = "q5_k" if layer < 4 else usual, "q5_k" if first else usual
    elif quant == "iq4_xs":
        value, down = "q5_k" if few_heads else usual, usual
    elif quant in ("q4_0", "q5_0"):
        value, down = usual, {"q4_0": "q4_1", "q5_0": "q5_1"}[quant] if first else usual
    elif quant == "q2_k":
        value, down, out = "q4_k" if few_heads else "q3_k", "q3_k", "q3_k"
    elif quant == "q3_k_m":
        value, out = "q5_k" if layer < 2 else "q4_k", "q4_k"
        down = "q5_k" if layer < lm.L // 16 else "q4_k"
    elif quant == "q3_k_l":
        value = down = out = "q5_k"
    return "q8_0" if lm.experts == 8 and quant not in ("f16", "bf16", "f32") else value, down, out


def _attention(lm: LM, usual: str, value: str, out: str) -> list[tuple[int, int, str]]:
    if lm.kv_rank:
        return (
            [(lm.attention_params, 1, usual)]
            if lm.D % 256
            else [(lm.attention_params // lm.D, lm.D, usual)]
        )
    wide = lm.H * lm.K
    return [
        (wide, lm.D, usual),
        (lm.G * lm.K, lm.D, usual),
        (lm.G * lm.K, lm.D, value),
        (lm.D, wide, out),
    ]


def _mlp(lm: LM, usual: str, down: str, layer: int) -> list[tuple[int, int, str]]:
    into = 2 if lm.gated else 1
    if lm.experts and layer >= lm.dense_layers:
        rows = lm.experts * lm.expert_ffn + lm.shared_ffn
        return [
            (rows * into, lm.D, usual),
            (lm.D * (lm.experts + bool(lm.shared_ffn)), lm.expert_ffn, down),
            (lm.experts, lm.D, "f32"),
        ]
    return [(lm.F * into, lm.D, usual), (lm.D, lm.F, down)]


def _matrix(rows: int, width: int, kind: str) -> int:
    if width % 256 and kind in NARROW:
        kind = NARROW[kind]
    values, size = _SIZES[kind]
    return rows * width * size // values
