"""Memory of detectors, classifiers and segmenters: a training step and an answer. A tape runs the
network; this file knows the names, the losses and the trainers' habits.

Letters: B images, G boxes of the fullest image of a batch, A places where a detector may find
something.
"""

import math
from dataclasses import dataclass

from onecard.memory.architectures import detr, rfdetr
from onecard.memory.estimators.networks import Net, find, names, of_task
from onecard.memory.estimators.training import OPTIMIZER
from onecard.memory.plan import Term
from onecard.memory.simulator import Tape, Tensor
from onecard.units import MIB

__all__ = ["Net", "Recipe", "answer", "find", "names", "of_task", "step"]

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
MATCHED_COPIES = 12.0
"""Matrices of all queries x all boxes of the batch while they are matched: class cost, distances,
corners and extents of the overlap and of the hull (each two numbers), areas, the sum."""
MASKS = 200
"""Masks of one image that a YOLO segmenter's loss makes at a quarter of the size: some ten places a
box, about twenty boxes."""
MASK_COPIES = 4.0
"""Product, target, cross-entropy and its crop, fp32, kept for the backward pass."""
WORKSPACE_BYTES = 64 * MIB
"""cuDNN's and cuBLAS' workspaces while a network of convolutions trains. A guess."""


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
    boxes: int = 0
    """Of every image of the batch; 0 for what is usual: BOXES with mosaics, OBJECTS without."""
    multi_scale: bool = False
    """Images of changing size, up to `largest`."""
    largest: float = 0.0
    """As a share of the nominal size; 0 for that of the network's published recipe."""
    device: bool = True
    """On a card: cuDNN's workspace and its copies."""


def step(net: Net, s: Recipe) -> list[Term]:
    """The terms of a training step's peak, as torch's allocator counts them."""
    scale = (s.largest or net.largest) if s.multi_scale else 1.0
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
        boxes = s.boxes or OBJECTS
        matched = s.B * min(boxes, detr.QUERIES) * rfdetr.GROUPS
        pairs = matched**2 * 4 * PAIR_COPIES * net.losses
        queries = detr.QUERIES * (rfdetr.GROUPS if net.losses else 1)
        cost = s.B**2 * queries * boxes * 4 * MATCHED_COPIES
        return t.op((1,), upcast, upcast, wide=4.0, extra=pairs, scratch=cost)
    if not net.match:  # pixels: log-softmax in fp32 and its choice
        flat = t.op(
            maps[-1].shape, [t.to(maps[-1], 4.0)], keeps=True, wide=4.0, extra=s.B * h * w * 8
        )
        return t.op((1,), [flat], [flat], wide=4.0)
    places = sum(m.shape[2] * m.shape[3] for m in maps if len(m.shape) == 4)
    kept = []
    for m in maps:  # laid out anew as (B, A, values), in fp32
        kept.append(t.to(t.copy(m), 4.0) if net.match != "anchors" else t.copy(m))
    n_boxes = s.boxes or BOXES
    scratch = MATCH[net.match] * s.B * n_boxes * places * 4
    if net.match == "iou":
        scratch = (
            PER_IMAGE_COPIES
            * n_boxes
            * 4
            * sum(
                m.shape[1] // 4 * m.shape[2] * m.shape[3] for m in maps[1::2] if len(m.shape) == 4
            )
        )  # every second map has four numbers an anchor
    if net.match == "optimal":
        scratch = (
            places * 0.25 * n_boxes * net.n_classes * 4 * 3
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
