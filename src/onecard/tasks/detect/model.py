"""Detectors as they are saved and opened: a ModelCard, weights, and what builds the network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from onecard.inference.picture_model import ModelCard
from onecard.tasks.detect import networks
from onecard.tasks.detect.permissive import MODELS
from onecard.training import picture_torch, yolo_names

NMS_IOU = 0.7
"""Overlap of two boxes of a class from which the less sure one is dropped: ultralytics' default."""


def card_of(
    name: str, classes: Sequence[str], height: int, width: int, net: Any, run: str
) -> ModelCard:
    """The description of a network that was trained under `name`."""
    if yolo_names.is_network(net):
        license_name, queries = yolo_names.LICENSE, False
        architecture: dict[str, Any] = {
            "family": "yolo",
            "task": "detect",
            "yaml": net.net.yaml,
            "nc": net.n_classes,
        }
    else:
        license_name, queries = MODELS[name].license, MODELS[name].kind != "fcos"
        architecture = {"family": "permissive", "name": name, "n_classes": len(classes)}
    return ModelCard(
        task="detect",
        model=name,
        classes=tuple(classes),
        height=height,
        width=width,
        resize="letterbox",
        nms=not queries,
        license=license_name,
        architecture=architecture,
        thresholds={"confidence": 0.25, "iou": NMS_IOU},
        run=run,
    )


def build(card: ModelCard) -> nn.Module:
    """The network of a card, its weights still to come."""
    if card.architecture.get("family") == "yolo":
        net = yolo_names.network().build(card.architecture)
        yolo: nn.Module = yolo_names.network().YoloNetwork(net, instances=False)
        return yolo
    return networks.empty(card.architecture, card.height, card.width)


def load(folder: Path, card: ModelCard) -> nn.Module:
    """The trained network in evaluation mode. Raises DataError."""
    return picture_torch.fill(build(card), folder)
