"""Memory of a model that sees and talks: a vision tower, a projector and a language model.

Letters: as in training.py; an image is cut into tiles, each tile becomes so many tokens among the
words.
"""

import math
from dataclasses import dataclass
from typing import Literal

from onecard.memory import formats
from onecard.memory.architectures import vlms
from onecard.memory.architectures.backbones import encoder_layer, half
from onecard.memory.architectures.mmproj import Projector
from onecard.memory.architectures.vlm import VLM, Tower, tiles_of
from onecard.memory.estimators import llm_inference, training
from onecard.memory.plan import Term
from onecard.memory.simulator import Tape, Tensor

__all__ = ["VLM", "Look", "Tower", "Training", "find", "projector", "talk", "tiles_of", "tune"]
TALK_TOKENS = 256
"""Words of question and answer beside the image."""


def find(name: str) -> tuple[str, VLM]:
    """By its whole name, a folder or its config.json. Raises NotFound, DataError."""
    model = vlms.find(name)
    return model.name, model


def _see(t: Tape, m: VLM, B: int, patches: int, fused: bool, r: int = 0) -> Tensor:
    tower = m.tower
    y = t.op(
        (B, patches, tower.D),
        [t.tensor(B, patches, 3 * tower.patch**2)],
        n_params=3 * tower.patch**2 * tower.D,
    )
    for _ in range(tower.L):
        y = encoder_layer(t, y, tower.H, tower.F, fused=fused, r=r)
    return half(t, t.norm(y, "layer"))


@dataclass(frozen=True)
class Look:
    """How images are looked at and answered."""

    format: str = "bf16"
    B: int = 1
    width: int = 0
    height: int = 0
    tokens: int = TALK_TOKENS
    """Words of the question."""
    answer: int = 0
    """Words of the answer, which stay in the cache."""
    all_logits: bool = False
    """Code of before 2025 makes logits of the whole prompt, in fp32."""
    fused: bool = True
    image: bool = True
    """Off: words only."""
    min_pixels: int = 0
    max_pixels: int = 0


def talk(m: VLM, s: Look) -> list[Term]:
    """What looking at one image a sequence and answering needs."""
    words, B = m.words, s.B
    tiles, patches, seen = 1, 0, 0
    if s.image:
        tiles, patches, seen = tiles_of(m, s.width, s.height, s.min_pixels, s.max_pixels)
    crossed = B * seen * m.cross_values * 2
    image_tokens = 0 if m.cross_values else seen
    weights = formats.hf(words, s.format)
    wide = 4.0 if s.format in ("fp32", "f32") else 2.0
    beside = math.ceil(m.beside * wide)
    t = Tape(wide=wide, weights=wide)
    _see(t, m, B * tiles, patches, s.fused)
    prompt = B * (image_tokens + s.tokens)
    # logits are cast to fp32 beside the 16 bits that they are made in
    logits = (prompt if s.all_logits else B) * words.V * (4 + wide)
    reading = max(prompt * (3 * words.F + 4 * words.D) * wide, logits)
    kept = image_tokens + s.tokens + s.answer
    cache = math.ceil(B * kept * wide * words.kv_values) + crossed
    top = max(t.peak, reading)
    why = f"{image_tokens + s.tokens} tokens read at once"
    if top == t.peak:
        why = f"{tiles} tiles of {patches} patches in the tower"
    elif top == logits:
        why = f"logits of {prompt if s.all_logits else B} tokens, cast to fp32"
    return [
        Term(
            "weights",
            weights.total,
            f"{words.n_params / 1e9:.2f}e9 of {words.name} in {s.format}",
        ),
        Term(
            "vision tower",
            beside,
            f"{m.beside / 1e6:.0f}e6 of tower, projector and what else is not the language model, "
            f"{8 * wide:.0f} bits",
        ),
        Term(
            "KV cache",
            cache,
            f"{B} x ({image_tokens} tokens of the image + {s.tokens} words + {s.answer} of the "
            "answer)",
        ),
        Term("activations", math.ceil(top), why),
        Term("workspace", llm_inference.GATHER_BYTES, "cuBLAS"),
    ]


@dataclass(frozen=True)
class Training:
    """How it is fine-tuned: the language model's recipe, the words of a sample, and what happens to
    the tower."""

    recipe: training.Recipe
    """Its T is overwritten by image and words."""
    words: int = TALK_TOKENS
    width: int = 0
    height: int = 0
    min_pixels: int = 0
    max_pixels: int = 0
    tower: Literal["frozen", "lora", "full"] = "frozen"


def tune(m: VLM, s: Training) -> list[Term]:
    """The terms of a training step's peak: the language model's step with the image among its
    tokens, and the tower's."""
    words = m.words
    tiles, patches, image_tokens = tiles_of(m, s.width, s.height, s.min_pixels, s.max_pixels)
    if m.cross_values:  # the image is looked at from beside the words
        image_tokens = 0
    recipe = training.Recipe(**{**vars(s.recipe), "T": image_tokens + s.words})
    terms = training.step(words, recipe)
    trained = s.tower == "full"
    fp32 = recipe.weights in ("fp32", "f32")
    kept = 4.0 if fp32 or (trained and recipe.mixed) else 2.0
    wide = 2.0 if recipe.weights not in ("fp32", "f32") or recipe.mixed else 4.0
    t = Tape(grad=s.tower != "frozen", wide=wide, weights=kept, frozen=not trained)
    out = _see(t, m, recipe.B * tiles, patches, True, recipe.r if s.tower == "lora" else 0)
    waits = t.now
    del out
    n_beside = m.beside
    terms.append(
        Term(
            "vision tower",
            math.ceil(n_beside * kept),
            f"tower and projector, {n_beside / 1e6:.0f}e6 x {kept:.0f} B",
        )
    )
    if trained:
        terms += [
            Term(
                "tower's optimizer",
                math.ceil(n_beside * training.OPTIMIZER[recipe.optimizer][0 if kept == 4 else 1]),
                recipe.optimizer,
            ),
            Term("tower's gradients", math.ceil(n_beside * kept), "one for each weight"),
        ]
    terms.append(
        Term(
            "tower's activations",
            waits if s.tower != "frozen" else t.peak // 8,
            f"{recipe.B} x {tiles} tiles of {patches} patches"
            + ("" if s.tower != "frozen" else ", frozen: its output waits"),
        )
    )
    return terms


def projector(p: Projector, width: int, height: int, flash_attn: bool) -> list[Term]:
    """What llama.cpp keeps of the vision half on the card: the file's tensors, and the buffer of
    its graph for one image or tile (clip.cpp works in fp32, one at a time)."""
    n = p.patches(width, height)
    tower = p.tower
    values = n * (2 * tower.D + tower.F * (2 if tower.gated else 1))
    scores = 0 if flash_attn else n * n * tower.H
    why = f"{n} patches in fp32"
    return [
        Term("vision tower", p.bytes, f"{p.kind or 'clip'}: read from the mmproj file's header"),
        Term(
            "vision compute",
            4 * (values + scores),
            why + ("" if flash_attn else f", {tower.H} score matrices: no flash attention"),
        ),
    ]
