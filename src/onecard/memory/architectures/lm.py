"""A decoder language model as counts: from the table of usual models, a config.json or a GGUF
header. Knows no card and no bytes.

Letters: V vocabulary, D width, F feed-forward, L layers, H heads, G kv heads, K head width.
"""

import json
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from onecard.errors import DataError, NotFound, SettingsError, nearest
from onecard.memory.architectures.gguf import Header
from onecard.memory.architectures.model_names import canonical, spellings


def share_heads(width: int, heads: int, groups: int) -> None:
    """Raises SettingsError for heads that do not divide."""
    if width % heads:
        raise SettingsError(
            f"{heads} heads do not divide a width of {width}",
            why="each head takes an equal share of the width",
            fix=f"--n_embd {heads * -(-width // heads)}, or --n_head "
            f"{max(h for h in range(1, heads + 1) if width % h == 0)}",
        )
    if heads % groups:
        raise SettingsError(
            f"{groups} key and value heads do not divide {heads} query heads",
            why="each serves an equal number of query heads",
            fix=f"--n_kv_head {max(g for g in range(1, min(groups, heads) + 1) if heads % g == 0)}",
        )


def feed_width(width: int, gated: bool) -> int:
    """Of a feed-forward of usual size: 4 widths, or with its third matrix 8/3 in steps of 8."""
    return -(-width * 8 // 3 // 8) * 8 if gated else 4 * width


@dataclass(frozen=True)
class LM:
    name: str
    V: int
    D: int
    F: int
    L: int
    H: int
    G: int
    K: int
    tied: bool = False
    """The output head is the embedding table."""
    gated: bool = True
    """Three feed-forward matrices (SwiGLU, GeGLU) instead of two."""
    qkv_bias: bool = False
    biases: bool = False
    qk_norm: bool = False
    norms: int = 2
    """RMSNorms in a layer, without those of queries and keys."""
    positions: int = 0
    """Rows of a learned position table."""
    experts: int = 0
    experts_used: int = 0
    expert_ffn: int = 0
    shared_ffn: int = 0
    dense_layers: int = 0
    """First layers of a mixture-of-experts model that have one plain feed-forward."""
    window: int = 0
    window_every: int = 0
    """With a sliding window: one layer of so many sees everything, the others see `window` tokens.
    """
    attention_layers: int = 0
    """Layers with attention, of a hybrid model; 0 means all."""
    state_bytes: int = 0
    """Recurrent state of a hybrid model, a sequence."""
    q_rank: int = 0
    kv_rank: int = 0
    rope_width: int = 0
    """Multi-head latent attention: width of the shared latent, and of the rotary part beside it."""
    softcap: bool = False
    repacked_bytes: int = 0
    """Of a file's matrices, those that llama.cpp on a CPU holds twice."""
    max_tokens: int = 0

    @property
    def attention_params(self) -> int:
        """Weights of one layer's attention matrices."""
        if self.kv_rank:
            q = self.D * self.q_rank + self.q_rank * self.H * (self.K + self.rope_width)
            return (
                q
                + self.D * (self.kv_rank + self.rope_width)
                + self.kv_rank * self.H * 2 * self.K
                + self.H * self.K * self.D
            )
        return 2 * self.D * self.H * self.K + 2 * self.D * self.G * self.K

    def mlp_params(self, layer: int = 10**6) -> int:
        """Weights of one layer's feed-forward matrices, experts and router included."""
        matrices = 3 if self.gated else 2
        if self.experts and layer >= self.dense_layers:
            return (
                matrices * self.D * (self.experts * self.expert_ffn + self.shared_ffn)
                + self.D * self.experts
            )
        return matrices * self.D * self.F

    @property
    def linear_params(self) -> int:
        """Weights of all layers' matrices: what quantization shrinks."""
        dense = min(self.dense_layers, self.L)
        return (
            self.L * self.attention_params
            + dense * self.mlp_params(0)
            + (self.L - dense) * self.mlp_params()
        )

    @property
    def embedding_params(self) -> int:
        return self.V * self.D

    @property
    def small_params(self) -> int:
        """Norms, biases, positions."""
        matrices = 2 if self.gated else 1
        biases = (self.H + 2 * self.G) * self.K if self.qkv_bias or self.biases else 0
        biases += (2 * self.D + self.F * matrices) if self.biases else 0
        return (
            self.L * (self.norms * self.D + (2 * self.K if self.qk_norm else 0) + biases)
            + self.D
            + self.positions * self.D
        )

    @property
    def n_params(self) -> int:
        return (
            self.linear_params + self.small_params + self.embedding_params * (1 if self.tied else 2)
        )

    @property
    def active_params(self) -> int:
        """Weights that one token passes through: with the output head, without the embedding."""
        if not self.experts:
            return self.linear_params + self.embedding_params
        matrices = 3 if self.gated else 2
        one = (
            matrices * self.D * (self.experts_used * self.expert_ffn + self.shared_ffn)
            + self.D * self.experts
        )
        dense = min(self.dense_layers, self.L)
        return (
            self.L * self.attention_params
            + dense * self.mlp_params(0)
            + (self.L - dense) * one
            + self.embedding_params
        )

    def layer_kinds(self) -> tuple[int, int]:
        """(layers that see everything, layers with a sliding window)."""
        with_attention = self.attention_layers or self.L
        whole = with_attention // self.window_every if self.window_every else with_attention
        return whole, with_attention - whole

    @property
    def kv_values(self) -> int:
        """Values of keys and values that one token leaves in one layer."""
        return self.kv_rank + self.rope_width if self.kv_rank else 2 * self.G * self.K


@cache
def table() -> tuple[LM, ...]:
    """The usual models."""
    rows = tomllib.loads(Path(__file__).with_name("models.toml").read_text(encoding="utf-8"))["lm"]
    return tuple(_row(name, row) for row in rows for name in row["names"])


def _row(name: str, row: dict[str, Any]) -> LM:
    facts = {key: value for key, value in row.items() if key != "names"}
    return LM(**{"K": facts["D"] // facts["H"], **facts, "name": name})


@cache
def _by_name() -> dict[str, LM]:
    return {canonical(lm.name): lm for lm in reversed(table())}


def named(name: str) -> LM | None:
    """The model of the table with this name, in any spelling; None for an unknown one.

    >>> named("Qwen/Qwen2.5-1.5B-Instruct").L, named("meta-llama/Llama-3.1-8B").G
    (28, 8)
    >>> named("llama-3.1-80b"), named("gpt2-xl")
    (None, None)
    """
    return next((_by_name()[key] for key in spellings(name) if key in _by_name()), None)


USUAL = (
    "smollm2-135m",
    "qwen3-0.6b",
    "llama-3.2-1b",
    "qwen3-1.7b",
    "llama-3.2-3b",
    "qwen3-4b",
    "llama-3.1-8b",
    "gemma-3-12b",
    "qwen3-14b",
    "gemma-3-27b",
    "qwen3-32b",
    "llama-3.3-70b",
)
"""What `onecard fit` tries, smallest first: the models that people use."""


FAMILIES = frozenset(
    [
        "llama",
        "mistral",
        "mixtral",
        "ministral",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "phi",
        "phi3",
        "phimoe",
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "gpt2",
        "gpt_neox",
        "gptj",
        "opt",
        "falcon",
        "bloom",
        "starcoder2",
        "smollm3",
        "olmo",
        "olmo2",
        "internlm2",
        "internlm3",
        "granite",
        "granitemoe",
        "cohere",
        "cohere2",
        "stablelm",
        "deepseek_v2",
        "deepseek_v3",
        "gpt_oss",
        "minicpm",
        "baichuan",
        "chatglm",
        "yi",
        "qwen2_vl",
        "qwen2_5_vl",
        "llava",
        "mistral3",
        "exaone",
    ]
)
"""`model_type`s whose configs carry the usual names for the counts."""


class UnknownFamily(DataError):
    """A config of an architecture that the formulas do not know; `path` is its file."""

    def __init__(self, what: str, *, why: str, fix: str, path: Path) -> None:
        super().__init__(what, why=why, fix=fix)
        self.path = path


def from_config(path: Path) -> LM:
    """The counts in a model folder's config.json.

    Raises NotFound, DataError for a family that is not known.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        config = {**values, **values.get("text_config", {})}
        family = str(config.get("model_type", ""))
        if family and family not in FAMILIES:
            raise UnknownFamily(
                f"the architecture '{family}' is not known to the formulas",
                why=f"{path} names it",
                fix="pip install 'onecard[finetune]': then its real class is traced instead",
                path=path,
            )
        return _from_values(path.parent.name, config)
    except FileNotFoundError:
        raise NotFound(
            f"there is no {path}",
            why="a model's counts stand in its config.json",
            fix="give a folder of a model, or a name of the table",
        ) from None
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as fault:
        raise DataError(
            f"{path} is no config of a decoder model",
            why=f"{type(fault).__name__}: {fault}",
            fix="onecard plan --trace builds the model itself instead",
        ) from None


NORMS = {"gemma2": 4, "gemma3": 4, "gemma3_text": 4, "phi": 1, "falcon": 1}
"""Norms of a layer where there are not two."""


def _window_every(family: str) -> int:
    """One layer of so many sees everything, where a config does not say; 0: all do."""
    if family.startswith("gemma3"):
        return 6
    return 2 if family == "gemma2" else 0


def _from_values(name: str, c: dict[str, Any]) -> LM:
    """The names that Hugging Face configs give to the counts; GPT-2's are the older ones."""

    def get(*keys: str) -> Any:
        return next((c[key] for key in keys if c.get(key) is not None), None)

    D, H = int(get("hidden_size", "n_embd")), int(get("num_attention_heads", "n_head"))
    L, V = int(get("num_hidden_layers", "n_layer")), int(c["vocab_size"])
    family = str(c.get("model_type", ""))
    if min(D, H, L, V) < 1:
        raise ValueError(f"counts must be 1 or more, not {min(D, H, L, V)}")
    F = int(get("intermediate_size", "n_inner") or 4 * D)
    plain = family in ("gpt2", "gpt_neox", "phi", "opt", "falcon", "bloom", "gptj", "starcoder2")
    gemma = family.startswith("gemma")
    every = get("sliding_window_pattern") or _window_every(family)
    tied = c.get("tie_word_embeddings")
    return LM(
        name,
        V,
        D,
        F,
        L,
        H,
        int(get("num_key_value_heads") or H),
        int(get("head_dim") or D // H),
        tied=bool(tied)
        if tied is not None
        else gemma or family in ("gpt2", "opt", "bloom", "falcon"),
        gated=not plain,
        qkv_bias=family.startswith("qwen2") or bool(c.get("attention_bias")),
        biases=plain and family != "falcon",
        qk_norm=family.startswith(("qwen3", "gemma3")),
        norms=NORMS.get(family, 2),
        positions=int(get("n_positions", "max_position_embeddings") or 0)
        if family in ("gpt2", "opt")
        else 0,
        experts=int(get("num_local_experts", "num_experts", "n_routed_experts") or 0),
        experts_used=int(get("num_experts_per_tok") or 0),
        expert_ffn=int(get("moe_intermediate_size") or (F if get("num_local_experts") else 0)),
        window=int(c.get("sliding_window") or 0) if every else 0,
        window_every=int(every) if c.get("sliding_window") else 0,
        q_rank=int(c.get("q_lora_rank") or 0),
        kv_rank=int(c.get("kv_lora_rank") or 0),
        rope_width=int(c.get("qk_rope_head_dim") or 0) if c.get("kv_lora_rank") else 0,
        softcap=family == "gemma2",
        max_tokens=int(get("max_position_embeddings", "n_positions") or 0),
    )


def from_header(header: Header, name: str = "") -> LM:
    """The counts in a GGUF header."""
    H, D = header.number("attention.head_count", 1), header.number("embedding_length")
    vocab = next((t.shape[-1] for t in header.tensors if t.name == "token_embd.weight"), 0)
    names = {t.name for t in header.tensors}
    return LM(
        name or header.architecture,
        vocab,
        D,
        header.number("feed_forward_length"),
        header.number("block_count"),
        H,
        header.number("attention.head_count_kv", H),
        header.number("attention.key_length", D // max(H, 1)),
        tied="output.weight" not in names,
        gated=any(".ffn_gate" in n for n in names),
        qkv_bias="blk.0.attn_q.bias" in names,
        qk_norm="blk.0.attn_q_norm.weight" in names,
        norms=sum(
            n.startswith("blk.0.")
            and n.endswith("norm.weight")
            and "_q_" not in n
            and "_k_" not in n
            for n in names
        ),
        experts=header.number("expert_count"),
        experts_used=header.number("expert_used_count"),
        expert_ffn=header.number("expert_feed_forward_length"),
        window=header.number("attention.sliding_window"),
        window_every=_window_every(header.architecture),
        repacked_bytes=header.repacked_bytes,
        max_tokens=header.number("context_length"),
    )


def find(name: str) -> LM:
    """By name, or a folder with a config.json, or that file.

    Raises NotFound with the nearest names and how to give a config.
    """
    path = Path(name).expanduser()
    if path.suffix == ".json" or (path / "config.json").is_file():
        return from_config(path if path.suffix == ".json" else path / "config.json")
    known = named(name)
    if known is None:
        near = nearest(canonical(name), {lm.name for lm in table()})
        raise NotFound(
            f"no config of a model '{name}' is known",
            why="it is not in the table of usual models, and no folder of that name has a "
            "config.json",
            fix=(f"did you mean {' or '.join(near)}? Else give" if near else "give")
            + " the model's folder or its config.json",
        )
    return known
