"""YOLOs of ultralytics as networks: weights read without a pickle's programs, boxes and scores as
inference takes them, and files for ultralytics' own programs.

Ultralytics is AGPL-3.0: whoever passes on a program with it, or serves one, owes its source.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onecard import fsio, paths, ultralytics_env
from onecard.errors import DataError, NotFound
from onecard.hub import network
from onecard.reporting import Reporter
from onecard.training.yolo_names import LICENSE

ultralytics_env.quiet()

from ultralytics import __version__ as ultralytics_version  # noqa: E402
from ultralytics.nn.tasks import (  # noqa: E402
    DetectionModel,
    SegmentationModel,
    torch_safe_load,
)
from ultralytics.utils.downloads import attempt_download_asset  # noqa: E402


def load_weights(model: str, reporter: Reporter) -> Any:
    """The network of a .pt file, read without running what a pickle could run; None for a .yaml,
    and with a warning where no weights can be had.

    Raises NotFound for a missing file, DataError for one that holds more than a YOLO's classes.
    """
    if model.endswith((".yaml", ".yml")):
        return None
    path = _weights_file(model, reporter)
    if path is None:
        return None
    try:
        checkpoint, _ = torch_safe_load(str(path), safe_only=True)
        return (checkpoint.get("ema") or checkpoint["model"]).float()
    except Exception as fault:  # a pickle can fail in any way
        raise DataError(
            f"{model} is not loaded",
            why="it is broken or holds more than the weights and classes of a YOLO: "
            f"{str(fault).splitlines()[0][:160]}",
            fix="a .pt can run any program when it is opened: take the publisher's own file",
        ) from None


def _weights_file(model: str, reporter: Reporter) -> Path | None:
    """A file of the user's, the one in the cache, or a download of ultralytics' own."""
    path = Path(model).expanduser()
    if path.is_file():
        return path
    if len(path.parts) > 1:
        raise NotFound(
            f"there is no file {model}",
            why="nothing lies at that path",
            fix="check the path, or name a model: yolov8n, yolo11s, yolo26n",
        )
    file = paths.models() / "ultralytics" / f"{path.name.removesuffix('.pt')}.pt"
    if file.is_file():
        return file
    if network.offline("ONECARD_OFFLINE") or not network.answers("github.com"):
        reporter.warn(
            f"{model} starts from random weights: its file is not here, and it cannot be downloaded"
        )
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    reporter.line(f"downloading {file.name} (AGPL-3.0, ultralytics' own)")
    try:
        attempt_download_asset(file)
    except (OSError, RuntimeError, ValueError, AssertionError) as fault:
        reporter.warn(f"{model} starts from random weights: {str(fault).splitlines()[0][:160]}")
    return file if file.is_file() else None


class YoloNetwork(nn.Module):
    """A YOLO as inference takes it: images in 0..1 to boxes and scores (and masks' parts)."""

    family = "yolo"

    def __init__(self, net: Any, instances: bool) -> None:
        super().__init__()
        self.net = deepcopy(net).float()
        self.instances = instances
        self.n_classes = int(self.net.model[-1].nc)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """boxes_BN4, scores_BNC; with instances also coefficients_BNM and prototypes_BMHW."""
        head = self.net.model[-1]
        head.export, head.format = True, "onnx"
        out = self.net(images)
        rows, prototypes = out if self.instances else (out, None)
        rows = rows.permute(0, 2, 1)
        centre, size = rows[..., :2], rows[..., 2:4]
        boxes = torch.cat([centre - size / 2, centre + size / 2], -1)
        scores = rows[..., 4 : 4 + self.n_classes]
        if prototypes is None:
            return boxes, scores
        return boxes, scores, rows[..., 4 + self.n_classes :], prototypes


def write_pt(net: "YoloNetwork", classes: Sequence[str], path: Path, task: str) -> None:
    """A .pt as ultralytics writes it, for its own programs: YOLO(path) opens it."""
    model: Any = deepcopy(net.net).half()
    model.names = dict(enumerate(classes))
    model.criterion = None
    own = getattr(model, "args", {})  # a training that was at its end has none
    model.args = {**own} if isinstance(own, dict) else vars(own)
    row = {
        "epoch": -1,
        "model": model,
        "ema": None,
        "train_args": {"task": task, "imgsz": model.args.get("imgsz", 640)},
        "version": ultralytics_version,
        "license": f"{LICENSE} (https://ultralytics.com/license)",
    }
    with fsio.atomic_write(path) as draft:
        torch.save(row, draft)


def from_file(name: str, *, n_classes: int, pretrained: bool, reporter: Reporter) -> nn.Module:
    """The network of a .pt or .yaml, for a plan. Raises NotFound, DataError."""
    layers: Any = name
    if not name.endswith((".yaml", ".yml")):
        layers = load_weights(name, reporter).yaml
    with torch.device("cpu"):  # it measures its strides by a pass
        net: nn.Module = DetectionModel(layers, nc=n_classes, verbose=False)
    return net


def build(architecture: Mapping[str, Any]) -> Any:
    """The empty network of a saved one."""
    kind = SegmentationModel if architecture["task"] == "segment" else DetectionModel
    return kind(dict(architecture["yaml"]), nc=int(architecture["nc"]), verbose=False)
