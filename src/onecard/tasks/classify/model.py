"""Classifiers: any network of timm with a head for the user's classes, as it is trained, saved and
opened."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from onecard.inference.picture_model import ModelCard, Resize
from onecard.reporting import Reporter
from onecard.training import backbones, picture_torch
from onecard.training.normalization import Normalize

LICENSE = "Apache-2.0"
"""Of timm; weights have licences of their own."""


class Classifier(nn.Module):
    """images_BCHW in 0..1 to probabilities_BC; `logits` for the loss."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.normalize = net, Normalize(*backbones.normalization(net))

    def logits(self, images: Tensor) -> Tensor:
        out: Tensor = self.net(self.normalize(images))
        return out

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images).softmax(-1)


def create(
    name: str, n_classes: int, side: tuple[int, int], *, pretrained: bool, reporter: Reporter
) -> Classifier:
    """`side`: height and width, px. Raises NotFound for an unknown name."""
    options: dict[str, object] = {"num_classes": n_classes}
    if backbones.takes_size(name):
        options["img_size"] = side
    net = backbones.create(name, pretrained=pretrained, reporter=reporter, **options)
    return Classifier(net)


def card_of(
    name: str, classes: Sequence[str], side: tuple[int, int], resize: Resize, run: str
) -> ModelCard:
    return ModelCard(
        task="classify",
        model=name,
        classes=tuple(classes),
        height=side[0],
        width=side[1],
        resize=resize,
        license=LICENSE,
        architecture={"timm": backbones.timm_name(name), "n_classes": len(classes)},
        run=run,
    )


def build(card: ModelCard) -> Classifier:
    """The network of a card, its weights still to come."""
    return create(
        str(card.architecture["timm"]),
        len(card.classes),
        (card.height, card.width),
        pretrained=False,
        reporter=Reporter(),
    )


def load(folder: Path, card: ModelCard) -> nn.Module:
    """The trained network in evaluation mode. Raises DataError."""
    return picture_torch.fill(build(card), folder)
