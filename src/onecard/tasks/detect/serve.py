"""onecard detect serve: POST /predict over HTTP, and a page."""

from onecard.inference import picture_answers, picture_outcomes
from onecard.inference.picture_use import open_predictor, require_model
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.serving import app, picture_server
from onecard.tasks.detect.configs import ServeConfig
from onecard.tasks.detect.model import load


def serve(config: ServeConfig, run: Run) -> Result:
    """Listen until Ctrl-C.

    Raises SettingsError and NotFound without a model, EngineError when the port is in use, before
    the model is loaded.
    """
    require_model(config, "detect")
    with app.listen(config) as server:
        predictor = open_predictor(config, "detect", load)
        reply = picture_answers.replier(predictor, picture_outcomes.objects(predictor))
        facts = picture_answers.facts(predictor, uses_confidence=True)
        address = picture_server.run(server, reply, facts, run.reporter)
    return Result({"address": address})
