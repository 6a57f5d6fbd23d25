"""onecard segment train: a class for every pixel, or outlines of objects, with its proof. Labels,
the base, training, the score."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from onecard.datasets.images import masks, yolo_files
from onecard.datasets.images.records import Picture
from onecard.errors import DataError
from onecard.evaluation import detection_report, learning_curve
from onecard.evaluation.metrics.detection import DetectionScores, compare_detectors
from onecard.evaluation.metrics.segmentation import SegmentationScores
from onecard.evaluation.stats import Comparison, Interval
from onecard.inference.picture_model import ModelCard
from onecard.inference.picture_sessions import Predictor, TorchSession
from onecard.reporting import Result
from onecard.runs import picture_report
from onecard.runs.record import Run
from onecard.tasks.segment import instances, learner, model, scoring
from onecard.tasks.segment.configs import TrainConfig
from onecard.training import (
    checked_set,
    output_dir,
    picture_check,
    picture_data,
    picture_result,
    picture_torch,
    picture_trainer,
    vision_memory,
    yolo_names,
)
from onecard.training.checked_set import CheckedSet
from onecard.training.picture_trainer import TrainingState
from onecard.training.seeds import seed_weights

Scores = SegmentationScores | DetectionScores


def train(config: TrainConfig, run: Run) -> Result:
    """Raises OneCardErrors. An out-of-memory error is left to api.run, which calls again with
    settings that need less."""
    # 1. labels
    vision_memory.input_size(config)
    data = checked_set.load(config, "segment", run)
    batch = vision_memory.batch_of(run.plan, config)
    if yolo_names.is_yolo(config.model):
        instances.require_outlines(data, config.model)
        run.reporter.line(f"{config.model} {yolo_names.NOTICE}")
    identity = output_dir.vision_identity(config, data.fingerprints["train"], data.classes)
    identity["loss"] = config.loss
    with output_dir.training_folder(config.output_dir, run, identity, resume=config.resume) as out:
        checked_set.write_rejected(data, out)
        # 2. training
        net, card, state = fit(config, data.train, data, batch, out, run)
        predictor = open_predictor(net, card)
        if card.instances:
            card = instances.with_threshold(card, predictor, data)
        card = replace(card, data=checked_set.facts(config, data))
        picture_result.keep(net, card, out, run)
        # 3. the score of the saved weights, and the proof
        scores, base = score(predictor, data), _base(config, data)
        groups = data.groups(data.held_out)
        limit = card.thresholds.get("confidence")
        values = _metrics(scores, base, groups, limit)
        verdicts = [_verdict(compare(base, scores, groups), scores)]
        verdicts += picture_result.held_out_note(data)
        if config.learning_curve:
            verdicts += _learning_curve(config, data, scores, batch, out, run)
        picture_report.items(_item_rows(scores, base, groups, limit), data.held_out, run)
        rows = {name: interval.as_dict() for name, interval in values.items()}
        run.scores(rows, verdicts=verdicts)
        write_pictures(scores, data, predictor, run)
    lines = _render(scores, groups, values, limit)
    return picture_result.result(config, run, out, card, state, values, verdicts, lines)


# Training


def fit(
    config: TrainConfig,
    train_pictures: Sequence[Picture],
    data: CheckedSet,
    batch: int,
    out: Path,
    run: Run,
) -> tuple[nn.Module, ModelCard, TrainingState]:
    """Train on some pictures, or go on from the last checkpoint in `out`."""
    side = vision_memory.input_size(config)
    if yolo_names.is_yolo(config.model):
        splits = {"train": train_pictures, "val": data.val}
        data_yaml = yolo_files.write(
            out / "yolo", splits, data.classes, run.reporter, outlines=True
        )
        yolo, state = yolo_names.trainer().fit(
            "segment", config.model, data_yaml, config, batch, out, run, lambda state, net: None
        )
        wrapped = yolo_names.network().YoloNetwork(yolo, instances=True)
        card = model.card_of(config.model, data.classes, side, wrapped, run.id)
        return wrapped, card, state
    classes = masks.pixel_classes(data.dataset)
    if len(classes) > picture_data.IGNORED:
        raise DataError(
            f"{len(classes)} classes of pixels are too many",
            why=f"masks hold numbers up to {picture_data.IGNORED - 1}",
            fix="join classes, or leave out what is rare",
        )
    seed_weights(config.seed)
    net = model.create(
        config.model, len(classes), pretrained=config.pretrained, reporter=run.reporter
    )
    picture_torch.freeze_stages(net.net.encoder.model, config.freeze)
    card = model.card_of(config.model, classes, side, net, run.id)
    steps = picture_data.augmentation("pixels", *side, config)
    samples = picture_data.PictureSamples(
        train_pictures,
        "pixels",
        steps,
        config.seed,
        picture_check.mask_reader(data.dataset),
    )
    the_learner = learner.SegmentLearner(net, card, train_pictures, data.val, data.dataset, config)
    lr = config.lr0 or learner.usual_lr(config)
    state = picture_trainer.train(the_learner, samples, batch, config, lr, out, run)
    return net, card, state


def _learning_curve(
    config: TrainConfig,
    data: CheckedSet,
    whole: Scores,
    batch: int,
    out: Path,
    run: Run,
) -> list[str]:
    """Trainings on a quarter and on half of the labels, scored on the same pictures."""
    rows: dict[float, Scores] = {1.0: whole}
    for share in learning_curve.SHARES:
        part = learning_curve.part_of(data.train, share, config.seed)
        net, card, _ = fit(config, part, data, batch, out / f"labels-{share:.0%}", run)
        rows[share] = score(open_predictor(net, card), data)
    groups = data.groups(data.held_out)
    name = "map50_95" if isinstance(whole, DetectionScores) else "mean_iou"
    points = {share: rows[share].metrics(groups)[name].as_dict() for share in sorted(rows)}
    run.artifact("learning_curve.json", json.dumps(points))
    return learning_curve.verdict(name, points, compare(rows[0.5], rows[1.0], groups))


# Scores of both kinds


def open_predictor(net: nn.Module, card: ModelCard) -> Predictor:
    session = TorchSession(net, device=str(picture_trainer.default_device()))
    confidence = instances.LEAST_SCORE if card.instances else None
    return Predictor(card, session.run, confidence=confidence)


def score(predictor: Predictor, data: CheckedSet) -> Scores:
    if predictor.card.instances:
        return instances.score(predictor, data.held_out, data.classes)
    return learner.score(predictor, data.held_out, data.dataset)


def _base(config: TrainConfig, data: CheckedSet) -> Scores:
    """Without looking: nothing detected, or the most frequent class everywhere."""
    if yolo_names.is_yolo(config.model):
        return DetectionScores(data.held_out, {}, data.classes, masks=True)
    return scoring.majority(data.train, data.held_out, data.dataset)


def compare(old: Scores, new: Scores, groups: Mapping[str, Any]) -> Comparison:
    if isinstance(old, DetectionScores):
        assert isinstance(new, DetectionScores)
        return compare_detectors(old, new, groups)
    assert isinstance(new, SegmentationScores)
    return scoring.compare(old, new, groups)


def _verdict(comparison: Comparison, scores: Scores) -> str:
    if isinstance(scores, DetectionScores):
        return f"mAP50-95 of masks against nothing detected: {comparison.render()}"
    return f"mean IoU against the most frequent class everywhere: {comparison.render()}"


def _metrics(
    scores: Scores, base: Scores, groups: Mapping[str, Any], limit: float | None
) -> dict[str, Interval]:
    if isinstance(scores, DetectionScores):
        assert isinstance(base, DetectionScores)
        return detection_report.metrics(scores, base, groups, limit)
    assert isinstance(base, SegmentationScores)
    return scoring.metrics(scores, base, groups)


def _item_rows(
    scores: Scores, base: Scores, groups: Mapping[str, Any], limit: float | None
) -> list[dict[str, Any]]:
    if isinstance(scores, DetectionScores):
        assert isinstance(base, DetectionScores)
        return detection_report.item_rows(scores, base, groups, limit)
    assert isinstance(base, SegmentationScores)
    return scoring.item_rows(scores, base, groups)


def _render(
    scores: Scores,
    groups: Mapping[str, Any],
    values: Mapping[str, Interval],
    limit: float | None,
) -> list[str]:
    if isinstance(scores, DetectionScores):
        return detection_report.render(scores, groups, values, limit)
    return scoring.render(scores, groups, values)


def write_pictures(scores: Scores, data: CheckedSet, predictor: Predictor, run: Run) -> None:
    if isinstance(scores, DetectionScores):
        picture_report.detection(scores, run)
        return

    def predict(rgb: np.ndarray) -> np.ndarray:
        return np.asarray(predictor.segment([rgb])[0])

    def truth(picture: Picture) -> np.ndarray:
        return masks.pixel_labels(picture, data.dataset)

    picture_report.segmentation(scores, data.held_out, truth, predict, run)
