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
    max_boxes: int = Field(default=0, ge=0, le=5000)
    """Objects of each image in the fullest batch; 0 for the usual: 100 with mosaics, 15 without."""


class PredictConfig(SegmenterConfig, VisionPredictConfig):
    """Segmentation."""
