"""YOLO detectors and segmenters: v5, v6, v7, v8, 11, X, RTMDet and PP-YOLOE+. Each function gives
the maps that its head makes.

Sources: ultralytics (v5u, v8, 11), mmyolo's configs and blocks (v5, v6, v7, X, RTMDet, PPYOLOE).
Knows no loss and no card.
"""

from collections.abc import Callable
from dataclasses import dataclass

from onecard.memory.simulator import Tape, Task, Tensor

Maps = list[Tensor]


@dataclass
class _Layers:
    """A tape with conv + norm + activation as one call, and the scale of a family."""

    t: Tape
    act: Task = "silu"
    inplace: bool = True

    def cna(
        self,
        x: Tensor,
        c: int,
        k: int = 1,
        s: int = 1,
        groups: int = 1,
        act: Task | None = None,
        plain: bool = False,
    ) -> Tensor:
        y = self.t.conv(x, c, k, s, groups)
        y = self.t.norm(y)
        return y if plain else self.t.act(y, act or self.act, self.inplace)

    def bottleneck(
        self, x: Tensor, c: int, add: bool, k: tuple[int, int] = (1, 3), e: float = 1.0
    ) -> Tensor:
        y = self.cna(self.cna(x, int(c * e), k[0]), c, k[1])
        return self.t.add(x, y) if add else y

    def c3(
        self,
        x: Tensor,
        c: int,
        n: int,
        add: bool = True,
        k: tuple[int, int] = (1, 3),
        e: float = 0.5,
    ) -> Tensor:
        half = int(c * e)
        a = self.cna(x, half)
        for _ in range(n):
            a = self.bottleneck(a, half, add, k)
        return self.cna(self.t.cat([a, self.cna(x, half)]), c)

    def c2f(
        self,
        x: Tensor,
        c: int,
        n: int,
        add: bool,
        inner: Callable[[Tensor, int], Tensor] | None = None,
        e: float = 0.5,
    ) -> Tensor:
        half = int(c * e)
        parts = self.t.chunk(self.cna(x, 2 * half), 2)
        for _ in range(n):
            parts.append(
                inner(parts[-1], half) if inner else self.bottleneck(parts[-1], half, add, (3, 3))
            )
        return self.cna(self.t.cat(parts), c)

    def sppf(self, x: Tensor, c: int, k: int = 5) -> Tensor:
        a = self.cna(x, x.shape[1] // 2)
        parts = [a]
        for _ in range(3):
            parts.append(self.t.pool(parts[-1], k, 1))
        return self.cna(self.t.cat(parts), c)

    def spp(self, x: Tensor, c: int) -> Tensor:
        a = self.cna(x, x.shape[1] // 2)
        return self.cna(self.t.cat([a, *(self.t.pool(a, k, 1) for k in (5, 9, 13))]), c)

    def pafpn(
        self,
        maps: Maps,
        block: Callable[[Tensor, int], Tensor],
        reduce: bool,
        down: Callable[[Tensor, int], Tensor] | None = None,
        outs: list[int] | None = None,
    ) -> Maps:
        """A feature pyramid down and up again; `reduce`: 1x1 convolutions before each join, as v5
        and X have."""
        outs = outs or [m.shape[1] for m in maps]
        inner = []
        x = maps[-1]
        for i in range(len(maps) - 1, 0, -1):
            if reduce:
                x = self.cna(x, outs[i - 1])
            inner.append(x)
            x = block(self.t.cat([self.t.up(x), maps[i - 1]]), outs[i - 1])
        out = [x]
        for i in range(1, len(maps)):
            lower = down(out[-1], outs[i - 1]) if down else self.cna(out[-1], outs[i - 1], 3, 2)
            out.append(block(self.t.cat([lower, inner[-i]]), outs[i]))
        return out


def _times(depth: float) -> Callable[[int], int]:
    """How often a block is repeated at this depth."""
    return lambda n: max(round(n * depth), 1)


def _ch(c: float) -> int:
    """Channels are multiples of 8."""
    return int(-(-c // 8) * 8)


SCALES: dict[str, dict[str, tuple[float, float, int]]] = {  # depth, width, most channels
    "yolov5": {
        "n": (0.33, 0.25, 1024),
        "s": (0.33, 0.5, 1024),
        "m": (0.67, 0.75, 1024),
        "l": (1.0, 1.0, 1024),
        "x": (1.33, 1.25, 1024),
    },
    "yolov8": {
        "n": (0.33, 0.25, 1024),
        "s": (0.33, 0.5, 1024),
        "m": (0.67, 0.75, 768),
        "l": (1.0, 1.0, 512),
        "x": (1.0, 1.25, 512),
    },
    "yolo11": {
        "n": (0.5, 0.25, 1024),
        "s": (0.5, 0.5, 1024),
        "m": (0.5, 1.0, 512),
        "l": (1.0, 1.0, 512),
        "x": (1.0, 1.5, 512),
    },
    "yolox": {
        "tiny": (0.33, 0.375, 1024),
        "s": (0.33, 0.5, 1024),
        "m": (0.67, 0.75, 1024),
        "l": (1.0, 1.0, 1024),
        "x": (1.33, 1.25, 1024),
    },
    "rtmdet": {
        "tiny": (0.167, 0.375, 1024),
        "s": (0.33, 0.5, 1024),
        "m": (0.67, 0.75, 1024),
        "l": (1.0, 1.0, 1024),
        "x": (1.33, 1.25, 1024),
    },
    "ppyoloe": {
        "s": (0.33, 0.5, 1024),
        "m": (0.67, 0.75, 1024),
        "l": (1.0, 1.0, 1024),
        "x": (1.33, 1.25, 1024),
    },
    "yolov6": {
        "n": (0.33, 0.25, 1024),
        "t": (0.33, 0.375, 1024),
        "s": (0.33, 0.5, 1024),
        "m": (0.6, 0.75, 1024),
        "l": (1.0, 1.0, 1024),
    },
    "yolov7": {"tiny": (1.0, 1.0, 512), "l": (1.0, 1.0, 1024), "x": (1.0, 1.25, 1280)},
}


def v5(t: Tape, x: Tensor, size: str, n_classes: int, task: str, p6: bool = False) -> Maps:
    d, w, _ = SCALES["yolov5"][size]
    y, reps = _Layers(t), _times(d)
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
    return out + _prototypes(y, maps[0], _ch(256 * w), mask)


def _prototypes(y: _Layers, x: Tensor, c: int, mask: int) -> Maps:
    if not mask:
        return []
    x = y.cna(x, c, 3)
    x = y.t.deconv(x, c) if y.inplace is False else y.t.up(x)
    return [y.cna(y.cna(x, c, 3), mask)]


def v8(t: Tape, x: Tensor, size: str, n_classes: int, task: str, p6: bool = False) -> Maps:
    d, w, most = SCALES["yolov8"][size]
    y, reps = _Layers(t), _times(d)
    widths = [_ch(min(c, most) * w) for c in (128, 256, 512, 1024)]
    x = y.cna(x, _ch(64 * w), 3, 2)
    maps: Maps = []
    for c, n in zip(widths, (3, 6, 6, 3), strict=True):
        x = y.c2f(y.cna(x, c, 3, 2), c, reps(n), add=True)
        maps.append(x)
    maps[-1] = y.sppf(x, widths[-1])
    del x
    maps = y.pafpn(maps[1:], lambda v, c: y.c2f(v, c, reps(3), add=False), reduce=False)
    return _decoupled(
        y, maps, n_classes, task, lambda m, c: y.cna(y.cna(m, c, 3), c, 3), _ch(256 * w)
    )


def v11(t: Tape, x: Tensor, size: str, n_classes: int, task: str, p6: bool = False) -> Maps:
    d, w, most = SCALES["yolo11"][size]
    y, reps = _Layers(t), _times(d)
    deep = size in "mlx"
    c64, c128, c256, c512, c1024 = (_ch(min(c, most) * w) for c in (64, 128, 256, 512, 1024))

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
        _ch(256 * w),
    )


def _attended(y: _Layers, x: Tensor, n: int) -> Tensor:
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
    y: _Layers,
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
        _prototypes(_Layers(t, inplace=False), maps[0], c_mask, 32) if task == "segment" else []
    )


def yolox(t: Tape, x: Tensor, size: str, n_classes: int, task: str, p6: bool = False) -> Maps:
    d, w, _ = SCALES["yolox"][size]
    y, reps = _Layers(t), _times(d)
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
    y = _Layers(t, "relu")
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
        s = _Layers(t)
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
    y = _Layers(t, "lrelu" if tiny else "silu")
    deep = 1 if tiny else 2 if size == "l" else 3

    def elan(v: Tensor, middle: int, out: int, every: bool = False) -> Tensor:
        a = y.cna(v, middle)
        parts = [y.cna(v, middle), a]
        n = 2 if tiny else 2 * deep if not every else 4
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
    y, reps = _Layers(t), _times(d)

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
    y = _Layers(t)

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
    made = []
    for m in out:
        parts = [t.conv(y.cna(weigh(m), m.shape[1]), c, 3, bias=True) for c in (n_classes, 68)]
        made.append(t.cat(parts))
    return made


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
