"""YOLOX, v6, v7, RTMDet and PP-YOLOE+, after mmyolo's configs and blocks."""

from onecard.memory.architectures.yolo_layers import SCALES, Layers, Maps, times
from onecard.memory.simulator import Tape, Tensor


def yolox(t: Tape, x: Tensor, size: str, n_classes: int, task: str, p6: bool = False) -> Maps:
    d, w, _ = SCALES["yolox"][size]
    y, reps = Layers(t), times(d)
    n, _, height, width = x.shape
    x = y.cna(t.cat([t.tensor(n, 3, height // 2, width // 2) for _ in range(4)]), int(64 * w), 3)
    maps: Maps = []
    for c, deep in zip((128, 256, 512, 1024), (3, 9, 9, 3), strict=True):
        x = y.cna(x, int(c * w), 3, 2)
        x = (
            y.c3(y.spp(x, int(c * w)), int(c * w), reps(deep), add=False)
            if c == 1024
            else y.c3(x, int(c * w), reps(deep))
        )
        maps.append(x)
    del x
    maps = y.pafpn(maps[1:], lambda v, c: y.c3(v, c, reps(3), add=False), reduce=True)
    c = int(256 * w)
    out = []
    for m in maps:
        m = y.cna(m, c)
        classes, boxes = y.cna(y.cna(m, c, 3), c, 3), y.cna(y.cna(m, c, 3), c, 3)
        out.append(
            t.cat(
                [
                    t.conv(classes, n_classes, 1, bias=True),
                    t.conv(boxes, 4, 1, bias=True),
                    t.conv(boxes, 1, 1, bias=True),
                ]
            )
        )
    return out


def v6(t: Tape, x: Tensor, size: str, n_classes: int, task: str, p6: bool = False) -> Maps:
    """RepVGG blocks: while it trains each has a 3x3, a 1x1 and, where sizes are equal, a batch norm
    side by side."""
    d, w, _ = SCALES["yolov6"][size]
    y = Layers(t, "relu")
    csp = size in "ml"

    def rep(v: Tensor, c: int, s: int = 1) -> Tensor:
        out = t.add(y.cna(v, c, 3, s, plain=True), y.cna(v, c, 1, s, plain=True))
        if s == 1 and v.shape[1] == c:
            out = t.add(out, t.norm(v))
        return t.act(out, "relu")

    def stage(v: Tensor, c: int, n: int) -> Tensor:
        n = max(round(n * d), 1)
        if not csp:
            for _ in range(n):
                v = rep(v, c)
            return v
        half = int(c * (2 / 3 if size == "m" else 0.5))
        a, b = y.cna(v, half), y.cna(v, half)
        for _ in range(max(n // 2, 1)):
            a = t.add(rep(rep(a, half), half), a)
        return y.cna(t.cat([a, b]), c)

    widths = [int(c * w) for c in (64, 128, 256, 512, 1024)]
    x = rep(x, widths[0], 2)
    maps: Maps = []
    for c, n in zip(widths[1:], (6, 12, 18, 6), strict=True):
        x = stage(rep(x, c, 2), c, n)
        maps.append(x)
    maps[-1] = y.sppf(x, widths[-1])
    outs = [int(c * w) for c in (128, 256, 512)]
    p3, p4, p5 = maps[1:]
    del x, maps
    five = y.cna(p5, outs[1])
    four = y.cna(stage(t.cat([t.deconv(five, outs[1]), p4]), outs[1], 12), outs[0])
    o3 = stage(t.cat([t.deconv(four, outs[0]), p3]), outs[0], 12)
    o4 = stage(t.cat([y.cna(o3, outs[0], 3, 2), four]), outs[1], 12)
    o5 = stage(t.cat([y.cna(o4, outs[1], 3, 2), five]), outs[2], 12)
    out = []
    for m in (o3, o4, o5):
        s = Layers(t)
        m = s.cna(m, m.shape[1])
        out.append(
            t.cat(
                [
                    t.conv(s.cna(m, m.shape[1], 3), n_classes, 1, bias=True),
                    t.conv(s.cna(m, m.shape[1], 3), 4, 1, bias=True),
                ]
            )
        )
    return out


def v7(t: Tape, x: Tensor, size: str, n_classes: int, task: str, p6: bool = False) -> Maps:
    """ELAN blocks: every second convolution's result is joined."""
    tiny, w = size == "tiny", SCALES["yolov7"][size][1]
    y = Layers(t, "lrelu" if tiny else "silu")
    deep = {"tiny": 1, "l": 2}.get(size, 3)

    def elan(v: Tensor, middle: int, out: int, every: bool = False) -> Tensor:
        a = y.cna(v, middle)
        parts = [y.cna(v, middle), a]
        n = 4 if every and not tiny else 2 * deep
        for i in range(n):
            a = y.cna(a, middle // 2 if every else middle, 3)
            if every or tiny or i % 2:
                parts.append(a)
        return y.cna(t.cat(parts), out)

    def down(v: Tensor, c: int) -> Tensor:
        if tiny:
            return t.pool(v, 2, 2)
        half = c // 2
        return t.cat([y.cna(t.pool(v, 2, 2), half), y.cna(y.cna(v, half), half, 3, 2)])

    if tiny:
        x = elan(y.cna(y.cna(x, 32, 3, 2), 64, 3, 2), 32, 64)
    else:
        x = y.cna(
            y.cna(y.cna(y.cna(x, int(32 * w), 3), int(64 * w), 3, 2), int(64 * w), 3),
            int(128 * w),
            3,
            2,
        )
        x = elan(x, int(64 * w), int(256 * w))
    maps: Maps = []
    for i, c in enumerate((128, 256, 512) if tiny else (512, 1024, 1024)):
        c = int(c * w)
        middle = c // 2 if tiny else int((128, 256, 256)[i] * w)
        x = elan(down(x, x.shape[1]), middle, c)
        maps.append(x)
    outs = [int(v * w) for v in ((64, 128, 256) if tiny else (128, 256, 512))]
    a, b = y.cna(x, outs[2]), y.cna(x, outs[2])  # SPPCSPC
    a = a if tiny else y.cna(y.cna(a, outs[2], 3), outs[2])
    a = y.cna(t.cat([a, *(t.pool(a, k, 1) for k in (5, 9, 13))]), outs[2])
    five = y.cna(t.cat([a if tiny else y.cna(a, outs[2], 3), b]), outs[2])
    del x, a, b
    four = elan(
        t.cat([y.cna(maps[1], outs[1]), t.up(y.cna(five, outs[1]))]),
        outs[1] // (2 if tiny else 1),
        outs[1],
        not tiny,
    )
    o3 = elan(
        t.cat([y.cna(maps[0], outs[0]), t.up(y.cna(four, outs[0]))]),
        outs[0] // (2 if tiny else 1),
        outs[0],
        not tiny,
    )

    def step(v: Tensor, k: int) -> Tensor:
        return y.cna(v, k, 3, 2) if tiny else down(v, k)

    o4 = elan(t.cat([step(o3, outs[1]), four]), outs[1] // (2 if tiny else 1), outs[1], not tiny)
    o5 = elan(t.cat([step(o4, outs[2]), five]), outs[2] // (2 if tiny else 1), outs[2], not tiny)
    return [
        t.conv(y.cna(m, 2 * m.shape[1], 3), 3 * (n_classes + 5), 1, bias=True) for m in (o3, o4, o5)
    ]


def rtmdet(t: Tape, x: Tensor, size: str, n_classes: int, task: str, p6: bool = False) -> Maps:
    d, w, _ = SCALES["rtmdet"][size]
    y, reps = Layers(t), times(d)

    def next_block(v: Tensor, add: bool) -> Tensor:
        c = v.shape[1]
        o = y.cna(y.cna(y.cna(v, c, 3), c, 5, groups=c), c)
        return t.add(v, o) if add else o

    def stage(v: Tensor, c: int, n: int, add: bool, weigh: bool) -> Tensor:
        half = c // 2
        b, a = y.cna(v, half), y.cna(v, half)
        for _ in range(n):
            a = next_block(a, add)
        a = t.cat([a, b])
        if weigh:  # channel attention over the mean of the map
            a = t.mul(a, t.act(t.conv(t.op((*a.shape[:2], 1, 1), [a]), c, 1, bias=True), "sigmoid"))
        return y.cna(a, c)

    half = int(64 * w) // 2
    x = y.cna(y.cna(y.cna(x, half, 3, 2), half, 3), int(64 * w), 3)
    maps: Maps = []
    for c, n in zip((128, 256, 512, 1024), (3, 6, 6, 3), strict=True):
        c = int(c * w)
        x = y.cna(x, c, 3, 2)
        x = stage(y.spp(x, c) if len(maps) == 3 else x, c, reps(n), len(maps) < 3, weigh=True)
        maps.append(x)
    del x
    maps = y.pafpn(maps[1:], lambda v, c: stage(v, c, reps(3), False, False), reduce=True)
    c, out = int(256 * w), []
    for i, m in enumerate(maps):
        m, before = y.cna(m, c, 3), t.params
        classes, boxes = y.cna(y.cna(m, c, 3), c, 3), y.cna(y.cna(m, c, 3), c, 3)
        if i:  # the three levels share these convolutions
            shared = t.params - before
            t.params, t.trained = t.params - shared, t.trained - shared
        out.append(
            t.cat([t.conv(classes, n_classes, 1, bias=True), t.conv(boxes, 4, 1, bias=True)])
        )
    return out


def ppyoloe(t: Tape, x: Tensor, size: str, n_classes: int, task: str, p6: bool = False) -> Maps:
    d, w, _ = SCALES["ppyoloe"][size]
    y = Layers(t)

    def res(v: Tensor, add: bool) -> Tensor:
        c = v.shape[1]
        a = y.cna(v, c, 3)
        a = t.act(
            t.add(y.cna(a, c, 3, plain=True), y.cna(a, c, 1, plain=True)), "silu", inplace=True
        )
        return t.add(v, a) if add else a

    def weigh(v: Tensor) -> Tensor:
        return t.mul(
            v, t.act(t.conv(t.op((*v.shape[:2], 1, 1), [v]), v.shape[1], 1, bias=True), "sigmoid")
        )

    def neck(v: Tensor, c: int, spp: bool = False) -> Tensor:
        half = c // 2
        b, a = y.cna(v, half), y.cna(v, half)
        for i in range(max(round(3 * d), 1)):
            a = res(a, False)
            if spp and i == 0:
                a = y.cna(t.cat([a, *(t.pool(a, k, 1) for k in (5, 9, 13))]), half)
        return y.cna(t.cat([b, a]), c)

    stem, widths = int(64 * w), [int(c * w) for c in (128, 256, 512, 1024)]
    x = y.cna(y.cna(y.cna(x, stem // 2, 3, 2), stem // 2, 3), stem, 3)
    maps: Maps = []
    for c, n in zip(widths, (3, 6, 6, 3), strict=True):
        middle = (x.shape[1] + c) // 2
        x = y.cna(x, middle, 3, 2)
        b, a = y.cna(x, middle // 2), y.cna(x, middle // 2)
        for _ in range(max(round(n * d), 1)):
            a = res(a, True)
        x = y.cna(weigh(t.cat([b, a])), c)
        maps.append(x)
    del x, a, b
    outs = [int(c * w) for c in (192, 384, 768)]
    inner, v = [], maps[-1]
    for i in (2, 1, 0):
        v = neck(v if i == 2 else t.cat([v, maps[i + 1]]), outs[i], spp=i == 2)
        inner.append(v)
        if i:
            v = t.up(y.cna(v, v.shape[1] // 2))
    out = [inner[2]]
    for i in (1, 2):
        out.append(neck(t.cat([y.cna(out[-1], outs[i - 1], 3, 2), inner[2 - i]]), outs[i]))
    heads = []
    for m in out:
        parts = [t.conv(y.cna(weigh(m), m.shape[1]), c, 3, bias=True) for c in (n_classes, 68)]
        heads.append(t.cat(parts))
    return heads
