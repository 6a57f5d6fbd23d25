"""Networks of images by name: what each calls on the tape, and how it is usually trained. A name
is taken whole; an unknown one is refused with its neighbours.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from onecard.errors import NotFound, SettingsError, nearest, not_found
from onecard.memory.architectures import backbones, detr, dfine, rfdetr, traced, yolo, yolo_layers
from onecard.memory.simulator import Tape, Tensor

Task = Literal["detect", "segment", "classify", "pose"]


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
        *traced.rows(),
    ]


HARMLESS = frozenset(
    [
        *("patch4", "patch14", "patch16", "window7", "window8", "in1k", "in21k", "in22k", "in"),
        *("1k", "21k", "22k", "imagenet", "imagenet1k", "224", "256", "384", "512", "640", "1024"),
        *("1280", "finetuned", "ft", "fcmae", "ade", "ade20k", "coco", "cityscapes", "instance"),
        *("semantic", "panoptic", "pretrain", "pretrained", "lvd1689m", "lvd142m", "tf", "hf"),
        *("augreg", "pytorch", "torch", "o365", "obj365", "100", "hiera", "2.1"),
    ]
)
"""Words that name a data set, an image's size or a packaging of the same network."""
SPELLINGS = (
    (r"^yolov?(11|12|26)(?=[nsmlx])", r"yolo\1"),
    (r"^yolov?(5|6|7|8|9|10)(?=[nsmbltcex])", r"yolov\1"),
    (r"^dinov2vit([sblg])14$", r"dinov2\1"),
    (r"^dinov([23])(?:vit)?(small|base|large|giant|huge)(\w*)$", r"dinov\1\2\3"),
    (r"^dinov3vit([sblh])16(plus)?$", r"dinov3\1\2"),
    (r"^dinov3vit7b16$", "dinov37b"),
    (r"^(?:vit)?(small|base|large|giant)dinov2$", r"dinov2\1"),
    (r"^sam(?:vit)?(base|large|huge)$", r"samvit\1"),
    (r"^sam([blh])$", r"samvit\1"),
    (r"^sam2(?:1)?(?:hiera)?(tiny|small|bplus|baseplus|large)$", r"sam2\1"),
    (r"^sam2bplus$", "sam2baseplus"),
    (r"^sam2(?:1)?([tsbl])$", r"sam2\1"),
    (r"^rfdetrseg(?:mentation)?", "rfdetrseg"),
    (r"^rfdetr(nano|small|medium|large|xlarge|2xlarge)seg$", r"rfdetrseg\1"),
    (r"^efficientnetv2(small|medium|large)$", r"efficientnetv2\1"),
)
LETTERS = {"small": "s", "base": "b", "large": "l", "giant": "g", "huge": "h", "medium": "m"}
SHORT = ("dinov2", "dinov3", "samvit", "efficientnetv2")
"""Families whose sizes the table calls by one letter."""


def _plain(name: str, drop: bool = False) -> str:
    """The letters and figures of a name without its owner; `drop`: without harmless words."""
    text = name.strip().lower().rstrip("/").rsplit("/", 1)[-1]
    text = re.sub(r"\.(pt|pth|yaml|onnx|engine)$", "", text).replace("+", "-plus" if drop else "")
    words = [w for w in re.split(r"[-_\s:()]+|\.(?=[a-z])", text) if w]
    plain = "".join(w for w in words if not (drop and w in HARMLESS))
    plain = re.sub(r"[^a-z0-9]", "", plain)
    for pattern, to in SPELLINGS:
        plain = re.sub(pattern, to, plain)
    for family in SHORT:
        for word, letter in LETTERS.items():
            plain = re.sub(rf"^{family}{word}", f"{family}{letter}", plain)
    return plain


def _traced(name: str, n_classes: int) -> Net | None:
    """A network whose real class was recorded."""
    keys = {re.sub(r"[^a-z0-9]", "", key): key for key in traced.rows()}
    for drop in (False, True):
        if key := keys.get(_plain(name, drop)):
            row = traced.rows()[key]
            return Net(
                key,
                row.task,  # type: ignore[arg-type]
                partial(traced.run, row, n_classes=n_classes),
                row.match,
                n_classes or row.classes,
                ema=row.ema,
            )
    return None


