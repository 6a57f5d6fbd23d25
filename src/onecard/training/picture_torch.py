"""A torch network saved as a model folder and filled from one; parts of one that stay frozen."""

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from timm.models import group_parameters
from torch import nn

from onecard import fsio
from onecard.errors import NotFound
from onecard.inference.picture_model import WEIGHTS, ModelCard
from onecard.training import checkpoints
from onecard.training.picture_trainer import own_tensors


def save(net: nn.Module, card: ModelCard, folder: Path) -> None:
    """model.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.detach().contiguous().cpu() for key, value in net.state_dict().items()}
    with fsio.atomic_write(folder / WEIGHTS) as draft:
        save_file(own_tensors(weights), draft)
    card.write(folder)


def fill(net: nn.Module, folder: Path) -> nn.Module:
    """The network with the weights of a model folder, ready to answer. Raises DataError."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise NotFound(
            f"{folder} holds no weights for torch",
            why=f"there is no {WEIGHTS} in it",
            fix="--form onnx, or the folder of the training",
        )
    with checkpoints.restoring(path):
        net.load_state_dict(checkpoints.load(path))
    return net.eval()


def freeze_stages(body: Any, count: int) -> None:
    """Freeze the first `count` groups of layers of a network of timm: stem, then stages.

    Groups are timm's own (`group_matcher`); a network without them is cut by its children.
    """
    if count <= 0:
        return
    if hasattr(body, "group_matcher"):
        groups = group_parameters(body, body.group_matcher(coarse=True))
        names = {name for key in sorted(groups)[:count] for name in groups[key]}
    else:
        children = [name for name, _ in body.named_children()][:count]
        pattern = re.compile(rf"({'|'.join(map(re.escape, children))})(\.|$)")
        names = {name for name, _ in body.named_parameters() if pattern.match(name)}
    for name, weight in body.named_parameters():
        if name in names:
            weight.requires_grad = False
