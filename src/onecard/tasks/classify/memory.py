"""Memory of a classifier: a training step or a pass of its network. Pure arithmetic."""

from collections.abc import Iterator
from typing import Any

from onecard.config import Config
from onecard.errors import NotFound
from onecard.memory.devices import Device
from onecard.memory.fallbacks import Change, FitRow
from onecard.memory.plan import Plan
from onecard.tasks.classify.configs import PlanTrainConfig
from onecard.training import vision_memory
from onecard.training.config import VisionTrainConfig

USUAL = ("resnet18", "resnet50", "vit-base", "vit-large", "vit-huge")
TRACER = "classify"
"""memory/fake_tensor_nets.py's check for `onecard plan --trace`."""
ONLINE = ("convnext-tiny", "a small one with weights of ImageNet")
OFFLINE = "efficientnet-lite0"
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
        return vision_memory.plan(config, device, "classify", "resnet50")
    except NotFound as fault:
        if not isinstance(config, VisionTrainConfig):
            raise
        return vision_memory.traced(config, device, fault, _traced)


def _traced(config: Any) -> dict[str, Any]:
    """What builds the network: any name of its library can be planned and trained."""
    options = {"n_classes": config.num_classes or 1000, "side": vision_memory.input_size(config)}
    return {"target": "onecard.tasks.classify.model:create", "options": options}


def fallbacks(config: Config) -> Iterator[Change]:
    """Smallest loss first."""
    return vision_memory.fallbacks(config)


def fit_rows() -> tuple[FitRow, ...]:
    """What `onecard fit` shows of classify."""
    config = PlanTrainConfig(batch=16)
    summary = "classifier, trained at 224 px"
    return (FitRow("classify", summary, config, USUAL, "batch", (16, 32, 64, 128, 256)),)
