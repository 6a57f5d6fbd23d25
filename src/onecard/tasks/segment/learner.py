"""A segmenter with a class for every pixel in onecard's training loop: its losses and its
validation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from onecard.datasets.images import masks
from onecard.datasets.images.decode import read_rgb
from onecard.datasets.images.records import ImageDataset, Picture
from onecard.evaluation.metrics.segmentation import SegmentationScores
from onecard.inference.picture_model import ModelCard
from onecard.inference.picture_sessions import Predictor, TorchSession
from onecard.tasks.segment.configs import TrainConfig
from onecard.tasks.segment.model import Segmenter
from onecard.training import picture_data, picture_trainer
from onecard.training.picture_data import IGNORED, Sample

RATE = 1e-3
"""Peak learning rate of AdamW; encoders that were trained before have BODY_SHARE of it."""
BODY_SHARE = 0.3
SGD_TIMES = 20.0
BATCH = 4
"""Pictures at once while scoring."""


class SegmentLearner:
    """Implements picture_trainer.Learner."""

    warm = False
    metric = "mean_dice"

    def __init__(
        self,
        net: Segmenter,
        card: ModelCard,
        train: Sequence[Picture],
        val: Sequence[Picture],
        dataset: ImageDataset,
        config: TrainConfig,
    ) -> None:
        self.net, self.card, self.config = net, card, config
        self.val, self.dataset = val, dataset
        self.loss_of = make_loss(config.loss, self._class_weights(train))

    def _class_weights(self, train: Sequence[Picture]) -> Tensor | None:
        """By the pixels of each class."""
        if self.config.cls_pw == 0:
            return None
        n = len(self.card.classes)
        counts = np.zeros(n)
        for picture in train:
            labels = masks.pixel_labels(picture, self.dataset)
            counts += np.bincount(labels[labels >= 0].reshape(-1), minlength=n)[:n]
        weights = np.maximum(counts, 1.0) ** -self.config.cls_pw
        return torch.tensor(weights / weights.mean(), dtype=torch.float32)

    def loss(self, batch: Sequence[Sample], device: torch.device) -> Tensor:
        images = picture_data.to_tensor(batch, device)
        stack = np.stack([np.asarray(each.mask) for each in batch]).astype(np.int64)
        labels = torch.from_numpy(stack).to(device)
        if self.config.multi_scale:
            images, labels = _rescaled(images, labels)
        return self.loss_of(self.net.logits(images), labels)

    def validate(self, net: nn.Module) -> dict[str, float]:
        session = TorchSession(net, device=str(next(net.parameters()).device))
        scores = score(Predictor(self.card, session.run), self.val, self.dataset)
        return quick_figures(scores)

    def groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        share = BODY_SHARE if self.config.pretrained else 1.0
        return picture_trainer.weight_groups(self.net, lr, weight_decay, "net.encoder.", share)

    def diagnose(self, history: Sequence[Mapping[str, float]]) -> str:
        losses = [row["loss"] for row in history]
        if losses[-1] > losses[0]:
            return (
                f"learning rate: the loss grew from {losses[0]:.3g} to {losses[-1]:.3g}; take a "
                "smaller --lr0"
            )
        return ""


def make_loss(name: str, weights: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
    """logits_BCHW and labels_BHW (IGNORED where none) to a number."""
    dice = smp.losses.DiceLoss("multiclass", ignore_index=IGNORED)
    focal = smp.losses.FocalLoss("multiclass", ignore_index=IGNORED)

    def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        own = None if weights is None else weights.to(logits.device)
        return nn.functional.cross_entropy(logits, labels, own, ignore_index=IGNORED)

    def both(logits: Tensor, labels: Tensor) -> Tensor:
        total: Tensor = dice(logits, labels) + cross_entropy(logits, labels)
        return total

    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "dice-ce": both,
        "ce": cross_entropy,
        "dice": dice,
        "focal": focal,
    }
    return losses[name]


def _rescaled(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Another size, for multi-scale training."""
    size = picture_data.random_size(*images.shape[-2:])
    images = nn.functional.interpolate(images, size, mode="bilinear", align_corners=False)
    whole = nn.functional.interpolate(labels[:, None].float(), size, mode="nearest")
    return images, whole[:, 0].long()


def usual_lr(config: TrainConfig) -> float:
    """Peak learning rate where none is set."""
    return RATE * SGD_TIMES if config.optimizer.startswith("sgd") else RATE


def background_of(classes: Sequence[str]) -> int | None:
    """The number of the class that says "nothing"; None where there is none of that name."""
    names = [name.casefold().strip("_ ") for name in classes]
    return names.index("background") if "background" in names else None


def score(
    predictor: Predictor, pictures: Sequence[Picture], dataset: ImageDataset
) -> SegmentationScores:
    """Classes of all pixels against their labels, at each picture's own size."""
    classes = masks.pixel_classes(dataset)
    scores = SegmentationScores(classes, background_of(classes))
    for start in range(0, len(pictures), BATCH):
        part = pictures[start : start + BATCH]
        maps = predictor.segment([read_rgb(picture.path) for picture in part])
        for picture, predicted in zip(part, maps, strict=True):
            scores.add(picture.name, masks.pixel_labels(picture, dataset), np.asarray(predicted))
    return scores


def quick_figures(scores: SegmentationScores) -> dict[str, float]:
    """Means, while it trains."""
    values = {name: row.value for name, row in scores.metrics().items()}
    names = ("mean_dice", "mean_iou", "pixel_accuracy")
    return {name: values[name] if np.isfinite(values[name]) else 0.0 for name in names}
