"""A decoder language model from the values of its config.json: one list of layers for all
families. Reads no weights.

Sources of the shapes: the classes of transformers 5 (modeling_*.py), held against them by
tests/e2e/test_architectures.py.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from onecard.errors import DataError, NotFound
from onecard.memory.architectures import mixers
from onecard.memory.architectures.families import FAMILIES, Family
from onecard.memory.architectures.layers import (
    LM,
    Layer,
    Matrix,
    attention_matrices,
    expert_matrices,
    feed_matrices,
)

MAX_BYTES = 16 << 20
"""A config of a model is a few kB; lists of layers and labels make some of them a few hundred."""
MAX_COUNT = 1 << 24
"""No width, count of heads or vocabulary in use comes near it: what is above it is no count."""
MAX_LAYERS = 4096
NESTED = ("text_config", "llm_config", "language_config", "language_model_config", "thinker_config")
"""Where configs of models that also see or hear keep their language model."""
KINDS = {
    "full_attention": "full",
    "attention": "full",
    "global": "full",
    "sliding_attention": "window",
    "sliding_window": "window",
    "local": "window",
    "chunked_attention": "chunk",
    "linear_attention": "recurrent",
    "mamba": "recurrent",
    "mamba2": "recurrent",
    "conv": "recurrent",
    "recurrent": "recurrent",
    "hybrid": "full",
    "moe": "experts",
    "mlp": "dense",
}
SAID = ("hidden_size", "n_embd", "d_model", "num_hidden_layers", "n_layer", "layers_block_type")
"""One of these must stand in a config: else all of it would be its class's defaults."""
PATTERN = {"M": "recurrent", "*": "full", "-": "dense", "E": "experts"}
"""Letters of nemotron_h's hybrid_override_pattern."""


class UnknownFamily(DataError):
    """A config of an architecture that the formulas do not know; `path` is its file."""

    def __init__(self, what: str, *, why: str, fix: str, path: Path) -> None:
        super().__init__(what, why=why, fix=fix)
        self.path = path


@cache
def class_defaults() -> dict[str, dict[str, Any]]:
    """What transformers' config classes take for keys that a config leaves out, by model_type.
    Written by scripts/model_facts.py."""
    path = Path(__file__).with_name("config_defaults.json")
    return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def read(path: Path) -> dict[str, Any]:
    """The values of a config.json. Raises NotFound, DataError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
        return values
    except FileNotFoundError:
        raise NotFound(
            f"there is no {path}",
            why="a model's counts stand in its config.json",
            fix="give a folder of a model, or a name of the table",
        ) from None
    except (OSError, ValueError, RecursionError) as fault:
        raise _no_config(path, fault) from None


def from_file(path: Path) -> LM:
    """The counts in a model folder's config.json.

    Raises NotFound, DataError; UnknownFamily for a family that is not known.
    """
    return from_values(read(path), path.absolute().parent.name, path)


def _no_config(path: Path, fault: Exception) -> DataError:
    return DataError(
        f"{path} is no config of a decoder model",
        why=f"{type(fault).__name__}: {str(fault)[:200]}",
        fix="give the config.json of a language model, as its repository holds it",
    )


def language_part(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the language model: those at the top, overruled by those of its own part."""
    own = next((values[key] for key in NESTED if isinstance(values.get(key), dict)), None)
    if own is None:
        return dict(values)
    if isinstance(own.get("text_config"), dict):  # Qwen-Omni keeps it two steps down
        own = own["text_config"]
    outer = {k: v for k, v in values.items() if k not in (*NESTED, "model_type")}
    inner = {"model_type": own.get("model_type") or values.get("model_type", ""), **own}
    if "tie_word_embeddings" not in own and "tie_word_embeddings" not in values:
        outer.pop("tie_word_embeddings", None)
    return {**outer, **inner}


