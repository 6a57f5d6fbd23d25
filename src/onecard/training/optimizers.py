"""Optimizers of our own loops by name."""

from typing import Any

import torch

from onecard.errors import MissingExtra


def create(name: str, groups: list[dict[str, Any]], device: torch.device) -> torch.optim.Optimizer:
    """Raises MissingExtra where it needs bitsandbytes and that is not installed."""
    if name == "adamw":
        return torch.optim.AdamW(groups, fused=device.type == "cuda")
    if name == "sgd":
        return torch.optim.SGD(groups)
    if name == "sgd-momentum":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    if name == "adafactor":
        return torch.optim.Adafactor(groups)
    try:
        # comes with the extra `finetune`
        import bitsandbytes.optim as optim
    except ImportError:
        raise MissingExtra(
            f"{name} needs bitsandbytes, which is not installed",
            why="8-bit AdamW and Lion are its",
            fix="pip install bitsandbytes, or --optimizer adamw",
        ) from None
    kind = {"adamw-8bit": "AdamW8bit", "lion": "Lion"}[name]
    optimizer: torch.optim.Optimizer = getattr(optim, kind)(groups)
    return optimizer
