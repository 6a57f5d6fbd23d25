"""Memory of speech recognition: Whisper under CTranslate2 or transformers, and its fine-tuning. A
tape runs the training step; answers are counted by formula.

Letters: D width, L layers, B windows of 30 s at once, T tokens.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

from onecard.errors import SettingsError
from onecard.memory import formats
from onecard.memory.architectures import listeners
from onecard.memory.architectures import whisper as nets
from onecard.memory.architectures.listeners import Listener
from onecard.memory.architectures.whisper import FRAMES, WHISPER, Whisper
from onecard.memory.estimators.training import OPTIMIZER
from onecard.memory.plan import Term
from onecard.memory.simulator import Tape
from onecard.units import MIB

WEIGHT = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.0, "int8-fp16": 1.0}
"""Bytes a weight by CTranslate2's types, in the words of formats.py."""
TOKENS = 100
"""Of a 30-second window; speech makes some 80 to 120."""
CT2_WORK_BYTES = 700 * MIB
"""CTranslate2's own allocator and cuBLAS on a card beyond what is counted: from faster-whisper's
published large-v2 (4525 MiB in fp16, 2926 in int8) less a context."""
OPTIMIZER_COPY = 4.0
"""Bytes a trained weight that torch's AdamW makes beside while it steps."""


def find(name: str) -> tuple[str, Whisper]:
    """Whisper by its usual name: large-v3, openai/whisper-tiny.en ... Raises NotFound with the
    nearest; SettingsError for another model."""
    plain = name.lower().rstrip("/").split("/")[-1].removeprefix("faster-").replace("_", "-")
    plain = re.sub(r"-(?:ct2|float16|fp16|int8)$", "", plain).removesuffix(".en")
    plain = {"large-v1": "large", "turbo": "large-v3-turbo", "whisper-turbo": "large-v3-turbo"}.get(
        plain, plain
    )
    plain = re.sub(r"^distil-whisper-", "distil-", plain)
    for candidate in (plain, f"whisper-{plain}", f"{plain}.en"):
        if candidate in WHISPER:
            return candidate, WHISPER[candidate]
    if other := listeners.named(name):
        raise SettingsError(
            f"{other[0]} is no Whisper",
            why="onecard runs and trains Whisper; other speech models are only planned",
            fix=f"onecard plan asr {other[0]}",
        )
    raise listeners.refuse(name, list(WHISPER))


def _bytes(format: str) -> float:
    return WEIGHT.get(format) or formats.each(format)


WINDOW_S = 30.0
"""Sound that is heard at once."""


