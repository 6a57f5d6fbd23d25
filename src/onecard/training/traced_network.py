"""Memory of a network that stands in no table: one pass forward and back of its real class on fake
tensors, every storage counted."""

import importlib
from typing import Any

import torch

from onecard.errors import NotFound, OneCardError
from onecard.memory import fake_tensor_nets
from onecard.memory.estimators.training import OPTIMIZER
from onecard.memory.plan import Term
from onecard.reporting import Reporter
from onecard.training import vision_memory


def terms(
    config: Any, batch: int, fault: NotFound, *, target: str, options: dict[str, Any]
) -> list[Term]:
    """Weights, optimizer, averages and the peak of a pass.

    `target`: 'module:function' that builds the network from the config's model name and `options`.
    Raises `fault` where the library does not know the name.
    """
    module, _, function = target.partition(":")
    build = getattr(importlib.import_module(module), function)
    options = {**options, "pretrained": False, "reporter": Reporter()}
    try:
        with torch.device("meta"):
            params = sum(weight.numel() for weight in build(config.model, **options).parameters())
    except OneCardError:
        raise fault from None
    height, width = vision_memory.input_size(config)
    peak = fake_tensor_nets.passed_bytes(
        lambda: build(config.model, **options),
        lambda net: net(torch.empty(batch, 3, height, width)),
    )
    optimizer = "adamw" if config.optimizer == "auto" else config.optimizer
    parts = [
        Term("weights", params * 4, f"{params / 1e6:.2f}e6 x 4 B"),
        Term(
            "optimizer",
            round(params * OPTIMIZER[optimizer][0]),
            f"{optimizer}: {OPTIMIZER[optimizer][0]:.0f} B a weight",
        ),
    ]
    if config.ema:
        parts.append(Term("averaged weights", params * 4, "the moving average beside them"))
    reason = f"{batch} x {width} x {height} px in fp32, traced"
    return [*parts, Term("activations and gradients", peak, reason)]
