"""A picture to a network's input, and boxes, outlines and maps back to the picture. No torch.

All resizing is Pillow's, which smooths where it shrinks: the stand-alone example that an export
writes (onecard.export.picture_example) does the same with the same library.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from onecard.errors import DataError
from onecard.inference.picture_model import ModelCard

PAD = 114
"""The grey of a letterbox, as YOLO's."""
CROP_SHARE = 0.875
"""timm's crop_pct where the card's `architecture` names none."""


@dataclass(frozen=True)
class Placement:
    """Where a picture lies in a network's input: x_input = x * scale_x + left."""

    width: int
    height: int
    """Of the upright picture (px)."""
    scale_x: float
    scale_y: float
    left: float
    top: float
    input_width: int
    input_height: int

    def to_picture(self, boxes_N4: np.ndarray) -> np.ndarray:
        """Boxes x0 y0 x1 y1 from pixels of the input to pixels of the picture, clipped to it."""
        boxes = np.asarray(boxes_N4, dtype=np.float64).reshape(-1, 4)
        boxes = (boxes - [self.left, self.top] * 2) / ([self.scale_x, self.scale_y] * 2)
        return np.clip(boxes, 0, [self.width, self.height] * 2)

    def to_input(self, boxes_N4: np.ndarray) -> np.ndarray:
        """The other way, for labels; not clipped."""
        boxes = np.asarray(boxes_N4, dtype=np.float64).reshape(-1, 4)
        return boxes * ([self.scale_x, self.scale_y] * 2) + [self.left, self.top] * 2

    def window(self, map_height: int, map_width: int) -> tuple[float, float, float, float]:
        """The picture's place x0 y0 x1 y1 in a map of the whole input, in the map's pixels.

        It reaches beyond the map where the picture was cropped.
        """
        across, down = map_width / self.input_width, map_height / self.input_height
        x1 = (self.left + self.width * self.scale_x) * across
        y1 = (self.top + self.height * self.scale_y) * down
        return self.left * across, self.top * down, x1, y1

    def map_to_picture(
        self, map_HW: np.ndarray, region: tuple[int, int, int, int] | None = None
    ) -> np.ndarray:
        """A map over the input as float32 at the picture's size, bilinear; of `region` x0 y0 x1 y1
        only, where it is named. What the network did not see gets the nearest value."""
        high, wide = map_HW.shape
        x0, y0, x1, y1 = self.window(high, wide)
        left, top, right, bottom = region or (0, 0, self.width, self.height)
        step_x, step_y = (x1 - x0) / self.width, (y1 - y0) / self.height
        source = (x0 + left * step_x, y0 + top * step_y, x0 + right * step_x, y0 + bottom * step_y)
        margins = (
            math.ceil(max(0.0, -source[1])),
            math.ceil(max(0.0, source[3] - high)),
            math.ceil(max(0.0, -source[0])),
            math.ceil(max(0.0, source[2] - wide)),
        )
        map_HW = np.ascontiguousarray(map_HW, dtype=np.float32)
        if any(margins):
            map_HW = np.pad(map_HW, (margins[:2], margins[2:]), mode="edge")
        moved = [source[0] + margins[2], source[1] + margins[0]]
        moved += [source[2] + margins[2], source[3] + margins[0]]
        limits = [map_HW.shape[1], map_HW.shape[0]] * 2
        box = tuple(min(max(v, 0.0), limit) for v, limit in zip(moved, limits, strict=True))
        size = (right - left, bottom - top)
        image = Image.fromarray(map_HW)
        return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box))

    def classes_to_picture(self, probabilities_CHW: np.ndarray) -> np.ndarray:
        """The likeliest class of each pixel of the picture, classes_HW (uint8, or int32 where there
        are more than 256). One class is enlarged at a time: a photo of 12 Mpx with 20 classes would
        fill 1 GB."""
        n = len(probabilities_CHW)
        kind = np.uint8 if n <= 256 else np.int32
        best = np.full((self.height, self.width), -np.inf, dtype=np.float32)
        classes = np.zeros((self.height, self.width), dtype=kind)
        for c in range(n):
            values = self.map_to_picture(probabilities_CHW[c])
            better = values > best
            best[better] = values[better]
            classes[better] = c
        return classes


