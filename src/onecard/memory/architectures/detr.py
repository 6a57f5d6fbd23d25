"""Detectors with queries: RT-DETR on a ResNet (v1 and v2 are alike in size). The calls are those of
transformers' RTDetrForObjectDetection. Knows no loss and no card."""

from onecard.memory.architectures.backbones import RESNET, half
from onecard.memory.simulator import Tape, Task, Tensor

Maps = list[Tensor]
SIZES: dict[str, tuple[int, int, float, int, int]] = {
    "r18": (18, 3, 0.5, 256, 1024),
    "r34": (34, 4, 0.5, 256, 1024),
    "r50": (50, 6, 1.0, 256, 1024),
    "r101": (101, 6, 1.0, 384, 2048),
}
"""ResNet's depth, decoder layers, expansion of the encoder's blocks, encoder's width and
feed-forward."""
D, HEADS, LEVELS, POINTS, QUERIES, DENOISING = 256, 8, 3, 4, 300, 200


def cna(t: Tape, x: Tensor, c: int, k: int = 1, s: int = 1, act: Task | None = None) -> Tensor:
    y = t.norm(t.conv(x, c, k, s))
    return t.act(y, act) if act else y


def _backbone(t: Tape, x: Tensor, depth: int) -> Maps:
    """ResNet-vd: three small convolutions at first, and a mean before a shortcut gets smaller."""
    for c, s in ((32, 2), (32, 1), (64, 1)):
        x = cna(t, x, c, 3, s, "relu")
    x = t.pool(x, 3, 2)
    maps = []
    for i, n in enumerate(RESNET[depth]):
        c = 64 * 2**i
        wide = c if depth < 50 else 4 * c
        for j in range(n):
            s = 2 if i and j == 0 else 1
            y = (
                cna(t, cna(t, x, c, 3, s, "relu"), c, 3)
                if depth < 50
                else cna(t, cna(t, cna(t, x, c, act="relu"), c, 3, s, "relu"), wide)
            )
            side = x
            if s == 2:
                side = cna(t, t.pool(x, 2, 2, mean=True), wide)
            elif x.shape[1] != wide or (depth < 50 and j == 0):
                side = cna(t, x, wide)
            x = t.act(t.add(y, side), "relu")
        maps.append(x)
    return maps[1:]


def csp(t: Tape, x: Tensor, c: int, expansion: float, blocks: int = 3) -> Tensor:
    middle = int(c * expansion)
    a, b = cna(t, x, middle, act="silu"), cna(t, x, middle, act="silu")
    for _ in range(blocks):
        a = t.act(t.add(cna(t, a, middle, 3), cna(t, a, middle)), "silu")
    y = t.add(a, b)
    return cna(t, y, c, act="silu") if middle != c else y


def attend(t: Tape, x: Tensor, d: int, ffn: int, act: Task) -> Tensor:
    """Self-attention and feed-forward with the norm after each."""
    y = t.attend(t.linear(t.add(x, x), d), t.linear(x, d), t.linear(x, d), HEADS, copies=True)
    x = t.norm(t.add(x, t.linear(t.copy(y), d)), "layer")
    return t.norm(t.add(x, t.linear(t.act(t.linear(x, ffn), act), d)), "layer")


def linear(t: Tape, x: Tensor, c: int) -> Tensor:
    return t.linear(half(t, x), c)


def mlp(t: Tape, x: Tensor, *widths: int) -> Tensor:
    for c in widths[:-1]:
        x = t.act(linear(t, x, c), "relu")
    return linear(t, x, widths[-1])


def softmax(t: Tape, x: Tensor) -> Tensor:
    return t.act(t.to(x, full(t)), "softmax")


def full(t: Tape) -> float:
    """Bytes of a value where autocast works in fp32."""
    return t.weights if t.cast else t.wide


def sampled(t: Tape, q: Tensor, memory: Tensor, points: int) -> Tensor:
    """Deformable attention without projections: the values of several images are laid out by heads
    anew in every layer, those of one are a view."""
    n, queries, d = q.shape
    wide = full(t)
    offsets = linear(t, q, HEADS * points * 2)
    places = t.op(offsets.shape, [offsets], wide=wide)
    where = t.copy(places)
    weights = softmax(t, linear(t, q, HEADS * points))
    value = memory
    if n > 1:
        value, where, weights = t.copy(memory), t.copy(where), t.copy(weights)
    value = t.to(value, wide)
    parts = t.op(
        (n * HEADS, d // HEADS, queries, points), [value, where], [value, where], wide=wide
    )
    read = t.cat([parts])
    out = t.op((n, d, queries), [read, weights], [read, weights], wide=wide, scratch=read.bytes)
    return t.copy(out, n, queries, d)


def rt_detr(t: Tape, x: Tensor, size: str, n_classes: int, denoising: int = 0) -> Maps:
    """Class scores and boxes of every decoder layer; in training `denoising` queries are added (200
    with its loss)."""
    depth, layers, expansion, width, ffn = SIZES[size]
    n = x.shape[0]
    mask = t.tensor(
        n, x.shape[2], x.shape[3], wide=4.0
    )  # it and the maps are counts until the end, as in the class: without gradients it shows
    features = _backbone(t, x, depth)
    maps = [cna(t, m, width) for m in features]
    top = maps[-1]
    tokens = t.copy(t.view(top, n, top.shape[2] * top.shape[3], width))
    maps[-1] = t.copy(attend(t, tokens, width, ffn, "gelu"), *top.shape)
    inner, y = [], maps[-1]
    for lower in reversed(maps[:-1]):
        y = cna(t, y, width, act="silu")
        inner.append(y)
        y = csp(t, t.cat([t.up(y), lower]), width, expansion)
    out = [y]
    for side in reversed(inner):
        out.append(csp(t, t.cat([cna(t, out[-1], width, 3, 2, "silu"), side]), width, expansion))
    parts = [cna(t, m, D) for m in out]
    memory = t.cat([t.view(p, n, p.shape[2] * p.shape[3], D) for p in parts], dim=1)
    masked = t.op(memory.shape, [memory], [memory])
    selected = t.norm(t.linear(masked, D), "layer")
    outputs = [t.linear(selected, n_classes), _boxes(t, selected)]
    q = t.tensor(n, QUERIES + denoising, D, needs=True)
    t.params += n_classes * D + D
    for layer in range(layers):
        counts = t.params, t.trained
        where = t.linear(t.act(t.linear(t.tensor(n, QUERIES + denoising, 4), 2 * D), "relu"), D)
        if layer:  # one small network places the queries in every layer
            t.params, t.trained = counts
        y = t.add(q, where)
        y = t.attend(t.linear(y, D), t.linear(y, D), t.linear(q, D), HEADS, copies=True)
        q = t.norm(t.add(q, t.linear(t.copy(y), D)), "layer")
        y = t.linear(sampled(t, t.add(q, where), t.linear(memory, D), LEVELS * POINTS), D)
        q = t.norm(t.add(q, y), "layer")
        q = t.norm(t.add(q, t.linear(t.act(t.linear(q, 1024), "relu"), D)), "layer")
        outputs += [t.linear(q, n_classes), _boxes(t, q)]
    del mask
    return outputs


def _boxes(t: Tape, x: Tensor) -> Tensor:
    y = t.act(t.linear(x, D), "relu")
    return t.act(t.linear(t.act(t.linear(y, D), "relu"), 4), "sigmoid")
