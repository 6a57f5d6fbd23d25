"""D-FINE: a detector with queries on an HGNetV2. The calls are those of transformers'
DFineForObjectDetection. Knows no loss and no card.

Sizes: Peterande/D-FINE's configs/dfine and transformers'
convert_d_fine_original_pytorch_checkpoint_to_hf.py. Batch norms of the backbone are trained, as in
a fine-tuning with freeze_backbone_batch_norms=False.
"""

from dataclasses import dataclass

from onecard.memory.architectures.backbones import half
from onecard.memory.architectures.detr import (
    HEADS,
    QUERIES,
    attend,
    cna,
    csp,
    full,
    linear,
    mlp,
    sampled,
    softmax,
)
from onecard.memory.simulator import Tape, Tensor

Maps = list[Tensor]
HGNET: dict[str, tuple[int, int, int, tuple[tuple[int, int, int], ...]]] = {
    "b0": (16, 16, 3, ((16, 64, 1), (32, 256, 1), (64, 512, 2), (128, 1024, 1))),
    "b2": (24, 32, 4, ((32, 96, 1), (64, 384, 1), (128, 768, 3), (256, 1536, 1))),
    "b4": (32, 48, 6, ((48, 128, 1), (96, 512, 1), (192, 1024, 3), (384, 2048, 1))),
    "b5": (32, 64, 6, ((64, 128, 1), (128, 512, 2), (256, 1024, 5), (512, 2048, 2))),
}
"""The stem's two widths, layers a block; of each stage its inner width, its width and its blocks.
"""
BINS, TOP = 33, 4
"""A box's side is a distribution over bins; the largest of them tell how sure it is."""


@dataclass(frozen=True)
class Size:
    backbone: str
    layers: int
    """Of the decoder."""
    blocks: int
    """Of each part of the encoder: 3 x depth_mult, rounded."""
    expansion: float = 1.0
    lab: bool = True
    """Each activation of the backbone is followed by a scale and a bias
    (use_learnable_affine_block)."""
    d: int = 256
    width: int = 256
    """Of the encoder; `d` is the decoder's."""
    ffn: int = 1024
    decoder_ffn: int = 1024
    points: tuple[int, ...] = (3, 6, 3)
    """Of each level."""


SIZES = {
    "n": Size("b0", 3, 2, 0.34, d=128, width=128, ffn=512, decoder_ffn=512, points=(6, 6)),
    "s": Size("b0", 3, 1, 0.5),
    "m": Size("b2", 4, 2),
    "l": Size("b4", 6, 3, lab=False),
    "x": Size("b5", 6, 3, lab=False, width=384, ffn=2048),
}


