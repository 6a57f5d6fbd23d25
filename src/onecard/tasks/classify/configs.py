"""Settings of classify, one Config per command. Names are those of timm and Ultralytics."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from onecard.config import ShortName
from onecard.datasets.config import ImageDataConfig
from onecard.inference.picture_config import (
    PictureExportConfig,
    PictureServeConfig,
    SourceConfig,
    TrainedModelConfig,
    UnlabelledConfig,
)
from onecard.runs.config import TrackingConfig
from onecard.training.config import AugmentConfig, VisionPredictConfig, VisionTrainConfig


class CheckConfig(ImageDataConfig, AugmentConfig):
    """Check."""

    imgsz: int = Field(default=224, ge=32, le=8192)
    """Side of the network's input (px), for the sizes of objects and the augmented sheet."""


class TrainConfig(ImageDataConfig, VisionTrainConfig, TrackingConfig):
    """Classification."""

    model: str = "auto"
    """efficientnet-lite0, vit-tiny, vit-small, convnext-tiny, resnet50, or another name of timm;
    auto takes convnext-tiny where weights can be downloaded and efficientnet-lite0 elsewhere, whose
    weights of ImageNet come with a Python package."""
    imgsz: int = Field(default=224, ge=32, le=8192)
    """Side of an image (px), or its longer side."""
    epochs: int = Field(default=20, ge=1, le=10_000)
    """Epochs."""
    resize: Literal["crop", "letterbox", "stretch"] = "crop"
    """How a whole picture becomes the network's: crop cuts the middle out, letterbox pads, stretch
    changes the ratio."""
    optimizer: Literal["adamw", "adamw-8bit", "sgd-momentum", "sgd", "lion"] = "adamw"
    """Optimizer."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Share of the target that goes to the other classes."""
    hsv_s: float = Field(default=0.4, ge=0, le=1)
    """Largest change of the saturation."""
    ema: bool = False
    """Keep a moving average of the weights beside them."""


class PlanTrainConfig(TrainConfig):
    """What-if: any classifier whose layers are known."""

    own_trainer: ClassVar[bool] = False

    model: str = ""
    """resnet50, vit-base, convnext-tiny ..."""


class PlanPredictConfig(VisionPredictConfig):
    """Classification."""

    model: str = ""
    """resnet50, vit-base, convnext-tiny ..."""
    imgsz: int = Field(default=224, ge=32, le=8192)
    """Side of an image (px), or its longer side."""


class EvaluateConfig(ImageDataConfig, TrainedModelConfig, TrackingConfig):
    """Evaluation."""


class PredictConfig(SourceConfig, TrainedModelConfig):
    """Classification."""

    top: int = Field(default=5, ge=1, le=1000)
    """Classes that are told of each picture."""
    formats: tuple[Annotated[str, ShortName("images", "json", "csv")], ...] = ("json", "csv")
    """What is written: images (annotated), json, csv."""


class PrelabelConfig(UnlabelledConfig, TrainedModelConfig):
    """Labels to correct."""

    formats: tuple[Annotated[str, ShortName("folders", "csv", "label-studio")], ...] = (
        "folders",
        "csv",
        "label-studio",
    )
    """folders: a folder for each class with links to its pictures; csv: filename and label;
    label-studio: tasks with choices to import."""


class ExportConfig(PictureExportConfig, ImageDataConfig, TrainedModelConfig):
    """Export."""


class ServeConfig(PictureServeConfig, TrainedModelConfig):
    """HTTP."""
