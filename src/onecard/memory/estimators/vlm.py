"""Memory of a model that sees and talks: a vision tower, a projector and a language model.
Assembles what infer.py and train.py say of the language model.

Letters: as in train.py; an image is cut into tiles, each tile becomes so many tokens among the
words.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

from onecard.errors import not_found
from onecard.memory import formats
from onecard.memory.architectures import lm
from onecard.memory.architectures.backbones import encoder_layer, half
from onecard.memory.estimators import llm_inference, training
from onecard.memory.plan import Term
from onecard.memory.simulator import Tape, Tensor


@dataclass(frozen=True)
class Tower:
    """A vision transformer: width, layers, heads, feed-forward, side of a patch (px)."""

    D: int
    L: int
    H: int
    F: int
    patch: int
    gated: bool = False

    @property
    def n_params(self) -> int:
        return (
            self.L
            * (4 * self.D**2 + (3 if self.gated else 2) * self.D * self.F + 9 * self.D + self.F)
            + 3 * self.patch**2 * self.D
        )


TOWERS = {
    "clip-l": Tower(1024, 24, 16, 4096, 14),
    "so400m": Tower(1152, 27, 16, 4304, 14),
    "siglip-b": Tower(768, 12, 12, 3072, 16),
    "internvit-300m": Tower(1024, 24, 16, 4096, 14),
    "qwen2-vit": Tower(1280, 32, 16, 5120, 14),
    "qwen2.5-vit": Tower(1280, 32, 16, 3420, 14, True),
}


@dataclass(frozen=True)
class VLM:
    """How the parts are joined.

    `tile` 0: an image of any size in one piece, a token for `patch x 2` pixels a side.
    """

    tower: str
    words: str
    """The language model's name in the table."""
    tile: int
    tokens: int
    """Of one tile among the words."""
    most: int = 1
    """Tiles of the largest image, the small whole one included."""
    joined: int = 1
    """Patches' features that the projector reads at once."""
    beside: int = 0
    """Further weights: a resampler."""
    old_code: bool = False
    """Brings code of its own that makes logits of the whole prompt."""


MODELS = {
    "llava-1.5-7b": VLM("clip-l", "vicuna-7b", 336, 576),
    "llava-1.5-13b": VLM("clip-l", "vicuna-13b", 336, 576),
    "llava-1.6-mistral-7b": VLM("clip-l", "mistral-7b", 336, 576, 5),
    "llava-1.6-vicuna-7b": VLM("clip-l", "vicuna-7b", 336, 576, 5),
    "qwen2-vl-2b": VLM("qwen2-vit", "qwen2-1.5b", 0, 0, joined=4),
    "qwen2-vl-7b": VLM("qwen2-vit", "qwen2-7b", 0, 0, joined=4),
    "qwen2.5-vl-3b": VLM("qwen2.5-vit", "qwen2.5-3b", 0, 0, joined=4),
    "qwen2.5-vl-7b": VLM("qwen2.5-vit", "qwen2.5-7b", 0, 0, joined=4),
    "smolvlm-256m": VLM("siglip-b", "smollm2-135m", 512, 64, 17, 16),
    "smolvlm-500m": VLM("siglip-b", "smollm2-360m", 512, 64, 17, 16),
    "smolvlm-2.2b": VLM("so400m", "smollm2-1.7b", 384, 81, 17, 9),
    "internvl2-1b": VLM("internvit-300m", "qwen2-0.5b", 448, 256, 13, 4, old_code=True),
    "internvl2-2b": VLM("internvit-300m", "internlm2-1.8b", 448, 256, 13, 4, old_code=True),
    "moondream2": VLM("so400m", "phi-1.5", 378, 729, 1, 2),
    "minicpm-v-2": VLM("so400m", "minicpm-2b", 448, 64, 10, 1, 35_000_000, True),
    "minicpm-v-2.5": VLM("so400m", "llama-3-8b", 448, 96, 10, 1, 80_000_000, True),
    "minicpm-v-2.6": VLM("so400m", "qwen2-7b", 448, 64, 10, 1, 80_000_000, True),
    "paligemma-3b": VLM("so400m", "gemma-2b", 448, 1024),
    "gemma-3-4b": VLM("so400m", "gemma-3-4b", 896, 256),
    "nanovlm": VLM("siglip-b", "smollm2-135m", 224, 49, 1, 4),
}
ALSO = {
    "smolvlm": "smolvlm-2.2b",
    "smolvlminstruct": "smolvlm-2.2b",
    "llava157b": "llava-1.5-7b",
    "minicpmllama3v25": "minicpm-v-2.5",
    "minicpmv26": "minicpm-v-2.6",
    "minicpmv": "minicpm-v-2",
    "paligemma": "paligemma-3b",
    "llavanext": "llava-1.6-mistral-7b",
    "llavav15": "llava-1.5-7b",
    "llavav1513b": "llava-1.5-13b",
    "llavav157b": "llava-1.5-7b",
    "llavav16": "llava-1.6-vicuna-7b",
    "llava16": "llava-1.6-vicuna-7b",
}
TALK_TOKENS = 256
"""Words of question and answer beside the image."""


