"""From one number, `--size 3m`, to the whole model and its training, each value with its reason.

Pure arithmetic, no torch.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

from onecard.errors import SettingsError
from onecard.memory.architectures import layers
from onecard.tasks.tinylm.configs import TrainConfig
from onecard.tasks.tinylm.model_config import ModelConfig

HEAD_WIDTH = 32
"""Of small models: four heads at width 128, as in nanoGPT's CPU setting."""
WIDE_HEADS_FROM = 768
"""Width from which heads of 64 are used, as GPT-2 has them."""
TOKENS_A_WEIGHT = 20
"""Training tokens a weight for which compute is best spent (Hoffmann et al. 2022)."""
MAX_EPOCHS = 30
"""Beyond some 16 rounds over the same text, more rounds gain almost nothing (Muennighoff et al.
2023); with dropout a small text takes a few more."""
MAX_STEP_TOKENS = 65_536 * 8


@dataclass(frozen=True)
class TrainingSetup:
    """The model and its training, with the reason of each value that was not set."""

    model_config: ModelConfig
    batch_size: int
    """Samples of a micro-batch."""
    accumulation_steps: int
    steps: int
    learning_rate: float
    reasons: dict[str, str]

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.accumulation_steps * self.model_config.block_size

    def render(self) -> str:
        values = {
            **self.model_config.as_dict(),
            "per_device_train_batch_size": self.batch_size,
            "gradient_accumulation_steps": self.accumulation_steps,
            "max_steps": self.steps,
            "learning_rate": self.learning_rate,
        }
        n_params = self.model_config.n_params
        return "\n".join(
            [
                f"{n_params / 1e6:.2f} M weights, {self.tokens_per_step:,} tokens a step",
                *(f"  {name} {values[name]:g}: {why}" for name, why in self.reasons.items()),
            ]
        )


def parse_size(text: str) -> int:
    """Weights of '3m' or '0.8m'. Raises SettingsError.

    >>> parse_size("0.8m"), parse_size("124M")
    (800000, 124000000)
    """
    match = re.fullmatch(r"([\d.]+)\s*([kmb])", text.strip().lower())
    try:
        size = round(float(match[1]) * {"k": 1e3, "m": 1e6, "b": 1e9}[match[2]]) if match else 0
    except ValueError:  # more than one decimal point
        size = 0
    if not 10_000 <= size <= 2_000_000_000:
        raise SettingsError(
            f"'{text}' is no size",
            why="a size is a number with k, m or b, from 10k to 2b",
            fix="--size 1m, --size 3m or --size 10m",
        )
    return size


def derive(config: TrainConfig, vocab_size: int, train_tokens: int) -> TrainingSetup:
    """All values of a training; a setting that is not 0 is taken as it is.

    `train_tokens`: 0 while the text is not read. Raises SettingsError for sizes that do not divide.
    """
    size = parse_size(config.size)
    defaults = _Defaults(config)
    shape = _shape(defaults, size, vocab_size)
    batch_size = _batch_size(defaults, size, shape["block_size"])
    tokens_per_step = batch_size * config.gradient_accumulation_steps * shape["block_size"]
    steps = _steps(defaults, size, train_tokens, tokens_per_step)
    epochs = steps * tokens_per_step / train_tokens if train_tokens else 1.0
    dropout = _dropout(defaults, epochs)
    learning_rate = _learning_rate(defaults, shape["n_embd"])
    _require_divisible(shape["n_embd"], shape["n_head"], shape["n_kv_head"], config.position)
    model_config = ModelConfig(
        vocab_size=vocab_size,
        **shape,
        position=config.position,
        mlp=config.mlp,
        qk_norm=config.qk_norm,
        dropout=dropout,
        rope_theta=config.rope_theta,
    )
    return TrainingSetup(
        model_config,
        batch_size,
        config.gradient_accumulation_steps,
        steps,
        learning_rate,
        defaults.reasons,
    )


