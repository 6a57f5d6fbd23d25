"""Memory of the vision tasks' configs: a training step or a pass. Pure arithmetic.

detect, segment and classify differ in their networks, not in what a step keeps.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

from onecard.errors import NotFound, SettingsError
from onecard.hub import network
from onecard.inference.picture_model import find_model, read_card
from onecard.memory import calibration, terms
from onecard.memory.devices import Device
from onecard.memory.estimators import vision
from onecard.memory.fallbacks import EIGHT_BIT, Change, halve, halve_batch
from onecard.memory.plan import Plan, Term
from onecard.training import yolo_names
from onecard.training.config import VisionPredictConfig, VisionTrainConfig
from onecard.units import GIB

BAND = {"detect": 0.1}
"""Half-width of the band around a total: nine of ten published rows lie inside when their source is
left out of the fit (tests/bench/bench_sources.py). Of segmenters and classifiers fewer than five
are known."""
ULTRALYTICS_LARGEST = 1.5
"""Its multi_scale=0.5, as training/yolo_trainer.py sets it: from half to one and a half."""
OWN_LARGEST = 1.25
"""Of picture_data.MULTI_SCALE."""
STRIDE = 32
SMALLEST_SIDE_PX = 160


USUAL_BATCH = 16
"""Images at once where there is room for more: larger ones learn no better from small sets."""
CPU_PROGRAM_BYTES = round(1.1 * GIB)
"""Python with torch, the network's library, OpenCV and the pictures read ahead: resident memory of
six trainings on a CPU beside their tensors (README of detect)."""


def plan(config: Any, device: Device, task: str, example: str) -> Plan:
    """`config`: a VisionTrainConfig or VisionPredictConfig with its task's own fields. `example`: a
    model's name for the refusal where none is given.

    Raises NotFound for an unknown model, SettingsError for one that does another task.
    """
    if not isinstance(config, VisionTrainConfig | VisionPredictConfig):
        return _plan_use(config, device, task)
    net = vision.of_task(getattr(config, "model", ""), task, config.num_classes, example)
    band = calibration.band(device, task, BAND.get(task, 0.0))
    if isinstance(config, VisionPredictConfig):
        wide = 2.0 if config.half and device.type != "cpu" else 4.0
        height = config.height or config.imgsz
        parts = vision.answer(net, config.batch, height, config.imgsz, wide)
        return Plan(tuple(_whole(parts, device)), device, {"model": net.name}, (), band)
    for batch in _batches(config.batch):
        recipe = recipe_of(config, batch, device)
        parts = _whole(vision.step(net, recipe), device)
        choices = {"model": net.name, "batch": batch}
        the_plan = Plan(tuple(parts), device, choices, (), band)
        if the_plan.fits:
            break
    return the_plan


TRACED_BAND = 0.2
"""Half-width of the band of a traced plan: what a loss makes beside the network is not in it."""


def resolve_auto(
    config: Any, online: tuple[str, str], offline: str, check_hub: bool
) -> tuple[Any, str]:
    """(the config with a named model, why that one). `online`: the model whose weights are
    downloaded, and why it; `offline`: the one whose weights come with a Python package."""
    if not isinstance(config, VisionTrainConfig) or getattr(config, "model", "") != "auto":
        return config, ""
    if network.offline() or (check_hub and not network.hub_reachable()):
        why = "its first weights come with a Python package; the hub is out of reach"
        return config.model_copy(update={"model": offline}), why
    return config.model_copy(update={"model": online[0]}), online[1]


def traced(
    config: Any, device: Device, fault: NotFound, parameters: Callable[[Any], dict[str, Any]]
) -> Plan:
    """The plan of a network that no table knows: its real class on fake tensors, in fp32.

    `parameters` builds keyword arguments of training.traced_network.terms from the config. Raises
    the fault where torch is missing or the library does not know the name either.
    """
    try:
        # torch and the network's library, which no other plan needs
        module = importlib.import_module("onecard.training.traced_network")
    except ModuleNotFoundError:
        raise fault from None
    batch = config.batch if config.batch > 0 else USUAL_BATCH
    parts = module.terms(config, batch, fault, **parameters(config))
    note = f"{config.model} stands in no table: its real class was traced, in fp32"
    choices = {"model": config.model, "batch": batch}
    return Plan(tuple(_whole(parts, device)), device, choices, (note,), TRACED_BAND)


def _plan_use(config: Any, device: Device, task: str) -> Plan:
    """Of a command that uses a trained model; of one that reads data only the program."""
    run_id = getattr(config, "run_id", "")
    if not run_id:
        return Plan(tuple(_whole([], device)) if device.type == "cpu" else (), device)
    card = read_card(find_model(run_id))
    parts: list[Term] = []
    notes: tuple[str, ...] = ()
    try:
        net = vision.of_task(card.model, task, len(card.classes), "")
        parts = vision.answer(net, max(config.batch, 1), card.height, card.width, 4.0)
    except (NotFound, SettingsError):
        notes = (f"the layers of {card.model} are not known: only the program is counted",)
    band = calibration.band(device, task, BAND.get(task, 0.0))
    return Plan(tuple(_whole(parts, device)), device, {"model": card.model}, notes, band)


def _batches(batch: int) -> list[int]:
    """What to try, the largest first."""
    if batch > 0:
        return [batch]
    return [USUAL_BATCH >> i for i in range(USUAL_BATCH.bit_length())]


def _whole(parts: list[Term], device: Device) -> list[Term]:
    """With what the process holds beside its tensors."""
    if device.type == "cpu":
        because = "Python with torch, the network's library and OpenCV"
        return [*parts, Term("program", CPU_PROGRAM_BYTES, because)]
    return [*parts, *terms.cnn_segments(parts, device), *terms.cuda_context(device)]


def input_size(config: Any) -> tuple[int, int]:
    """(height, width) of the network's input. Raises SettingsError for sides that its maps, which
    halve five times, cannot take."""
    side = (config.height or config.imgsz, config.imgsz)
    if any(length % STRIDE for length in side):
        rounded = -(-side[1] // STRIDE) * STRIDE
        raise SettingsError(
            f"an input of {side[1]} x {side[0]} px does not fit the network",
            why=f"its maps halve five times: sides must be multiples of {STRIDE}",
            fix=f"--imgsz {rounded}",
        )
    return side


def batch_of(plan: Plan, config: Any) -> int:
    """Images at once: as set, or as the plan chose."""
    return config.batch if config.batch > 0 else int(plan.choices["batch"])


def recipe_of(config: Any, batch: int, device: Device) -> vision.Recipe:
    """The step as the estimator reads it. Raises SettingsError for a batch of none."""
    if batch < 1:
        raise SettingsError(
            "a batch of 0 images trains nothing",
            why="--batch is 0",
            fix="--batch 16, or -1 for as many as fit",
        )
    optimizer = getattr(config, "optimizer", "adamw")
    return vision.Recipe(
        batch,
        config.height or config.imgsz,
        config.imgsz,
        config.amp and device.type != "cpu",
        "adamw" if optimizer == "auto" else optimizer,
        config.ema,
        buckets=config.num_gpus > 1,
        boxes=getattr(config, "max_boxes", 0),
        multi_scale=config.multi_scale,
        largest=_largest(config),
        device=device.type != "cpu",
    )


def _largest(config: Any) -> float:
    """Largest image of multi-scale training, as a share of the nominal one; 0 for another trainer's
    published recipe."""
    if not config.own_trainer:
        return 0.0
    return ULTRALYTICS_LARGEST if yolo_names.is_yolo(config.model) else OWN_LARGEST


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
        yield from halve_batch(config, "batch", "accumulate", cost)
        if config.optimizer == "adamw":
            yield {"optimizer": "adamw-8bit"}, EIGHT_BIT
        if config.ema:
            cost = "without averaged weights: usually a few tenths of a point of mAP"
            yield {"ema": False}, cost
    yield from halve("imgsz", config.imgsz, SMALLEST_SIDE_PX, "small things are lost")
