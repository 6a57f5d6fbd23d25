"""Bytes of a model's weights in every usual format, tensor by tensor where the format mixes types.
Knows counts, no files.

GGUF mixtures follow llama.cpp (src/llama-quant.cpp); the others are the formats' own constants.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from onecard.errors import SettingsError
from onecard.memory.architectures.gguf import BLOCKS
from onecard.memory.architectures.layers import LM, FileWeights, Layer, Matrix

PLAIN = {"fp32": 4.0, "f32": 4.0, "bf16": 2.0, "fp16": 2.0, "f16": 2.0}
# bytes a weight of a linear layer; embeddings, norms and (where it says so) the head stay in 16
# bits
LINEAR = {
    "int8": 1.0 + 4 / 4096,  # LLM.int8: one fp32 scale a row (about 4096 wide)
    "fp8": 1.0 + 4 / 128**2,  # one fp32 scale a block of 128 x 128
    "mxfp4": 0.5 + 1 / 32,  # OCP microscaling: one 8-bit exponent for 32 weights
    "nvfp4": 0.5 + 1 / 16,  # one fp8 scale for 16 weights
    "quanto-int8": 1.0 + 2 / 4096,  # optimum-quanto: one 16-bit scale a row
    "quanto-int4": 0.5 + 4 / 128,  # and for 4 bits a 16-bit scale and shift for 128 weights
    "fp8-layerwise": 1.0,  # diffusers' layerwise casting: stored in fp8 without scales
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
LINEAR_ONLY = ("nf4", "nf4-dq", "int8")
"""bitsandbytes' formats: transformers 5 replaces nn.Linear alone (integrations/bitsandbytes.py);
experts are one parameter a layer there, which stays in 16 bits."""
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
    "q5_1": ("q5_1", "q5_1", "q6_k"),
    "q2_k_s": ("q2_k", "q4_k", "q6_k"),
    "iq1_s": ("iq1_s", "q2_k", "q5_k"),
    "iq1_m": ("iq1_m", "q2_k", "q5_k"),
    "iq2_xxs": ("iq2_xxs", "q2_k", "q5_k"),
    "iq2_xs": ("iq2_xs", "q2_k", "q5_k"),
    "iq2_s": ("iq2_xs", "iq3_s", "q5_k"),
    "iq2_m": ("iq2_s", "iq3_s", "q5_k"),
    "iq3_xxs": ("iq3_xxs", "iq3_s", "q5_k"),
    "iq3_xs": ("iq3_s", "iq3_s", "q6_k"),
    "iq3_s": ("iq3_s", "iq3_s", "q6_k"),
    "iq3_m": ("iq3_s", "q4_k", "q6_k"),
    "tq1_0": ("tq1_0", "tq1_0", "q6_k"),
    "tq2_0": ("tq2_0", "tq2_0", "q6_k"),
    "mxfp4": ("q8_0", "q8_0", "q8_0"),  # MXFP4_MOE: experts in mxfp4, all else in 8 bits
    "f16": ("f16", "f16", "f16"),
    "bf16": ("bf16", "bf16", "bf16"),
    "f32": ("f32", "f32", "f32"),
}
_SIZES = {name: (values, size) for name, values, size in BLOCKS.values()}
GGUF_ONLY = frozenset(MIXTURES) - frozenset(PLAIN)
NARROW = {
    "q2_k": "q4_0",
    "q3_k": "q4_0",
    "q4_k": "q5_0",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
    "iq4_xs": "iq4_nl",
    "tq1_0": "q4_0",
    "tq2_0": "q4_0",
    **dict.fromkeys(["iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"], "iq4_nl"),
}
"""What a row takes whose width is no multiple of 256."""


@dataclass(frozen=True)
class Weights:
    """Bytes, apart where they may lie apart."""

    linears: int
    embedding: int
    """The tables of the input words."""
    head: int
    """0 when it is the table itself."""
    small: int

    @property
    def total(self) -> int:
        return self.linears + self.embedding + self.head + self.small


ALIASES = {
    "float32": "fp32",
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "int8-float16": "int8",
    "int8_float16": "int8",
    "8bit": "int8",
    "4bit": "nf4",
    "fp4": "nf4",
    "quanto_int8": "quanto-int8",
    "quanto_int4": "quanto-int4",
    "awq": "awq-int4",
    "gptq": "gptq-int4",
    "fp8_layerwise": "fp8-layerwise",
}
"""Other programs' words for the same formats."""
_EXL = re.compile(r"exl[23]-([1-8](?:\.\d{1,3})?)(?:bpw|b)?")


def bits(format: str) -> float:
    """Bits of an EXL2 or EXL3 name, as exl2-4.65; 0 for another format."""
    match = _EXL.fullmatch(format)
    return float(match[1]) if match else 0.0


