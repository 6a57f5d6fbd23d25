"""onecard detect evaluate: a trained detector, or an export of it, on labelled pictures."""

from onecard.evaluation import detection_report
from onecard.inference import picture_use
from onecard.reporting import Result
from onecard.runs import picture_report
from onecard.runs.record import Run
from onecard.tasks.detect import learner, model, scoring
from onecard.tasks.detect.configs import EvaluateConfig
from onecard.training import checked_set


def evaluate(config: EvaluateConfig, run: Run) -> Result:
    """Raises SettingsError, NotFound, DataError."""
    predictor = picture_use.open_predictor(
        config, "detect", model.load, confidence=learner.LEAST_SCORE
    )
    card = predictor.card
    data = checked_set.load_for_scoring(config, card, "detect", run)
    scores = scoring.score(predictor, data.val, card.classes, run.reporter, "scoring")
    groups = data.groups(data.val)
    threshold = config.confidence or card.thresholds.get("confidence")
    values = detection_report.metrics(scores, None, groups, threshold)
    items = detection_report.item_rows(scores, None, groups, threshold)
    picture_report.items(items, data.val, run)
    rows = {name: interval.as_dict() for name, interval in values.items()}
    run.scores(rows)
    picture_report.detection(scores, run)
    lines = detection_report.render(scores, groups, values, threshold)
    return Result({"metrics": rows, "form": config.form}, "\n".join(lines))
