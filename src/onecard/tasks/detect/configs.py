"""Settings of detect, one Config per command. Names are those of Ultralytics."""

from typing import Literal

from pydantic import Field

from onecard.config import Config
from onecard.training.config import VisionPredictConfig, VisionTrainConfig


class DetectorConfig(Config):
    """Detector."""

    model: str = ""
    """yolov8n, yolo11s, rtmdet-tiny, rt-detr-r50, d-fine-n, rf-detr-base, faster-rcnn-r50 ..."""


class TrainConfig(DetectorConfig, VisionTrainConfig):
    """Detection."""

    optimizer: Literal["sgd-momentum", "adamw", "adamw-8bit", "sgd", "lion"] = "sgd-momentum"
    """Optimizer."""
    max_boxes: int = Field(default=0, ge=0, le=5000)
    """Boxes of each image in the fullest batch; 0 for the usual: 100 with mosaics, 15 without."""


class PredictConfig(DetectorConfig, VisionPredictConfig):
    """Detection."""
