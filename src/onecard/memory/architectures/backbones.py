"""Backbones of images and what stands on them: ResNet, ViT, ConvNeXt, Swin-free classifiers, U-Net
and segmenters, R-CNN, RetinaNet and RT-DETR.

Sources: torchvision and transformers (ResNet, ViT, ConvNeXt, RT-DETR), mmdetection's configs
(Faster R-CNN, RetinaNet). Knows no loss and no card.
"""

from onecard.memory.simulator import Tape, Tensor

Maps = list[Tensor]
RESNET = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
VIT = {
    "vit-tiny": (192, 12, 3),
    "vit-small": (384, 12, 6),
    "vit-base": (768, 12, 12),
    "vit-large": (1024, 24, 16),
    "vit-huge": (1280, 32, 16),
}
"""Width, layers, heads."""
CONVNEXT = {
    "convnext-tiny": ((3, 3, 9, 3), 96),
    "convnext-small": ((3, 3, 27, 3), 96),
    "convnext-base": ((3, 3, 27, 3), 128),
    "convnext-large": ((3, 3, 27, 3), 192),
}


def _bn(t: Tape, x: Tensor, frozen: bool) -> Tensor:
    was, t.frozen = t.frozen, t.frozen or frozen
    out = t.norm(x)
    t.frozen = was
    return out


def resnet(
    t: Tape,
    x: Tensor,
    depth: int,
    frozen_stages: int = -1,
    frozen_bn: bool = False,
    groups: int = 1,
    width: int = 64,
    stages: int = 4,
) -> Maps:
    """The maps of the first `stages`.

    `frozen_stages` as mmdetection counts: 1 freezes the stem and the first stage.
    """
    t.frozen = frozen_stages >= 0
    x = t.act(_bn(t, t.conv(x, 64, 7, 2), frozen_bn or t.frozen), "relu", inplace=True)
    x = t.pool(x, 3, 2)
    maps: Maps = []
    for i, n in enumerate(RESNET[depth][:stages]):
        t.frozen = i + 1 <= frozen_stages
        still = frozen_bn or t.frozen
        c, s = 64 * 2**i, 1 if i == 0 else 2
        for j in range(n):
            step = s if j == 0 else 1
            if depth < 50:
                out, wide = t.act(_bn(t, t.conv(x, c, 3, step), still), "relu", inplace=True), c
            else:
                middle, wide = c * groups * width // 64, 4 * c
                out = t.act(_bn(t, t.conv(x, middle, 1), still), "relu", inplace=True)
                out = t.act(
                    _bn(t, t.conv(out, middle, 3, step, groups), still), "relu", inplace=True
                )
            out = _bn(t, t.conv(out, wide, 3 if depth < 50 else 1), still)
            side = _bn(t, t.conv(x, wide, 1, step), still) if step == 2 or x.shape[1] != wide else x
            x = t.act(t.add(out, side), "relu", inplace=True)
        maps.append(x)
    t.frozen = False
    return maps


