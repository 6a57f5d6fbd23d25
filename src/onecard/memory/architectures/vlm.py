"""A vision-language model: a vision tower, a projector and a language model, and how many tokens an
image becomes. From the values of its config.json. Knows no bytes and no card.

Sources: transformers' classes and image processors (llava, llava_next, qwen2_vl, qwen2_5_vl,
qwen3_vl, internvl, idefics3, gemma3, gemma4, paligemma, mistral3, pixtral).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onecard.errors import DataError
from onecard.memory.architectures import config_json
from onecard.memory.architectures.layers import LM

QWEN_PIXELS = (3136, 12_845_056)
"""min_pixels and max_pixels of Qwen2-VL's and Qwen2.5-VL's image processor."""
QWEN3_PIXELS = (65_536, 16_777_216)
"""Of Qwen3-VL's."""
UNSIZED = 1280
"""Side in px of an image whose size is not given, for models that take any."""
MAX_VALUE = 1 << 20


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


@dataclass(frozen=True)
class VLM:
    """How the parts are joined."""

    name: str
    tower: Tower
    words: LM
    beside: int
    """Weights beside the language model: tower, projector, and what else sees or hears."""
    tile: int = 0
    """Side of a tile (px); 0: an image of any size in one piece."""
    tokens: int = 0
    """Of one tile among the words."""
    most: int = 1
    """Tiles of the largest image, the small whole one included."""
    merge: int = 2
    """Patches a side that become one token, without tiles."""
    pixels: tuple[int, int] = QWEN_PIXELS
    """Fewest and most pixels that an image is scaled to, without tiles."""
    longest: int = 0
    """Longest side that an image is scaled to, px; 0 for any."""
    cross_values: int = 0
    """Values that a token of the image leaves in layers of cross-attention; it stands among no
    words then."""
    old_code: bool = False
    """Brings code of its own that makes logits of the whole prompt."""
    family: str = ""
    """model_type of its config in transformers; empty for one that has no class there."""
    deep: int = 0
    """Layers of the tower that hand on features beside the last one (Qwen3-VL)."""
    config: dict[str, Any] = field(default_factory=dict, compare=False, hash=False)
    """Values of the config.json that it was read from, for tracing the real class."""

    @property
    def rotated(self) -> bool:
        """Its tower turns queries and keys by their places, in fp32, and the projector stands
        inside it (Qwen-VL)."""
        return self.family.startswith(("qwen2_", "qwen3_"))

    @property
    def joined(self) -> int:
        """Patches that become one token."""
        if not self.tile:
            return self.merge**2
        return max(round((self.tile // self.tower.patch) ** 2 / max(self.tokens, 1)), 1)

    @property
    def projector_width(self) -> int:
        """Of a projector's hidden layer; 0 for one of a single matrix."""
        if self.rotated:
            return self.joined * self.tower.D
        single = ("idefics3", "smolvlm", "gemma3", "paligemma", "gemma4")
        return 0 if self.family in single else self.words.D

    @property
    def projector(self) -> int:
        """Its weights, those of earlier layers' features among them."""
        wide, D = self.joined * self.tower.D, self.words.D
        if self.family in ("gemma3", "gemma4", "paligemma"):  # the mean of the joined patches
            return self.tower.D * (D + 1)
        hidden = self.projector_width
        one = wide * hidden + hidden + hidden * D + D if hidden else wide * D
        return (1 + self.deep) * (one + (2 * self.tower.D if self.rotated else 0))

    @property
    def own_head(self) -> int:
        """Weights of an output head that stands on a language model which has none of its own."""
        return self.words.V * self.words.D if self.upscaled and self.words.tied else 0

    def tower_adapters(self, r: int) -> int:
        """Weights of LoRA's pairs on all matrices of the tower; Qwen-VL has queries, keys and
        values in one."""
        tower = self.tower
        attention = (4 if self.rotated else 6) * tower.D + 2 * tower.D
        feed = (3 if tower.gated else 2) * (tower.D + tower.F)
        return tower.L * r * (attention + feed)

    @property
    def upscaled(self) -> bool:
        """Small pictures are scaled up to the largest canvas, too (Idefics3)."""
        return self.family in ("idefics3", "smolvlm")


@dataclass(frozen=True)
class Pictures:
    """What pictures are to a model, all of them together."""

    tiles: int
    patches: int
    """Of all tiles."""
    tokens: int
    """Among the words."""
    grids: tuple[tuple[int, int], ...] = ()
    """Columns and rows of tokens of each, without tiles."""


def sized(m: VLM, width: int, height: int, pixels: tuple[int, int]) -> tuple[int, int]:
    """Tokens a row and rows of an image in one piece, scaled as the image processor does."""
    side = m.merge * m.tower.patch
    least, most = pixels
    w, h = float(width), float(height)
    if m.longest and max(w, h) > m.longest:
        w, h = w * m.longest / max(w, h), h * m.longest / max(w, h)
    if w * h > most:
        share = math.sqrt(most / (w * h))
        return max(int(w * share / side), 1), max(int(h * share / side), 1)
    if w * h < least:
        share = math.sqrt(least / (w * h))
        return math.ceil(w * share / side), math.ceil(h * share / side)
    if m.longest:  # Pixtral takes whole patches
        return math.ceil(w / side), math.ceil(h / side)
    return max(round(w / side), 1), max(round(h / side), 1)


def tiles_of(
    m: VLM, width: int = 0, height: int = 0, min_pixels: int = 0, max_pixels: int = 0
) -> tuple[int, int, int]:
    """(tiles, patches of a tile, tokens among the words) of one image; without a size, of the
    largest that the model takes, or of 1280 px where it takes any."""
    if not m.tile:
        limits = (min_pixels or m.pixels[0], max_pixels or m.pixels[1])
        columns, rows = sized(
            m, width or UNSIZED, height or width or UNSIZED, (min(limits), limits[1])
        )
        breaks = rows if m.longest else 0  # a token that ends each row
        return 1, m.merge**2 * columns * rows, columns * rows + breaks
    patches = (m.tile // m.tower.patch) ** 2
    tiles = _tiles(m, width, height or width, max_pixels)
    return tiles, patches, tiles * m.tokens


def _tiles(m: VLM, width: int, height: int, max_pixels: int) -> int:
    """With the small whole image where it is cut."""
    if m.most == 1:
        return 1
    most = m.most - 1
    if max_pixels:
        most = min(most, max(max_pixels // m.tile**2, 1))
    if m.upscaled:
        side, ratio = math.isqrt(most), 1.0
        if width and height:
            ratio = min(width, height) / max(width, height)
        cut = side * math.ceil(side * ratio)
        return cut + 1 if cut > 1 else 1
    if not width:
        return most + 1
    return min(math.ceil(width / m.tile) * math.ceil(height / m.tile), most) + 1


def pictures(
    m: VLM, sizes: Sequence[tuple[int, int]], min_pixels: int = 0, max_pixels: int = 0
) -> Pictures:
    """Of pictures of these sizes (width, height; 0 for the usual one)."""
    rows = [tiles_of(m, *size, min_pixels, max_pixels) for size in sizes]
    grids: tuple[tuple[int, int], ...] = ()
    if not m.tile:
        limits = (min_pixels or m.pixels[0], max_pixels or m.pixels[1])
        limits = (min(limits), limits[1])
        usual = UNSIZED
        grids = tuple(sized(m, w or usual, h or w or usual, limits) for w, h in sizes)
    return Pictures(
        sum(tiles for tiles, _, _ in rows),
        sum(tiles * patches for tiles, patches, _ in rows),
        sum(tokens for _, _, tokens in rows),
        grids,
    )


class _Values:
    """A part of a config, each number checked before it is used."""

    def __init__(self, values: Any) -> None:
        self.values: dict[str, Any] = dict(values) if isinstance(values, Mapping) else {}

    def get(self, *keys: str, default: int = 0) -> int:
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if isinstance(value, list) and value:
                value = value[0]
            if isinstance(value, dict):
                value = value.get("height", value.get("longest_edge"))
            return config_json.checked_count(value, key, 1, MAX_VALUE)
        return default

    def need(self, *keys: str) -> int:
        if value := self.get(*keys):
            return value
        raise ValueError(f"{keys[0]} of the vision tower is missing")


DEFAULTS = {  # what a tower's config class takes for what a config leaves out
    "clip": Tower(1024, 24, 16, 4096, 14),
    "pixtral": Tower(1024, 24, 16, 4096, 14, True),
    "internvl": Tower(1024, 24, 16, 4096, 14),
    "qwen2_vl": Tower(1280, 32, 16, 5120, 14),
    "qwen2_5_vl": Tower(1280, 32, 16, 3420, 14, True),
    "qwen3_vl": Tower(1152, 27, 16, 4304, 16),
    "siglip": Tower(1152, 27, 16, 4304, 14),
    "gemma4": Tower(768, 16, 12, 3072, 16, True),
}
KINDS = {
    "llava": "clip",
    "llava_next": "clip",
    "vipllava": "clip",
    "mistral3": "pixtral",
    "internvl": "internvl",
    "internvl_chat": "internvl",
    "qwen2_vl": "qwen2_vl",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen3_vl": "qwen3_vl",
    "qwen3_vl_moe": "qwen3_vl",
    "qwen3_5": "qwen3_vl",
    "qwen3_5_moe": "qwen3_vl",
    "idefics3": "siglip",
    "smolvlm": "siglip",
    "gemma3": "siglip",
    "paligemma": "siglip",
    "gemma4": "gemma4",
}
"""model_type -> tower, for the architectures that are known."""


def from_values(values: Mapping[str, Any], name: str, path: Path) -> VLM:
    """The parts that a config.json describes. Raises DataError."""
    family = str(values.get("model_type") or "")
    if family not in KINDS or not isinstance(values.get("vision_config"), Mapping):
        raise DataError(
            f"{path} is no config of a vision-language model that is known",
            why=f"its model_type is '{family[:60]}'"
            + ("" if family in KINDS else f"; known are: {', '.join(sorted(KINDS))}")
            + ("" if values.get("vision_config") else "; it has no vision_config"),
            fix="give a model of the table by its name, or a config of these",
        )
    words = config_json.from_values(_texts(values), name, path)
    try:
        tower = _tower(values, family)
        return _joined(values, family, name, tower, words)
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as fault:
        raise DataError(
            f"{path} is no config of a vision-language model",
            why=f"{type(fault).__name__}: {str(fault)[:200]}",
            fix="give the config.json as the model's repository holds it",
        ) from None


def _texts(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the language model's family where its own part leaves it out (LLaVA's first configs)."""
    own = values.get("text_config")
    if isinstance(own, Mapping) and not own.get("model_type") and "llava" in str(values):
        return {**values, "text_config": {"model_type": "llama", **own}}
    return values


def _tower(values: Mapping[str, Any], family: str) -> Tower:
    part = _Values(values["vision_config"])
    kind = KINDS[family]
    if part.values.get("model_type") == "pixtral":
        kind = "pixtral"
    usual = DEFAULTS[kind]
    width = part.get("embed_dim", "hidden_size", default=usual.D)
    if family == "qwen2_vl":  # its hidden_size is the language model's
        width = part.get("embed_dim", default=usual.D)
    feed = part.get("intermediate_size", "mlp_dim")
    if not feed:
        feed = part.get("mlp_ratio") * width or (usual.F if width == usual.D else 4 * width)
    return Tower(
        width,
        part.get("depth", "num_hidden_layers", "num_layers", default=usual.L),
        part.get("num_attention_heads", "num_heads", default=usual.H),
        feed,
        part.get("patch_size", "spatial_patch_size", default=usual.patch),
        usual.gated,
    )


def tower_of(part: Mapping[str, Any], usual: Tower, path: Path) -> tuple[Tower, int]:
    """(a CLIP or SigLIP tower by its own config, side of its pictures or 0). Raises DataError."""
    values = _Values(part)
    try:
        tower = Tower(
            values.get("hidden_size", default=usual.D),
            values.get("num_hidden_layers", default=usual.L),
            values.get("num_attention_heads", default=usual.H),
            values.get("intermediate_size", default=usual.F),
            values.get("patch_size", default=usual.patch),
        )
        return tower, values.get("image_size")
    except (TypeError, ValueError, ArithmeticError, AttributeError) as fault:
        raise DataError(
            f"{path} is no config of a vision tower",
            why=f"{type(fault).__name__}: {str(fault)[:200]}",
            fix="give the config.json as the model's repository holds it",
        ) from None


def _joined(values: Mapping[str, Any], family: str, name: str, tower: Tower, words: LM) -> VLM:
    part, own = _Values(values["vision_config"]), _Values(values)
    kind = "pixtral" if values["vision_config"].get("model_type") == "pixtral" else KINDS[family]
    side = part.get("image_size", "force_image_size", default=336)
    D = words.D

    def made(projector: int, **how: Any) -> VLM:
        places = (how.get("tile", 0) // tower.patch) ** 2 * tower.D
        beside = tower.n_params + places + projector
        return VLM(name, tower, words, beside, family=family, config=dict(values), **how)

    if kind.startswith("qwen"):
        merge = part.get("spatial_merge_size", default=2)
        wide = merge**2 * tower.D
        deep = len(values["vision_config"].get("deepstack_visual_indexes") or ())
        return made(
            (1 + deep) * (wide * wide + wide * D),
            merge=merge,
            deep=deep,
            pixels=QWEN3_PIXELS if kind == "qwen3_vl" else QWEN_PIXELS,
        )
    if kind == "pixtral":
        merge = own.get("spatial_merge_size", default=1)
        projector = tower.D * D + D * D + (merge**2 * tower.D**2 if merge > 1 else 0)
        return made(projector, merge=merge, pixels=(1, 1 << 40), longest=side)
    if kind == "gemma4":
        pool = part.get("pooling_kernel_size", default=3)
        most = own.get("vision_soft_tokens_per_image", default=280)
        area = most * (pool * tower.patch) ** 2
        return made(tower.D * D, merge=pool, pixels=(area, area))
    if family in ("idefics3", "smolvlm"):
        scale = own.get("scale_factor", default=2)
        tokens = (side // tower.patch // scale) ** 2
        return made(scale**2 * tower.D * D, tile=side, tokens=tokens, most=17)
    if kind == "internvl":
        joined = 4
        tokens = (side // tower.patch) ** 2 // joined
        most = own.get("max_dynamic_patch", default=12) + 1
        return made(joined * tower.D * D + D * D, tile=side, tokens=tokens, most=most)
    if family == "gemma3":
        tokens = own.get("mm_tokens_per_image", default=256)
        return made(tower.D * D, tile=side, tokens=tokens)
    tokens = (side // tower.patch) ** 2
    if family == "paligemma":
        return made(tower.D * D, tile=side, tokens=tokens)
    return made(
        tower.D * D + D * D, tile=side, tokens=tokens, most=5 if family == "llava_next" else 1
    )
