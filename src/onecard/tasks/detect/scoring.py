"""A detector's score on labelled pictures, told as rows, lines and pictures."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from onecard.datasets.images.records import Detection, Picture
from onecard.evaluation.metrics.detection import DetectionScores
from onecard.inference.picture_model import ModelCard
from onecard.inference.picture_sessions import Predictor, TorchSession
from onecard.reporting import Reporter
from onecard.runs.record import Run
from onecard.tasks.detect import learner, model, networks
from onecard.training import yolo_names
from onecard.training.checked_set import CheckedSet
from onecard.training.config import VisionTrainConfig


def open_predictor(net: nn.Module, card: ModelCard, device: torch.device) -> Predictor:
    """A network that gives all detections that count for average precision."""
    session = TorchSession(net, device=str(device))
    return Predictor(card, session.run, confidence=learner.LEAST_SCORE)


def score(
    predictor: Predictor,
    pictures: Sequence[Picture],
    classes: Sequence[str],
    reporter: Reporter,
    label: str,
    batch: int = learner.BATCH,
) -> DetectionScores:
    """Detections of all pictures against their labels."""
    detections: dict[str, list[Detection]] = {}
    with reporter.progress(label, len(pictures)) as bar:
        for start in range(0, len(pictures), batch):
            part = pictures[start : start + batch]
            detections |= learner.detect_all(predictor, part, batch)
            bar.step(len(part))
    return DetectionScores(pictures, detections, classes)


def published_detections(
    name: str, data: CheckedSet, run: Run, config: VisionTrainConfig
) -> dict[str, list[Detection]]:
    """What a published detector (COCO's classes) finds of the user's own, by their names; empty
    where no name is the same or no weights can be had."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if yolo_names.is_yolo(name):
        weights = yolo_names.network().load_weights(name, run.reporter)
        if weights is None:
            return {}
        net: Any = yolo_names.network().YoloNetwork(weights, instances=False)
        names = {int(key): str(word) for key, word in weights.names.items()}
    else:
        net, names = networks.published(name)
        if net is None:
            return {}
    own = {word.casefold(): number for number, word in enumerate(data.classes)}
    places = {
        number: own[word.casefold()] for number, word in names.items() if word.casefold() in own
    }
    if not places:
        run.reporter.line("the first weights know none of these classes: their mAP is 0")
        return {}
    side = (config.height or config.imgsz, config.imgsz)
    words = tuple(names[number] for number in range(len(names)))
    card = model.card_of(name, words, *side, net, "")
    predictor = open_predictor(net, card, device)
    rows = learner.detect_all(predictor, data.held_out)
    return {
        key: [
            Detection(places[one.label], one.score, one.x0, one.y0, one.x1, one.y1)
            for one in detections
            if one.label in places
        ]
        for key, detections in rows.items()
    }
