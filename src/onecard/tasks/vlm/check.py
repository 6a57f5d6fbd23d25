"""onecard vlm check: what is wrong with rows of pictures, before anything is trained."""

from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.vlm import held_out_rows
from onecard.tasks.vlm.configs import CheckConfig


def check(config: CheckConfig, run: Run) -> Result:
    """Raises SettingsError, NotFound, DataError."""
    report = held_out_rows.validated(config, run)
    return Result(report.as_dict(), report.render())
