"""onecard classify check: pictures with classes, looked at before anything is trained."""

from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.classify.configs import CheckConfig
from onecard.training import picture_check


def check(config: CheckConfig, run: Run) -> Result:
    """Raises SettingsError, NotFound, DataError."""
    return picture_check.check(config, "classify", run)
