"""A decoder language model as lists over its layers: what a layer holds, keeps in a cache and
passes a token through. Knows no bytes, no card, no file and no model by name.

Letters: V vocabulary, D width, F feed-forward, L layers, H heads, G kv heads, K head width.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from onecard.errors import SettingsError


@dataclass(frozen=True)
class Matrix:
    """A weight matrix by its role, as rows x columns; `count` of them where they are experts, of
    which a token passes `used`."""

    role: str
    rows: int
    columns: int
    count: int = 1
    used: int = 1

    @property
    def params(self) -> int:
        return self.rows * self.columns * self.count

    @property
    def active_params(self) -> int:
        return self.rows * self.columns * min(self.used, self.count)

    @property
    def is_expert(self) -> bool:
        return self.count > 1


@dataclass(frozen=True)
class Layer:
    """One layer. A layer may hold attention, a recurrent mixer, both or neither."""

    H: int = 0
    """Query heads; 0 for a layer without attention."""
    G: int = 0
    K: int = 0
    F: int = 0
    """Feed-forward width that one token passes: dense, or experts used and shared together."""
    matrices: tuple[Matrix, ...] = ()
    small_params: int = 0
    """Norms, biases, convolutions, scales: never quantized."""
    k_values: int = 0
    """Values of keys that one token leaves in the cache; with multi-head latent attention the
    latent and its rotary part."""
    v_values: int = 0
    window: int = 0
    """Tokens that a sliding window sees; 0 for all."""
    state_values: int = 0
    """Values of recurrent state and convolution that one sequence keeps, in fp32."""
    latent: int = 0
    """Rank of the latent of multi-head latent attention."""
    mixer_width: int = 0
    """Values of one token that a recurrent mixer holds at its widest."""

    @property
    def kv_values(self) -> int:
        return self.k_values + self.v_values

    @property
    def linear_params(self) -> int:
        return sum(matrix.params for matrix in self.matrices)

    @property
    def active_params(self) -> int:
        return sum(matrix.active_params for matrix in self.matrices)

    @property
    def expert_params(self) -> int:
        return sum(matrix.params for matrix in self.matrices if matrix.is_expert)

    @property
    def experts_used(self) -> int:
        """Experts that one token passes; 0 in a dense layer."""
        return max((m.used for m in self.matrices if m.is_expert), default=0)

    def role(self, name: str) -> tuple[Matrix, ...]:
        return tuple(matrix for matrix in self.matrices if matrix.role == name)


@dataclass(frozen=True)
class FileWeights:
    """Bytes of a file's tensors, where its header was read."""

    type: str
    """The type that most of its bytes have, as q4_k; what a label in the file's name may get
    wrong."""
    layers: tuple[int, ...]
    experts: tuple[int, ...]
    """Of each layer's bytes, those of its experts."""
    embedding: int
    """Tables that stay in the computer's memory: of words, and of words per layer."""
    head: int
    """0 where the table of words is the head."""
    rest: int
    repacked: int = 0
    """Of the layers' matrices, those that llama.cpp on a CPU holds twice."""

    @property
    def total(self) -> int:
        return sum(self.layers) + self.embedding + self.head + self.rest


