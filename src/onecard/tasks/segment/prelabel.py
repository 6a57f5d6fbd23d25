"""onecard segment prelabel: outlines for unlabelled pictures, to be corrected, least sure first."""

from onecard.inference import picture_outcomes, picture_predictions, prelabels
from onecard.inference.picture_use import open_predictor
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.segment.configs import PrelabelConfig
from onecard.tasks.segment.model import load
from onecard.training import output_dir


def prelabel(config: PrelabelConfig, run: Run) -> Result:
    """Raises SettingsError, NotFound, DataError, and EngineError and MissingExtra of the form."""
    picture_predictions.require_input(config)
    predictor = open_predictor(config, "segment", load)
    answer = picture_outcomes.pixels(predictor)
    out = output_dir.resolve(config.output_dir, run)
    work = picture_predictions.work_of(config, predictor.card, answer, out)
    return prelabels.prelabel(work, run)
