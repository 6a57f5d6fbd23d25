"""Whisper: an encoder over 30 seconds of sound and a decoder over text.

Sizes from the published configs; the calls are transformers'. Knows no loss and no card.
"""

from dataclasses import dataclass

from onecard.memory.architectures.backbones import half
from onecard.memory.simulator import Tape, Tensor

FRAMES = 3000
"""Mel frames of 30 s; the encoder halves them."""
MOST_TOKENS = 448


@dataclass(frozen=True)
class Whisper:
    """Width, layers of both halves, heads; V words, mel channels."""

    D: int
    encoder: int
    decoder: int
    H: int
    V: int = 51865
    mels: int = 80

    @property
    def n_params(self) -> int:
        D = self.D
        into = self.mels * D * 3 + D + D * D * 3 + D + FRAMES // 2 * D
        tables = self.V * D + MOST_TOKENS * D
        layers = self.encoder * (12 * D * D + 13 * D - D) + self.decoder * (
            16 * D * D + 20 * D - 2 * D - D
        )
        return into + tables + layers + 4 * D


WHISPER = {
    "whisper-tiny": Whisper(384, 4, 4, 6),
    "whisper-base": Whisper(512, 6, 6, 8),
    "whisper-small": Whisper(768, 12, 12, 12),
    "whisper-medium": Whisper(1024, 24, 24, 16),
    "whisper-large": Whisper(1280, 32, 32, 20),
    "whisper-large-v2": Whisper(1280, 32, 32, 20),
    "whisper-large-v3": Whisper(1280, 32, 32, 20, 51866, 128),
    "whisper-large-v3-turbo": Whisper(1280, 32, 4, 20, 51866, 128),
    "distil-large-v2": Whisper(1280, 32, 2, 20),
    "distil-large-v3": Whisper(1280, 32, 2, 20, 51866, 128),
    "distil-large-v3.5": Whisper(1280, 32, 2, 20, 51866, 128),
    "distil-medium.en": Whisper(1024, 24, 2, 16, 51864),
    "distil-small.en": Whisper(768, 12, 4, 12, 51864),
}


@dataclass(frozen=True)
class Adapt:
    r: int = 0
    targets: tuple[str, ...] = ("q", "v")
    fp32: bool = False


def _linear(t: Tape, x: Tensor, c: int, name: str, a: Adapt) -> Tensor:
    bias = name != "k"
    return t.lora(x, c, a.r, bias, a.fp32) if a.r and name in a.targets else t.linear(x, c, bias)


def _layer(
    t: Tape, x: Tensor, w: Whisper, a: Adapt, other: Tensor | None = None, fused: bool = True
) -> Tensor:
    for source in (None, other) if other is not None else (None,):
        y = half(t, t.norm(x, "layer"))
        from_ = source or y
        q = t.op(y.shape, [_linear(t, y, w.D, "q", a)])  # scaled
        q, k, v = (
            t.copy(q),
            t.copy(_linear(t, from_, w.D, "k", a)),
            t.copy(_linear(t, from_, w.D, "v", a)),
        )
        del y, from_
        y = t.attend(q, k, v, w.H, fused=fused)
        del q, k, v
        x = t.add(x, _linear(t, t.copy(y), w.D, "o", a))
    y = half(t, t.norm(x, "layer"))
    y = t.act(t.linear(y, 4 * w.D), "gelu")
    return t.add(x, t.linear(y, w.D))


def encode(
    t: Tape, mels: Tensor, w: Whisper, a: Adapt | None = None, checkpointing: bool = False
) -> Tensor:
    """(n, mels, 3000, 1) -> (n, 1500, D)."""
    a, n = a or Adapt(), mels.shape[0]
    frames = mels.shape[2]
    y = t.op((n, w.D, frames), [mels], [mels], n_params=w.mels * w.D * 3 + w.D)
    y = t.act(y, "gelu")
    y = t.op((n, w.D, frames // 2), [y], [y], n_params=w.D * w.D * 3 + w.D)
    y = t.act(y, "gelu")
    y = t.op((n, frames // 2, w.D), [y])
    t.params += FRAMES // 2 * w.D  # sinusoids: they are not trained
    for _ in range(w.encoder):
        y = t.kept(lambda v: _layer(t, v, w, a), y) if checkpointing else _layer(t, y, w, a)
    return t.norm(y, "layer")


def decode(
    t: Tape,
    heard: Tensor,
    tokens: int,
    w: Whisper,
    a: Adapt | None = None,
    checkpointing: bool = False,
) -> Tensor:
    """(n, 1500, D) -> logits (n, tokens, V); the head is the table of words."""
    a, n = a or Adapt(), heard.shape[0]
    y = t.embed(n, tokens, w.D, w.V, tied=True)
    y = t.add(y, t.embed(1, tokens, w.D, MOST_TOKENS))
    heard = half(t, heard)
    for _ in range(w.decoder):
        y = (
            t.kept(lambda v: _layer(t, v, w, a, heard), y)
            if checkpointing
            else _layer(t, y, w, a, heard)
        )
    y = half(t, t.norm(y, "layer"))
    return t.tied(y, w.V)
