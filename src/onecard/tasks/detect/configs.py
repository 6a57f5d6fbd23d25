"""Settings of detect, one Config per command. Names are those of Ultralytics."""

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

    imgsz: int = Field(default=640, ge=32, le=8192)
    """Side of the network's input (px), for the sizes of objects and the augmented sheet."""


class TrainConfig(ImageDataConfig, VisionTrainConfig, TrackingConfig):
    """Detection."""

    model: str = "auto"
    """yolov8n, yolo11s, yolo26n (Ultralytics, AGPL-3.0), d-fine-n, rt-detr-r18, fcos-lite0
    (Apache-2.0, BSD-3), or a .pt or .yaml of Ultralytics; auto takes yolo11n where weights can be
    downloaded and fcos-lite0 elsewhere, whose first weights come with a Python package."""
    optimizer: Literal["auto", "sgd-momentum", "adamw", "adamw-8bit", "sgd", "lion"] = "auto"
    """Optimizer; auto takes the usual one of the model."""
    mosaic: float = Field(default=1.0, ge=0, le=1)
    """Chance of a mosaic of four images (YOLO)."""
    max_boxes: int = Field(default=0, ge=0, le=5000)
    """Boxes of each image in the fullest batch; 0 for the usual: 100 with mosaics, 15 without."""


class PlanTrainConfig(TrainConfig):
    """What-if: other trainers' detectors too."""

    own_trainer: ClassVar[bool] = False

    model: str = ""
    """yolov8n, yolo11s, rtmdet-tiny, rt-detr-r50, d-fine-n, rf-detr-base, faster-rcnn-r50 ..."""
    optimizer: Literal["auto", "sgd-momentum", "adamw", "adamw-8bit", "sgd", "lion"] = (
        "sgd-momentum"
    )
    """Optimizer."""


class PlanPredictConfig(VisionPredictConfig):
    """Detection."""

    model: str = ""
    """yolov8n, yolo11s, rtmdet-tiny, rt-detr-r50, d-fine-n, rf-detr-base, faster-rcnn-r50 ..."""


class EvaluateConfig(ImageDataConfig, TrainedModelConfig, TrackingConfig):
    """Evaluation."""


class PredictConfig(SourceConfig, TrainedModelConfig):
    """Detection."""

    tile: int = Field(default=0, ge=0, le=8192)
    """Cut large pictures into overlapping tiles of so many pixels; 0 takes pictures whole."""
    tile_overlap: float = Field(default=0.2, ge=0, lt=0.9)
    """Share that neighbouring tiles have in common."""
    formats: tuple[Annotated[str, ShortName("images", "json", "coco", "yolo")], ...] = (
        "images",
        "json",
    )
    """What is written: images (annotated), json, coco, yolo."""
    save_conf: bool = False
    """End each line of a YOLO label file with its score; a training does not take such files."""


class PrelabelConfig(UnlabelledConfig, TrainedModelConfig):
    """Labels to correct."""


class ExportConfig(PictureExportConfig, ImageDataConfig, TrainedModelConfig):
    """Export."""

    nms: Literal["beside", "inside"] = "beside"
    """Where boxes of one object are thinned out: by the program, or inside the ONNX file."""


class ServeConfig(PictureServeConfig, TrainedModelConfig):
    """HTTP."""
