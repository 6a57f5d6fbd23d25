"""onecard segment serve: POST /predict over HTTP, and a page."""

from onecard.inference import picture_answers, picture_outcomes
from onecard.inference.picture_use import open_predictor, require_model
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.serving import app, picture_server
from onecard.tasks.segment.configs import ServeConfig
from onecard.tasks.segment.model import load


def serve(config: ServeConfig, run: Run) -> Result:
    """Listen until Ctrl-C.

    Raises SettingsError and NotFound without a model, EngineError when the port is in use, before
    the model is loaded.
    """
    require_model(config, "segment")
    with app.listen(config) as server:
        predictor = open_predictor(config, "segment", load)
        reply = picture_answers.replier(predictor, picture_outcomes.pixels(predictor))
        facts = picture_answers.facts(predictor, uses_confidence=predictor.card.instances)
        address = picture_server.run(server, reply, facts, run.reporter)
    return Result({"address": address})
