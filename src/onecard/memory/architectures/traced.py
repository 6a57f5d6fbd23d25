"""Networks of images that were recorded from their real classes: weights, and what each part keeps
for the way back as a polynomial of an image's pixels. Knows no loss and no card.

nets.jsonl is written by scripts/net_facts.py.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from onecard.memory.simulator import Tape, Tensor

STRIDES = (8, 16, 32)
"""Of a detector's maps."""
LARGEST_AT_ONCE = 1.0
"""The largest result of a part stands once more, as its gradient, while a gradient passes."""


@dataclass(frozen=True)
class Polynomial:
    """Bytes of any batch, and of one image: constant, for a pixel, for a pixel squared."""

    fixed: float
    constant: float
    slope: float
    bend: float

    def at(self, images: int, pixels: float) -> float:
        image = self.constant + self.slope * pixels + self.bend * pixels**2
        return max(self.fixed + images * image, 0.0)


@dataclass(frozen=True)
class Part:
    n_params: int
    largest: Polynomial
    kept: Polynomial


@dataclass(frozen=True)
class Row:
    """One network."""

    task: str
    params: int
    source: str
    used: Polynomial
    """Peak of a pass without gradients in fp32."""
    fp32: tuple[Part, ...]
    amp: tuple[Part, ...]
    classes: int
    match: str = ""
    heads: int = 1
    """Heads over the same maps: YOLOs without suppression learn from two."""
    maps: int = 0
    """Channels of a map beside the classes; 0 for a network without maps."""
    ema: bool = False
    side: int = 0
    """The only side that was recorded, px: what it keeps grows with the pixels."""
    masks: tuple[int, int] = (0, 1)
    """Channels of a map of masks, 0 for its classes, and its stride."""


def _part(numbers: list[float]) -> Part:
    return Part(int(numbers[0]), Polynomial(*numbers[1:5]), Polynomial(*numbers[5:9]))


@cache
def rows() -> dict[str, Row]:
    """Name -> network."""
    text = Path(__file__).with_name("nets.jsonl").read_text(encoding="utf-8")
    out = {}
    for line in text.splitlines():
        values: dict[str, Any] = json.loads(line)
        names = values.pop("names")
        values.pop("scales", None)
        values["used"] = Polynomial(*values["used"])
        values["masks"] = tuple(values.get("masks", (0, 1)))
        for kind in ("fp32", "amp"):
            values[kind] = tuple(_part(numbers) for numbers in values[kind])
        out.update(dict.fromkeys(names, Row(**values)))
    return out


def run(row: Row, t: Tape, x: Tensor, n_classes: int = 0) -> list[Tensor]:
    """One pass; gives the maps that a loss reads, as large as the network's."""
    n, _, h, w = x.shape
    pixels, grown = float(h * w), 1.0
    if row.side:
        pixels, grown = float(row.side**2), h * w / row.side**2
    y = x
    if not t.grad:
        peak = row.used.at(n, pixels) * grown * t.wide / 4
        y = t.op((1,), [x], n_params=row.params, scratch=peak)
    else:
        width = 1.0 if t.cast else t.wide / 4
        before = t.params
        for part in row.amp if t.cast else row.fp32:
            copies = part.n_params * t.wide if t.cast else 0.0  # the tape counts them itself
            y = t.op(
                (1,),
                [y],
                n_params=part.n_params,
                extra=max(part.kept.at(n, pixels) * grown * width - copies, 0.0),
                scratch=LARGEST_AT_ONCE * part.largest.at(n, pixels) * grown * width,
            )
        t.params += row.params - (t.params - before)
    classes = n_classes or row.classes
    if row.maps:
        return [
            t.op((n, classes + row.maps, h // stride, w // stride), [y])
            for _ in range(row.heads)
            for stride in STRIDES
        ]
    if row.task == "segment":
        channels, stride = row.masks
        return [t.op((n, channels or classes, h // stride, w // stride), [y])]
    return [t.op((n, classes), [y])]
