"""Random state that depends on the seed and the step alone, so that a resumed training draws what
an unbroken one would have drawn."""

import torch

STEP_STRIDE = 1_000_003
"""A prime above the number of steps of any training here: no two (seed, step) share a state."""


def seed_weights(seed: int) -> None:
    """Seed torch before a network is built: its random weights are then the same."""
    torch.manual_seed(seed)


def seed_step(seed: int, step: int) -> None:
    """Seed torch for one step: dropout is then the same whatever ran before in this process."""
    torch.manual_seed(seed * STEP_STRIDE + step)
