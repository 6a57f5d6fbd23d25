"""Memory of a detector: a training step or a pass of its network. Pure arithmetic."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onecard.config import Config
from onecard.errors import NotFound
from onecard.memory.devices import Device
from onecard.memory.fallbacks import Change, FitRow
from onecard.memory.plan import Plan
from onecard.tasks.detect.configs import PlanTrainConfig, TrainConfig
from onecard.training import vision_memory, yolo_names

USUAL = ("yolo11n", "yolo11s", "yolo11m", "yolo11l", "yolo11x")
TRACER = "detect"
"""memory/fake_tensor_nets.py's check for `onecard plan --trace`."""
ONLINE = ("yolo11n", "a small one with weights of COCO")
OFFLINE = "fcos-lite0"
"""Models of `--model auto`."""


def resolve_auto(config: Config, device: Device, check_hub: bool = False) -> tuple[Config, str]:
    """(the config with a named model, why that one)."""
    return vision_memory.resolve_auto(config, ONLINE, OFFLINE, check_hub)


def plan(config: Config, device: Device) -> Plan:
    """Raises NotFound for an unknown model, SettingsError for one that does another task.

    A file of ultralytics' own is traced.
    """
    config, _ = resolve_auto(config, device)
    try:
        return vision_memory.plan(config, device, "detect", "yolov8n")
    except NotFound as fault:
        is_file = Path(getattr(config, "model", "")).is_file()
        if not isinstance(config, TrainConfig) or not is_file:
            raise
        return vision_memory.traced(config, device, fault, _traced)


def _traced(config: Any) -> dict[str, Any]:
    """What builds the network of a .pt or .yaml of the user's own."""
    yolo_names.network()  # raises MissingExtra
    options = {"n_classes": config.num_classes or 80}
    return {"target": "onecard.training.yolo_network:from_file", "options": options}


def fallbacks(config: Config) -> Iterator[Change]:
    """Smallest loss first."""
    return vision_memory.fallbacks(config)


def fit_rows() -> tuple[FitRow, ...]:
    """What `onecard fit` shows of detect."""
    config = PlanTrainConfig(batch=8)
    summary = "detector, trained at 640 px"
    return (FitRow("detect", summary, config, USUAL, "batch", (8, 16, 32, 64, 128)),)
