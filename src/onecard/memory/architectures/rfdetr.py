"""RF-DETR: a detector with queries on a windowed DINOv2. The calls are those of transformers'
RfDetrForObjectDetection. Knows no loss and no card.

Sizes: transformers' convert_rf_detr_to_hf.py (OBJECT_DETECTION_CHECKPOINT_DEFAULT_ARGS). Dropout is
0 there, as in the published recipe.
"""

from dataclasses import dataclass

from onecard.memory.architectures.backbones import half
from onecard.memory.architectures.detr import QUERIES, full, linear, mlp
from onecard.memory.simulator import Tape, Tensor

Maps = list[Tensor]
WIDTH, LAYERS, BACKBONE_HEADS = 384, 12, 6
D, HEADS, CROSS_HEADS, POINTS, FFN, GROUPS = 256, 8, 16, 2, 2048, 13
"""Of the decoder. In training 13 groups of queries are matched, in use the first alone."""
HIDDEN, BLOCKS = 128, 3
"""Of the projector."""


@dataclass(frozen=True)
class Size:
    resolution: int
    """Side of the square image it was trained with, px."""
    layers: int
    """Of the decoder."""
    patch: int = 16
    windows: int = 2
    """An image's patches lie in windows x windows groups, each with its own class token."""
    out: tuple[int, ...] = (3, 6, 9, 12)
    """Layers whose result is used, counted from 1; a layer whose number from 0 stands here looks
    beyond its window."""
    pretrained: int = 0
    """Side in px of the grid that places are learned for, where it is not the resolution."""


SIZES = {
    "nano": Size(384, 2),
    "small": Size(512, 3),
    "base": Size(560, 3, patch=14, windows=4, out=(2, 5, 8, 11), pretrained=518),
    "medium": Size(576, 4),
    "large": Size(704, 4),
}


def _shared(t: Tape, y: Tensor, n_params: int) -> Tensor:
    """Made with weights that were counted before."""
    t.params -= n_params
    t.trained -= n_params
    return y


def _scaled(t: Tape, y: Tensor) -> Tensor:
    """DINOv2's scale of each channel; its gradient is a map before it is summed."""
    wide = full(t)  # autocast leaves the scale in fp32
    return t.op(y.shape, [y], [y], wide=wide, n_params=y.shape[-1], scratch=y.size * wide)


