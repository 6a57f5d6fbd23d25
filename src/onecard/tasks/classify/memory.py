"""Memory of a classifier: a training step or a pass of its network. Pure arithmetic."""

from collections.abc import Iterator

from onecard.config import Config
from onecard.hub import network
from onecard.memory.devices import Device
from onecard.memory.fallbacks import Change, FitRow
from onecard.memory.plan import Plan
from onecard.tasks.classify.configs import PlanTrainConfig, TrainConfig
from onecard.training import vision_memory

USUAL = ("resnet18", "resnet50", "vit-base", "vit-large", "vit-huge")
TRACER = "classify"
"""memory/fake_tensor_nets.py's check for `onecard plan --trace`."""
ONLINE, OFFLINE = "convnext-tiny", "efficientnet-lite0"
"""Models of `--model auto`."""


def resolve_auto(config: Config, device: Device, check_hub: bool = False) -> tuple[Config, str]:
    """(the config with a named model, why that one)."""
    if not isinstance(config, TrainConfig) or config.model != "auto":
        return config, ""
    offline = network.offline() or (check_hub and not network.hub_reachable())
    if offline:
        why = "its first weights come with a Python package; the hub is out of reach"
        return config.model_copy(update={"model": OFFLINE}), why
    why = "a small one with weights of ImageNet"
    return config.model_copy(update={"model": ONLINE}), why


def plan(config: Config, device: Device) -> Plan:
    """Raises NotFound for an unknown model, SettingsError for one that does another task."""
    config, _ = resolve_auto(config, device)
    return vision_memory.plan(config, device, "classify", "resnet50")


def fallbacks(config: Config) -> Iterator[Change]:
    """Smallest loss first."""
    return vision_memory.fallbacks(config)


def fit_rows() -> tuple[FitRow, ...]:
    """What `onecard fit` shows of classify."""
    config = PlanTrainConfig(batch=16)
    summary = "classifier, trained at 224 px"
    return (FitRow("classify", summary, config, USUAL, "batch", (16, 32, 64, 128, 256)),)