def checked(rgb_HWC: np.ndarray) -> np.ndarray:
    """Raises DataError for what is no picture of 3 channels and 8 bits."""
    if rgb_HWC.ndim != 3 or rgb_HWC.shape[2] != 3 or rgb_HWC.dtype != np.uint8:
        raise DataError(
            "this is no RGB picture",
            why=f"it is an array {rgb_HWC.shape} of {rgb_HWC.dtype}",
            fix="decode it to height x width x 3 bytes",
        )
    if not rgb_HWC.size:
        raise DataError("the picture has no pixels", why=f"{rgb_HWC.shape}", fix="leave it out")
    return np.ascontiguousarray(rgb_HWC)


def prepare(rgb_HWC: np.ndarray, card: ModelCard) -> tuple[np.ndarray, Placement]:
    """(image_CHW float32 in 0..1 at the network's size, where the picture lies in it).

    letterbox: YOLO's, ratio kept, the rest grey 114 on both sides. stretch: both sides to the
    input's. crop: the shorter side to 1 / crop_pct of the input, bicubic, and the middle cut out
    (timm's evaluation). Raises DataError for what is no picture.
    """
    rgb = checked(rgb_HWC)
    canvas, placement = {"letterbox": _letterbox, "crop": _crop}.get(card.resize, _stretch)(
        rgb, card
    )
    image_CHW = canvas.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(image_CHW), placement


def _resized(
    rgb: np.ndarray, width: int, height: int, how: Image.Resampling = Image.Resampling.BILINEAR
) -> np.ndarray:
    if (height, width) == rgb.shape[:2]:
        return rgb
    return np.asarray(Image.fromarray(rgb).resize((width, height), how))


def _stretch(rgb: np.ndarray, card: ModelCard) -> tuple[np.ndarray, Placement]:
    high, wide = rgb.shape[:2]
    scales = (card.width / wide, card.height / high)
    placement = Placement(wide, high, *scales, 0.0, 0.0, card.width, card.height)
    return _resized(rgb, card.width, card.height), placement


def _letterbox(rgb: np.ndarray, card: ModelCard) -> tuple[np.ndarray, Placement]:
    high, wide = rgb.shape[:2]
    scale = min(card.height / high, card.width / wide)
    new_wide = max(1, round(wide * scale))
    new_high = max(1, round(high * scale))
    # as ultralytics: an odd pixel of padding goes to the right and the bottom
    left = round((card.width - new_wide) / 2 - 0.1)
    top = round((card.height - new_high) / 2 - 0.1)
    canvas = np.full((card.height, card.width, 3), PAD, dtype=np.uint8)
    canvas[top : top + new_high, left : left + new_wide] = _resized(rgb, new_wide, new_high)
    scales = (new_wide / wide, new_high / high)  # not `scale`: the sides are rounded
    return canvas, Placement(wide, high, *scales, left, top, card.width, card.height)


def _crop(rgb: np.ndarray, card: ModelCard) -> tuple[np.ndarray, Placement]:
    high, wide = rgb.shape[:2]
    share = min(1.0, float(card.architecture.get("crop_pct", CROP_SHARE)))
    target_high, target_wide = int(card.height / share), int(card.width / share)
    scale = max(target_high / high, target_wide / wide)
    new_wide = max(card.width, int(wide * scale + 1e-6))
    new_high = max(card.height, int(high * scale + 1e-6))
    # what is cut away is not resized: a panorama would need much memory
    left, top = round((new_wide - card.width) / 2), round((new_high - card.height) / 2)
    scale_x, scale_y = new_wide / wide, new_high / high
    box = (
        left / scale_x,
        top / scale_y,
        min(wide, (left + card.width) / scale_x),
        min(high, (top + card.height) / scale_y),
    )
    size = (card.width, card.height)
    image = Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC, box=box)
    placement = Placement(wide, high, scale_x, scale_y, -left, -top, card.width, card.height)
    return np.asarray(image), placement