@dataclass(frozen=True)
class LM:
    name: str
    V: int
    D: int
    layers: tuple[Layer, ...]
    tied: bool = False
    """The output head is the embedding table."""
    gated: bool = True
    """Three feed-forward matrices (SwiGLU, GeGLU) instead of two."""
    qk_norm: bool = False
    norms: int = 2
    """Norms of the width in a layer, without those of queries and keys."""
    rest_params: int = 0
    """Outside the layers and tables: last norm, learned positions, projections."""
    lookup_params: int = 0
    """A second table of the input words (Gemma 3n and 4: one row a word and layer): read by row,
    kept in the computer's memory by llama.cpp."""
    softcap: bool = False
    max_tokens: int = 0
    stored: str = ""
    """Format in which the checkpoint's config says that its weights lie; empty for 16 bits."""
    stored_bytes: int = 0
    """Of all weights of the checkpoint, other towers included, where its index was read."""
    family: str = ""
    """The architecture's name in the config or file: for messages and for engines that must know
    it."""
    file: FileWeights | None = None
    config: dict[str, Any] = field(default_factory=dict, compare=False, hash=False)
    """What it was built from, for tracing the real class."""

    @property
    def L(self) -> int:
        return len(self.layers)

    @cached_property
    def groups(self) -> tuple[tuple[Layer, int], ...]:
        """(layer, how many are equal to it)."""
        return tuple(Counter(self.layers).items())

    @cached_property
    def _attention(self) -> Layer:
        """The widest layer with attention: what a single number of heads means."""
        return max(self.layers, key=lambda layer: layer.H * layer.K)

    @property
    def H(self) -> int:
        return self._attention.H

    @property
    def G(self) -> int:
        return self._attention.G

    @property
    def K(self) -> int:
        return self._attention.K

    @property
    def F(self) -> int:
        """The widest feed-forward that a token passes."""
        return max(layer.F for layer in self.layers)

    @cached_property
    def linear_params(self) -> int:
        """Weights of all layers' matrices: what quantization shrinks."""
        return sum(layer.linear_params * n for layer, n in self.groups)

    @property
    def embedding_params(self) -> int:
        return self.V * self.D

    @cached_property
    def small_params(self) -> int:
        return sum(layer.small_params * n for layer, n in self.groups) + self.rest_params

    @property
    def expert_params(self) -> int:
        return sum(layer.expert_params * n for layer, n in self.groups)

    @property
    def n_params(self) -> int:
        tables = self.embedding_params * (1 if self.tied else 2) + self.lookup_params
        return self.linear_params + self.small_params + tables

    @property
    def active_params(self) -> int:
        """Weights that one token passes through: with the output head, without the tables."""
        return sum(layer.active_params * n for layer, n in self.groups) + self.embedding_params

    @property
    def kv_values(self) -> int:
        """Values that one token leaves in all layers together, windows not counted."""
        return sum(layer.kv_values * n for layer, n in self.groups)

    @property
    def state_values(self) -> int:
        return sum(layer.state_values * n for layer, n in self.groups)

    def with_layers(self, count: int) -> "LM":
        """The same with its first `count` layers, repeated in order where it has fewer."""
        layers = tuple(self.layers[i % len(self.layers)] for i in range(count))
        return replace(self, layers=layers)


def attention_matrices(D: int, H: int, G: int, K: int) -> tuple[Matrix, ...]:
    return (
        Matrix("q", H * K, D),
        Matrix("k", G * K, D),
        Matrix("v", G * K, D),
        Matrix("o", D, H * K),
    )


def feed_matrices(D: int, F: int, gated: bool = True) -> tuple[Matrix, ...]:
    gate = (Matrix("gate", F, D),) if gated else ()
    return (*gate, Matrix("up", F, D), Matrix("down", D, F))


def expert_matrices(D: int, F: int, count: int, used: int, gated: bool) -> tuple[Matrix, ...]:
    plain = feed_matrices(D, F, gated)
    return tuple(Matrix(m.role, m.rows, m.columns, count, used) for m in plain)


def uniform(
    name: str,
    V: int,
    D: int,
    F: int,
    L: int,
    H: int,
    G: int,
    K: int,
    *,
    tied: bool = False,
    gated: bool = True,
    qk_norm: bool = False,
    small_params: int = 0,
) -> LM:
    """A model of equal layers with plain attention.

    >>> uniform("one", 100, 64, 256, 2, 4, 2, 16).kv_values
    128
    """
    layer = Layer(
        H,
        G,
        K,
        F,
        (*attention_matrices(D, H, G, K), *feed_matrices(D, F, gated)),
        small_params or 2 * D + (2 * K if qk_norm else 0),
        G * K,
        G * K,
    )
    return LM(name, V, D, (layer,) * L, tied, gated, qk_norm, rest_params=D)


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
