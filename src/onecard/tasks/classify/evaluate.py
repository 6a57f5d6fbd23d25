"""onecard classify evaluate: a trained classifier, or an export of it, on labelled pictures."""

from onecard.inference import picture_use
from onecard.reporting import Result
from onecard.runs import picture_report
from onecard.runs.record import Run
from onecard.tasks.classify import learner, model, scoring
from onecard.tasks.classify.configs import EvaluateConfig
from onecard.training import checked_set


def evaluate(config: EvaluateConfig, run: Run) -> Result:
    """Raises SettingsError, NotFound, DataError."""
    predictor = picture_use.open_predictor(config, "classify", model.load)
    card = predictor.card
    data = checked_set.load_for_scoring(config, card, "classify", run)
    scores = learner.score(predictor, data.val, card.classes)
    groups = data.groups(data.val)
    values = scoring.metrics(scores, None, groups)
    picture_report.items(scoring.item_rows(scores, None, groups), data.val, run)
    rows = {name: interval.as_dict() for name, interval in values.items()}
    run.scores(rows)
    picture_report.classification(scores, data.val, run)
    lines = scoring.render(scores, groups, values)
    return Result({"metrics": rows, "form": config.form}, "\n".join(lines))
