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
from onecard.memory.architectures.layers import LM
from onecard.memory.architectures.mmproj import Projector
from onecard.memory.architectures.vlm import VLM, Pictures, Tower, pictures, tiles_of
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
    images: int = 1
    """Pictures of a question; 0 for words only."""
    min_pixels: int = 0
    max_pixels: int = 0
    sizes: tuple[tuple[int, int], ...] = ()
    """Width and height of each picture, instead of `images` of one size."""
    wide: float = 0.0
    """Bytes of a value and of a weight that is not quantized; 0 for those of the format."""

    @property
    def width_bytes(self) -> float:
        return self.wide or (4.0 if self.format in ("fp32", "f32") else 2.0)


def pictures_of(m: VLM, s: "Look | Training") -> Pictures:
    """Of one question or sample."""
    sizes = s.sizes or ((s.width, s.height),) * s.images
    return pictures(m, sizes, s.min_pixels, s.max_pixels)


def talk(m: VLM, s: Look) -> list[Term]:
    """What reading pictures and words and answering needs: the most of three moments, as
    transformers' generate passes them: the tower, the prompt, the last token."""
    words, B = m.words, s.B
    sight = pictures_of(m, s)
    among = 0 if m.cross_values else sight.tokens
    crossed = B * sight.tokens * m.cross_values * 2
    wide = s.width_bytes
    weights = formats.hf(words, s.format, wide)
    beside = math.ceil(m.beside * wide)
    prompt = among + s.tokens
    pixels = B * pixel_bytes(m, sight, wide)
    cache = round(_cache(words, B, prompt + s.answer, wide)) + crossed
    # logits are cast to fp32 beside the 16 bits that they are made in
    logits = (B * prompt if s.all_logits else B) * words.V * (4 + wide)
    kept = B * features_bytes(m, sight, wide)
    before = _cache(words, B, prompt, wide) + crossed + kept
    opened = _opened(words, s.format, wide)
    reading = max(prompt_hump(words, B * prompt, wide, opened), logits)
    tower = tower_hump(m, B, sight, wide, s.fused)
    embedded = B * prompt * words.D * wide
    moments = {
        f"{sight.tiles} tiles, {sight.patches} patches in the tower": tower + embedded,
        f"{B} x {prompt} tokens read at once": before + reading,
        "the answer's last token": cache + _one_token(words, B, prompt + s.answer, wide, logits),
    }
    if reading == logits and s.all_logits:
        moments[f"logits of {B} x {prompt} tokens, cast to fp32"] = before + reading
    why = max(moments, key=lambda name: moments[name])
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
            f"{B} x ({among} tokens of pictures + {s.tokens} words + {s.answer} of the answer)",
        ),
        Term(
            "activations",
            math.ceil(moments[why] - cache + pixels),
            f"{why}, beyond the cache; pixels {pixels / 2**20:.0f} MiB",
        ),
        Term("workspace", llm_inference.GATHER_BYTES, "cuBLAS"),
    ]


def pixel_bytes(m: VLM, sight: Pictures, wide: float) -> float:
    """Of the pictures as the processor hands them on; Qwen-VL repeats each for two frames."""
    if not m.tile:
        return sight.patches * 3 * m.tower.patch**2 * wide * (2 if m.rotated else 1)
    return sight.tiles * 3 * m.tile**2 * wide


def _cache(words: LM, B: int, tokens: int, wide: float) -> float:
    """transformers keeps no more than the window of a layer that has one."""
    values = sum(n * row.kv_values * min(tokens, row.window or tokens) for row, n in words.groups)
    return B * values * wide


def features_bytes(m: VLM, sight: Pictures, wide: float) -> float:
    """What the prompt is read beside: the tower's own output, and its tokens and those of its
    earlier layers twice (as they come and joined)."""
    tokens = sight.tokens * m.words.D * 2 * (1 + m.deep)
    return (sight.patches * m.tower.D + tokens) * wide


def _opened(words: LM, format: str, wide: float) -> float:
    """The largest matrix in full width: bitsandbytes opens one at a time for a prompt."""
    if not format.startswith("nf4"):
        return 0
    return max(row.rows * row.columns for layer, _ in words.groups for row in layer.matrices) * wide


def prompt_hump(words: LM, tokens: int, wide: float, opened: float = 0) -> float:
    """The feed-forward of a layer without gradients: the embedded prompt, what came into the
    layer, what attention made of it, its norm; and gate, up and their product."""
    rows = tokens * words.F * wide
    return tokens * 4 * words.D * wide + max(3 * rows, 2 * rows + opened)


def _one_token(words: LM, B: int, tokens: int, wide: float, logits: float) -> float:
    """A layer's keys or values are joined anew, and its logits."""
    widest = max(max(row.k_values, row.v_values) for row, _ in words.groups)
    return max(B * tokens * widest * wide, logits)


def quick_gelu(m: VLM) -> bool:
    """CLIP's activation, also Qwen2-VL's: what came in, its sigmoid and their product."""
    return m.family in ("llava", "llava_next", "vipllava", "qwen2_vl") and not m.tower.gated


def tower_hump(
    m: VLM, B: int, sight: Pictures, wide: float, fused: bool = True, autocast: bool = False
) -> float:
    """The widest part of a layer of the tower without gradients. A patch holds: what came into the
    tower (where it is kept), into the layer, what attention made of it, its norm, and the
    feed-forward; or rotary embedding, whose queries and keys are cast to fp32.

    Held against the classes of transformers 5 on fake tensors (tests/e2e/test_vlm_trace.py).
    """
    tower, n = m.tower, B * sight.patches
    three = tower.gated or quick_gelu(m)
    feed = tower.F * wide * (3 if three else 2)
    # under autocast LayerNorm answers in fp32
    wider = (4 - wide) * tower.D if autocast and not tower.gated else 0
    row = 4 * tower.D * wide + wider + feed
    if m.rotated:
        cast = 8 * tower.D if wide < 4 else 0
        turned = 5 * tower.D * wide + cast + 16 * tower.D
        angles = 2 * 4 * tower.D / tower.H
        row = max(turned, 3 * tower.D * wide + feed) + wider + angles
        row += tower.D * wide * (m.deep > 0)  # learned places are kept beside
    scores = 0.0
    if not fused:
        each = sight.patches / max(sight.tiles, 1)
        scores = n * each * tower.H * (4 + wide)
    deep = B * m.deep * sight.tokens * m.words.D * wide
    # Idefics 3 sorts empty tiles out, into a copy
    copy = B * pixel_bytes(m, sight, wide) if m.upscaled else 0
    return n * row + scores + deep + copy


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
    projector: Literal["full", "frozen"] = "full"
    images: int = 1
    """Pictures of a sample."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Width and height of each picture, instead of `images` of one size."""


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
