"""Memory of detectors, classifiers and segmenters: a training step and an answer. A tape runs the
network; this file knows the names, the losses and the trainers' habits.

Letters: B images, G boxes of the fullest image of a batch, A places where a detector may find
something.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from onecard.errors import SettingsError, not_found
from onecard.memory.architectures import backbones, detr, dfine, rfdetr, yolo, yolo_layers
from onecard.memory.estimators.training import OPTIMIZER
from onecard.memory.plan import Term
from onecard.memory.simulator import Tape, Tensor
from onecard.units import MIB

Task = Literal["detect", "segment", "classify", "pose"]
BOXES = 100
"""G of a batch of mosaics of COCO: its fullest images have 93 boxes, a mosaic joins parts of four.
"""
MATCH = {
    "aligned": 16.0,
    "aligned-atss": 30.0,
    "optimal": 0.0,
    "anchors": 0.0,
    "iou": 0.0,
    "queries": 0.0,
}
"""Matrices of B x G x A in fp32 while boxes are matched with places: task-aligned (overlap, score,
product, four distances, best: counted in ultralytics' assigner),
ATSS with its int64 choices (v6's first epochs)."""
PER_IMAGE_COPIES = 7.0
"""Matrices of boxes x anchors that mmdetection's IoU makes for one image at a time: two corners and
the extent (each two numbers), overlap."""

OBJECTS = 15
"""Boxes of an image without a mosaic: twice COCO's mean (860,001 in 117,266 images), for a batch
that holds more than the usual."""
PAIR_COPIES = 14.0
"""Matrices of matched queries x boxes that generalized IoU keeps of each loss, though only their
diagonal is wanted: 13.3 and 14.1 in RF-DETR's (80 and 160 boxes)."""
MASKS = 200
"""Masks of one image that a YOLO segmenter's loss makes at a quarter of the size: some ten places a
box, about twenty boxes."""
MASK_COPIES = 4.0
"""Product, target, cross-entropy and its crop, fp32, kept for the backward pass."""
WORKSPACE_BYTES = 64 * MIB
"""cuDNN's and cuBLAS' workspaces while a network of convolutions trains. A guess."""


@dataclass(frozen=True)
class Net:
    """One network: what it calls on the tape, and how it is usually trained."""

    name: str
    task: Task
    run: Callable[[Tape, Tensor], list[Tensor]]
    match: str = ""
    n_classes: int = 80
    largest: float = 1.0
    """The published recipe's largest image, as a share of the nominal one (multi-scale training).
    """
    ema: bool = False
    losses: int = 0
    """Losses that compare every matched query with every box of its batch: one a decoder layer, one
    for the encoder's choice. Told where groups of queries make it large."""


LARGEST = {"yolox": 800 / 640, "ppyoloe": 768 / 640}
"""Multi-scale training in the published recipes: YOLOX 480 to 800, PP-YOLOE+ 320 to 768 (mmyolo's
configs)."""
LARGEST_SMALL = {"yolox-tiny": 640 / 416}
MATCHER = {
    "yolov5": "anchors",
    "yolov6": "aligned-atss",
    "yolov7": "optimal",
    "yolov8": "aligned",
    "yolo11": "aligned",
    "yolox": "optimal",
    "rtmdet": "aligned",
    "ppyoloe": "aligned-atss",
}


def names() -> list[str]:
    """All that can be planned by name."""
    yolos = [
        f"{family}{'-' if len(size) > 1 or family in ('rtmdet', 'ppyoloe', 'yolox') else ''}{size}"
        for family, sizes in yolo_layers.SCALES.items()
        for size in sizes
    ]
    return [
        *yolos,
        *(f"{y}-seg" for y in yolos if y.startswith(("yolov5", "yolov8", "yolo11"))),
        *(f"resnet{d}" for d in backbones.RESNET),
        *backbones.VIT,
        *backbones.CONVNEXT,
        *(f"faster-rcnn-r{d}" for d in backbones.RESNET),
        *(f"mask-rcnn-r{d}" for d in (50, 101)),
        *(f"retinanet-r{d}" for d in backbones.RESNET),
        *(f"rt-detr-{size}" for size in detr.SIZES),
        *(f"d-fine-{size}" for size in dfine.SIZES),
        *(f"rf-detr-{size}" for size in rfdetr.SIZES),
        "unet",
        "deeplabv3-r50",
        "deeplabv3-r101",
    ]


def find(name: str, n_classes: int = 0) -> Net:
    """By its usual name, in any spelling. Raises NotFound with the nearest."""
    plain = re.sub(
        r"[^a-z0-9]", "", name.lower().replace("+", "").removesuffix(".pt").removesuffix(".yaml")
    )
    match = re.match(
        r"(yolov5|yolov6|yolov7|yolov8|yolov?11|yolox|rtmdet|ppyoloe)(?:ins)?"
        r"(tiny|nano|[ntsmlx])(p6|6)?u?(seg|ins|pose|cls)?$",
        plain,
    )
    family = match[1].replace("yolov11", "yolo11") if match else ""
    if match and match[2] in yolo_layers.SCALES[family]:
        size, p6, task = (
            match[2],
            bool(match[3]),
            {"seg": "segment", "ins": "segment", "pose": "pose"}.get(match[4] or "", "detect"),
        )
        classes = n_classes or (1 if task == "pose" else 80)
        largest = LARGEST_SMALL.get(f"{family}-{size}", LARGEST.get(family, 1.0))
        return Net(
            name,
            task,  # type: ignore[arg-type]
            lambda t, x: yolo.FAMILIES[family](t, x, size, classes, task, p6),
            MATCHER[family],
            classes,
            largest,
            ema=True,
        )
    for family in (_detector, _classifier, _segmenter):
        if net := family(name, plain, n_classes):
            return net
    raise not_found("vision model", name, names(), "onecard plan detect yolov8n")


def of_task(name: str, task: str, n_classes: int, example: str) -> Net:
    """The network, held against what it is to do. Raises NotFound, SettingsError."""
    if not name.strip():
        raise SettingsError(
            "no model is named",
            why="a plan needs a model's layers",
            fix=f"onecard plan {task} {example}",
        )
    net = find(name, n_classes)
    does = "detect" if net.task == "pose" else net.task  # boxes with key points
    if does != task:
        raise SettingsError(
            f"{name} does not {task}",
            why=f"its head is made to {net.task}",
            fix=f"onecard plan {does} {name}",
        )
    return net


def _detector(name: str, plain: str, n_classes: int) -> Net | None:
    """Detectors beside the YOLOs."""
    if match := re.match(r"(faster|mask)rcnn[a-z]*?(\d+)", plain):
        masked, depth, kind = match[1] == "mask", _depth(name, match[2]), _groups(plain)
        return Net(
            name,
            "detect",
            lambda t, x: backbones.faster_rcnn(t, x, depth, n_classes or 80, mask=masked, **kind),
            "iou",
            n_classes or 80,
        )
    if match := re.match(r"retinanet[a-z]*?(\d+)", plain):
        depth, kind = _depth(name, match[1]), _groups(plain)
        return Net(
            name,
            "detect",
            lambda t, x: backbones.retinanet(t, x, depth, n_classes or 80, **kind),
            "iou",
            n_classes or 80,
        )
    if (match := re.match(r"rtdetr(?:v2)?[a-z]*?(18|34|50|101)(?:vd)?$", plain)) or plain in (
        "rtdetr",
        "rtdetrv2",
    ):
        size = f"r{match[1] if match else 50}"
        return Net(
            name,
            "detect",
            lambda t, x: detr.rt_detr(t, x, size, n_classes or 80, detr.DENOISING if t.grad else 0),
            "queries",
            n_classes or 80,
            ema=True,
        )
    if match := re.match(r"dfine(?:hgnetv2)?([nsmlx])(?:coco|obj365)*$", plain):
        size = match[1]
        return Net(
            name,
            "detect",
            lambda t, x: dfine.d_fine(t, x, size, n_classes or 80, detr.DENOISING if t.grad else 0),
            "queries",
            n_classes or 80,
            ema=True,
        )
    if match := re.match(r"rfdetr(nano|small|base|medium|large)$", plain):
        # COCO's highest number, and one for nothing
        size, classes = match[1], (n_classes or 90) + 1
        return Net(
            name,
            "detect",
            lambda t, x: rfdetr.rf_detr(t, x, size, classes),
            "queries",
            classes,
            ema=True,
            losses=rfdetr.SIZES[size].layers + 1,
        )
    return None


def _classifier(name: str, plain: str, n_classes: int) -> Net | None:
    many = n_classes or 1000
    if match := re.match(r"resnet(\d+)$", plain):
        depth = _depth(name, match[1])
        return Net(
            name,
            "classify",
            lambda t, x: backbones.resnet_classifier(t, x, depth, many),
            n_classes=many,
        )
    if match := re.match(r"vit(tiny|small|base|large|huge|[tsblh])(?:patch)?(\d+)?", plain):
        size = "vit-" + {"t": "tiny", "s": "small", "b": "base", "l": "large", "h": "huge"}.get(
            match[1], match[1]
        )
        patch = 14 if size == "vit-huge" else 16
        if match[2] in ("14", "16", "32"):
            patch = int(match[2])
        return Net(
            name, "classify", lambda t, x: backbones.vit(t, x, size, many, patch), n_classes=many
        )
    if match := re.match(r"convnext(tiny|small|base|large)", plain):
        size = f"convnext-{match[1]}"
        return Net(
            name, "classify", lambda t, x: backbones.convnext(t, x, size, many), n_classes=many
        )
    return None


def _segmenter(name: str, plain: str, n_classes: int) -> Net | None:
    if plain == "unet":
        return Net(
            name,
            "segment",
            lambda t, x: backbones.unet(t, x, n_classes or 21),
            n_classes=n_classes or 21,
        )
    if match := re.match(r"deeplabv3(?:resnet|r)?(50|101)", plain):
        depth = int(match[1])
        return Net(
            name,
            "segment",
            lambda t, x: backbones.deeplab(t, x, depth, n_classes or 21),
            n_classes=n_classes or 21,
        )
    return None


def _depth(name: str, digits: str) -> int:
    """A ResNet's depth, from digits that a ResNeXt's groups may follow. Raises NotFound."""
    for depth in sorted(backbones.RESNET, reverse=True):
        if digits == str(depth) or (
            digits.startswith(str(depth)) and len(digits) > len(str(depth)) + 1
        ):
            return depth
    raise not_found("vision model", name, names(), "onecard plan detect yolov8n")


def _groups(plain: str) -> dict[str, Any]:
    match = re.search(r"x\d{2,3}(32|64)x(\d)d", plain)
    return {"groups": int(match[1]), "width": int(match[2])} if match else {}


@dataclass(frozen=True)
class Recipe:
    """What is trained and how."""

    B: int = 16
    height: int = 640
    width: int = 640
    amp: bool = True
    optimizer: str = "sgd-momentum"
    ema: bool = False
    buckets: bool = False
    """Several cards: DistributedDataParallel keeps a second copy of the gradients."""
    boxes: int = BOXES
    multi_scale: bool = False
    device: bool = True
    """On a card: cuDNN's workspace and its copies."""


def step(net: Net, s: Recipe) -> list[Term]:
    """The terms of a training step's peak, as torch's allocator counts them."""
    scale = net.largest if s.multi_scale else 1.0
    h, w = (round(v * scale / 32) * 32 if scale != 1 else v for v in (s.height, s.width))
    t = Tape(grad=True, wide=2 if s.amp else 4, weights=4, device=s.device)
    x = t.tensor(s.B, 3, h, w, wide=4)
    if t.cast:
        x = t.to(x, 2)
    maps = net.run(t, x)
    del x
    loss = _loss(t, net, s, maps, h, w)
    del maps
    forward = t.peak
    t.backward(loss)
    params, trained = t.params, t.trained
    out = [
        Term("weights", params * 4, f"{params / 1e6:.2f}e6 x 4 B"),
        Term(
            "optimizer",
            round(trained * OPTIMIZER[s.optimizer][0]),
            f"{s.optimizer}: {OPTIMIZER[s.optimizer][0]:.0f} B a weight",
        ),
    ]
    if s.ema and net.ema:
        out.append(Term("averaged weights", params * 4, "the moving average beside them"))
    if s.buckets:
        out.append(Term("gradient buckets", trained * 4, "what is sent between cards"))
    why = f"{s.B} x {w} x {h} px in {'16 bits' if s.amp else 'fp32'}" + (
        ", the largest of multi-scale training" if scale != 1 else ""
    )
    if s.device:
        out.append(Term("workspace", WORKSPACE_BYTES, "cuDNN and cuBLAS (a guess)"))
    return [
        *out,
        Term(
            "activations and gradients",
            t.peak,
            why
            + (
                ": highest when the loss is made"
                if t.peak == forward
                else ": highest in the backward pass"
            ),
        ),
    ]


def _loss(t: Tape, net: Net, s: Recipe, maps: list[Tensor], h: int, w: int) -> Tensor:
    if net.task == "classify":
        flat = t.op(maps[-1].shape, [t.to(maps[-1], 4.0)], keeps=True, wide=4.0)
        return t.op((1,), [flat], [flat], wide=4.0)
    if net.match == "queries":
        upcast = [t.to(m, 4.0) for m in maps]
        matched = s.B * min(s.boxes, OBJECTS) * rfdetr.GROUPS
        return t.op((1,), upcast, upcast, wide=4.0, extra=matched**2 * 4 * PAIR_COPIES * net.losses)
    if not net.match:  # pixels: log-softmax in fp32 and its choice
        flat = t.op(
            maps[-1].shape, [t.to(maps[-1], 4.0)], keeps=True, wide=4.0, extra=s.B * h * w * 8
        )
        return t.op((1,), [flat], [flat], wide=4.0)
    places = sum(m.shape[2] * m.shape[3] for m in maps if len(m.shape) == 4)
    kept = []
    for m in maps:  # laid out anew as (B, A, values), in fp32
        kept.append(t.to(t.copy(m), 4.0) if net.match != "anchors" else t.copy(m))
    scratch = MATCH[net.match] * s.B * s.boxes * places * 4
    if net.match == "iou":
        scratch = (
            PER_IMAGE_COPIES
            * s.boxes
            * 4
            * sum(
                m.shape[1] // 4 * m.shape[2] * m.shape[3] for m in maps[1::2] if len(m.shape) == 4
            )
        )  # every second map has four numbers an anchor
    if net.match == "optimal":
        scratch = (
            places * 0.25 * s.boxes * net.n_classes * 4 * 3
        )  # one image: classes of the places within boxes, and their cross-entropy
    classes = (
        t.op((s.B, places, net.n_classes), kept, kept[:1], wide=4.0, scratch=scratch)
        if net.match != "anchors"
        else t.op((s.B, places), kept, wide=4.0)
    )
    target = (
        t.tensor(s.B, places, net.n_classes, wide=4.0) if net.match.startswith("aligned") else None
    )
    every = t.op(
        classes.shape,
        [classes],
        [classes, *([target] if target else [])],
        wide=4.0,
        extra=s.B * MASKS * h * w / 16 * 4 * MASK_COPIES if net.task == "segment" else 0,
    )
    return t.op((1,), [every], wide=4.0)


def answer(net: Net, B: int, height: int, width: int, wide: float = 2.0) -> list[Term]:
    """What one batch needs without training."""
    t = Tape(grad=False, wide=wide, weights=wide)
    x = t.tensor(B, 3, height, width)
    maps = net.run(t, x)
    del x, maps
    return [
        Term("weights", math.ceil(t.params * wide), f"{t.params / 1e6:.2f}e6 x {wide:.0f} B"),
        Term(
            "activations", t.peak, f"{B} x {width} x {height} px, the widest place of the network"
        ),
    ]
