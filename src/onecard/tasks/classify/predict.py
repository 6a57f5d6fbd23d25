"""onecard classify predict: the class of pictures and frames."""

from onecard.inference import picture_outcomes, picture_predictions
from onecard.inference.picture_use import open_predictor
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.classify.configs import PredictConfig
from onecard.tasks.classify.model import load
from onecard.training import output_dir


def predict(config: PredictConfig, run: Run) -> Result:
    """Raises SettingsError, NotFound, DataError, and EngineError and MissingExtra of the form."""
    picture_predictions.require_input(config)
    predictor = open_predictor(config, "classify", load)
    answer = picture_outcomes.classes(predictor)
    out = output_dir.resolve(config.output_dir, run)
    work = picture_predictions.work_of(config, predictor.card, answer, out)
    return picture_predictions.predict(work, run)
