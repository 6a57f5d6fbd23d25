"""Memory of the vision tasks' configs: a training step or a pass. Pure arithmetic.

detect, segment and classify differ in their networks, not in what a step keeps.
"""

from collections.abc import Iterator
from typing import Any

from onecard.memory import calibration, terms
from onecard.memory.devices import Device
from onecard.memory.estimators import vision
from onecard.memory.fallbacks import EIGHT_BIT, Change, halve
from onecard.memory.plan import Plan
from onecard.training.config import VisionPredictConfig

BAND = {"detect": 0.1}
"""Half-width of the band around a total: nine of ten published rows lie inside when their source is
left out of the fit (tests/bench/bench_sources.py). Of segmenters and classifiers fewer than five
are known."""
SMALLEST_SIDE_PX = 160


def plan(config: Any, device: Device, task: str, example: str) -> Plan:
    """`config`: a VisionTrainConfig or VisionPredictConfig with its task's own fields. `example`: a
    model's name for the refusal where none is given.

    Raises NotFound for an unknown model, SettingsError for one that does another task.
    """
    net = vision.of_task(config.model, task, config.num_classes, example)
    if isinstance(config, VisionPredictConfig):
        wide = 2.0 if config.half and device.type != "cpu" else 4.0
        height = config.height or config.imgsz
        parts = vision.answer(net, config.batch, height, config.imgsz, wide)
    else:
        parts = vision.step(net, recipe_of(config))
    parts = [*parts, *terms.cnn_segments(parts, device), *terms.cuda_context(device)]
    band = calibration.band(device, task, BAND.get(task, 0.0))
    return Plan(tuple(parts), device, {"model": net.name}, (), band)


def recipe_of(config: Any) -> vision.Recipe:
    """The step as the estimator reads it."""
    return vision.Recipe(
        config.batch,
        config.height or config.imgsz,
        config.imgsz,
        config.amp,
        config.optimizer,
        config.ema,
        buckets=config.num_gpus > 1,
        boxes=getattr(config, "max_boxes", 0),
        multi_scale=config.multi_scale,
    )


def fallbacks(config: Any) -> Iterator[Change]:
    """Smallest loss first."""
    if isinstance(config, VisionPredictConfig):
        if not config.half:
            yield {"half": True}, "equal within noise in published runs, faster"
        yield from halve("batch", config.batch, 1, "slower")
    else:
        if not config.amp:
            yield {"amp": True}, "equal within noise in published runs, faster"
        cost = "more accumulation keeps the effective batch; batch norm sees fewer images"
        yield from halve("batch", config.batch, 1, cost)
        if config.optimizer == "adamw":
            yield {"optimizer": "adamw-8bit"}, EIGHT_BIT
        if config.ema:
            cost = "without averaged weights: usually a few tenths of a point of mAP"
            yield {"ema": False}, cost
    yield from halve("imgsz", config.imgsz, SMALLEST_SIDE_PX, "small things are lost")
