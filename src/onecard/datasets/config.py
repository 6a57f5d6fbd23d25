"""Settings of the commands that read labelled pictures."""

from pydantic import Field

from onecard.config import Config


class ImageDataConfig(Config):
    """Pictures."""

    data: str = ""
    """Labelled pictures: a folder, or its data.yaml, .json or .csv; YOLO, COCO, Pascal VOC, Label
    Studio, a folder for each class, CSV, or pictures with masks."""
    val_share: float = Field(default=0.2, gt=0, lt=0.9)
    """Share of the pictures that is split off for validation where the data set has no split."""
    regroup: bool = False
    """Split anew, so that frames of one film and copies of one picture stay on one side."""
    allow_leakage: bool = False
    """Go on although copies of a picture or frames of one film stand on both sides of the split:
    the scores are then too high."""
