"""onecard detect predict: objects in pictures and videos."""

from onecard.inference import picture_outcomes, picture_predictions
from onecard.inference.picture_use import open_predictor
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.detect.configs import PredictConfig
from onecard.tasks.detect.model import load
from onecard.training import output_dir


def predict(config: PredictConfig, run: Run) -> Result:
    """Raises SettingsError, NotFound, DataError, and EngineError and MissingExtra of the form."""
    picture_predictions.require_input(config)
    predictor = open_predictor(config, "detect", load)
    work = picture_predictions.Work(
        card=predictor.card,
        answer=picture_outcomes.objects(predictor, config.tile, config.tile_overlap, config.batch),
        out=output_dir.resolve(config.output_dir, run),
        source=config.source,
        formats=config.formats,
        settings=picture_predictions.settings_of(config, predictor.card, config.formats),
        batch=config.batch,
        resume=config.resume,
        start_s=config.start_s,
        end_s=config.end_s,
        every=config.every,
    )
    return picture_predictions.predict(work, run, save_conf=config.save_conf)