def _conv(
    t: Tape, x: Tensor, c: int, k: int, lab: bool, s: int = 1, groups: int = 1, act: bool = True
) -> Tensor:
    y = t.norm(t.conv(half(t, x), c, k, s, groups, pad=(k - 1) // 2))
    if not act:
        return y
    y = t.act(y, "relu")
    if not lab:
        return y
    wide = full(t)  # autocast leaves the scale in fp32, and so becomes the map
    return t.op(
        y.shape, [y], [y], wide=wide, n_params=2, scratch=y.size * wide
    )  # scaled, then shifted; the scale's gradient is a map before it is summed


def _padded(t: Tape, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return t.op((n, c, h + 1, w + 1), [x], wide=x.wide)


def _hgnet(t: Tape, x: Tensor, name: str, lab: bool) -> Maps:
    middle, first, layers, stages = HGNET[name]
    x = _padded(t, _conv(t, x, middle, 3, lab, 2))
    y = _conv(t, _padded(t, _conv(t, x, middle // 2, 2, lab)), middle, 2, lab)
    pooled = t.op(y.shape, [x], [x], wide=x.wide, extra=y.size * 8)
    x = _conv(t, _conv(t, t.cat([pooled, y]), middle, 3, lab, 2), first, 1, lab)
    del pooled, y
    maps = []
    for i, (inner, c, blocks) in enumerate(stages):
        if i:
            x = _conv(t, x, x.shape[1], 3, lab, 2, groups=x.shape[1], act=False)
        for j in range(blocks):
            parts = [x]
            for _ in range(layers):
                y = parts[-1]
                parts.append(
                    _conv(t, _conv(t, y, inner, 1, lab, act=False), inner, 5, lab, groups=inner)
                    if i > 1
                    else _conv(t, y, inner, 3, lab)
                )
            y = _conv(t, _conv(t, t.cat(parts), c // 2, 1, lab), c, 1, lab)
            x = t.add(y, x) if j else y
            del parts, y
        maps.append(x)
    return maps


def _elan(t: Tape, x: Tensor, width: int, expansion: float, blocks: int) -> Tensor:
    """RepNCSPELAN4: half goes through two chains, and all that was made on the way is joined."""
    c = round(expansion * width // 2)
    halves = t.chunk(cna(t, x, 2 * width, act="silu"), 2)
    a = cna(t, csp(t, halves[1], c, 1.0, blocks), c, 3, act="silu")
    b = cna(t, csp(t, a, c, 1.0, blocks), c, 3, act="silu")
    return cna(t, t.cat([*halves, a, b]), width, act="silu")


def _smaller(t: Tape, x: Tensor) -> Tensor:
    x = cna(t, x, x.shape[1])
    return t.norm(t.conv(x, x.shape[1], 3, 2, groups=x.shape[1]))


def _encoded(t: Tape, maps: Maps, size: Size) -> Maps:
    """Attention within the smallest map, then down and up again.

    The smallest is replaced in the given list.
    """
    n, width, h, w = maps[-1].shape
    maps[-1] = t.copy(
        attend(t, t.copy(t.view(maps[-1], n, h * w, width)), width, size.ffn, "gelu"),
        n,
        width,
        h,
        w,
    )
    inner, y = [], maps[-1]
    for lower in reversed(maps[:-1]):
        y = cna(t, y, width)
        inner.append(y)
        upper = t.up(y)
        y = _elan(t, t.cat([upper, lower]), width, size.expansion, size.blocks)
    out = [y]
    for side in reversed(inner):
        out.append(
            _elan(t, t.cat([_smaller(t, out[-1]), side]), width, size.expansion, size.blocks)
        )
    return out


def _clamped(t: Tape, x: Tensor) -> Tensor:
    return t.op(x.shape, [x], [x], wide=x.wide)


def _layer(t: Tape, q: Tensor, where: Tensor, memory: Tensor, size: Size) -> Tensor:
    d = size.d
    y = t.add(q, where)
    y = t.attend(linear(t, y, d), linear(t, y, d), linear(t, q, d), HEADS, copies=True)
    q = t.norm(t.add(q, t.linear(t.copy(y), d)), "layer")
    y = sampled(t, t.add(q, where), memory, sum(size.points))
    gates = t.chunk(t.act(linear(t, t.cat([q, y], 2), 2 * d), "sigmoid"), 2, 2)
    q = t.norm(t.add(t.mul(gates[0], q), t.mul(gates[1], y)), "layer")
    return t.norm(_clamped(t, t.add(q, mlp(t, q, size.decoder_ffn, d))), "layer")


def _scores(t: Tape, scores: Tensor, sides: Tensor) -> Tensor:
    """The class scores and how sure the sides are."""
    n, queries, _ = scores.shape
    sure = softmax(t, sides)
    sure = t.op((n, queries, 4 * (TOP + 1)), [sure], extra=n * queries * 4 * TOP * 8)
    return t.add(scores, mlp(t, sure, 64, 1))


def d_fine(t: Tape, x: Tensor, size: str, n_classes: int, denoising: int = 0) -> Maps:
    """Class scores, boxes and sides of every decoder layer, scores and boxes of the encoder's
    choice; in training `denoising` queries are added (200 with its loss)."""
    z = SIZES[size]
    n, d, width = x.shape[0], z.d, z.width
    mask = t.tensor(
        n, x.shape[2], x.shape[3], wide=4.0
    )  # it and the maps are counts until the end, as in the class: without gradients it shows
    features = _hgnet(t, x, z.backbone, z.lab)[-len(z.points) :]
    maps = [cna(t, half(t, m), width) for m in features]
    out = _encoded(t, maps, z)
    parts = [cna(t, m, d) for m in out] if width != d else out
    memory = t.cat([t.view(p, n, p.shape[2] * p.shape[3], d) for p in parts], dim=1)
    masked = t.op(memory.shape, [memory])
    selected = t.norm(t.linear(masked, d), "layer")
    classes, boxes = linear(t, selected, n_classes), mlp(t, selected, d, d, 4)
    chosen = [
        t.op((n, QUERIES, of.shape[2]), [of], [of], extra=n * QUERIES * of.shape[2] * 8)
        for of in (classes, boxes)
    ]
    chosen[1] = t.act(chosen[1], "sigmoid")
    queries = QUERIES + denoising
    q = t.tensor(n, queries, d)
    if denoising:
        q = t.cat([t.embed(n, denoising, d, n_classes + 1), t.tensor(n, QUERIES, d)], 1)
    else:
        t.params += (n_classes + 1) * d
    scores: Maps = []
    corners: Maps = []
    sides: Maps = []
    for layer in range(z.layers):
        counts = t.params, t.trained
        where = _clamped(t, mlp(t, t.tensor(n, queries, 4), 2 * d, d))
        if layer:  # one small network places the queries in every layer
            t.params, t.trained = counts
        q = _layer(t, q, where, memory, z)
        if layer == 0:
            corners.append(t.act(mlp(t, q, d, d, 4), "sigmoid"))
        side = mlp(
            t, t.op(q.shape, [q], wide=q.wide, passes=True), d, d, 4 * BINS
        )  # the layer before is added without its gradient
        side = t.add(side, sides[-1]) if sides else side
        sides.append(side)
        corners.append(t.op((n, queries, 4), [softmax(t, side)], extra=n * queries * 4 * 4))
        scores.append(linear(t, q, n_classes))
        if layer == 0:
            scores.append(scores[0])
        scores[-1] = _scores(t, scores[-1], side)
    outputs = [t.cat(scores, 1), t.cat(corners, 1), t.cat(sides, 1), *chosen]
    del mask
    return outputs
