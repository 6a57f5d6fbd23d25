"""Names of YOLOs, and the door to their trainer. Light: ultralytics is loaded when it is used, and
need not be installed.

Ultralytics is AGPL-3.0: an extra of its own.
"""

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

from onecard.errors import MissingExtra

LICENSE = "AGPL-3.0"
NOTICE = (
    "is trained by Ultralytics, AGPL-3.0: whoever passes it on or serves it owes the source; "
    "fcos-lite0, d-fine-n and unet-lite0 are under permissive licences"
)

YOLO = re.compile(r"yolo(v?\d+|e)?[a-z0-9]*(-(seg|cls|pose|obb))?(\.(pt|yaml|yml))?", re.IGNORECASE)


def is_yolo(model: str) -> bool:
    """Whether ultralytics trains it: by the name, or a .pt or .yaml of its own.

    >>> is_yolo("yolov8n.pt"), is_yolo("runs/best.pt"), is_yolo("d-fine-n"), is_yolo("yolo26s-seg")
    (True, True, False, True)
    """
    name = Path(model).name
    return bool(YOLO.fullmatch(name)) or name.endswith((".pt", ".yaml", ".yml"))


def yaml_of(model: str) -> str:
    """The file of layers that a name stands for.

    >>> yaml_of("yolov8n.pt"), yaml_of("yolo11s-seg"), yaml_of("my/net.yaml")
    ('yolov8n.yaml', 'yolo11s-seg.yaml', 'my/net.yaml')
    """
    if model.endswith((".yaml", ".yml")):
        return model
    return f"{Path(model).name.removesuffix('.pt')}.yaml"


def trainer() -> ModuleType:
    """training/yolo_trainer.py. Raises MissingExtra without ultralytics."""
    return _load("yolo_trainer")


def network() -> ModuleType:
    """training/yolo_network.py. Raises MissingExtra without ultralytics."""
    return _load("yolo_network")


def _load(name: str) -> ModuleType:
    if importlib.util.find_spec("ultralytics") is None:
        raise MissingExtra(
            "a YOLO needs ultralytics, which is not installed",
            why=f"it is an extra of its own, as its licence is {LICENSE}: whoever passes on or "
            "serves a program with it owes the source",
            fix="pip install 'onecard[ultralytics]', or a model under a permissive licence: "
            "fcos-lite0, d-fine-n, unet-lite0",
        )
    return importlib.import_module(f"onecard.training.{name}")


def is_network(net: object) -> bool:
    """Whether a network is yolo_network.YoloNetwork."""
    return getattr(net, "family", "") == "yolo"
