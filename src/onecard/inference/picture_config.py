"""Mixins of the commands that use a trained vision model. Light."""

from typing import Annotated, Literal

from pydantic import Field

from onecard.config import Config, ShortName
from onecard.serving.config import ServeConfig


class TrainedModelConfig(Config):
    """Model."""

    run_id: str = ""
    """The run of a training, or the folder with its model."""
    form: Literal["torch", "onnx", "onnx-int8", "openvino", "tensorrt"] = "torch"
    """Which of the model's files computes: torch, or one that `export` made."""
    confidence: float = Field(default=0.0, ge=0, le=1)
    """Least score of what is shown; 0 takes the one with the best F1 on the validation pictures."""
    batch: int = Field(default=1, ge=1, le=4096)
    """Pictures at once."""
    n_threads: int = Field(default=0, ge=0, le=1024)
    """CPU threads; 0 takes all cores."""


class SourceConfig(Config):
    """Source."""

    source: tuple[str, ...] = ()
    """Pictures, folders, patterns as 'shots/*.jpg', video files, or webcam:0."""
    output_dir: str = ""
    """Where files go; empty means the run's own folder."""
    resume: bool = False
    """Leave out what output_dir holds already, and go on in the video that was stopped."""
    start_s: float = Field(default=0.0, ge=0)
    """Where in a video to begin (s)."""
    end_s: float = Field(default=0.0, ge=0)
    """Where in a video to end (s); 0 for its end."""
    every: int = Field(default=1, ge=1, le=100_000)
    """Take every so many frames of a video."""


class UnlabelledConfig(Config):
    """Labels."""

    source: tuple[str, ...] = ()
    """Unlabelled pictures and folders of them."""
    output_dir: str = ""
    """Where labels go; empty means the run's own folder."""
    resume: bool = False
    """Go on in output_dir: leave out the pictures that were looked at already."""
    formats: tuple[Annotated[str, ShortName("yolo", "label-studio")], ...] = (
        "yolo",
        "label-studio",
    )
    """yolo: a label file for each picture; label-studio: tasks with predictions to import."""


class PictureExportConfig(Config):
    """Export."""

    formats: tuple[Annotated[str, ShortName("onnx", "onnx-int8", "openvino", "tensorrt")], ...] = (
        "onnx",
    )
    """Files to make: onnx, onnx-int8, openvino, tensorrt."""
    output_dir: str = ""
    """Where files go; empty means beside the model."""


class PictureServeConfig(ServeConfig):
    """HTTP."""

    port: int = Field(default=8083, ge=0, le=65535)
    """Port; 0 takes a free one."""
