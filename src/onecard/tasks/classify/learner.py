"""A classifier in onecard's training loop: its loss and its validation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onecard.datasets.images.decode import read_rgb
from onecard.datasets.images.records import Picture
from onecard.evaluation.metrics.classification import ClassificationScores
from onecard.inference.picture_model import ModelCard
from onecard.inference.picture_sessions import Predictor, TorchSession
from onecard.tasks.classify.configs import TrainConfig
from onecard.tasks.classify.model import Classifier
from onecard.training import picture_data, picture_trainer
from onecard.training.picture_data import Sample

RATE, RANDOM_RATE = 5e-4, 1e-3
"""Peak learning rate of AdamW from trained and from random weights."""
BODY_SHARE = 0.2
"""Of the rate, for a body that was trained before: its head is new."""
SGD_TIMES = 20.0
"""SGD with momentum wants a larger rate than AdamW."""
BATCH = 16
"""Pictures at once while scoring."""


class ClassifyLearner:
    """Implements picture_trainer.Learner."""

    warm = False
    metric = "macro_f1"

    def __init__(
        self,
        net: Classifier,
        card: ModelCard,
        train: Sequence[Picture],
        val: Sequence[Picture],
        config: TrainConfig,
    ) -> None:
        self.net, self.card, self.config, self.val = net, card, config, val
        labels = [picture.label for picture in train]
        weights = picture_data.inverse_frequency(labels, len(card.classes), config.cls_pw)
        self.weights = torch.from_numpy(weights) if weights is not None else None

    def loss(self, batch: Sequence[Sample], device: torch.device) -> Tensor:
        images = picture_data.to_tensor(batch, device)
        labels = torch.tensor([each.label for each in batch], device=device)
        return nn.functional.cross_entropy(
            self.net.logits(images),
            labels,
            weight=None if self.weights is None else self.weights.to(device),
            label_smoothing=self.config.label_smoothing,
        )

    def validate(self, net: nn.Module) -> dict[str, float]:
        session = TorchSession(net, device=str(next(net.parameters()).device))
        scores = score(Predictor(self.card, session.run), self.val, self.card.classes)
        accuracy = float(scores.correct_N.mean())
        return {"macro_f1": float(scores.f1_items()[0]), "accuracy": accuracy}

    def groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        heads = tuple(f"net.{name}" for name in head_names(self.net.net))
        body = picture_trainer.weight_groups(self.net, lr, weight_decay)
        if not self.config.pretrained:
            return body
        head = {id(w) for name, w in self.net.named_parameters() if name.startswith(heads)}
        groups = []
        for group in body:
            for inside in (True, False):
                weights = [w for w in group["params"] if (id(w) in head) == inside]
                rate = lr if inside else lr * BODY_SHARE
                if weights:
                    groups.append({**group, "params": weights, "lr": rate})
        return groups

    def diagnose(self, history: Sequence[Mapping[str, float]]) -> str:
        losses = [row["loss"] for row in history]
        if losses[-1] > losses[0]:
            return (
                f"learning rate: the loss grew from {losses[0]:.3g} to {losses[-1]:.3g}; take a "
                "smaller --lr0"
            )
        return "class map: no class of the validation pictures was ever named rightly"


def head_names(net: nn.Module) -> tuple[str, ...]:
    """Names of the layers that give the classes, as timm tells them."""
    config = getattr(net, "default_cfg", None) or {}
    names = config.get("classifier", ())
    return (names,) if isinstance(names, str) else tuple(names)


def usual_lr(config: TrainConfig) -> float:
    """Peak learning rate where none is set."""
    rate = RATE if config.pretrained else RANDOM_RATE
    return rate * SGD_TIMES if config.optimizer.startswith("sgd") else rate


def score(
    predictor: Predictor, pictures: Sequence[Picture], classes: Sequence[str]
) -> ClassificationScores:
    """Probabilities of all pictures against their labels."""
    rows = []
    for start in range(0, len(pictures), BATCH):
        part = pictures[start : start + BATCH]
        rows.append(predictor.classify([read_rgb(picture.path) for picture in part]))
    names = [picture.name for picture in pictures]
    labels = [picture.label for picture in pictures]
    return ClassificationScores(names, labels, np.concatenate(rows), classes)
