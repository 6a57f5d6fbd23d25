"""Sizes that pictures of all ratios are trained in, none larger than a square of the base's size.

A picture is scaled down to cover its bucket and its middle is cut out; it is never scaled up.
"""

import math
from functools import cache

MAX_RATIO = 2.0
"""Of a bucket's longer to its shorter side."""
MIN_AREA = 0.5
"""Of a bucket, as a share of the square's pixels."""

Bucket = tuple[int, int]
"""(width, height) in pixels."""


@cache
def sizes(side: int, step: int) -> tuple[Bucket, ...]:
    """Buckets for a base of side x side pixels, the square among them, narrow ones first.

    Sides are multiples of `step` (a side of `side` that is none is cut to one below); no bucket has
    more pixels than the square, so that a plan for the square holds for all of them. Empty where
    the square is smaller than one step.

    >>> sizes(512, 128)
    ((256, 512), (384, 640), (512, 512), (640, 384), (512, 256))
    """
    square = side // step * step
    area = square * square
    narrow: list[Bucket] = []
    for width in range(step, square, step):
        height = min(area // width, int(width * MAX_RATIO)) // step * step
        if height > width and width * height >= MIN_AREA * area:
            narrow.append((width, height))
    largest = {width / height: (width, height) for width, height in narrow}  # of one ratio
    narrow = sorted(largest.values(), key=lambda size: size[0] / size[1])
    middle = [(square, square)] if square else []
    return (*narrow, *middle, *((height, width) for width, height in reversed(narrow)))


def assign(width: int, height: int, side: int, step: int) -> Bucket | None:
    """The bucket nearest to a picture's ratio that the picture covers without being scaled up.

    A picture that is too small for the nearest bucket of the base gets the one of a smaller base,
    `step` less each time; None for one that covers no bucket at all.

    >>> assign(1920, 1080, 512, 64), assign(300, 400, 512, 64), assign(50, 50, 512, 64)
    ((640, 384), (256, 384), None)
    """
    for smaller in range(side // step * step, 0, -step):
        nearest = min(sizes(smaller, step), key=lambda size: _distance(size, width, height))
        if nearest[0] <= width and nearest[1] <= height:
            return nearest
    return None


def assign_square(width: int, height: int, side: int, step: int) -> Bucket | None:
    """The square of the base's size, or the largest that the picture covers; None for none."""
    square = min(side, width, height) // step * step
    return (square, square) if square else None


def usual_step(side: int) -> int:
    """What sides are multiples of for a base of that size, where the base is not at hand: the
    latents have an eighth of the side, and the denoiser halves them three times, that of a small
    base twice."""
    return 64 if side >= 256 else 32


def kept_share(width: int, height: int, bucket: Bucket) -> float:
    """Share of a picture's pixels that the cut leaves, in (0, 1].

    >>> kept_share(400, 200, (64, 64))
    0.5
    """
    ratio = (width / height) / (bucket[0] / bucket[1])
    return min(ratio, 1 / ratio)


def _distance(size: Bucket, width: int, height: int) -> float:
    """Of two ratios, in logarithms: 2:3 is as far from a square as 3:2."""
    return abs(math.log(size[0] * height / (size[1] * width)))