class _Defaults:
    """The config, with a default and its reason where one is 0."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.reasons: dict[str, str] = {}

    def choose(self, name: str, default: float, reason: str) -> Any:
        value = getattr(self.config, name)
        if value:
            return value
        self.reasons[name] = reason
        return default


def _shape(defaults: _Defaults, size: int, vocab_size: int) -> dict[str, int]:
    config = defaults.config
    core = max(size - vocab_size * 64, size // 4)  # without the embedding table's share
    n_layer = defaults.choose(
        "n_layer",
        min(48, max(2, round((core / 12_288) ** (1 / 3)))),
        "cube root of size / 12288: depth and width grow together (Kaplan et al. 2020 found the "
        "ratio to matter little)",
    )
    n_embd = defaults.choose(
        "n_embd",
        HEAD_WIDTH * max(2, round(_width(size, vocab_size, n_layer) / HEAD_WIDTH)),
        f"so that table and {n_layer} layers of 12 n_embd^2 make {config.size}, in steps of "
        f"{HEAD_WIDTH}",
    )
    n_head = defaults.choose(
        "n_head",
        max(1, n_embd // (64 if n_embd >= WIDE_HEADS_FROM else HEAD_WIDTH)),
        f"heads of {HEAD_WIDTH}, from width {WIDE_HEADS_FROM} on of 64",
    )
    n_kv_head = defaults.choose(
        "n_kv_head", n_head, "one for each query head: a cache this small need not shrink"
    )
    gated = config.mlp == "swiglu"
    d_ff = defaults.choose(
        "d_ff",
        layers.feed_width(n_embd, gated),
        "8/3 n_embd: with its third matrix SwiGLU then has the weights of a 4 n_embd MLP"
        if gated
        else "4 n_embd, as usual",
    )
    small = size < 50_000_000
    block_size = defaults.choose(
        "block_size",
        256 if small else 1024,
        "tokens to attend to: " + ("some sentences" if small else "a page"),
    )
    return {
        "block_size": block_size,
        "n_layer": n_layer,
        "n_head": n_head,
        "n_kv_head": n_kv_head,
        "n_embd": n_embd,
        "d_ff": d_ff,
    }


def _width(size: int, vocab_size: int, n_layer: int) -> float:
    """The positive root of 12 L D^2 + V D = size."""
    return (-vocab_size + math.sqrt(vocab_size**2 + 48 * n_layer * size)) / (24 * n_layer)


def _batch_size(defaults: _Defaults, size: int, block_size: int) -> int:
    step_tokens = min(MAX_STEP_TOKENS, 2 ** round(math.log2(4096 * math.sqrt(size / 1e6))))
    accumulation = defaults.config.gradient_accumulation_steps
    return int(
        defaults.choose(
            "per_device_train_batch_size",
            max(1, step_tokens // (block_size * accumulation)),
            f"{step_tokens:,} tokens a step: 4096 x sqrt(size / 1m); many small steps learn faster "
            "than few large ones here",
        )
    )


def _steps(defaults: _Defaults, size: int, train_tokens: int, tokens_per_step: int) -> int:
    tokens = TOKENS_A_WEIGHT * size
    reason = f"{TOKENS_A_WEIGHT} tokens a weight (Hoffmann et al. 2022)"
    if train_tokens and tokens >= MAX_EPOCHS * train_tokens:
        tokens = MAX_EPOCHS * train_tokens
        reason = (
            f"{MAX_EPOCHS} rounds over a text of {train_tokens:,} tokens: {TOKENS_A_WEIGHT} a "
            "weight would be more rounds than help"
        )
    return int(defaults.choose("max_steps", max(20, round(tokens / tokens_per_step)), reason))


def _dropout(defaults: _Defaults, epochs: float) -> float:
    if defaults.config.dropout >= 0:
        return defaults.config.dropout
    rounds = f"{epochs:.1f} rounds over the text: "
    if epochs < 4:
        defaults.reasons["dropout"] = rounds + "too few to memorise it"
        return 0.0
    defaults.reasons["dropout"] = rounds + "against memorising it"
    return 0.1 if epochs < 12 else 0.2


def _learning_rate(defaults: _Defaults, n_embd: int) -> float:
    muon = defaults.config.optim == "muon"
    return float(
        defaults.choose(
            "learning_rate",
            (0.004 if muon else 0.003) * math.sqrt(128 / n_embd),
            "of AdamW, falling with the root of the width"
            + ("; matrices have muon_lr" if muon else ""),
        )
    )


def _require_divisible(width: int, heads: int, kv_heads: int, position: str) -> None:
    layers.share_heads(width, heads, kv_heads)
    if position == "rope" and (width // heads) % 2:
        raise SettingsError(
            f"a head of width {width // heads} cannot be rotated",
            why="RoPE turns pairs",
            fix=f"--n_embd {2 * heads * -(-width // (2 * heads))}",
        )
