"""onecard segment check: pictures with masks or outlines, looked at before anything is trained."""

from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.segment.configs import CheckConfig
from onecard.training import picture_check


def check(config: CheckConfig, run: Run) -> Result:
    """Raises SettingsError, NotFound, DataError."""
    return picture_check.check(config, "segment", run)
