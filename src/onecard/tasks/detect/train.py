"""onecard detect train: a detector of your own objects, with its proof. Labels, the weights it
starts from, training, the same score again."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from onecard.datasets.images import yolo_files
from onecard.datasets.images.records import Detection, Picture
from onecard.evaluation import detection_report, learning_curve
from onecard.evaluation.metrics.detection import DetectionScores, compare_detectors
from onecard.inference.picture_model import ModelCard
from onecard.reporting import Result
from onecard.runs import picture_report
from onecard.runs.record import Run
from onecard.tasks.detect import diagnosis, learner, model, networks, scoring
from onecard.tasks.detect.configs import TrainConfig
from onecard.training import (
    checked_set,
    output_dir,
    picture_data,
    picture_result,
    picture_trainer,
    vision_memory,
    yolo_names,
)
from onecard.training.checked_set import CheckedSet
from onecard.training.picture_torch import freeze_stages
from onecard.training.picture_trainer import TrainingState
from onecard.training.seeds import seed_weights


@dataclass
class Trained:
    """A finished training."""

    net: nn.Module
    """As inference takes it."""
    card: ModelCard
    state: TrainingState


def train(config: TrainConfig, run: Run) -> Result:
    """Raises OneCardErrors. An out-of-memory error is left to api.run, which calls again with
    settings that need less."""
    # 1. labels
    vision_memory.input_size(config)
    data = checked_set.load(config, "detect", run)
    batch = vision_memory.batch_of(run.plan, config)
    if yolo_names.is_yolo(config.model):
        run.reporter.line(f"{config.model} {yolo_names.NOTICE}")
    identity = output_dir.vision_identity(config, data.fingerprints["train"], data.classes)
    with output_dir.training_folder(config.output_dir, run, identity, resume=config.resume) as out:
        checked_set.write_rejected(data, out)
        # 2. what the weights it starts from detect
        base = base_detections(config, data, run)
        # 3. training
        trained = fit(config, data.train, data.val, data.classes, batch, out, run)
        # 4. the threshold, chosen on the validation pictures
        device = picture_trainer.default_device()
        predictor = scoring.open_predictor(trained.net, trained.card, device)
        scores = scoring.score(predictor, data.val, data.classes, run.reporter, "validation")
        limit = scores.best_threshold()
        thresholds = {**trained.card.thresholds, "confidence": limit}
        facts = checked_set.facts(config, data)
        card = replace(trained.card, thresholds=thresholds, data=facts)
        picture_result.keep(trained.net, card, out, run)
        # 5. the proof, on the test pictures where there are some
        if data.test:
            scores = scoring.score(predictor, data.test, data.classes, run.reporter, "test")
        groups = data.groups(data.held_out)
        before = DetectionScores(data.held_out, base, data.classes)
        comparison = compare_detectors(before, scores, groups)
        values = detection_report.metrics(scores, before, groups, limit)
        verdicts = [f"mAP50-95 against the weights it started from: {comparison.render()}"]
        verdicts += picture_result.held_out_note(data)
        if config.learning_curve:
            verdicts += _learning_curve(config, data, scores, batch, out, run)
        items = detection_report.item_rows(scores, before, groups, limit)
        picture_report.items(items, data.held_out, run)
        rows = {name: interval.as_dict() for name, interval in values.items()}
        run.scores(rows, verdicts=verdicts)
        picture_report.detection(scores, run)
    lines = detection_report.render(scores, groups, values, limit)
    return picture_result.result(config, run, out, card, trained.state, values, verdicts, lines)


def fit(
    config: TrainConfig,
    train_pictures: Sequence[Picture],
    val: Sequence[Picture],
    classes: Sequence[str],
    batch: int,
    out: Path,
    run: Run,
) -> Trained:
    """Train on some pictures, or go on from the last checkpoint in `out`."""
    if yolo_names.is_yolo(config.model):
        return _fit_yolo(config, train_pictures, val, classes, batch, out, run)
    height, width = vision_memory.input_size(config)
    seed_weights(config.seed)
    net = networks.build(
        config.model,
        len(classes),
        height,
        width,
        pretrained=config.pretrained,
        reporter=run.reporter,
    )
    freeze_stages(net.body, config.freeze)
    card = model.card_of(config.model, classes, height, width, net, run.id)
    steps = picture_data.augmentation("boxes", height, width, config)
    samples = picture_data.PictureSamples(train_pictures, "boxes", steps, config.seed)
    the_learner = learner.DetectLearner(net, card, train_pictures, val, config)
    lr = config.lr0 or learner.usual_lr(config.model, config.optimizer)
    state = picture_trainer.train(the_learner, samples, batch, config, lr, out, run)
    return Trained(net, card, state)


def _fit_yolo(
    config: TrainConfig,
    train_pictures: Sequence[Picture],
    val: Sequence[Picture],
    classes: Sequence[str],
    batch: int,
    out: Path,
    run: Run,
) -> Trained:
    splits = {"train": train_pictures, "val": val}
    data_yaml = yolo_files.write(out / "yolo", splits, classes, run.reporter)
    height, width = vision_memory.input_size(config)

    def check(state: TrainingState, net: Any) -> None:
        picture_trainer.stop_at_zero(
            state, config.epochs, "mAP", lambda history: _diagnose_yolo(net, history)
        )

    def _diagnose_yolo(net: Any, history: Sequence[Any]) -> str:
        wrapped = yolo_names.network().YoloNetwork(net, instances=False)
        device = next(net.parameters()).device
        predictor = scoring.open_predictor(wrapped, card_for(wrapped), device)
        detections = learner.detect_all(predictor, val)
        return diagnosis.diagnose(train_pictures, val, detections, classes, width, history)

    def card_for(wrapped: Any) -> ModelCard:
        return model.card_of(config.model, classes, height, width, wrapped, run.id)

    net, state = yolo_names.trainer().fit(
        "detect", config.model, data_yaml, config, batch, out, run, check
    )
    wrapped = yolo_names.network().YoloNetwork(net, instances=False)
    return Trained(wrapped, card_for(wrapped), state)


def base_detections(config: TrainConfig, data: CheckedSet, run: Run) -> dict[str, list[Detection]]:
    """What the first weights detect of the user's classes: those of a published detector whose
    class names are among them; nothing for a network that knows no class yet."""
    if not config.pretrained:
        return {}
    return scoring.published_detections(config.model, data, run, config)


def _learning_curve(
    config: TrainConfig,
    data: CheckedSet,
    whole: DetectionScores,
    batch: int,
    out: Path,
    run: Run,
) -> list[str]:
    """Trainings on a quarter and on half of the labels, scored on the same pictures."""
    device = picture_trainer.default_device()
    rows: dict[float, DetectionScores] = {1.0: whole}
    for share in learning_curve.SHARES:
        part = learning_curve.part_of(data.train, share, config.seed)
        folder = out / f"labels-{share:.0%}"
        trained = fit(config, part, data.val, data.classes, batch, folder, run)
        predictor = scoring.open_predictor(trained.net, trained.card, device)
        label = f"{share:.0%} of the labels"
        rows[share] = scoring.score(predictor, data.held_out, data.classes, run.reporter, label)
    groups = data.groups(data.held_out)
    points = {share: rows[share].metrics(groups)["map50_95"].as_dict() for share in sorted(rows)}
    half = compare_detectors(rows[0.5], rows[1.0], groups)
    run.artifact("learning_curve.json", json.dumps(points))
    return learning_curve.verdict("mAP50-95", points, half)
