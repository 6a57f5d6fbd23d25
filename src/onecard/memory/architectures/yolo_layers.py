"""Blocks that YOLO networks share, and the scales of the families. Knows no network."""

from collections.abc import Callable
from dataclasses import dataclass

from onecard.memory.simulator import Tape, Task, Tensor

Maps = list[Tensor]


@dataclass
class Layers:
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


def times(depth: float) -> Callable[[int], int]:
    """How often a block is repeated at this depth."""
    return lambda n: max(round(n * depth), 1)


def channels(c: float) -> int:
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