def _layer(t: Tape, x: Tensor, beyond: int) -> Tensor:
    """`beyond`: windows that see each other in this layer, 1 for none."""
    n, tokens, d = x.shape
    y = half(t, t.norm(x, "layer"))
    y = t.view(y, n // beyond, tokens * beyond, d)
    y = t.attend(t.linear(y, d), t.linear(y, d), t.linear(y, d), BACKBONE_HEADS)
    x = t.add(_scaled(t, t.view(t.linear(y, d), n, tokens, d)), x)
    y = half(t, t.norm(x, "layer"))
    y = t.act(t.linear(y, 4 * d), "gelu")
    return t.add(_scaled(t, t.linear(y, d)), x)


def _backbone(t: Tape, x: Tensor, z: Size) -> Maps:
    n, _, h, w = x.shape
    rows, columns, squares = h // z.patch, w // z.patch, z.windows**2
    y = t.conv(x, WIDTH, z.patch, z.patch, bias=True, pad=0)
    learned = ((z.pretrained or z.resolution) // z.patch) ** 2 + 1
    t.params += WIDTH  # the mask's token is never used
    y = t.op((n, rows * columns + 1, WIDTH), [y], n_params=WIDTH, passes=True)
    y = t.op(y.shape, [y], n_params=learned * WIDTH, passes=True)
    apart = t.copy(y, n * squares, rows * columns // squares, WIDTH)
    y = t.op((n * squares, rows * columns // squares + 1, WIDTH), [apart], passes=True)
    del apart
    states = [y]  # the class records what every layer made
    for i in range(LAYERS):
        y = _layer(t, y, squares if i in z.out else 1)
        states.append(y)
    maps: Maps = []
    for i in z.out:
        y = t.copy(
            _shared(t, t.norm(states[i], "layer"), 2 * WIDTH if maps else 0),
            n,
            rows * columns,
            WIDTH,
        )
        y = t.copy(t.copy(y), n, WIDTH, rows, columns)
        maps.append(y)
    return maps


def _cna(t: Tape, x: Tensor, c: int, k: int = 1) -> Tensor:
    """Convolution, layer norm over the channels, SiLU."""
    y = t.conv(half(t, x), c, k)
    return t.act(t.norm(y, "group"), "silu")


def _projected(t: Tape, maps: Maps) -> Tensor:
    joined = t.cat(maps)
    y = _cna(t, joined, 2 * HIDDEN)
    parts = t.chunk(y, 2)
    y = t.copy(parts[-1])
    for _ in range(BLOCKS):
        y = _cna(t, _cna(t, y, HIDDEN, 3), HIDDEN, 3)
        parts.append(y)
    return t.norm(_cna(t, t.cat(parts), D), "group")


def _proposals(t: Tape, memory: Tensor, group: int, n_classes: int) -> tuple[Tensor, Tensor]:
    """The best places of one group: their values and boxes."""
    n, places, _ = memory.shape
    y = t.norm(linear(t, memory, D), "layer")
    scores = linear(t, y, n_classes)
    boxes = mlp(t, y, D, D, 4)
    scores = t.op(scores.shape, [scores], wide=scores.wide)
    boxes = t.op((n, places, 4), [boxes], [boxes])
    del scores
    chosen = t.op((n, QUERIES, D), [y], extra=n * QUERIES * 8)
    return chosen, t.op((n, QUERIES, 4), [boxes])


def _placed(t: Tape, n: int, queries: int) -> Tensor:
    """Sines and cosines of four coordinates, and the small network above them."""
    at = t.tensor(n, queries, 4, needs=True)
    waves = []
    for _ in range(4):
        angle = t.op((n, queries, D // 2), [at])
        waves.append(
            t.op(
                (n, queries, D // 2),
                [
                    t.op((n, queries, D // 4), [angle], [angle]),
                    t.op((n, queries, D // 4), [angle], [angle]),
                ],
            )
        )
        del angle
    return mlp(t, t.cat(waves, 2), D, D)


def _sampled(t: Tape, q: Tensor, memory: Tensor) -> Tensor:
    n, queries, _ = q.shape
    wide = full(t)
    spots = queries * CROSS_HEADS * POINTS
    value = linear(t, memory, D)
    value = t.op(value.shape, [value], wide=value.wide)  # what is padding is zeroed
    moved = t.op((n, spots, 2), [linear(t, q, CROSS_HEADS * POINTS * 2)])
    weights = t.act(t.to(linear(t, q, CROSS_HEADS * POINTS), wide), "softmax")
    moved = t.op(moved.shape, [moved], [moved], wide=wide)
    moved = t.op(moved.shape, [t.op(moved.shape, [moved], wide=wide)], wide=wide)
    grid = t.op(moved.shape, [t.op(moved.shape, [moved], wide=wide)], wide=wide)
    laid, where = t.to(t.copy(value), wide), t.copy(grid)
    read = t.op(
        (n * CROSS_HEADS, D // CROSS_HEADS, queries, POINTS),
        [laid, where],
        [laid, where],
        wide=wide,
    )
    weights, read = t.copy(weights), t.copy(read)
    return t.copy(
        t.op((n, D, queries), [read, weights], [read, weights], wide=wide, scratch=read.bytes),
        n,
        queries,
        D,
    )


def _decoded(t: Tape, q: Tensor, where: Tensor, memory: Tensor, groups: int) -> Tensor:
    n, queries, _ = q.shape
    y, alone = t.add(q, where), q
    if groups > 1 and t.grad:  # groups do not see each other
        alone, y = (
            t.copy(q, n * groups, queries // groups, D),
            t.copy(y, n * groups, queries // groups, D),
        )
    y = t.attend(linear(t, y, D), linear(t, y, D), linear(t, alone, D), HEADS)
    del alone
    y = linear(t, y, D)
    y = t.copy(y, n, queries, D) if groups > 1 and t.grad else y
    q = t.norm(t.add(q, y), "layer")
    y = linear(t, _sampled(t, t.add(q, where), memory), D)
    q = t.norm(t.add(q, y), "layer")
    return t.norm(t.add(q, mlp(t, q, FFN, D)), "layer")


def rf_detr(t: Tape, x: Tensor, size: str, n_classes: int) -> Maps:
    """Class scores and boxes of every decoder layer and of the encoder's choice: of all groups
    while gradients are kept, else of one.

    x: (n, 3, h, w), h and w multiples of the size's patch x windows.
    """
    z, n = SIZES[size], x.shape[0]
    groups = GROUPS if t.grad else 1
    mask = t.tensor(n, x.shape[2], x.shape[3], wide=8.0)
    features = _projected(t, _backbone(t, x, z))
    memory = t.view(features, n, features.shape[2] * features.shape[3], D)
    masked = t.op(memory.shape, [memory], wide=memory.wide)
    outputs = [_proposals(t, masked, g, n_classes) for g in range(groups)]
    if groups < GROUPS:
        t.params += (GROUPS - groups) * (
            D * D + D + 2 * D + D * n_classes + n_classes + 2 * (D * D + D) + 4 * D + 4
        )
    values, boxes = t.cat([v for v, _ in outputs], 1), t.cat([b for _, b in outputs], 1)
    del outputs
    t.params += GROUPS * QUERIES * (D + 4)
    t.trained += GROUPS * QUERIES * (D + 4)
    queries = groups * QUERIES
    where = _placed(t, n, queries)
    q = t.tensor(n, queries, D, needs=True)
    predictions: Maps = []
    for _ in range(z.layers):
        q = _decoded(t, q, where, memory, groups)
        predictions.append(_shared(t, t.norm(q, "layer"), 2 * D if predictions else 0))
    stacked = t.cat(predictions, 1)
    del predictions
    early = _shared(t, linear(t, values, n_classes), D * n_classes + n_classes)
    scores, sides = linear(t, stacked, n_classes), mlp(t, stacked, D, D, 4)
    sides = t.op(sides.shape, [sides], [sides])
    del mask
    return [scores, sides, early, boxes]
