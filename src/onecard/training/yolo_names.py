"""Names of YOLOs. Light: ultralytics is not loaded."""

import re
from pathlib import Path

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
