"""A permissive detector in onecard's own training loop: its loss and its validation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onecard.datasets.images.decode import read_rgb
from onecard.datasets.images.records import Detection, Picture
from onecard.evaluation.metrics.detection import DetectionScores
from onecard.evaluation.metrics.vision import class_mean
from onecard.inference.picture_model import ModelCard
from onecard.inference.picture_sessions import Predictor, TorchSession
from onecard.tasks.detect import diagnosis
from onecard.tasks.detect.permissive import MODELS
from onecard.training import picture_data, picture_trainer
from onecard.training.config import VisionTrainConfig
from onecard.training.picture_data import Sample

LEAST_SCORE = 0.001
"""Of detections that count for average precision, as COCO's evaluations take them."""
BATCH = 8
"""Pictures read at once while scoring."""
RATES = {"fcos": (1e-3, 0.25), "d-fine": (4e-4, 0.5), "rt-detr": (2e-4, 0.1)}
"""Peak learning rate of AdamW and the backbone's share of it."""
SGD_TIMES = 10.0
"""SGD with momentum wants about ten times AdamW's rate."""


class DetectLearner:
    """Implements picture_trainer.Learner."""

    warm = False
    metric = "map50_95"

    def __init__(
        self,
        net: Any,
        card: ModelCard,
        train: Sequence[Picture],
        val: Sequence[Picture],
        config: VisionTrainConfig,
    ) -> None:
        self.net, self.card, self.config = net, card, config
        self.train_pictures, self.val = train, val
        self.detections: dict[str, list[Detection]] = {}
        labels = [box.label for picture in train for box in picture.boxes]
        n_classes = len(card.classes)
        self.weights = picture_data.inverse_frequency(labels, n_classes, config.cls_pw)

    def loss(self, batch: Sequence[Sample], device: torch.device) -> Tensor:
        images = picture_data.to_tensor(batch, device)
        targets = [
            (torch.from_numpy(each.boxes).to(device), torch.from_numpy(each.labels).to(device))
            for each in batch
        ]
        if self.config.multi_scale:
            images, targets = _rescaled(images, targets)
        loss: Tensor = self.net.loss(images, targets)
        if self.weights is None:
            return loss
        labels = np.concatenate([each.labels for each in batch])
        return loss * (float(self.weights[labels].mean()) if len(labels) else 1.0)

    def validate(self, net: nn.Module) -> dict[str, float]:
        device = next(net.parameters()).device
        session = TorchSession(net, device=str(device))
        predictor = Predictor(self.card, session.run, confidence=LEAST_SCORE)
        self.detections = detect_all(predictor, self.val)
        return quick_scores(self.val, self.detections, self.card.classes)

    def groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        kind = MODELS[self.card.model].kind
        share = RATES[kind][1] if self.config.pretrained else 1.0
        return picture_trainer.weight_groups(self.net, lr, weight_decay, self.net.body_name, share)

    def diagnose(self, history: Sequence[Mapping[str, float]]) -> str:
        return diagnosis.diagnose(
            self.train_pictures,
            self.val,
            self.detections,
            self.card.classes,
            max(self.card.height, self.card.width),
            history,
        )


def usual_lr(model: str, optimizer: str) -> float:
    """Peak learning rate where none is set."""
    rate = RATES[MODELS[model].kind][0]
    return rate * SGD_TIMES if optimizer.startswith("sgd") else rate


def _rescaled(
    images: Tensor, targets: list[tuple[Tensor, Tensor]]
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Another size, for multi-scale training."""
    height, width = images.shape[-2:]
    size = picture_data.random_size(height, width)
    images = nn.functional.interpolate(images, size, mode="bilinear", align_corners=False)
    scale = torch.tensor([size[1] / width, size[0] / height] * 2, device=images.device)
    return images, [(boxes * scale, labels) for boxes, labels in targets]


def detect_all(
    predictor: Predictor, pictures: Sequence[Picture], batch: int = BATCH
) -> dict[str, list[Detection]]:
    """Name -> detections, all that count for average precision."""
    out = {}
    for start in range(0, len(pictures), batch):
        part = pictures[start : start + batch]
        rows = predictor.detect([read_rgb(picture.path) for picture in part])
        out.update({picture.name: row for picture, row in zip(part, rows, strict=True)})
    return out


def quick_scores(
    pictures: Sequence[Picture],
    detections: Mapping[str, Sequence[Detection]],
    classes: Sequence[str],
) -> dict[str, float]:
    """mAP without intervals, while it trains."""
    scores = DetectionScores(pictures, detections, classes)
    averages = scores.averages(np.ones((1, len(pictures))))
    without = scores.samples("map50_agnostic", np.ones((1, len(pictures))))[0]
    values = {
        "map50_95": class_mean(averages.mean(2))[0],
        "map50": class_mean(averages[:, :, 0])[0],
        "map50_agnostic": without,
    }
    return {name: _number(value) for name, value in values.items()}


def _number(value: float) -> float:
    return float(value) if np.isfinite(value) else 0.0
