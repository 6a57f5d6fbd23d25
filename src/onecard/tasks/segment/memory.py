"""Memory of a segmenter: a training step or a pass of its network. Pure arithmetic."""

from collections.abc import Iterator
from typing import Any

from onecard.config import Config
from onecard.errors import NotFound
from onecard.memory.devices import Device
from onecard.memory.fallbacks import Change, FitRow
from onecard.memory.plan import Plan
from onecard.tasks.segment.configs import PlanTrainConfig
from onecard.training import vision_memory
from onecard.training.config import VisionTrainConfig

USUAL = ("yolo11n-seg", "yolo11s-seg", "yolo11m-seg", "yolo11l-seg", "yolo11x-seg")
TRACER = "segment"
"""memory/fake_tensor_nets.py's check for `onecard plan --trace`."""
ONLINE = ("unet-lite0", "a small one with weights of ImageNet")
OFFLINE = "unet-lite0"
"""Models of `--model auto`."""


def resolve_auto(config: Config, device: Device, check_hub: bool = False) -> tuple[Config, str]:
    """(the config with a named model, why that one)."""
    return vision_memory.resolve_auto(config, ONLINE, OFFLINE, check_hub)


def plan(config: Config, device: Device) -> Plan:
    """Raises NotFound for an unknown model, SettingsError for one that does another task.

    A network of timm or segmentation-models-pytorch that stands in no table is traced.
    """
    config, _ = resolve_auto(config, device)
    try:
        return vision_memory.plan(config, device, "segment", "yolov8n-seg")
    except NotFound as fault:
        if not isinstance(config, VisionTrainConfig):
            raise
        return vision_memory.traced(config, device, fault, _traced)


def _traced(config: Any) -> dict[str, Any]:
    """What builds the network: any name of its library can be planned and trained."""
    options = {"n_classes": config.num_classes or 21}
    return {"target": "onecard.tasks.segment.model:create", "options": options}


def fallbacks(config: Config) -> Iterator[Change]:
    """Smallest loss first."""
    return vision_memory.fallbacks(config)


def fit_rows() -> tuple[FitRow, ...]:
    """What `onecard fit` shows of segment."""
    config = PlanTrainConfig(batch=8)
    summary = "segmenter, trained at 640 px"
    return (FitRow("segment", summary, config, USUAL, "batch", (8, 16, 32, 64, 128)),)