def listen(name: str, m: Listener, format: str = "fp16", B: int = 1) -> list[Term]:
    """What another speech model needs for B windows of 30 s, under transformers or NeMo."""
    each = _bytes(format)
    wide = 4.0 if each == 4 else 2.0
    T = math.ceil(WINDOW_S * m.rate)
    words = listeners.words_of(m)
    written = TOKENS + (T // m.joined if words else 0)
    kept = B * written * words.kv_values * wide if words else 0.0
    if m.decoder:
        kept = B * m.decoder * 2 * m.D * (T + TOKENS) * wide
    encoder = B * T * (6 * m.D + 2 * m.F) * wide
    if m.scores:  # content and position, and their sum's softmax in fp32
        encoder += B * m.H * T * T * (2 * wide + 4)
    if m.mels:  # two steps of 256 channels over half of the spectrum and of its frames
        encoder = max(encoder, B * WINDOW_S * 50 * m.mels / 2 * 256 * wide * 2)
    reading = B * written * (3 * words.F + 4 * words.D) * wide if words else 0.0
    return [
        Term("weights", math.ceil(m.params * each), f"{m.params / 1e6:.0f}e6 in {format}"),
        Term("KV cache", math.ceil(kept), f"{B} x {written} tokens")
        if kept
        else Term("KV cache", 0, "a head without a cache"),
        Term(
            "activations",
            math.ceil(max(encoder, reading)),
            f"{B} windows of 30 s: {T} steps in {m.L} layers of {name}'s encoder",
        ),
        Term("workspace", CUDNN_BYTES, "cuDNN and cuBLAS (a guess)"),
    ]


CUDNN_BYTES = 64 * MIB


def transcribe(
    w: Whisper,
    format: str = "fp16",
    B: int = 1,
    beam: int = 5,
    engine: Literal["ctranslate2", "transformers"] = "ctranslate2",
    device: str = "cuda",
) -> list[Term]:
    """What B windows at once need. A format that is not known raises KeyError."""
    each = _bytes(format)
    wide = 4.0 if each == 4 or (device == "cpu" and engine == "ctranslate2") else 2.0
    T = FRAMES // 2
    cross_cache = B * w.decoder * 2 * T * w.D * wide
    self_cache = B * beam * w.decoder * 2 * TOKENS * w.D * wide
    if engine == "transformers":
        cross_cache *= (
            beam  # generate repeats the encoder's output, and so its keys and values, for each beam
        )
    encoder = B * T * w.D * wide * (4 + 2 * 4) + B * w.H * T * T * wide * (engine == "ctranslate2")
    logits = B * beam * w.V * 4 * 2
    scales = w.n_params / w.D * 4 if each == 1 else 0
    out = [
        Term(
            "weights",
            math.ceil(w.n_params * each + scales),
            f"{w.n_params / 1e6:.0f}e6 in {format}",
        ),
        Term(
            "KV cache",
            math.ceil(cross_cache),
            f"{B} x {w.decoder} layers x 2 x {w.D} x {T} cross_cache"
            + (f" x {beam} beams" if engine == "transformers" else ""),
        ),
    ]
    if (
        engine == "ctranslate2" and device != "cpu"
    ):  # one allocator: the encoder's blocks serve the decoder
        return [
            *out,
            Term(
                "workspace",
                math.ceil(max(CT2_WORK_BYTES, encoder, self_cache)),
                "CTranslate2's allocator: encoder, tokens self_cache, cuBLAS",
            ),
        ]
    return [
        *out,
        Term(
            "activations",
            math.ceil(max(encoder, logits + self_cache)),
            f"{B} windows of 30 s in the encoder, or {beam} beams of {TOKENS} tokens self_cache",
        ),
    ]


@dataclass(frozen=True)
class Training:
    """How it is fine-tuned."""

    method: Literal["lora", "full"] = "lora"
    B: int = 8
    T: int = TOKENS
    """Tokens of the longest text of a batch."""
    r: int = 32
    targets: tuple[str, ...] = ("q", "v")
    amp: bool = True
    weights: Literal["fp32", "bf16"] = "fp32"
    optimizer: str = "adamw"
    checkpointing: bool = False
    frozen_encoder: bool = False
    """The encoder is not trained, and its output was made before."""
    foreach: bool = True
    frames: int = FRAMES


def train(w: Whisper, s: Training, device: bool = True) -> list[Term]:
    """The terms of a training step's peak, as torch's allocator counts them."""
    lora = s.method == "lora"
    kept = 4.0 if s.weights == "fp32" else 2.0
    wide = 2.0 if s.amp or kept == 2 else 4.0
    t = Tape(grad=True, wide=wide, weights=kept, device=device)
    a = nets.Adapt(s.r if lora else 0, s.targets, fp32=kept == 4)
    t.frozen = lora or s.frozen_encoder
    if s.frozen_encoder:
        t.params += nets.FRAMES // 2 * w.D
        heard = t.tensor(s.B, s.frames // 2, w.D)
    else:
        mels = t.tensor(s.B, w.mels, s.frames, wide=4.0)
        heard = nets.encode(t, t.to(mels, wide), w, a, s.checkpointing)
        del mels
    t.frozen = lora
    logits = nets.decode(t, heard, s.T, w, a, s.checkpointing)
    del heard
    upcast = t.to(logits, 4.0)
    del logits
    chosen = t.op(upcast.shape, [upcast], [upcast] if wide == 4 else [], keeps=True, wide=4.0)
    loss = t.op((1,), [chosen], [chosen], wide=4.0)
    del upcast, chosen
    t.backward(loss)
    frozen = t.params - t.trained
    states = OPTIMIZER[s.optimizer][0]
    grown = (
        t.trained * (OPTIMIZER_COPY + 4.0)
        if s.optimizer == "adamw" and s.foreach
        else t.trained * 4.0
    )
    out = (
        [Term("weights", math.ceil(frozen * kept), f"{frozen / 1e6:.1f}e6 x {kept:.0f} B, frozen")]
        if frozen > 0
        else []
    )
    out += [
        Term(
            "trained weights",
            math.ceil(t.trained * 4.0),
            f"{t.trained / 1e6:.1f}e6 x 4 B"
            + (f", rank {s.r} on {'+'.join(s.targets)}" if lora else ""),
        ),
        Term(
            "optimizer",
            math.ceil(t.trained * states),
            f"{s.optimizer}: {states:.0f} B a trained weight",
        ),
        Term(
            "activations and gradients",
            math.ceil(max(t.peak, grown)),
            f"{s.B} windows of 30 s, {s.T} tokens of {w.V} words"
            + (", the encoder's output made before" if s.frozen_encoder else ""),
        ),
    ]
    return out
