"""Segmenters: a class for every pixel (segmentation-models-pytorch over an encoder of timm), or
outlines of objects (Ultralytics' YOLO-seg), as they are trained, saved and opened."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
from torch import Tensor, nn

from onecard.errors import not_found
from onecard.inference.picture_model import ModelCard
from onecard.reporting import Reporter
from onecard.training import backbones, picture_torch, yolo_names
from onecard.training.normalization import Normalize

LICENSE = "MIT"
"""Of segmentation-models-pytorch; weights have licences of their own."""
ARCHITECTURES: dict[str, Any] = {
    "unet": smp.Unet,
    "unetplusplus": smp.UnetPlusPlus,
    "fpn": smp.FPN,
    "linknet": smp.Linknet,
    "deeplabv3": smp.DeepLabV3,
    "deeplabv3plus": smp.DeepLabV3Plus,
    "manet": smp.MAnet,
    "pan": smp.PAN,
    "upernet": smp.UPerNet,
}
SHORT = {"lite0": "tf_efficientnet_lite0", "mobilenetv2": "mobilenetv2_100"}
"""Encoders that people call by less than timm's name."""


class Segmenter(nn.Module):
    """images_BCHW in 0..1 to probabilities_BCHW; `logits` for the loss."""

    def __init__(self, net: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net, self.normalize = net, Normalize(mean, std)

    def logits(self, images: Tensor) -> Tensor:
        out: Tensor = self.net(self.normalize(images))
        return out

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images).softmax(1)


def parts_of(name: str) -> tuple[str, str]:
    """(architecture, encoder) of a name; an architecture alone has EfficientNet-Lite0.

    Raises NotFound.

    >>> parts_of("unet-resnet34"), parts_of("unet")
    (('unet', 'resnet34'), ('unet', 'tf_efficientnet_lite0'))
    """
    architecture, _, encoder = name.strip().lower().partition("-")
    if architecture not in ARCHITECTURES:
        known = [f"{each}-lite0" for each in ARCHITECTURES]
        raise not_found("segmenter", name, [*known, "unet-resnet34", "yolov8n-seg", "yolo11n-seg"])
    return architecture, backbones.timm_name(SHORT.get(encoder, encoder) or SHORT["lite0"])


def create(name: str, n_classes: int, *, pretrained: bool, reporter: Reporter) -> Segmenter:
    """Raises NotFound for an unknown name."""
    architecture, encoder = parts_of(name)
    body = backbones.create(encoder, pretrained=pretrained, reporter=reporter, features_only=True)
    net = ARCHITECTURES[architecture](
        encoder_name=f"tu-{encoder.split('.')[0]}", encoder_weights=None, classes=n_classes
    )
    fitting = _fitting(net.encoder.model.state_dict(), body.state_dict())
    net.encoder.model.load_state_dict(fitting, strict=False)
    return Segmenter(net, *backbones.normalization(body))


def _fitting(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}


def card_of(
    name: str, classes: Sequence[str], side: tuple[int, int], net: Any, run: str
) -> ModelCard:
    """The description of a network that was trained under `name`."""
    instances = yolo_names.is_network(net)
    if yolo_names.is_network(net):
        license_name = yolo_names.LICENSE
        architecture: dict[str, Any] = {
            "family": "yolo",
            "task": "segment",
            "yaml": net.net.yaml,
            "nc": net.n_classes,
        }
    else:
        license_name = LICENSE
        architecture = {"family": "smp", "name": name, "n_classes": len(classes)}
    return ModelCard(
        task="segment",
        model=name,
        classes=tuple(classes),
        height=side[0],
        width=side[1],
        resize="letterbox",
        nms=instances,
        instances=instances,
        license=license_name,
        architecture=architecture,
        thresholds={"confidence": 0.25, "iou": 0.7} if instances else {},
        run=run,
    )


def build(card: ModelCard) -> nn.Module:
    """The network of a card, its weights still to come."""
    if card.architecture.get("family") == "yolo":
        network = yolo_names.network()
        yolo: nn.Module = network.YoloNetwork(network.build(card.architecture), instances=True)
        return yolo
    name, n_classes = str(card.architecture["name"]), int(card.architecture["n_classes"])
    return create(name, n_classes, pretrained=False, reporter=Reporter())


def load(folder: Path, card: ModelCard) -> nn.Module:
    """The trained network in evaluation mode. Raises DataError."""
    return picture_torch.fill(build(card), folder)
