"""What a tiny language model is made of; stored as config.json beside its weights."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from onecard.errors import DataError

SCORED_TOKENS = 4096
"""Tokens of a forward pass in scoring, where the vocabulary is small."""
LOGITS_BYTES = 64 * 2**20
"""Logits of such a pass: scoring must not take memory that training did not."""


@dataclass(frozen=True)
class ModelConfig:
    vocab_size: int
    block_size: int
    """Tokens that it was trained to attend to."""
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    d_ff: int
    position: str = "rope"
    mlp: str = "swiglu"
    qk_norm: bool = True
    dropout: float = 0.0
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6

    @property
    def head_width(self) -> int:
        return self.n_embd // self.n_head

    @property
    def n_params(self) -> int:
        """Weights, counted as model.py makes them.

        >>> ModelConfig(66, 64, 4, 4, 4, 128, 344).n_params
        800384
        """
        D, K = self.n_embd, self.head_width
        attention = 2 * D * self.n_head * K + 2 * D * self.n_kv_head * K
        if self.qk_norm:
            attention += 2 * K
        mlp = (3 if self.mlp == "swiglu" else 2) * D * self.d_ff
        positions = self.block_size * D if self.position == "learned" else 0
        norms = 2 * D
        return self.vocab_size * D + positions + self.n_layer * (attention + mlp + norms) + D

    def blocks_at_once(self, block: int) -> int:
        """Windows of `block` tokens that are scored in one pass, at least one.

        >>> ModelConfig(66, 256, 4, 4, 4, 128, 344).blocks_at_once(256)
        16
        >>> ModelConfig(32_000, 256, 4, 4, 4, 128, 344).blocks_at_once(256)
        2
        """
        return max(1, min(SCORED_TOKENS, LOGITS_BYTES // (4 * self.vocab_size)) // block)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def from_dict(values: dict[str, Any], path: str) -> ModelConfig:
    """`path`: the config.json that the values came from. Raises DataError where it is not ours."""
    names = {field.name for field in fields(ModelConfig)}
    try:
        return ModelConfig(**{key: value for key, value in values.items() if key in names})
    except TypeError as fault:
        raise DataError(
            f"{path} is no config of a tinylm",
            why=str(fault),
            fix="give the folder of a run of onecard tinylm train",
        ) from None