def from_values(values: Mapping[str, Any], name: str, path: Path = Path("config.json")) -> LM:
    """Raises DataError; UnknownFamily for a `model_type` that is not known."""
    try:
        config = language_part(values)
        family = str(config.get("model_type") or "")
        if family not in FAMILIES and family.removesuffix("_text") in FAMILIES:
            family = family.removesuffix("_text")
        if family and family not in FAMILIES:
            raise UnknownFamily(
                f"the architecture '{family[:60]}' is not known to the formulas",
                why=f"{path} names it",
                fix="onecard plan lora or qlora with --trace builds the real class where "
                "transformers has it; a GGUF file of the model is planned from its header",
                path=path,
            )
        return Builder(name, family, config).build()
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, IndexError) as fault:
        raise _no_config(path, fault) from None


def checked_count(value: Any, key: str, least: int = 0, most: int = MAX_COUNT) -> int:
    """Raises ValueError for what is no whole number of `least` to `most`.

    >>> checked_count(4096.0, "hidden_size")
    4096
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} is {str(value)[:60]!r}, which is no number")
    if value != value or not least <= value <= most or value != int(value):
        raise ValueError(f"{key} is {value!r}, which is no count")
    return int(value)


class Builder:
    """One config's layers. Every number is checked before it is used."""

    def __init__(self, name: str, family: str, config: Mapping[str, Any]) -> None:
        self.name, self.family = name, family
        self.facts: Family = FAMILIES[family] if family else Family()
        defaults = class_defaults().get(family, {})
        if not any(config.get(key) for key in SAID):
            raise ValueError("it says neither a width nor a count of layers")
        self.stated = config
        self.config = {**defaults, **config}

    def get(self, *keys: str, default: int = 0) -> int:
        """The first of the keys that the config has, as a count.

        Raises ValueError for what is no whole number of 0 to MAX_COUNT.
        """
        for values, key in [(v, k) for v in (self.stated, self.config) for k in keys]:
            value = values.get(key)
            if value is None or value == "auto":
                continue
            return checked_count(value, key)
        return default

    def need(self, *keys: str) -> int:
        value = self.get(*keys)
        if value < 1:
            raise ValueError(f"{keys[0]} is missing or 0")
        return value

    def build(self) -> LM:
        self.D = self.need("hidden_size", "n_embd", "d_model", "word_embed_dim")
        self.H = self.need("num_attention_heads", "n_head", "n_heads")
        L = self.get("num_hidden_layers", "n_layer", "num_layers", "n_layers")
        if L > MAX_LAYERS:
            raise ValueError(f"num_hidden_layers is {L}: more than {MAX_LAYERS}")
        V = self.need("vocab_size", "padded_vocab_size")
        self.kinds = self.layer_kinds(L)
        if not self.kinds:
            raise ValueError("num_hidden_layers is missing or 0")
        layers = tuple(self.layer(i, kind) for i, kind in enumerate(self.kinds))
        tied = self.config.get("tie_word_embeddings")
        lookup, rest = self.outside(len(layers))
        return LM(
            self.name,
            V,
            self.D,
            layers,
            tied=self.facts.tied if tied is None else bool(tied),
            gated=self.facts.gated,
            qk_norm=bool(self.facts.qk_norm),
            norms=self.facts.norms,
            rest_params=rest,
            lookup_params=lookup,
            softcap=self.facts.softcap,
            max_tokens=self.get("max_position_embeddings", "n_positions", "seq_length"),
            stored=stored_format(self.config),
            family=self.family,
            config=dict(self.config),
        )

    def outside(self, L: int) -> tuple[int, int]:
        """(weights of a second table of words, weights beside tables and layers)."""
        rest = self.D * self.facts.norm_params
        if self.facts.positions:
            rest += self.get("n_positions", "max_position_embeddings") * self.D
        if self.family == "bloom":
            rest += 2 * self.D  # a norm after the table
        per_layer = self.get("hidden_size_per_layer_input")
        if not per_layer:
            return 0, rest
        rest += L * per_layer * self.D + per_layer
        rest += 2 * (self.get("altup_num_inputs", default=1) - 1) * self.D**2
        return self.get("vocab_size_per_layer_input") * L * per_layer, rest

    def layer_kinds(self, L: int) -> list[str]:
        """full, window, chunk, recurrent, dense or experts, one a layer."""
        c = self.config
        pattern = c.get("hybrid_override_pattern")
        if isinstance(pattern, str):
            return [PATTERN[letter] for letter in pattern[:MAX_LAYERS]]
        listed = c.get("layers_block_type") or c.get("layer_types")
        if isinstance(listed, list) and listed:
            kinds = [KINDS.get(str(kind), "") for kind in listed[:MAX_LAYERS]]
            if "" in kinds:
                raise ValueError(f"a layer of the kind {listed[kinds.index('')]!r} is not known")
            if self.facts.single:
                return kinds
            return [kinds[i % len(kinds)] for i in range(L)]
        if self.facts.recurrent and not self.facts.parallel:
            return self._hybrid_kinds(L)
        return self._window_kinds(L)

    def _hybrid_kinds(self, L: int) -> list[str]:
        full = self.config.get("full_attn_idxs", self.config.get("attn_layer_indices"))
        if isinstance(full, list):
            return ["full" if i in full else "recurrent" for i in range(L)]
        if self.facts.recurrent == "delta":
            every = max(self.get("full_attention_interval", default=4), 1)
            return ["recurrent" if (i + 1) % every else "full" for i in range(L)]
        if self.facts.recurrent == "conv":
            return ["full"] * L
        return ["recurrent"] * L

    def _window_kinds(self, L: int) -> list[str]:
        window = self.get("sliding_window", "sliding_window_size")
        if self.config.get("use_sliding_window") is False:
            window = 0
        chunk = self.get("attention_chunk_size")
        if chunk:
            every = max(self.get("no_rope_layer_interval", default=4), 1)
            return ["chunk" if (i + 1) % every else "full" for i in range(L)]
        pattern = self.config.get("sliding_window_pattern", self.facts.window_every)
        if not window or not pattern:
            return ["full"] * L
        if isinstance(pattern, str):  # EXAONE 4: LLLG
            return ["full" if pattern[i % len(pattern)] == "G" else "window" for i in range(L)]
        every = max(int(pattern), 1)
        kinds = ["window" if (i + 1) % every else "full" for i in range(L)]
        if self.family.startswith("gemma4"):
            kinds[-1] = "full"
        return kinds

    def layer(self, index: int, kind: str) -> Layer:
        """The layer with all that it holds."""
        facts = self.facts
        parts: list[Layer] = []
        if kind == "recurrent" or facts.parallel:
            parts.append(mixers.recurrent(facts.recurrent, self.get, self.config, self.D))
        if kind in ("full", "window", "chunk"):
            parts.append(self.attention(index, kind))
        if not facts.single or kind in ("dense", "experts"):
            parts.append(self.feed_forward(index, kind))
        norms = Layer(small_params=facts.norms * facts.norm_params * self.D)
        return mixers.join([*parts, norms, self.extras(index)])

    def extras(self, index: int) -> Layer:
        """What only few families have in each layer: Gemma's input a layer, its low-rank paths."""
        per_layer = self.get("hidden_size_per_layer_input")
        matrices: list[Matrix] = []
        small = 0
        if per_layer:
            matrices += [Matrix("ple", per_layer, self.D), Matrix("ple", self.D, per_layer)]
            small += self.D
        rank, inputs = self.get("laurel_rank"), self.get("altup_num_inputs")
        if rank:
            matrices += [Matrix("laurel", rank, self.D), Matrix("laurel", self.D, rank)]
            small += self.D
        if inputs:
            small += 2 * self.D + inputs**2 + inputs**3 + inputs * self.D
        if self.family.startswith("gemma4"):
            small += 1  # a scale of the layer
        return Layer(matrices=tuple(matrices), small_params=small)

    def head_sizes(self, kind: str) -> tuple[int, int, int]:
        """(heads, kv heads, head width) of a layer with attention."""
        groups = self.get("num_key_value_heads", "num_kv_heads", "n_head_kv", default=self.H)
        if self.family == "falcon" and not self.config.get("new_decoder_architecture"):
            groups = 1 if self.config.get("multi_query", True) else self.H
        if self.config.get("multi_query_attention"):
            groups = self.get("multi_query_group_num", default=1)
        width = self.get("head_dim", "kv_channels", "attention_head_dim")
        width = width or self.D // self.H
        if kind == "full" and self.family.startswith("gemma4"):
            width = self.get("global_head_dim", default=512) or width
            if self.config.get("attention_k_eq_v"):
                groups = self.get("num_global_key_value_heads") or groups
        return self.H, groups or self.H, width

    def attention(self, index: int, kind: str) -> Layer:
        if self.get("kv_lora_rank"):
            return mixers.latent(self.get, self.D, self.H)
        H, G, K = self.head_sizes(kind)
        if min(H, G, K) < 1 or H % G:
            raise ValueError(f"{H} heads, {G} kv heads of width {K}")
        facts = self.facts
        q, k, v, o = attention_matrices(self.D, H, G, K)
        matrices = [Matrix("q", q.rows * (2 if facts.gated_attention else 1), self.D), k, v, o]
        keys = values = G * K
        shared = len(self.kinds) - self.get("num_kv_shared_layers") <= index
        if shared:  # reads what an earlier layer keeps
            matrices, keys, values = [matrices[0], o], 0, 0
        elif kind == "full" and self.config.get("attention_k_eq_v"):
            matrices = [matrices[0], k, o]  # values are the keys: one matrix, and both are cached
        window = 0
        if kind == "window":
            window = self.get("sliding_window", "sliding_window_size")
        elif kind == "chunk":
            window = self.get("attention_chunk_size")
        present = {matrix.role: matrix for matrix in matrices}
        small = self._attention_small(present, H, G, K, shared)
        return Layer(H, G, K, 0, tuple(matrices), small, keys, values, window)

    def _attention_small(
        self, present: Mapping[str, Matrix], H: int, G: int, K: int, shared: bool
    ) -> int:
        facts = self.facts
        letters = set(facts.biases) & set("qkvo")
        switch = self.config.get(facts.bias_key) if facts.bias_key else None
        if switch is None and facts.bias_key == "attention_bias":
            switch = self.config.get("use_bias", False)
        if switch:
            letters |= set("qkv") | (set("o") if facts.out_bias else set())
        if self.config.get("attention_out_bias") is True:
            letters.add("o")
        total = sum(matrix.rows for role, matrix in present.items() if role in letters)
        if facts.qk_norm == "head":
            total += K if shared else 2 * K
        elif facts.qk_norm == "width":
            total += H * K + G * K
        return total + (H if facts.sinks else 0)

    def feed_forward(self, index: int, kind: str) -> Layer:
        """Dense, or experts with their router and what all tokens share."""
        experts = self.get(
            "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"
        )
        is_sparse = kind == "experts" or (
            experts > 0 and not self.facts.single and self._is_sparse(index)
        )
        if kind == "dense":
            is_sparse = False
        if self.family == "gemma4_text" and not self.config.get("enable_moe_block"):
            is_sparse = False
        if not is_sparse:
            return self._dense(index)
        sparse = self._experts(experts)
        if self.family == "gemma4_text":  # a dense block beside the experts, three norms more
            small = Layer(small_params=3 * self.D + self.D + experts)
            return mixers.join([self._dense(index), sparse, small])
        return sparse

    def _is_sparse(self, index: int) -> bool:
        c = self.config
        listed = c.get("mlp_layer_types")
        if isinstance(listed, list) and index < len(listed):
            return bool(listed[index] == "sparse")
        if isinstance(c.get("moe_layers"), list) and c["moe_layers"]:
            return index in c["moe_layers"]
        if isinstance(c.get("mlp_only_layers"), list) and index in c["mlp_only_layers"]:
            return False
        first = self.get("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
        if self.family == "glm4_moe_lite" and "first_k_dense_replace" not in c:
            first = 1
        if index < first:
            return False
        every = self.get("interleave_moe_layer_step", "decoder_sparse_step", default=1)
        frequency = c.get("moe_layer_freq")
        if isinstance(frequency, list):
            return bool(frequency[index])
        if isinstance(frequency, int) and frequency > 1:
            return index % frequency == 0
        return (index + 1) % max(every, 1) == 0

    def _dense(self, index: int) -> Layer:
        F = self._feed_width(index)
        matrices = feed_matrices(self.D, F, self.facts.gated)
        small = 0
        letters = set(self.facts.biases)
        if self.config.get("mlp_bias") is True or self.config.get("use_bias") is True:
            letters |= set("ud")
        if "u" in letters:
            small += F * (2 if self.facts.gated else 1)
        if "d" in letters:
            small += self.D
        return Layer(F=F, matrices=matrices, small_params=small)

    def _feed_width(self, index: int) -> int:
        value = self.config.get("intermediate_size")
        if isinstance(value, list):  # Gemma 3n: one a layer
            width = int(value[index % len(value)])
            if not 0 < width <= MAX_COUNT:
                raise ValueError(f"intermediate_size has {width!r}")
            return width
        if "intermediate_size_mlp" in self.config:
            return self.need("intermediate_size_mlp")
        if self.family.startswith("lfm2"):
            return mixers.lfm2_width(self.get, self.config)
        width = self.get(
            "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "shared_intermediate_size"
        )
        if self.family == "granitemoehybrid":
            width = self.need("shared_intermediate_size")
        if self.family == "qwen":
            width //= 2
        if self.family.startswith("gemma4") and self.config.get("use_double_wide_mlp"):
            shared = len(self.kinds) - self.get("num_kv_shared_layers") <= index
            width *= 2 if shared else 1
        return width or 4 * self.D

    def _experts(self, experts: int) -> Layer:
        used = self.get(
            "num_experts_per_tok", "top_k_experts", "moe_k", "moe_topk", "num_experts_per_token"
        )
        width = self.get("moe_intermediate_size") or self.need("intermediate_size")
        count = self.get("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
        shared = self.get("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size")
        if not shared:
            shared = count * width
        if self.family == "granitemoehybrid":
            shared = self.get("shared_intermediate_size")
        if self.family == "llama4_text":
            shared = width
        gated = self.facts.gated
        latent = self.get("moe_latent_size")  # Nemotron 3: experts work on a narrower width
        matrices = expert_matrices(latent or self.D, width, experts, max(used, 1), gated)
        if latent:
            into = (Matrix("latent", latent, self.D), Matrix("latent", self.D, latent))
            matrices = (*matrices, *into)
        small = experts * self.D  # the router stays in fp32 in files and is no matrix to shrink
        if self.facts.router_bias:
            small += experts
        if self.facts.expert_biases:
            small += experts * (2 * width + self.D)
        if self.config.get("n_routed_experts") and self.family != "mistral4":
            small += experts  # the correction bias of DeepSeek's router
        if shared:
            matrices = (*matrices, *feed_matrices(self.D, shared, gated))
            small += self.D if self.facts.shared_gate else 0
        return Layer(F=max(used, 1) * width + shared, matrices=matrices, small_params=small)


def stored_format(config: Mapping[str, Any]) -> str:
    """Format of the weights as `quantization_config` names it; empty for plain 16 bits.

    >>> stored_format({"quantization_config": {"quant_method": "mxfp4"}})
    'mxfp4'
    """
    quantization = config.get("quantization_config")
    if not isinstance(quantization, dict):
        return ""
    method = str(quantization.get("quant_method", "")).lower()
    bits = quantization.get("bits")
    if method == "bitsandbytes":
        if quantization.get("load_in_8bit"):
            return "int8"
        return "nf4-dq" if quantization.get("bnb_4bit_use_double_quant") else "nf4"
    if method in ("awq", "gptq"):
        group = quantization.get("group_size", 128)
        name = f"{method}-int{bits if bits in (4, 8) else 4}"
        return f"{name}-32g" if group == 32 and bits != 8 else name
    return {"fp8": "fp8", "mxfp4": "mxfp4", "compressed-tensors": "", "nvfp4": "nvfp4"}.get(
        method, ""
    )
