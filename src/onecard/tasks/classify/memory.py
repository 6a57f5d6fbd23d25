"""Memory of a classifier: a training step or a pass of its network. Pure arithmetic."""

from collections.abc import Iterator

from onecard.config import Config
from onecard.memory.devices import Device
from onecard.memory.fallbacks import Change, FitRow
from onecard.memory.plan import Plan
from onecard.tasks.classify.configs import TrainConfig
from onecard.training import vision_memory

USUAL = ("resnet18", "resnet50", "vit-base", "vit-large", "vit-huge")
TRACER = "classify"
"""memory/fake_tensor_nets.py's check for `onecard plan --trace`."""


def plan(config: Config, device: Device) -> Plan:
    """Raises NotFound for an unknown model, SettingsError for one that does another task."""
    return vision_memory.plan(config, device, "classify", "resnet50")


def fallbacks(config: Config) -> Iterator[Change]:
    """Smallest loss first."""
    return vision_memory.fallbacks(config)


def fit_rows() -> tuple[FitRow, ...]:
    """What `onecard fit` shows of classify."""
    config = TrainConfig(batch=16)
    summary = "classifier, trained at 224 px"
    return (FitRow("classify", summary, config, USUAL, "batch", (16, 32, 64, 128, 256)),)
