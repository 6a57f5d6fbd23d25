"""Sends a run's steps and scores to a tracker that the user chose; ours is never a dashboard. Knows
no kind.

Each tracker's library is an extra (`onecard[tracking]`) and is imported when it is named.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onecard.errors import MissingExtra


class Tracker:
    """What every tracker is told."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        raise NotImplementedError

    def finish(self, scores: Mapping[str, float]) -> None:
        raise NotImplementedError


def start(name: str, folder: Path, settings: Mapping[str, Any]) -> Tracker:
    """Raises MissingExtra when the tracker's library is not installed."""
    return {"trackio": _Trackio, "tensorboard": _TensorBoard, "wandb": _Wandb, "mlflow": _Mlflow}[
        name
    ](folder, settings)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise MissingExtra(
            f"report_to {name} needs the package {name.split('.')[0]}",
            why="it is not installed",
            fix="pip install 'onecard[tracking]'",
        ) from None


class _TensorBoard(Tracker):
    """Event files under artifacts/tensorboard, written without torch."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        writer = _library("tensorboard.summary.writer.event_file_writer")
        self._pb = _library("tensorboard.compat.proto.summary_pb2")
        self._event = _library("tensorboard.compat.proto.event_pb2")
        self._writer = writer.EventFileWriter(str(folder / "artifacts" / "tensorboard"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        rows = [
            self._pb.Summary.Value(tag=name, simple_value=value) for name, value in values.items()
        ]
        self._writer.add_event(self._event.Event(step=step, summary=self._pb.Summary(value=rows)))

    def finish(self, scores: Mapping[str, float]) -> None:
        self.log(0, {f"score/{name}": value for name, value in scores.items()})
        self._writer.close()


class _Wandb(Tracker):
    """Offline unless WANDB_MODE says otherwise: nothing leaves the machine by accident."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import os

        wandb = _library("wandb")
        mode = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(
            project="onecard",
            name=folder.name,
            dir=str(folder / "artifacts"),
            config=dict(settings),
            mode=mode,
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, scores: Mapping[str, float]) -> None:
        self._run.summary.update(dict(scores))
        self._run.finish()


class _Mlflow(Tracker):
    """An SQLite store in the run folder unless MLFLOW_TRACKING_URI names a server."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import os

        self._mlflow = _library("mlflow")
        store = f"sqlite:///{(folder / 'artifacts' / 'mlflow.db').resolve()}"
        self._mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI", store))
        self._mlflow.set_experiment("onecard")
        self._mlflow.start_run(run_name=folder.name)
        self._mlflow.log_params({key: str(value)[:250] for key, value in settings.items()})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def finish(self, scores: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(
            {name.replace("@", "_at_"): value for name, value in scores.items()}
        )
        self._mlflow.end_run()


class _Trackio(Tracker):
    """Trackio's local store, kept in the run folder unless TRACKIO_DIR names another."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import os

        os.environ.setdefault("TRACKIO_DIR", str(folder / "artifacts" / "trackio"))
        self._trackio = _library("trackio")
        self._trackio.init(project="onecard", name=folder.name, config=dict(settings))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def finish(self, scores: Mapping[str, float]) -> None:
        self._trackio.log({f"score/{name}": value for name, value in scores.items()})
        self._trackio.finish()
