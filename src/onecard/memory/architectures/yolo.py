"""YOLO detectors and segmenters: ultralytics' v5u, v8 and 11, and the table of all families.

Each function gives the maps that its head makes. Knows no loss and no device.
"""

from collections.abc import Callable

from onecard.memory.architectures.yolo_layers import SCALES, Layers, Maps, channels, times
from onecard.memory.architectures.yolo_variants import ppyoloe, rtmdet, v6, v7, yolox
from onecard.memory.simulator import Tape, Tensor


def v5(t: Tape, x: Tensor, size: str, n_classes: int, task: str, p6: bool = False) -> Maps:
    d, w, _ = SCALES["yolov5"][size]
    y, reps = Layers(t), times(d)
    widths = [int(c * w) for c in ((128, 256, 512, 768, 1024) if p6 else (128, 256, 512, 1024))]
    depths = (3, 6, 9, 3, 3) if p6 else (3, 6, 9, 3)
    x = y.cna(x, int(64 * w), 6, 2)
    x = t.view(x, x.shape[0], x.shape[1], x.shape[2] - x.shape[2] % 2, x.shape[3] - x.shape[3] % 2)
    maps: Maps = []
    for c, n in zip(widths, depths, strict=True):
        x = y.c3(y.cna(x, c, 3, 2), c, reps(n))
        maps.append(x)
    maps[-1] = y.sppf(x, widths[-1])
    del x
    maps = y.pafpn(maps[1:], lambda v, c: y.c3(v, c, reps(3), add=False), reduce=True)
    mask = 32 if task == "segment" else 0
    out = [t.conv(m, 3 * (n_classes + 5 + mask), 1, bias=True) for m in maps]
    return out + _prototypes(y, maps[0], channels(256 * w), mask)


def _prototypes(y: Layers, x: Tensor, c: int, mask: int) -> Maps:
    if not mask:
        return []
    x = y.cna(x, c, 3)
    x = y.t.deconv(x, c) if y.inplace is False else y.t.up(x)
    return [y.cna(y.cna(x, c, 3), mask)]


def v8(t: Tape, x: Tensor, size: str, n_classes: int, task: str, p6: bool = False) -> Maps:
    d, w, most = SCALES["yolov8"][size]
    y, reps = Layers(t), times(d)
    widths = [channels(min(c, most) * w) for c in (128, 256, 512, 1024)]
    x = y.cna(x, channels(64 * w), 3, 2)
    maps: Maps = []
    for c, n in zip(widths, (3, 6, 6, 3), strict=True):
        x = y.c2f(y.cna(x, c, 3, 2), c, reps(n), add=True)
        maps.append(x)
    maps[-1] = y.sppf(x, widths[-1])
    del x
    maps = y.pafpn(maps[1:], lambda v, c: y.c2f(v, c, reps(3), add=False), reduce=False)
    return _decoupled(
        y, maps, n_classes, task, lambda m, c: y.cna(y.cna(m, c, 3), c, 3), channels(256 * w)
    )


def v11(t: Tape, x: Tensor, size: str, n_classes: int, task: str, p6: bool = False) -> Maps:
    d, w, most = SCALES["yolo11"][size]
    y, reps = Layers(t), times(d)
    deep = size in "mlx"
    c64, c128, c256, c512, c1024 = (channels(min(c, most) * w) for c in (64, 128, 256, 512, 1024))

    def block(v: Tensor, c: int, n: int, nested: bool, e: float = 0.5) -> Tensor:
        return y.c2f(
            v,
            c,
            n,
            True,
            (lambda a, h: y.c3(a, h, 2, k=(3, 3)))
            if nested
            else (lambda a, h: y.bottleneck(a, h, True, (3, 3), 0.5)),
            e,
        )

    x = y.cna(y.cna(x, c64, 3, 2), c128, 3, 2)
    x = block(x, c256, reps(2), deep, 0.25)
    three = block(y.cna(x, c256, 3, 2), c512, reps(2), deep, 0.25)
    four = block(y.cna(three, c512, 3, 2), c512, reps(2), True)
    x = block(y.cna(four, c1024, 3, 2), c1024, reps(2), True)
    five = _attended(y, y.sppf(x, c1024), reps(2))
    del x
    joined = iter((deep, deep, deep, True))
    maps = y.pafpn(
        [three, four, five],
        lambda v, c: block(v, c, reps(2), next(joined)),
        reduce=False,
        outs=[c256, c512, c1024],
    )
    return _decoupled(
        y,
        maps,
        n_classes,
        task,
        lambda m, c: y.cna(
            y.cna(y.cna(y.cna(m, m.shape[1], 3, groups=m.shape[1]), c), c, 3, groups=c), c
        ),
        channels(256 * w),
    )


def _attended(y: Layers, x: Tensor, n: int) -> Tensor:
    """C2PSA: half of the channels pass n blocks of attention (score matrices are made: 400 tokens
    at 640 px)."""
    t, half = y.t, x.shape[1] // 2
    a, b = t.chunk(y.cna(x, 2 * half), 2)
    for _ in range(n):
        size, heads = b.shape, max(half // 64, 1)
        qkv = y.cna(b, half * 2, 1, plain=True)
        tokens = size[2] * size[3]
        q = t.view(qkv, size[0], tokens, half // 2)
        v = t.view(qkv, size[0], tokens, half)
        o = t.view(t.attend(q, q, v, heads, fused=False), *size)
        o = t.add(o, y.cna(t.copy(t.view(v, *size)), half, 3, groups=half, plain=True))
        b = t.add(b, y.cna(o, half, 1, plain=True))
        b = t.add(b, y.cna(y.cna(b, half * 2), half, 1, plain=True))
    return y.cna(t.cat([a, b]), x.shape[1])


def _decoupled(
    y: Layers,
    maps: Maps,
    n_classes: int,
    task: str,
    classes: Callable[[Tensor, int], Tensor],
    c_mask: int,
) -> Maps:
    """ultralytics' head of v8 and 11: distances as 16 bins, classes, and what the task wants
    beside."""
    t, first = y.t, maps[0].shape[1]
    c_box, c_cls = max(16, first // 4, 64), max(first, min(n_classes, 100))
    beside = {"segment": 32, "pose": 51}.get(task, 0)
    c_beside = max(first // 4, beside)
    out = []
    for m in maps:
        parts = [
            t.conv(y.cna(y.cna(m, c_box, 3), c_box, 3), 64, 1, bias=True),
            t.conv(classes(m, c_cls), n_classes, 1, bias=True),
        ]
        if beside:
            parts.append(t.conv(y.cna(y.cna(m, c_beside, 3), c_beside, 3), beside, 1, bias=True))
        out.append(t.cat(parts))
    return out + (
        _prototypes(Layers(t, inplace=False), maps[0], c_mask, 32) if task == "segment" else []
    )


FAMILIES: dict[str, Callable[..., Maps]] = {
    "yolov5": v5,
    "yolov6": v6,
    "yolov7": v7,
    "yolov8": v8,
    "yolo11": v11,
    "yolox": yolox,
    "rtmdet": rtmdet,
    "ppyoloe": ppyoloe,
}
