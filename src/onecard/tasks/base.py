"""What a task says of itself. Light: no task's `__init__` imports pydantic or a heavy library.

A task is a folder: `__init__.py` (TASK), `configs.py` (one Config per command), `memory.py` (Config
-> memory terms), one file per command, `presets/`, `README.md`, tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Command:
    """One thing that a task can do."""

    target: str
    """'module:function' in the task's folder, called with (config, run). Heavy: loaded last."""
    summary: str
    config: str
    """'configs:TrainConfig': the class in the task's folder."""
    positional: str = ""
    """The field that takes the words without a flag, as in `onecard rag index FOLDER...`."""
    requires: tuple[str, ...] = ()
    """Distributions that it needs beyond the plain install, as `faster-whisper`."""
    recorded: bool = True
    """Whether it opens a run folder; a single question does not."""
    service: str = ""
    """What its HTTP server answers, where it is one: 'chat', 'vision', 'speech', 'notes' or
    'pictures'. The web page finds a task's server by this word."""
    terminal: bool = False
    """Whether it talks with a person at a terminal, so that no page can offer it."""


@dataclass(frozen=True)
class PlanPreset:
    """A short name of `onecard plan`: a config of the task with some values of its own."""

    summary: str
    config: str
    values: Mapping[str, Any] = field(default_factory=dict)
    example: str = ""
    """A model to plan with."""


@dataclass(frozen=True)
class Task:
    name: str
    """The folder's name."""
    summary: str
    """One line: what it makes."""
    commands: Mapping[str, Command]
    plans: Mapping[str, PlanPreset]
    """Short names of `onecard plan`; the first one is what `onecard TASK plan` plans."""
    default_command: str = ""
    """What `onecard TASK` alone does."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Commands of onecard 0.1 and their names of today."""
    packages: tuple[str, ...] = ()
    """Distributions whose versions a run keeps, and that `onecard doctor` looks for."""
    extra: str = ""
    """The extra in pyproject that installs them; empty: the one with the task's name."""


# What the tasks on pictures say alike

PICTURE_READ = ("numpy", "opencv-python-headless", "pillow", "lxml")
PICTURE_USE = (*PICTURE_READ, "torch", "torchvision")
PICTURE_TRAIN = (*PICTURE_USE, "timm", "albumentations")
PICTURE_PACKAGES = (*PICTURE_TRAIN, "onnx", "onnxruntime", "openvino", "av", "python-multipart")


def picture_commands(
    trains: str, predicts: str, requires: tuple[str, ...] = ()
) -> dict[str, Command]:
    """`trains`: what a training learns from; `predicts`: what the model tells of a picture;
    `requires`: distributions of a training beyond PICTURE_TRAIN."""
    return {
        "check": Command(
            "check:check",
            "look at labelled pictures: counts, faults, duplicates, leaks, contact sheets",
            "configs:CheckConfig",
            "data",
            requires=PICTURE_READ,
        ),
        "train": Command(
            "train:train",
            f"{trains}, scored before and after",
            "configs:TrainConfig",
            "data",
            requires=(*PICTURE_TRAIN, *requires),
        ),
        "evaluate": Command(
            "evaluate:evaluate",
            "score a trained model, or an export of it, on labelled pictures",
            "configs:EvaluateConfig",
            "data",
            requires=PICTURE_USE,
        ),
        "predict": Command(
            "predict:predict",
            f"{predicts} in pictures, folders, videos or from a webcam",
            "configs:PredictConfig",
            "source",
            requires=(*PICTURE_USE, "av"),
        ),
        "prelabel": Command(
            "prelabel:prelabel",
            "write labels for unlabelled pictures to correct, least sure first",
            "configs:PrelabelConfig",
            "source",
            requires=(*PICTURE_USE, "av"),
        ),
        "export": Command(
            "export:export",
            "ONNX, int8, OpenVINO or TensorRT, each measured in its own precision",
            "configs:ExportConfig",
            "run_id",
            requires=(*PICTURE_USE, "onnx", "onnxruntime"),
        ),
        "serve": Command(
            "serve:serve",
            "answer over HTTP, with a small page",
            "configs:ServeConfig",
            "run_id",
            requires=(*PICTURE_USE, "python-multipart"),
            recorded=False,
            service="pictures",
        ),
    }
