"""The mixin of every command that opens a run. Light."""

from typing import Literal

from onecard.config import Config

ReportTo = Literal["none", "trackio", "tensorboard", "wandb", "mlflow"]


class TrackingConfig(Config):
    """Tracking."""

    report_to: ReportTo = "none"
    """Also send steps and scores to an experiment tracker."""
