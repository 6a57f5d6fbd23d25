"""onecard detect check: pictures with boxes, looked at before anything is trained."""

from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.detect.configs import CheckConfig
from onecard.training import picture_check


def check(config: CheckConfig, run: Run) -> Result:
    """Raises SettingsError, NotFound, DataError."""
    return picture_check.check(config, "detect", run)
