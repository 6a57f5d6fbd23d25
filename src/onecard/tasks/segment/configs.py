"""Settings of segment, one Config per command. Names are those of Ultralytics."""

from typing import Literal

from pydantic import Field

from onecard.config import Config
from onecard.training.config import VisionPredictConfig, VisionTrainConfig


class SegmenterConfig(Config):
    """Segmenter."""

    model: str = ""
    """yolov8n-seg, yolo11s-seg, unet, deeplabv3-r50 ..."""


class TrainConfig(SegmenterConfig, VisionTrainConfig):
    """Segmentation."""

    optimizer: Literal["sgd-momentum", "adamw", "adamw-8bit", "sgd", "lion"] = "sgd-momentum"
    """Optimizer."""
    max_boxes: int = Field(default=100, ge=1, le=5000)
    """Objects of the fullest image of a batch, mosaics counted."""


class PredictConfig(SegmenterConfig, VisionPredictConfig):
    """Segmentation."""
