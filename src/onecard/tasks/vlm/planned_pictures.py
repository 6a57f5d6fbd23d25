"""Sizes of the pictures that a plan counts: of the files that were given, by their headers, else as
the settings say. Light."""

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
    return not m.tile or m.most > 1


def smaller_limits(m: VLM, sizes: Sequence[Size], now: int) -> list[int]:
    """Values of max_pixels below what the pictures have now, largest first, never below the
    smallest of SIDES."""
    if not takes_sizes(m):
        return []
    steps = [m.tile**2 * n * n for n in range(1, 9)] if m.tile else [side**2 for side in SIDES]
    usual = UNSIZED**2 if not m.tile else m.tile**2 * (m.most - 1)
    area = max((w * h if w and h else usual for w, h in sizes), default=usual)
    if m.upscaled:
        area = usual
    area = min(area, now or area)
    return sorted((step for step in steps if step < area), reverse=True)


def cost(m: VLM, sizes: Sequence[Size], config: PictureSizeConfig, most: int) -> str:
    """What a smaller max_pixels costs, in tokens of the pictures."""
    before = pictures(m, sizes, *limits(config)).tokens
    after = pictures(m, sizes, min(config.min_pixels, most), most).tokens
    return f"small things are lost: {before:,} tokens of pictures become {after:,}"


def table(rows: Sequence[tuple[int, int, int]]) -> str:
    """Of (side, tokens, bytes): one line."""
    parts = [f"{side} px {tokens:,} tokens {gib(total)}" for side, tokens, total in rows]
    return "picture size, tokens and memory: " + "; ".join(parts)


def rows(m: VLM, config: Any, total_of: Callable[[Any], int]) -> tuple[str, ...]:
    """The note that tells memory by picture size, for models that take several; `total_of` a
    config with another picture size."""
    if not takes_sizes(m):
        return ()
    sized_rows = []
    for side in SIDES:
        sized = config.model_copy(update={"imgsz": side, "height": side})
        tokens = pictures(m, ((side, side),), *limits(config)).tokens
        sized_rows.append((side, tokens, total_of(sized)))
    return (table(sized_rows),)
