"""onecard segment evaluate: a trained segmenter, or an export of it, on labelled pictures."""

import numpy as np

from onecard.datasets.images import masks
from onecard.datasets.images.records import Picture
from onecard.evaluation import detection_report
from onecard.evaluation.stats import Interval
from onecard.inference import picture_use
from onecard.reporting import Result
from onecard.runs import picture_report
from onecard.runs.record import Run
from onecard.tasks.segment import instances, learner, model, scoring
from onecard.tasks.segment.configs import EvaluateConfig
from onecard.training import checked_set


def evaluate(config: EvaluateConfig, run: Run) -> Result:
    """Raises SettingsError, NotFound, DataError."""
    _, card = picture_use.require_model(config, "segment")
    confidence = instances.LEAST_SCORE if card.instances else None
    predictor = picture_use.open_predictor(config, "segment", model.load, confidence=confidence)
    data = checked_set.load_for_scoring(config, card, "segment", run)
    groups = data.groups(data.val)
    values: dict[str, Interval]
    if card.instances:
        objects = instances.score(predictor, data.val, card.classes)
        threshold = config.confidence or card.thresholds.get("confidence")
        values = detection_report.metrics(objects, None, groups, threshold)
        items = detection_report.item_rows(objects, None, groups, threshold)
        picture_report.items(items, data.val, run)
        lines = detection_report.render(objects, groups, values, threshold)
        picture_report.detection(objects, run)
    else:
        pixels = learner.score(predictor, data.val, data.dataset)
        values = scoring.metrics(pixels, None, groups)
        picture_report.items(scoring.item_rows(pixels, None, groups), data.val, run)
        lines = scoring.render(pixels, groups, values)

        def truth(picture: Picture) -> np.ndarray:
            return masks.pixel_labels(picture, data.dataset)

        def predict(rgb: np.ndarray) -> np.ndarray:
            return np.asarray(predictor.segment([rgb])[0])

        picture_report.segmentation(pixels, data.val, truth, predict, run)
    rows = {name: interval.as_dict() for name, interval in values.items()}
    run.scores(rows)
    return Result({"metrics": rows, "form": config.form}, "\n".join(lines))