def known(format: str) -> bool:
    return format in PLAIN or format in LINEAR or format in MIXTURES or bits(format) > 0


EXL = "exl2-N"
"""Stands in a list of formats for every name that `bits` reads."""


def choose(name: str, takes: Collection[str], whose: str, flag: str = "--quant") -> str:
    """The format by one name for all tasks. Raises SettingsError for one that is not known, or
    that `whose` does not take; `flag`: where it was named."""
    plain = name.strip().lower()
    plain = ALIASES.get(plain, plain)
    if plain in takes or (EXL in takes and bits(plain)):
        return plain
    kind = "is a format that it does not take" if known(plain) else "is no format that is known"
    raise SettingsError(
        f"{whose} cannot be planned in '{name}'",
        why=f"'{name[:40]}' {kind}; it takes: {', '.join(takes)}",
        fix=f"{flag} with one of these",
    )


LOADED = (*PLAIN, *LINEAR)
"""What transformers loads."""
_UNIFORM = {name: usual for name, (usual, _, _) in MIXTURES.items() if name not in PLAIN}
DIFFUSED = (*PLAIN, *(n for n in LINEAR if not n.startswith(("gptq", "awq", "mx"))), *_UNIFORM)
"""What diffusers loads: its own quantizers, and GGUF files of the denoiser."""
TRAINED = (*PLAIN, "fp8", "fp8-layerwise", "int8", "nf4", "nf4-dq", "quanto-int8", "quanto-int4")
"""In which frozen weights lie while adapters are trained."""


def each(format: str) -> float:
    """Bytes a weight of a matrix, where all have one type. Raises KeyError for a format that is
    none: `choose` comes before."""
    if exl := bits(format):
        return exl / 8
    if format in PLAIN or format in LINEAR:
        return PLAIN.get(format) or LINEAR[format]
    values, size = _SIZES[_UNIFORM[format]]
    return size / values


def hf(lm: LM, format: str, rest_bytes: float = 2.0) -> Weights:
    """As transformers, bitsandbytes, GPTQ, AWQ and EXL2 hold them; `rest_bytes` a weight for what
    is not quantized.

    >>> from onecard.memory.architectures.lm import find
    >>> round(hf(find("llama-3.1-8b"), "nf4").total / 2**30, 2)
    5.61
    """
    tables = lm.embedding_params + lm.lookup_params
    if format in PLAIN:
        each = PLAIN[format]
        return Weights(
            round(lm.linear_params * each),
            round(tables * each),
            0 if lm.tied else round(lm.embedding_params * each),
            round(lm.small_params * each),
        )
    share = bits(format) / 8 or LINEAR[format]
    linears = round(lm.linear_params * share)
    if format in LINEAR_ONLY:
        linears += round(lm.expert_params * (rest_bytes - share))
    if format == "mxfp4":  # gpt-oss: the experts alone
        linears += round((lm.linear_params - lm.expert_params) * (rest_bytes - share))
    head = 0.0
    if not lm.tied or format == "fp8":
        # fp8 checkpoints hold the head apart; EXL2 keeps it in 6 bits
        head = lm.embedding_params * (6 / 8 if bits(format) else rest_bytes)
    return Weights(
        linears,
        round(tables * rest_bytes),
        round(head),
        round(lm.small_params * rest_bytes),
    )


