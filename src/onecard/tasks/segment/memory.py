"""Memory of a segmenter: a training step or a pass of its network. Pure arithmetic."""

from collections.abc import Iterator

from onecard.config import Config
from onecard.memory import calibration, terms
from onecard.memory.devices import Device
from onecard.memory.estimators import vision
from onecard.memory.fallbacks import Change, FitRow, halve
from onecard.memory.plan import Plan
from onecard.tasks.segment.configs import PredictConfig, TrainConfig

BAND = 0.1
"""Half-width of the band around a total: nine of ten published rows of detectors stay below its
upper end (tests/validation)."""
USUAL = ("yolo11n-seg", "yolo11s-seg", "yolo11m-seg", "yolo11l-seg", "yolo11x-seg")


def plan(config: Config, device: Device) -> Plan:
    """Raises NotFound for an unknown model, SettingsError for one that does another task."""
    assert isinstance(config, TrainConfig | PredictConfig)
    net = vision.of_task(config.model, "segment", config.num_classes, "yolov8n-seg")
    width, height = config.imgsz, config.height or config.imgsz
    if isinstance(config, PredictConfig):
        wide = 2.0 if config.half and device.type != "cpu" else 4.0
        parts = vision.answer(net, config.batch, height, width, wide)
    else:
        parts = vision.step(net, recipe_of(config))
    parts = [*parts, *terms.cnn_segments(parts, device), *terms.cuda_context(device)]
    band = calibration.band(device, "segment", BAND)
    return Plan(tuple(parts), device, {"model": net.name}, (), band)


def recipe_of(config: TrainConfig) -> vision.Recipe:
    """The step as the estimator reads it."""
    return vision.Recipe(
        config.batch,
        config.height or config.imgsz,
        config.imgsz,
        config.amp,
        config.optimizer,
        config.ema,
        boxes=config.max_boxes,
        multi_scale=config.multi_scale,
    )


def fallbacks(config: Config) -> Iterator[Change]:
    """Smallest loss first."""
    if isinstance(config, TrainConfig):
        yield from vision.training_fallbacks(config)
    elif isinstance(config, PredictConfig):
        if not config.half:
            yield {"half": True}, "equal within noise in published runs, faster"
        yield from halve("batch", config.batch, 1, "slower")
        yield from halve("imgsz", config.imgsz, 160, "small things are lost")


def fit_rows() -> tuple[FitRow, ...]:
    """What `onecard fit` shows of segment."""
    config = TrainConfig(batch=8)
    return (
        FitRow(
            "segment", "segmenter, trained at 640 px", config, USUAL, "batch", (8, 16, 32, 64, 128)
        ),
    )


TRACER = "segment"
"""memory/fake_tensor_nets.py's check for `onecard plan --trace`."""
