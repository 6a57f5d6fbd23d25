"""min_pixels and max_pixels for a model behind a server, and the tokens that a picture becomes.

What the server counts is measured, not assumed: a setting that changes no count is refused or told
(llama.cpp #17345).
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

from onecard.datasets.images.decode import Rgb
from onecard.errors import SettingsError
from onecard.memory.architectures.mmproj import Projector
from onecard.reporting import Reporter

Count = Callable[[Rgb], int]
"""Tokens of pixels as they are sent; 0 where the server does not tell."""


def token_limits(half: Projector | None, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """(image_min_tokens, image_max_tokens) of llama.cpp for a model of any size; 0 for its own.

    Raises SettingsError for limits that no picture can keep.
    """
    if min_pixels and max_pixels and min_pixels > max_pixels:
        raise SettingsError(
            f"min_pixels {min_pixels:,} is more than max_pixels {max_pixels:,}",
            why="no picture can keep both",
            fix="--min_pixels below --max_pixels",
        )
    if not half or not half.any_size:
        return 0, 0
    area = (half.tower.patch * half.merge) ** 2
    least = -(-min_pixels // area) if min_pixels else 0
    most = max(max_pixels // area, 1) if max_pixels else 0
    return min(least, most) if least and most else least, most


class PictureSizes:
    """Scales pictures where the server does not, and remembers the tokens of each size."""

    def __init__(
        self,
        count: Count,
        half: Projector | None,
        min_pixels: int,
        max_pixels: int,
        model: str,
        reporter: Reporter | None = None,
    ) -> None:
        self.count, self.half, self.model = count, half, model
        self.min_pixels, self.max_pixels = min_pixels, max_pixels
        self.reporter = reporter or Reporter()
        self._by_size: dict[tuple[int, int], int] = {}

    @property
    def is_ours(self) -> bool:
        """Whether pictures are scaled here: llama.cpp does it itself for models of any size."""
        return bool(self.min_pixels or self.max_pixels) and not (self.half and self.half.any_size)

    def require_effect(self) -> None:
        """Raises SettingsError where every picture becomes the same number of tokens, so that a
        limit would be without effect."""
        if not self.is_ours or not self.half:
            return
        side = self.half.side
        small = self.tokens(np.zeros((side, side, 3), np.uint8))
        large = self.tokens(np.zeros((4 * side, 4 * side, 3), np.uint8))
        if small and small == large:
            setting = "min_pixels" if self.min_pixels else "max_pixels"
            raise SettingsError(
                f"{setting} has no effect on {self.model}",
                why=f"it takes every picture at {side} x {side} px, {small} tokens",
                fix=f"leave --{setting} out, or take a model for pictures of any size",
            )

    def scaled(self, rgb: Rgb) -> Rgb:
        """Within the limits, its sides in the same ratio; unchanged without limits."""
        if not self.is_ours:
            return rgb
        height, width = rgb.shape[:2]
        area = width * height
        wanted = max(area, self.min_pixels)
        wanted = min(wanted, self.max_pixels or wanted)
        if wanted == area:
            return rgb
        ratio = (wanted / area) ** 0.5
        # rounded towards the inside of the limit
        turn = np.floor if wanted < area else np.ceil
        size = [max(1, int(turn(length * ratio))) for length in (width, height)]
        image = Image.fromarray(rgb).resize((size[0], size[1]), Image.Resampling.BICUBIC)
        self._tell_no_effect(rgb, np.asarray(image))
        return np.asarray(image)

    def _tell_no_effect(self, before: Rgb, after: Rgb) -> None:
        n_before, n_after = self.tokens(before), self.tokens(after)
        if n_before and n_before == n_after:
            self.reporter.warn(
                f"a picture of {before.shape[1]}x{before.shape[0]} is {n_before} tokens for "
                f"{self.model} at {after.shape[1]}x{after.shape[0]} too: the limit of its pixels "
                "changes its sharpness only"
            )

    def tokens(self, rgb: Rgb) -> int:
        """Of pixels as they are sent."""
        size = (int(rgb.shape[1]), int(rgb.shape[0]))
        if size not in self._by_size:
            n = self.count(rgb)
            self._by_size[size] = n or (self.half.tokens(*size) if self.half else 0)
        return self._by_size[size]
