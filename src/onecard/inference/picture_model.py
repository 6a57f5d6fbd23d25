"""What a vision model's folder says of itself: the one class map and the steps before and after the
network, the same for torch and every exported file.

    model.json                   this file's ModelCard
    model.safetensors            weights for torch
    model.onnx  model_openvino/  exports beside it

Every network takes `images_BCHW`, RGB in 0..1 (its own normalization is inside), and gives

    detect    boxes_BN4 (x0 y0 x1 y1 in pixels of the network's input), scores_BNC in 0..1
    segment   probabilities_BCHW (semantic) at the input's size, or with `instances`: boxes_BN4,
              scores_BNC, coefficients_BNM, prototypes_BMHW (YOLACT's form)
    classify  probabilities_BC
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from onecard import fsio
from onecard.errors import DataError, NotFound
from onecard.runs import store
from onecard.runs.record import read_json

CARD = "model.json"
WEIGHTS = "model.safetensors"

Resize = Literal["letterbox", "stretch", "crop"]


@dataclass(frozen=True)
class ModelCard:
    """Everything that a run of the network needs beside its weights."""

    task: str
    """detect, classify or segment."""
    model: str
    """The name it was trained from: yolov8n.pt, tf_efficientnet_lite0, d-fine-n ..."""
    classes: tuple[str, ...]
    """Names in the order of the network's outputs."""
    height: int
    width: int
    """Of the network's input (px)."""
    resize: Resize = "letterbox"
    """letterbox keeps the ratio and pads with grey 114; stretch does not; crop resizes the shorter
    side and cuts the middle."""
    nms: bool = False
    """Whether boxes of one object must still be thinned out (a YOLO's grid); detectors with queries
    give each object once."""
    instances: bool = False
    """segment: masks of single objects instead of one class a pixel."""
    license: str = ""
    """Of the network's code and first weights."""
    architecture: dict[str, Any] = field(default_factory=dict)
    """What builds the empty network again."""
    thresholds: dict[str, float] = field(default_factory=dict)
    """`confidence` chosen on validation pictures, `iou` of the non-maximum suppression."""
    run: str = ""
    """The training's run id."""
    data: dict[str, Any] = field(default_factory=dict)
    """What it was trained on and how that was split: `export` and `evaluate` score on the same
    held-out pictures."""

    def write(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        fsio.write_text(folder / CARD, text + "\n")


def find_model(name: str) -> Path:
    """The folder of a trained model: a path, or the run of its training (`last` for the newest).

    Raises NotFound.
    """
    path = Path(name.removeprefix("run:")).expanduser()
    if not name.startswith("run:") and path.is_dir():
        return path if (path / CARD).is_file() else path / "model"
    folder = store.find(name.removeprefix("run:")).folder / "artifacts"
    recorded = str(read_json(folder / "result.json").get("model", ""))
    return Path(recorded) if recorded else folder / "model"


def read_card(folder: Path) -> ModelCard:
    """Raises NotFound for a folder without one, DataError for a broken one."""
    path = folder / CARD
    if not path.is_file():
        raise NotFound(
            f"{folder} holds no model",
            why=f"there is no {CARD} in it",
            fix="give the folder `model` of a training, or run:ID",
        )
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        return ModelCard(**{**row, "classes": tuple(row["classes"])})
    except (ValueError, KeyError, TypeError) as fault:
        raise DataError(
            f"{path} is no model's description",
            why=f"{type(fault).__name__}: {fault}"[:200],
            fix="export the model again",
        ) from None
