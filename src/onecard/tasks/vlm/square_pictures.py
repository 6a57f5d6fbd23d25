"""A picture as the square that a vision tower takes, prepared here instead of by llama.cpp.

llama.cpp pads or stretches every picture by rules of its own, whatever the model was trained with.
A square of the tower's own size it leaves as it is. Our exports say how their model's pictures are
made (onecard.export.mmproj), and Pillow's filters are those of transformers within one level of
256.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from onecard.datasets.images.decode import Rgb
from onecard.tasks.vlm import class_tokens

KEYS = ("onecard.image.fit", "onecard.image.shortest", "onecard.image.resample")
"""In an mmproj file, as onecard.export.mmproj writes them."""


@dataclass(frozen=True)
class Square:
    side: int
    """px."""
    fit: str
    """`crop`, `pad` or `stretch`."""
    shortest: int
    resample: int = 3
    colour: tuple[int, int, int] = (0, 0, 0)
    """Of the padding."""
    roll: int = 0
    """Side of the patches whose last one is moved to the front (class_tokens); 0 for none."""

    def prepared(self, rgb: Rgb) -> Rgb:
        """[height, width, 3] -> [side, side, 3]."""
        image = Image.fromarray(rgb)
        filter = Image.Resampling(self.resample)
        if self.fit == "pad" and image.width != image.height:
            longer = max(image.size)
            padded = Image.new("RGB", (longer, longer), self.colour)
            padded.paste(image, ((longer - image.width) // 2, (longer - image.height) // 2))
            image = padded
        if self.fit == "crop":
            # int() truncates as transformers' get_resize_output_image_size does
            shorter = min(image.size)
            size = [int(self.shortest * length / shorter) for length in image.size]
            image = image.resize((size[0], size[1]), filter)
            left, top = (image.width - self.side) // 2, (image.height - self.side) // 2
            image = image.crop((left, top, left + self.side, top + self.side))
        rgb = np.asarray(image.resize((self.side, self.side), filter))
        return class_tokens.rolled(rgb, self.roll) if self.roll else rgb


def padded(keys: Mapping[str, Any], side: int) -> Square:
    """As the authors of LLaVA-1.5 do it: to a square with the mean colour."""
    return Square(side, "pad", side, colour=_mean_colour(keys))


def of_keys(keys: Mapping[str, Any], side: int) -> Square | None:
    fit, shortest, resample = (keys.get(key) for key in KEYS)
    if fit not in ("crop", "pad", "stretch") or not isinstance(shortest, int) or shortest < side:
        return None
    known = isinstance(resample, int) and resample in list(Image.Resampling)
    number = int(resample or 0) if known else 3
    return Square(side, str(fit), shortest, number, _mean_colour(keys))


def _mean_colour(keys: Mapping[str, Any]) -> tuple[int, int, int]:
    mean = keys.get("clip.vision.image_mean")
    values = mean if isinstance(mean, list) and len(mean) == 3 else [0.5, 0.5, 0.5]
    red, green, blue = (min(max(int(float(value) * 255), 0), 255) for value in values)
    return red, green, blue