def find(name: str) -> tuple[str, VLM]:
    """By its usual name. Raises NotFound with the nearest."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower().split("/")[-1])
    for key, known in sorted(
        {**ALSO, **{re.sub(r"[^a-z0-9]", "", n): n for n in MODELS}}.items(),
        key=lambda pair: -len(pair[0]),
    ):
        if plain.startswith(key):
            return known, MODELS[known]
    raise not_found("vision-language model", name, MODELS, "onecard plan vlm qwen2.5-vl-3b")


def tiles_of(m: VLM, width: int = 0, height: int = 0) -> tuple[int, int, int]:
    """(tiles, patches of a tile, tokens among the words) of one image; without a size, of the
    largest that the model takes.

    >>> tiles_of(MODELS["qwen2-vl-7b"], 1024, 1024)[2]
    1369
    >>> tiles_of(MODELS["llava-1.5-7b"], 4000, 3000)[2]
    576
    """
    tower = TOWERS[m.tower]
    if not m.tile:
        side = 2 * tower.patch
        tokens = max(round((width or 1280) / side), 1) * max(round((height or 1280) / side), 1)
        return 1, 4 * tokens, tokens
    patches = (m.tile // tower.patch) ** 2
    tiles = m.most
    if m.most > 1 and width:
        tiles = min(math.ceil(width / m.tile) * math.ceil(height / m.tile) + 1, m.most)
    return tiles, patches, tiles * m.tokens


def _see(t: Tape, m: VLM, B: int, patches: int, fused: bool, r: int = 0) -> Tensor:
    tower = TOWERS[m.tower]
    y = t.op(
        (B, patches, tower.D),
        [t.tensor(B, patches, 3 * tower.patch**2)],
        n_params=3 * tower.patch**2 * tower.D,
    )
    for _ in range(tower.L):
        y = encoder_layer(t, y, tower.H, tower.F, fused=fused, r=r)
    return half(t, t.norm(y, "layer"))


def _n_beside(m: VLM, D: int) -> int:
    tower = TOWERS[m.tower]
    return tower.n_params + m.joined * tower.D * D + (D * D if m.joined == 1 else 0) + m.beside


def talk(
    m: VLM,
    format: str = "bf16",
    B: int = 1,
    width: int = 0,
    height: int = 0,
    tokens: int = TALK_TOKENS,
    all_logits: bool = False,
    fused: bool = True,
    image: bool = True,
) -> list[Term]:
    """What looking at one image a sequence and answering needs.

    `all_logits`: code of before 2025 makes logits of the whole prompt, in fp32; `image` False:
    words only.
    """
    words = lm.find(m.words)
    tiles, patches, image_tokens = tiles_of(m, width, height) if image else (1, 0, 0)
    weights = formats.hf(words, format)
    beside = _n_beside(m, words.D) * 2
    t = Tape(wide=2, weights=2)
    _see(t, m, B * tiles, patches, fused)
    prompt = B * (image_tokens + tokens)
    reading = max(
        prompt * (3 * words.F + 4 * words.D) * 2, prompt * words.V * 6 if all_logits else 0
    )
    cache = math.ceil(B * (image_tokens + tokens) * llm_inference.KV_BYTES["f16"] * words.kv_values)
    top = max(t.peak, reading)
    return [
        Term("weights", weights.total, f"{words.n_params / 1e9:.2f}e9 of {words.name} in {format}"),
        Term(
            "vision tower",
            beside,
            f"{m.tower}, {TOWERS[m.tower].n_params / 1e6:.0f}e6, and projector, 16 bits",
        ),
        Term("KV cache", cache, f"{B} x ({image_tokens} tokens of the image + {tokens} words)"),
        Term(
            "activations",
            math.ceil(top),
            f"{tiles} tiles of {patches} patches in the tower"
            if top == t.peak
            else f"{image_tokens + tokens} tokens read at once",
        ),
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
    tower: Literal["frozen", "lora", "full"] = "frozen"


def tune(m: VLM, s: Training) -> list[Term]:
    """The terms of a training step's peak: the language model's step with the image among its
    tokens, and the tower's."""
    words = lm.find(m.words)
    tiles, patches, image_tokens = tiles_of(m, s.width, s.height)
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
    n_beside = _n_beside(m, words.D)
    terms.append(
        Term(
            "vision tower",
            math.ceil(n_beside * kept),
            f"{m.tower} and projector, {n_beside / 1e6:.0f}e6 x {kept:.0f} B",
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
