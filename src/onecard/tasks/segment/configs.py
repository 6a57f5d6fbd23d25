"""Settings of segment, one Config per command. Names are those of segmentation-models-pytorch and
Ultralytics."""

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

    imgsz: int = Field(default=512, ge=32, le=8192)
    """Side of the network's input (px), for the sizes of objects and the augmented sheet."""


class TrainConfig(ImageDataConfig, VisionTrainConfig, TrackingConfig):
    """Segmentation."""

    model: str = "auto"
    """unet-lite0, unet-resnet34, fpn-lite0, deeplabv3plus-resnet50 ...: an architecture of
    segmentation-models-pytorch and its encoder (a class for every pixel); yolov8n-seg, yolo11n-seg,
    yolo26n-seg (outlines of objects; Ultralytics, AGPL-3.0). auto takes unet-lite0."""
    imgsz: int = Field(default=512, ge=32, le=8192)
    """Side of an image (px), or its longer side."""
    optimizer: Literal["auto", "sgd-momentum", "adamw", "adamw-8bit", "sgd", "lion"] = "auto"
    """Optimizer; auto takes the usual one of the model."""
    loss: Literal["dice-ce", "ce", "dice", "focal"] = "dice-ce"
    """Loss of a class for every pixel."""
    mosaic: float = Field(default=1.0, ge=0, le=1)
    """Chance of a mosaic of four images (YOLO)."""
    max_boxes: int = Field(default=0, ge=0, le=5000)
    """Objects of each image in the fullest batch; 0 for the usual: 100 with mosaics, 15 without."""


class PlanTrainConfig(TrainConfig):
    """What-if: any segmenter whose layers are known."""

    own_trainer: ClassVar[bool] = False

    model: str = ""
    """yolov8n-seg, yolo11s-seg, unet, deeplabv3-r50, segformer-b0 ..."""
    imgsz: int = Field(default=640, ge=32, le=8192)
    """Side of an image (px), or its longer side."""
    optimizer: Literal["auto", "sgd-momentum", "adamw", "adamw-8bit", "sgd", "lion"] = (
        "sgd-momentum"
    )
    """Optimizer."""


class PlanPredictConfig(VisionPredictConfig):
    """Segmentation."""

    model: str = ""
    """yolov8n-seg, yolo11s-seg, unet, deeplabv3-r50, segformer-b0 ..."""


class EvaluateConfig(ImageDataConfig, TrainedModelConfig, TrackingConfig):
    """Evaluation."""


class PredictConfig(SourceConfig, TrainedModelConfig):
    """Segmentation."""

    formats: tuple[Annotated[str, ShortName("images", "masks", "json", "coco", "yolo")], ...] = (
        "images",
        "masks",
    )
    """What is written: images (annotated), masks (class numbers as PNG), json, coco, yolo."""
    save_conf: bool = False
    """End each line of a YOLO label file with its score; a training does not take such files."""


class PrelabelConfig(UnlabelledConfig, TrainedModelConfig):
    """Labels to correct."""


class ExportConfig(PictureExportConfig, ImageDataConfig, TrainedModelConfig):
    """Export."""


class ServeConfig(PictureServeConfig, TrainedModelConfig):
    """HTTP."""
