"""Learning-rate schedules, as shares of the highest rate."""

import math


def lr_at(step: int, steps: int, warmup_ratio: float, floor: float = 0.0) -> float:
    """Linear warm-up, then a cosine down to `floor` (Loshchilov & Hutter 2017).

    >>> [round(lr_at(step, 100, 0.1), 2) for step in (0, 9, 10, 55, 99)]
    [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    warmup = max(1, round(steps * warmup_ratio))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
