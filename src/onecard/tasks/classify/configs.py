"""Settings of classify, one Config per command. Names are those of timm and Ultralytics."""

from typing import Literal

from pydantic import Field

from onecard.config import Config
from onecard.training.config import VisionPredictConfig, VisionTrainConfig


class ClassifierConfig(Config):
    """Classifier."""

    model: str = ""
    """resnet50, vit-base, convnext-tiny ..."""


class TrainConfig(ClassifierConfig, VisionTrainConfig):
    """Classification."""

    imgsz: int = Field(default=224, ge=32, le=8192)
    """Side of an image (px), or its longer side."""
    optimizer: Literal["adamw", "adamw-8bit", "sgd-momentum", "sgd", "lion"] = "adamw"
    """Optimizer."""
    ema: bool = False
    """Keep a moving average of the weights beside them."""


class PredictConfig(ClassifierConfig, VisionPredictConfig):
    """Classification."""

    imgsz: int = Field(default=224, ge=32, le=8192)
    """Side of an image (px), or its longer side."""