def find(name: str, n_classes: int = 0) -> Net:
    """By its whole name, in any spelling. Raises NotFound with the nearest."""
    if net := _traced(name, n_classes):
        return net
    for plain in (_plain(name), _plain(name, drop=True)):
        for family in (_yolo, _detector, _classifier, _segmenter):
            if net := family(name, plain, n_classes):
                return net
    for pattern, why in NOT_KNOWN.items():
        if re.match(pattern, _plain(name)):
            raise NotFound(
                f"{name} cannot be planned",
                why=why,
                fix=f"one of these: {', '.join(nearest(name, names()) or ['yolo11n', 'resnet50'])}",
            )
    raise not_found("vision model", name, names(), "onecard plan detect yolov8n")


NOT_KNOWN = {
    r"sam[23]": "its memory of a film's frames was not recorded; SAM's first version was",
    r"rfdetr\w*seg|rfdetrseg": "its masks were not recorded; RF-DETR's detectors are known",
    r"mask2former": "its class chooses masks by their values and cannot be recorded without them",
    r"deimv2": "its sizes' configs are not known here; DEIM's are those of D-FINE",
    r"yolov5[nsmlx]cls": "its classifier is not in ultralytics' configs",
    r"yoloe|yoloworld|yolonas": "its class reads text or comes from a library of its own",
}
"""Networks that exist and cannot be planned, with what is missing."""


def _yolo(name: str, plain: str, n_classes: int) -> Net | None:
    match = re.match(
        r"(yolov5|yolov6|yolov7|yolov8|yolo11|yolox|rtmdet|ppyoloe)(?:ins)?"
        r"(tiny|nano|[ntsmlx])(p6|6)?u?(seg|ins|pose)?$",
        plain,
    )
    if not match or match[2] not in yolo_layers.SCALES[match[1]]:
        return None
    family, size, p6 = match[1], match[2], bool(match[3])
    task = {"seg": "segment", "ins": "segment", "pose": "pose"}.get(match[4] or "", "detect")
    classes = n_classes or (1 if task == "pose" else 80)
    return Net(
        name,
        task,  # type: ignore[arg-type]
        lambda t, x: yolo.FAMILIES[family](t, x, size, classes, task, p6),
        MATCHER[family],
        classes,
        LARGEST_SMALL.get(f"{family}-{size}", LARGEST.get(family, 1.0)),
        ema=True,
    )


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
    if match := re.match(
        r"(faster|mask)rcnn(?:r|x|resnet|resnext)?(\d+)(?:x\d+)?(?:32|64)?(?:x?\dd)?(?:fpn)?$",
        plain,
    ):
        masked, depth, kind = match[1] == "mask", _depth(name, match[2]), _groups(plain)
        return Net(
            name,
            "detect",
            lambda t, x: backbones.faster_rcnn(t, x, depth, n_classes or 80, mask=masked, **kind),
            "iou",
            n_classes or 80,
        )
    if match := re.match(
        r"retinanet(?:r|x|resnet|resnext)?(\d+)(?:x\d+)?(?:32|64)?(?:x?\dd)?(?:fpn)?$", plain
    ):
        depth, kind = _depth(name, match[1]), _groups(plain)
        return Net(
            name,
            "detect",
            lambda t, x: backbones.retinanet(t, x, depth, n_classes or 80, **kind),
            "iou",
            n_classes or 80,
        )
    if (
        match := re.match(r"(?:deim)?rtdetr(?:v2)?(?:r|resnet)?(18|34|50|101)(?:vd)?(?:m)?$", plain)
    ) or plain in (
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
    if match := re.match(
        r"(?:deim)?(?:dfine|(?<=deim))(?:hgnetv2)?(nano|small|medium|large|xlarge|[nsmlx])"
        r"(?:coco|obj365|obj2coco)*$",
        plain,
    ):
        size = match[1][0]
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
    if match := re.match(
        r"vit(tiny|small|base|large|huge|[tsblh])(?:patch)?(14|16|32)?(?:224|384)?(?:in21k)?$",
        plain,
    ):
        size = "vit-" + {"t": "tiny", "s": "small", "b": "base", "l": "large", "h": "huge"}.get(
            match[1], match[1]
        )
        patch = 14 if size == "vit-huge" else 16
        if match[2] in ("14", "16", "32"):
            patch = int(match[2])
        return Net(
            name, "classify", lambda t, x: backbones.vit(t, x, size, many, patch), n_classes=many
        )
    if match := re.match(r"convnext(tiny|small|base|large)(?:224|384)?$", plain):
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
    if match := re.match(r"deeplabv3(?:resnet|r)?(50|101)$", plain):
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