def gguf(lm: LM, quant: str) -> FileWeights:
    """As a GGUF file holds them: every tensor with the type that llama.cpp's mixture gives it; the
    file's own bytes where its header was read and has this type.

    >>> from onecard.memory.architectures.lm import find
    >>> round(gguf(find("llama-3.1-8b"), "q4_k_m").total / 1e9, 2)
    4.91
    """
    if lm.file and quant in ("", lm.file.type):
        return lm.file
    usual, _, output = MIXTURES[quant]
    table = output if lm.tied else TABLES.get(quant, usual)
    small = lm.small_params * 4
    layers, experts = [], []
    for index, layer in enumerate(lm.layers):
        kinds = _finer(lm, quant, index, layer)
        sizes = [(_matrix(m, kinds.get(m.role, usual), quant), m.is_expert) for m in layer.matrices]
        layers.append(sum(size for size, _ in sizes) + layer.small_params * 4)
        experts.append(sum(size for size, is_expert in sizes if is_expert))
        small -= layer.small_params * 4
    # a second table of words (Gemma 3n, 4) lies beside the first, in the type of most matrices
    lookup = _rows(lm.lookup_params // 256, 1, 256, usual)
    return FileWeights(
        quant,
        tuple(layers),
        tuple(experts),
        _rows(lm.V, 1, lm.D, table) + lookup,
        0 if lm.tied else _rows(lm.V, 1, lm.D, output),
        small,
    )


TABLES = {
    **dict.fromkeys(["iq1_s", "iq1_m", "iq2_xxs", "iq2_xs"], "q2_k"),
    **dict.fromkeys(["iq2_s", "iq2_m", "iq3_xxs"], "iq3_s"),
    **dict.fromkeys(["tq1_0", "tq2_0"], "q4_k"),
}
"""Type of the table of words where it is not that of most matrices and not the head too."""


def _finer(lm: LM, quant: str, index: int, layer: Layer) -> dict[str, str]:
    """Types by role where one layer departs from the mixture's usual type (llama-quant.cpp,
    llama_tensor_get_type_impl; IQ types with an importance matrix, as they are published)."""
    usual, fine, _ = MIXTURES[quant]
    eight = _has_eight_experts(layer)
    few_heads = 4 * max(layer.G, 1) <= layer.H
    if quant.startswith(("iq1", "iq2")):
        return _lowest_types(lm, quant, index, layer, few_heads)
    L = lm.L
    more = index < L // 8 or index >= 7 * L // 8 or (index - L // 8) % 3 == 2  # use_more_bits
    first = index < L // 8
    value = fine if more else usual
    kinds = {"v": value, "down": value, "o": usual}
    if quant == "q4_k_s":
        kinds |= {"v": "q5_k" if index < 4 else usual, "down": "q5_k" if first else usual}
    elif quant in ("iq4_xs", "iq4_nl"):
        kinds |= {"v": "q5_k" if few_heads else usual, "down": usual}
    elif quant in ("q4_0", "q5_0"):
        kinds |= {"v": usual, "down": {"q4_0": "q4_1", "q5_0": "q5_1"}[quant] if first else usual}
    elif quant == "q2_k":
        kinds = {"v": "q4_k" if few_heads else "q3_k", "down": "q3_k", "o": "q3_k"}
    elif quant == "q2_k_s":
        kinds |= {"v": "q4_k" if few_heads else usual, "down": "q4_k" if first else usual}
    elif quant == "q3_k_m":
        down = "q5_k" if index < L // 16 else "q4_k"
        kinds = {"v": "q5_k" if index < 2 else "q4_k", "down": down, "o": "q4_k"}
    elif quant == "q3_k_l":
        kinds = dict.fromkeys(("v", "down", "o"), "q5_k")
    elif quant.startswith("iq3"):
        kinds = _three_bit_types(quant, first, L // 8 <= index < 7 * L // 8, few_heads)
    if kinds["v"] in ("q3_k", "q4_k") and (L, layer.H, layer.G) == (80, 64, 8):
        kinds["v"] = "q5_k"  # llama.cpp's 70B: eight heads share it
    if eight and quant not in ("f16", "bf16", "f32"):
        kinds |= {"v": "q8_0", "k": "q8_0"}
    return kinds


def _lowest_types(lm: LM, quant: str, index: int, layer: Layer, few_heads: bool) -> dict[str, str]:
    """IQ1 and IQ2."""
    usual, fine, _ = MIXTURES[quant]
    many_experts = any(matrix.count >= 4 for matrix in layer.matrices)
    out = {"iq1_s": "iq2_xxs", "iq1_m": "iq2_xxs", "iq2_s": "iq3_s", "iq2_m": "iq3_s"}
    return {
        "v": "q4_k" if few_heads or many_experts else fine,
        "down": fine if index < lm.L // 8 else usual,
        "o": "q5_k" if _has_eight_experts(layer) else out.get(quant, usual),
    }


def _three_bit_types(quant: str, first: bool, middle: bool, few_heads: bool) -> dict[str, str]:
    usual = MIXTURES[quant][0]
    kinds = {"v": "q4_k" if few_heads else usual, "down": usual, "o": usual}
    if quant == "iq3_m":
        kinds = {"v": "q4_k", "down": "q4_k" if first else usual, "o": "q4_k"}
    elif quant == "iq3_xxs":
        kinds |= {"q": "iq2_s", "k": "iq2_s", "o": "iq3_s"}
    elif quant == "iq3_xs":
        kinds |= {"q": "iq3_xxs", "k": "iq3_xxs"}
        if middle:
            kinds |= {"gate": "iq3_xxs", "up": "iq3_xxs"}
    return kinds


def _has_eight_experts(layer: Layer) -> bool:
    """Mixtral's case: its few experts make attention cheap to keep well."""
    return any(matrix.count == 8 for matrix in layer.matrices)


def _matrix(matrix: Matrix, kind: str, quant: str) -> int:
    if quant == "mxfp4" and matrix.is_expert:
        kind = "mxfp4"
    return _rows(matrix.rows, matrix.count, matrix.columns, kind)


def _rows(rows: int, count: int, width: int, kind: str) -> int:
    if width % 256 and kind in NARROW:
        kind = NARROW[kind]
    values, size = _SIZES[kind]
    return rows * count * width * size // values
