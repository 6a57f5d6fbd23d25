"""min_pixels and max_pixels on the picture processors of transformers, which name and count them
differently."""

import math
from typing import Any

from onecard.errors import SettingsError


def apply(processor: Any, min_pixels: int, max_pixels: int, name: str) -> None:
    """Set the limits. Raises SettingsError where the model takes every picture at one size."""
    if not min_pixels and not max_pixels:
        return
    if min_pixels and max_pixels and min_pixels > max_pixels:
        raise SettingsError(
            f"min_pixels {min_pixels:,} is more than max_pixels {max_pixels:,}",
            why="no picture can keep both",
            fix="--min_pixels below --max_pixels",
        )
    images = processor.image_processor
    if hasattr(images, "merge_size") and hasattr(images, "patch_size"):
        _any_size(images, min_pixels, max_pixels)
    elif getattr(images, "do_image_splitting", None) is not None:
        _split(images, min_pixels, max_pixels, name)
    elif getattr(images, "image_grid_pinpoints", None):
        _pinpoints(images, min_pixels, max_pixels, name)
    elif hasattr(images, "max_patches") and hasattr(images, "crop_to_patches"):
        _patches(images, min_pixels, max_pixels)
    elif hasattr(images, "max_image_tokens"):
        _tokens(images, min_pixels, max_pixels)
    elif _longest_side(images) and max_pixels and not min_pixels:
        _set_size(images, {**_plain(images.size), "longest_edge": max(1, math.isqrt(max_pixels))})
    else:
        raise _no_effect(name, "min_pixels" if min_pixels else "max_pixels", _fixed(images))


def _plain(size: Any) -> dict[str, Any]:
    """Of a dictionary, or of transformers' SizeDict."""
    return {key: value for key, value in dict(size).items() if value is not None}


def _set_size(images: Any, values: dict[str, int]) -> None:
    images.size = values if isinstance(images.size, dict) else type(images.size)(**values)


def _any_size(images: Any, min_pixels: int, max_pixels: int) -> None:
    """Qwen-VL, GLM-4V: areas, kept as the edges of `size`."""
    size = _plain(images.size)
    low = min_pixels or int(size.get("shortest_edge", 1))
    high = max_pixels or int(size.get("longest_edge", 1 << 30))
    _set_size(images, {"shortest_edge": min(low, high), "longest_edge": max(low, high)})
    for key, value in (("min_pixels", min(low, high)), ("max_pixels", max(low, high))):
        if hasattr(images, key):
            setattr(images, key, value)


def _split(images: Any, min_pixels: int, max_pixels: int, name: str) -> None:
    """Idefics 3, SmolVLM: the longest edge, which every picture is scaled to, in whole tiles."""
    if min_pixels:
        raise _no_effect(name, "min_pixels", "scales every picture to the same longest edge")
    tile = int(_plain(images.max_image_size)["longest_edge"])
    edge = max(tile, math.isqrt(max_pixels) // tile * tile)
    _set_size(images, {"longest_edge": min(edge, int(_plain(images.size)["longest_edge"]))})
    if edge == tile:
        images.do_image_splitting = False


def _pinpoints(images: Any, min_pixels: int, max_pixels: int, name: str) -> None:
    """LLaVA-NeXT, LLaVA-OneVision: the layouts of tiles that a picture may be laid into."""
    grids = [list(pair) for pair in images.image_grid_pinpoints]
    kept = [
        pair
        for pair in grids
        if (not max_pixels or pair[0] * pair[1] <= max_pixels)
        and (not min_pixels or pair[0] * pair[1] >= min_pixels)
    ]
    if not kept:
        areas = sorted(a * b for a, b in grids)
        raise SettingsError(
            f"no layout of {name} keeps these limits",
            why=f"its layouts have {areas[0]:,} to {areas[-1]:,} pixels",
            fix=f"--max_pixels {areas[0]}",
        )
    images.image_grid_pinpoints = kept


def _patches(images: Any, min_pixels: int, max_pixels: int) -> None:
    """InternVL: how many tiles."""
    size = _plain(images.size)
    tile = int(size.get("height", 448)) * int(size.get("width", 448))
    if max_pixels:
        images.max_patches = max(1, max_pixels // tile)
        images.min_patches = min(images.min_patches, images.max_patches)
    if min_pixels:
        images.min_patches = min(max(1, -(-min_pixels // tile)), images.max_patches)


def _tokens(images: Any, min_pixels: int, max_pixels: int) -> None:
    """LFM2-VL: tokens of a picture."""
    side = int(images.encoder_patch_size) * int(images.downsample_factor)
    if max_pixels:
        images.max_image_tokens = max(1, max_pixels // side**2)
        images.min_image_tokens = min(images.min_image_tokens, images.max_image_tokens)
    if min_pixels:
        images.min_image_tokens = min(max(1, min_pixels // side**2), images.max_image_tokens)


def _longest_side(images: Any) -> bool:
    """Pixtral and Mistral 3 scale to a longest side, and no further."""
    size = getattr(images, "size", None)
    return bool(size) and "longest_edge" in _plain(size) and not hasattr(images, "crop_size")


def _fixed(images: Any) -> str:
    size = _plain(getattr(images, "crop_size", None) or getattr(images, "size", None) or {})
    sides = " x ".join(str(value) for value in list(size.values())[:2])
    return f"takes every picture at {sides} px" if sides else "takes every picture at one size"


def _no_effect(name: str, setting: str, why: str) -> SettingsError:
    return SettingsError(
        f"{setting} has no effect on {name}",
        why=f"the model {why}",
        fix=f"leave --{setting} out, or take a model for pictures of any size, as qwen3-vl-4b",
    )
