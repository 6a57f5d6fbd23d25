"""From one dial, `--size 3m`, to the whole shape of a model and of its training, each number with
its reason. Pure arithmetic, no torch."""

import math
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from onecard.errors import DataError, SettingsError
from onecard.memory.architectures import lm
from onecard.tasks.tinylm.configs import Settings

HEAD_WIDTH = 32
"""Aimed at in small models: at width 128, four heads (nanoGPT's CPU setting has the same)."""
TOKENS_A_WEIGHT = 20
"""Tokens that a weight should see (Hoffmann et al. 2022)."""
MOST_EPOCHS = 30
"""Beyond some 16 rounds over the same text more rounds gain almost nothing (Muennighoff et al.

2023); with dropout a small text bears a few more.
"""
SCORED_TOKENS = 4096
"""Read at once in scoring, where the vocabulary is small."""
LOGITS_BYTES = 64 * 2**20
"""Of one such pass: scoring must not take what training did not."""


@dataclass(frozen=True)
class ModelConfig:
    """What the model is; it lies beside its weights as config.json."""

    vocab_size: int
    block_size: int
    """Tokens that it was trained to look at."""
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
        attention = (
            2 * D * self.n_head * K + 2 * D * self.n_kv_head * K + (2 * K if self.qk_norm else 0)
        )
        mlp = (3 if self.mlp == "swiglu" else 2) * D * self.d_ff
        return (
            self.vocab_size * D
            + (self.block_size * D if self.position == "learned" else 0)
            + self.n_layer * (attention + mlp + 2 * D)
            + D
        )

    def blocks_at_once(self, block: int) -> int:
        """Windows of `block` tokens that are scored at once, at least one.

        >>> ModelConfig(66, 256, 4, 4, 4, 128, 344).blocks_at_once(256), ModelConfig(32_000, 256, 4, 4, 4, 128, 344).blocks_at_once(256)
        (16, 2)
        """
        return max(1, min(SCORED_TOKENS, LOGITS_BYTES // (4 * self.vocab_size)) // block)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def from_dict(values: dict[str, Any], where: str) -> ModelConfig:
    """Raises DataError where config.json is not one of ours."""
    known = {field.name for field in fields(ModelConfig)}
    try:
        return ModelConfig(**{key: value for key, value in values.items() if key in known})
    except TypeError as fault:
        raise DataError(
            f"{where} is no config of a tinylm",
            why=str(fault),
            fix="give the folder of a run of onecard tinylm train",
        ) from None


@dataclass(frozen=True)
class Made:
    """Shape and training, with the reason of each number that was not given."""

    shape: ModelConfig
    batch: int
    accumulation: int
    steps: int
    learning_rate: float
    reasons: dict[str, str]

    @property
    def tokens_a_step(self) -> int:
        return self.batch * self.accumulation * self.shape.block_size

    def render(self) -> str:
        facts = {
            **self.shape.as_dict(),
            "per_device_train_batch_size": self.batch,
            "gradient_accumulation_steps": self.accumulation,
            "max_steps": self.steps,
            "learning_rate": self.learning_rate,
        }
        lines = [f"  {name} {facts[name]:g}: {reason}" for name, reason in self.reasons.items()]
        return "\n".join(
            [
                f"{self.shape.n_params / 1e6:.2f} M weights, {self.tokens_a_step:,} tokens a step",
                *lines,
            ]
        )


def size_of(text: str) -> int:
    """Weights of '3m' or '0.8m'. Raises SettingsError.

    >>> size_of("0.8m"), size_of("124M")
    (800000, 124000000)
    """
    found = re.fullmatch(r"([\d.]+)\s*([kmb])", text.strip().lower())
    try:
        made = round(float(found[1]) * {"k": 1e3, "m": 1e6, "b": 1e9}[found[2]]) if found else 0
    except ValueError:
        made = 0
    if not 10_000 <= made <= 2_000_000_000:
        raise SettingsError(
            f"the size '{text}' is none",
            why="a size is a number with k, m or b, from 10k to 2b",
            fix="--size 1m, --size 3m or --size 10m",
        )
    return made


def of(s: Settings, vocab_size: int, train_tokens: int) -> Made:
    """All numbers of a training; a setting that is not 0 is taken as it is.

    `train_tokens` of 0 is not known yet. Raises SettingsError for sizes that do not divide.
    """
    why: dict[str, str] = {}

    def choose(name: str, given: float, made: float, reason: str) -> Any:
        if given:
            return given
        why[name] = reason
        return made

    aim = size_of(s.size)
    core = max(aim - vocab_size * 64, aim // 4)  # the table takes its share
    layers = choose(
        "n_layer",
        s.n_layer,
        min(48, max(2, round((core / 12_288) ** (1 / 3)))),
        "cube root of size / 12288: depth and width grow together (Kaplan et al. 2020 found the "
        "ratio to matter little)",
    )
    heads_by_width = s.n_embd or HEAD_WIDTH * max(
        2, round(_width(aim, vocab_size, layers) / HEAD_WIDTH)
    )
    width = choose(
        "n_embd",
        s.n_embd,
        heads_by_width,
        f"so that table and {layers} layers of 12 n_embd^2 make {s.size}, in steps of {HEAD_WIDTH}",
    )
    heads = choose(
        "n_head",
        s.n_head,
        max(1, width // (64 if width >= 768 else HEAD_WIDTH)),
        "heads of 32, from width 768 on of 64",
    )
    groups = choose(
        "n_kv_head",
        s.n_kv_head,
        heads,
        "keys and values for each query head: a cache this small need not shrink",
    )
    feed = choose(
        "d_ff",
        s.d_ff,
        lm.feed_width(width, s.mlp == "swiglu"),
        "8/3 n_embd: with its third matrix SwiGLU then has the weights of a 4 n_embd MLP"
        if s.mlp == "swiglu"
        else "4 n_embd, as usual",
    )
    block = choose(
        "block_size",
        s.block_size,
        256 if aim < 50_000_000 else 1024,
        "tokens to look back at: some sentences" if aim < 50_000_000 else "a page",
    )
    goal = min(65_536 * 8, 2 ** round(math.log2(4096 * math.sqrt(aim / 1e6))))
    batch = choose(
        "per_device_train_batch_size",
        s.per_device_train_batch_size,
        max(1, goal // (block * s.gradient_accumulation_steps)),
        f"{goal:,} tokens a step: 4096 x sqrt(size / 1m); many small steps learn faster than few "
        "large ones here",
    )
    a_step = batch * s.gradient_accumulation_steps * block
    wanted = (
        TOKENS_A_WEIGHT * aim
        if not train_tokens
        else min(TOKENS_A_WEIGHT * aim, MOST_EPOCHS * train_tokens)
    )
    reason = (
        f"{TOKENS_A_WEIGHT} tokens a weight (Hoffmann et al. 2022)"
        if not train_tokens or wanted < MOST_EPOCHS * train_tokens
        else f"{MOST_EPOCHS} rounds over a text of {train_tokens:,} tokens: {TOKENS_A_WEIGHT} a "
        "weight would be more than it bears"
    )
    steps = choose("max_steps", s.max_steps, max(20, round(wanted / a_step)), reason)
    epochs = steps * a_step / train_tokens if train_tokens else 1.0
    dropout = s.dropout
    if dropout < 0:
        dropout = 0.0 if epochs < 4 else 0.1 if epochs < 12 else 0.2
        why["dropout"] = f"{epochs:.1f} rounds over the text: " + (
            "too few to learn it by heart" if epochs < 4 else "so that it is not learned by heart"
        )
    rate = choose(
        "learning_rate",
        s.learning_rate,
        (0.004 if s.optim == "muon" else 0.003) * math.sqrt(128 / width),
        "of AdamW, falling with the root of the width"
        + ("; matrices go by muon_lr" if s.optim == "muon" else ""),
    )
    _divide(width, heads, groups, s.position)
    shape = ModelConfig(
        vocab_size,
        int(block),
        int(layers),
        int(heads),
        int(groups),
        int(width),
        int(feed),
        s.position,
        s.mlp,
        s.qk_norm,
        dropout,
        s.rope_theta,
    )
    return Made(shape, int(batch), s.gradient_accumulation_steps, int(steps), float(rate), why)


def _width(aim: int, vocab_size: int, layers: int) -> float:
    """The positive root of 12 L D^2 + V D = aim."""
    return (-vocab_size + math.sqrt(vocab_size**2 + 48 * layers * aim)) / (24 * layers)


def _divide(width: int, heads: int, groups: int, position: str) -> None:
    lm.share_heads(width, heads, groups)
    if position == "rope" and (width // heads) % 2:
        raise SettingsError(
            f"a head of width {width // heads} cannot be rotated",
            why="RoPE turns pairs",
            fix=f"--n_embd {2 * heads * -(-width // (2 * heads))}",
        )
