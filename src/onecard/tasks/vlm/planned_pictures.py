"""Sizes of the pictures that a plan counts: of the files that were given, by their headers, else as
the settings say. Light."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onecard.config import Config
from onecard.memory.architectures.vlm import UNSIZED, VLM, pictures
from onecard.tasks.vlm.configs import (
    AskConfig,
    ChatConfig,
    DescribeConfig,
    ExtractConfig,
    PictureSizeConfig,
)
from onecard.units import gib

SIDES = (224, 448, 672, 896, 1280, 1792)
"""Of the square pictures in the table that a plan tells (px)."""
FLOOR = 224**2
"""Pixels that a picture keeps: below it text cannot be read, and CLIP's first models began."""
MAX_HEADERS = 64
"""Pictures whose headers are read for a plan."""
Size = tuple[int, int]


def sizes_of(config: Config) -> tuple[Size, ...]:
    """(width, height) of each picture of a question; what is no picture, or is broken, is left to
    the command, which refuses it with its reason."""
    assert isinstance(config, PictureSizeConfig)
    usual = (config.imgsz, config.height or config.imgsz)
    if not isinstance(config, AskConfig | ChatConfig | ExtractConfig | DescribeConfig):
        return (usual,)
    files = [Path(word).expanduser() for word in config.images[:MAX_HEADERS]]
    sizes = [size for file in files if (size := header_size(file))]
    if config.imgsz:
        sizes = [usual] * max(len(sizes), 1)
    if isinstance(config, ExtractConfig | DescribeConfig):
        # one document a question
        return (max(sizes, key=lambda size: size[0] * size[1]),) if sizes else (usual,)
    return tuple(sizes) or (usual,)


def header_size(file: Path) -> Size | None:
    """(width, height) of an upright picture; None for what has no header of one."""
    try:
        if not file.is_file():
            return None
    except (OSError, ValueError):  # a question is longer than a path may be, or holds a NUL
        return None
    from PIL import Image  # 40 ms, for the commands that are given pictures

    try:
        with Image.open(file) as image:
            width, height = image.size
            sideways = image.getexif().get(0x0112) in (5, 6, 7, 8)
    except Exception:  # any header may come; the command itself says what is wrong with it
        return None
    return (height, width) if sideways else (width, height)


def limits(config: PictureSizeConfig) -> Size:
    """(min_pixels, max_pixels)."""
    return config.min_pixels, config.max_pixels


def takes_sizes(m: VLM) -> bool:
    """Whether pictures of different sizes become different numbers of tokens."""
    return m.most > 1 if m.tile else m.pixels[0] < m.pixels[1]


def smaller_limits(m: VLM, sizes: Sequence[Size], now: int) -> list[int]:
    """Values of max_pixels below what the pictures have now, largest first, in steps of a quarter
    or of a tile; none leaves less than FLOOR or a tile."""
    if not takes_sizes(m):
        return []
    usual = m.tile**2 * (m.most - 1) if m.tile else UNSIZED**2
    area = max((w * h if w and h else usual for w, h in sizes), default=usual)
    area = min(usual if m.upscaled else area, now or area)
    if m.tile:
        counts = range(m.most - 1, 0, -1)
        if m.upscaled:
            counts = range(math.isqrt(m.most - 1), 0, -1)
        steps = [m.tile**2 * (n * n if m.upscaled else n) for n in counts]
        return [step for step in steps if step < area]
    token = (m.merge * m.tower.patch) ** 2
    steps = []
    while (area := round(area * 0.75)) > FLOOR:
        steps.append(area // token * token)
    return steps


def cost(m: VLM, sizes: Sequence[Size], config: PictureSizeConfig, most: int) -> str:
    """What a smaller max_pixels costs, in tokens of the pictures."""
    before = pictures(m, sizes, *limits(config)).tokens
    after = pictures(m, sizes, min(config.min_pixels, most), most).tokens
    return f"small things are lost: {before:,} tokens of pictures become {after:,}"


def rows(m: VLM, config: Any, total_of: Callable[[Any], int]) -> tuple[str, ...]:
    """The note that tells tokens and memory by picture size, for models that take several; by
    max_pixels where small pictures are scaled up. `total_of` a config with other sizes."""
    if not takes_sizes(m):
        return ()
    sides: Sequence[int] = SIDES
    name = "picture"
    if m.upscaled:
        sides = [m.tile * n for n in range(1, math.isqrt(m.most - 1) + 1)]
        name = "max_pixels"
    parts = []
    for side in sides:
        change = {"max_pixels": side**2} if m.upscaled else {"imgsz": side, "height": side}
        sized = config.model_copy(update=change)
        size = (sized.imgsz, sized.height or sized.imgsz)
        tokens = pictures(m, (size,), *limits(sized)).tokens
        parts.append((side, tokens, total_of(sized)))
    return (line(name, parts),)


def line(name: str, rows: Sequence[tuple[int, int, int]]) -> str:
    """Of (side, tokens, bytes)."""
    parts = [f"{side}x{side} px {tokens:,} tokens {gib(total)}" for side, tokens, total in rows]
    return f"{name}, tokens, memory: {'; '.join(parts)}"
