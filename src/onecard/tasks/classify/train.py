"""onecard classify train: a classifier of your own pictures, with its proof. Labels, what the most
frequent class alone gives, training, the score."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from onecard.datasets.images.records import Picture
from onecard.evaluation import learning_curve, stats
from onecard.evaluation.metrics.classification import ClassificationScores
from onecard.inference.picture_model import ModelCard
from onecard.inference.picture_sessions import Predictor, TorchSession
from onecard.reporting import Result
from onecard.runs import picture_report
from onecard.runs.record import Run
from onecard.tasks.classify import learner, model, probe, scoring
from onecard.tasks.classify.configs import TrainConfig
from onecard.tasks.classify.model import Classifier
from onecard.training import (
    backbones,
    checked_set,
    checkpoints,
    output_dir,
    picture_data,
    picture_result,
    picture_torch,
    picture_trainer,
    vision_memory,
)
from onecard.training.checked_set import CheckedSet
from onecard.training.picture_trainer import TrainingState
from onecard.training.seeds import seed_weights


def train(config: TrainConfig, run: Run) -> Result:
    """Raises OneCardErrors. An out-of-memory error is left to api.run, which calls again with
    settings that need less."""
    # 1. labels
    data = checked_set.load(config, "classify", run)
    batch = vision_memory.batch_of(run.plan, config)
    identity = output_dir.vision_identity(config, data.fingerprints["train"], data.classes)
    with output_dir.training_folder(config.output_dir, run, identity, resume=config.resume) as out:
        checked_set.write_rejected(data, out)
        # 2. training
        net, card, state = fit(config, data.train, data.val, data.classes, batch, out, run)
        card = replace(card, data=checked_set.facts(config, data))
        picture_result.keep(net, card, out, run)
        # 3. the score of the saved weights, and the proof
        scores, groups = _score(net, card, data), data.groups(data.held_out)
        base = scoring.majority(data.train, data.held_out, data.classes)
        verdicts = [
            f"{name} against the most frequent class: {comparison.render()}"
            for name, comparison in scoring.compare(base, scores, groups).items()
        ]
        verdicts += picture_result.held_out_note(data)
        values = scoring.metrics(scores, base, groups)
        if config.learning_curve:
            verdicts += _learning_curve(config, data, scores, batch, out, run)
        picture_report.items(scoring.item_rows(scores, base, groups), data.held_out, run)
        rows = {name: interval.as_dict() for name, interval in values.items()}
        run.scores(rows, verdicts=verdicts)
        picture_report.classification(scores, data.held_out, run)
    lines = scoring.render(scores, groups, values)
    return picture_result.result(config, run, out, card, state, values, verdicts, lines)


def fit(
    config: TrainConfig,
    train_pictures: Sequence[Picture],
    val: Sequence[Picture],
    classes: Sequence[str],
    batch: int,
    out: Path,
    run: Run,
) -> tuple[Classifier, ModelCard, TrainingState]:
    """Train on some pictures, or go on from the last checkpoint in `out`."""
    side = (config.height or config.imgsz, config.imgsz)
    seed_weights(config.seed)
    net = model.create(
        config.model,
        len(classes),
        side,
        pretrained=config.pretrained,
        reporter=run.reporter,
    )
    picture_torch.freeze_stages(net.net, config.freeze)
    card = model.card_of(config.model, classes, side, config.resize, run.id)
    device = picture_trainer.default_device()
    warm = config.pretrained and backbones.has_weights(config.model)
    if warm and checkpoints.last(out / "checkpoints") is None:
        probe.fit_head(net, card, train_pictures, device, run.reporter)
    steps = picture_data.augmentation("class", *side, config, config.resize)
    samples = picture_data.PictureSamples(train_pictures, "class", steps, config.seed)
    the_learner = learner.ClassifyLearner(net, card, train_pictures, val, config)
    the_learner.warm = warm
    lr = config.lr0 or learner.usual_lr(config)
    state = picture_trainer.train(the_learner, samples, batch, config, lr, out, run)
    return net, card, state


def _score(net: Classifier, card: ModelCard, data: CheckedSet) -> ClassificationScores:
    session = TorchSession(net, device=str(picture_trainer.default_device()))
    return learner.score(Predictor(card, session.run), data.held_out, data.classes)


def _learning_curve(
    config: TrainConfig,
    data: CheckedSet,
    whole: ClassificationScores,
    batch: int,
    out: Path,
    run: Run,
) -> list[str]:
    """Trainings on a quarter and on half of the labels, scored on the same pictures."""
    rows: dict[float, ClassificationScores] = {1.0: whole}
    for share in learning_curve.SHARES:
        part = learning_curve.part_of(data.train, share, config.seed)
        folder = out / f"labels-{share:.0%}"
        net, card, _ = fit(config, part, data.val, data.classes, batch, folder, run)
        rows[share] = _score(net, card, data)
    groups = data.groups(data.held_out)
    points = {share: rows[share].metrics(groups)["macro_f1"].as_dict() for share in sorted(rows)}
    half = stats.compare_metric(
        "macro_f1",
        dict(zip(rows[0.5].names, map(float, rows[0.5].f1_items()[1]), strict=True)),
        dict(zip(rows[1.0].names, map(float, rows[1.0].f1_items()[1]), strict=True)),
        groups=groups,
    )
    run.artifact("learning_curve.json", json.dumps(points))
    return learning_curve.verdict("macro-F1", points, half)