def fpn(t: Tape, maps: Maps, c: int = 256, extra: int = 1, by_conv: bool = False) -> Maps:
    """A feature pyramid; `extra` levels beyond, pooled or by convolutions."""
    sides = [t.conv(m, c, 1, bias=True) for m in maps]
    for i in range(len(sides) - 1, 0, -1):
        sides[i - 1] = t.add(
            sides[i - 1], t.view(t.op(sides[i - 1].shape, [sides[i]]), *sides[i - 1].shape)
        )
    out = [t.conv(side, c, 3, bias=True) for side in sides]
    for i in range(extra):
        last = out[-1]
        if by_conv:
            out.append(t.conv(maps[-1] if i == 0 else last, c, 3, 2, bias=True))
        else:
            half = (-(-last.shape[2] // 2), -(-last.shape[3] // 2))
            out.append(t.op((*last.shape[:2], *half), [last]))
    return out


def faster_rcnn(
    t: Tape,
    x: Tensor,
    depth: int,
    n_classes: int = 80,
    caffe: bool = False,
    proposals: int = 512,
    mask: bool = False,
    **kind: int,
) -> Maps:
    """Two stages: proposals from a pyramid, then boxes (and masks) of `proposals` regions."""
    levels = fpn(t, resnet(t, x, depth, 1, caffe, **kind))
    out = _over_levels(t, levels, 1, 3, 12)
    regions = x.shape[0] * proposals
    pooled = t.op((regions, 256 * 7 * 7), levels)
    pooled = t.act(
        t.linear(t.act(t.linear(pooled, 1024), "relu", inplace=True), 1024), "relu", inplace=True
    )
    out += [t.linear(pooled, n_classes + 1), t.linear(pooled, 4 * n_classes)]
    if mask:
        masked = t.op((regions // 4, 256, 14, 14), levels)
        for _ in range(4):
            masked = t.act(t.conv(masked, 256, 3, bias=True), "relu", inplace=True)
        out.append(
            t.conv(t.act(t.deconv(masked, 256), "relu", inplace=True), n_classes, 1, bias=True)
        )
    return out


def _over_levels(
    t: Tape, levels: Maps, deep: int, classes: int, boxes: int, apart: bool = False
) -> Maps:
    """The same small head over each level; its weights count once."""
    out = []
    for i, level in enumerate(levels):
        before = t.params, t.trained
        a = b = level
        for _ in range(deep):
            a = t.act(t.conv(a, 256, 3, bias=True), "relu", inplace=True)
            b = t.act(t.conv(b, 256, 3, bias=True), "relu", inplace=True) if apart else a
        out += [
            t.conv(a, classes, 3 if apart else 1, bias=True),
            t.conv(b, boxes, 3 if apart else 1, bias=True),
        ]
        if i:
            t.params, t.trained = before
    return out


def retinanet(
    t: Tape, x: Tensor, depth: int, n_classes: int = 80, caffe: bool = False, **kind: int
) -> Maps:
    levels = fpn(t, resnet(t, x, depth, 1, caffe, **kind)[1:], extra=2, by_conv=True)
    return _over_levels(t, levels, 4, 9 * n_classes, 36, apart=True)


def encoder_layer(
    t: Tape,
    x: Tensor,
    heads: int,
    ffn: int,
    *,
    fused: bool = True,
    r: int = 0,
    targets: tuple[str, ...] = (),
    copies: bool = True,
    act: str = "gelu",
) -> Tensor:
    """Norm, attention, norm, feed-forward, each added to what came in; `r`: with LoRA on the named
    projections."""
    d = x.shape[-1]

    def linear(v: Tensor, c: int, name: str) -> Tensor:
        return t.lora(v, c, r) if r and name in targets else t.linear(v, c)

    y = half(t, t.norm(x, "layer"))
    q, k, v = linear(y, d, "q"), linear(y, d, "k"), linear(y, d, "v")
    del y
    y = t.attend(q, k, v, heads, fused=fused)
    del q, k, v
    x = t.add(x, linear(y, d, "o"))
    y = half(t, t.norm(x, "layer"))
    y = linear(y, ffn, "up")
    y = t.act(y, act)  # type: ignore[arg-type]
    return t.add(x, linear(y, d, "down"))


def half(t: Tape, x: Tensor) -> Tensor:
    """What autocast does before a matrix product."""
    return t.to(x, t.wide) if t.cast else x


def vit(
    t: Tape,
    x: Tensor,
    name: str,
    n_classes: int = 1000,
    patch: int = 16,
    r: int = 0,
    targets: tuple[str, ...] = ("q", "v"),
) -> Maps:
    d, layers, heads = VIT[name]
    t.frozen = bool(r)
    y = t.conv(x, d, patch, patch, bias=True, pad=0)
    tokens = y.shape[2] * y.shape[3] + 1
    y = t.op((x.shape[0], tokens, d), [t.copy(y)], n_params=d + tokens * d)
    for _ in range(layers):
        y = encoder_layer(t, y, heads, 4 * d, r=r, targets=targets)
    t.frozen = False
    y = half(t, t.norm(y, "layer"))
    return [t.linear(t.view(y, x.shape[0], d), n_classes)]


def convnext(t: Tape, x: Tensor, name: str, n_classes: int = 1000) -> Maps:
    depths, c = CONVNEXT[name]
    maps: Maps = []
    y = t.norm(t.conv(x, c, 4, 4, bias=True, pad=0), "group")
    for i, n in enumerate(depths):
        if i:
            y = t.conv(half(t, t.norm(y, "group")), c * 2**i, 2, 2, bias=True, pad=0)
        for _ in range(n):
            d = y.shape[1]
            v = half(t, t.norm(t.copy(t.conv(y, d, 7, groups=d, bias=True)), "group"))
            v = t.view(v, v.shape[0], v.shape[2], v.shape[3], d)
            v = t.linear(t.act(t.linear(v, 4 * d), "gelu"), d)
            v = t.op(y.shape, [v], [v], n_params=d)  # layer scale
            y = t.add(y, v)
        maps.append(y)
    return [
        t.linear(half(t, t.norm(t.op((x.shape[0], maps[-1].shape[1]), [y]), "layer")), n_classes)
    ]


def resnet_classifier(t: Tape, x: Tensor, depth: int, n_classes: int = 1000) -> Maps:
    last = resnet(t, x, depth)[-1]
    return [t.linear(t.op((x.shape[0], last.shape[1]), [last]), n_classes)]


def unet(t: Tape, x: Tensor, n_classes: int, base: int = 64) -> Maps:
    """The U-Net of Ronneberger 2015 with batch norm and padding, as it is used today."""

    def twice(v: Tensor, c: int) -> Tensor:
        for _ in range(2):
            v = t.act(t.norm(t.conv(v, c, 3)), "relu", inplace=True)
        return v

    steps = [twice(x, base)]
    for i in range(1, 5):
        steps.append(twice(t.pool(steps[-1], 2, 2), base * 2**i))
    y = steps.pop()
    while steps:
        side = steps.pop()
        y = twice(t.cat([side, t.deconv(y, side.shape[1])]), side.shape[1])
    return [t.conv(y, n_classes, 1, bias=True)]


def deeplab(t: Tape, x: Tensor, depth: int, n_classes: int) -> Maps:
    """DeepLabV3 on a ResNet whose last two stages keep the size (torchvision)."""
    n, _, h, w = x.shape
    y = resnet(t, t.view(x, n, 3, h, w), depth, stages=2)[1]
    c, blocks = y.shape[1], RESNET[depth]
    for i in (2, 3):
        for j in range(blocks[i]):
            middle, wide = 64 * 2**i, 256 * 2**i
            v = t.act(t.norm(t.conv(y, middle, 1)), "relu", inplace=True)
            v = t.act(t.norm(t.conv(v, middle, 3)), "relu", inplace=True)
            v = t.norm(t.conv(v, wide, 1))
            y = t.act(t.add(v, t.norm(t.conv(y, wide, 1)) if j == 0 else y), "relu", inplace=True)
    c = 256
    parts = [t.act(t.norm(t.conv(y, c, k)), "relu") for k in (1, 3, 3, 3)]
    parts.append(t.op(parts[0].shape, [t.conv(t.op((n, y.shape[1], 1, 1), [y]), c, 1)]))
    y = t.act(t.norm(t.conv(t.cat(parts), c, 1)), "relu")
    y = t.conv(t.act(t.norm(t.conv(y, c, 3)), "relu"), n_classes, 1, bias=True)
    return [t.op((n, n_classes, h, w), [y])]
