"""FastestDet (Ma 2022, BSD-3), written after the names and shapes of its published weights: a real
detector of 0.24 M parameters for tests. ShuffleNetV2 x0.5-like stages at 1/8, 1/16 and 1/32 are
joined at 1/16; one head gives objectness, box and class of each cell."""

import torch
from torch import nn

SIDE = 352


def conv(inside, outside, size=1, stride=1, groups=1, relu=True):
    """Convolution, batch norm, ReLU as a list."""
    layers = [
        nn.Conv2d(inside, outside, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outside),
    ]
    return [*layers, nn.ReLU()] if relu else layers


class Unit(nn.Module):
    """ShuffleNetV2's: half of the channels passes by, or both halves where the size is halved."""

    def __init__(self, inside, outside, stride):
        super().__init__()
        self.stride = stride
        rest = outside - inside if stride == 2 else outside // 2
        start = inside if stride == 2 else outside // 2
        middle = outside // 2
        self.branch_main = nn.Sequential(
            *conv(start, middle),
            *conv(middle, middle, 3, stride, groups=middle, relu=False),
            *conv(middle, rest),
        )
        if stride == 2:
            self.branch_proj = nn.Sequential(
                *conv(inside, inside, 3, stride, groups=inside, relu=False), *conv(inside, inside)
            )

    def forward(self, x):
        if self.stride == 2:
            return torch.cat([self.branch_proj(x), self.branch_main(x)], 1)
        # even channels pass by, odd ones are worked on
        return torch.cat([x[:, 0::2], self.branch_main(x[:, 1::2])], 1)


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.first_conv = nn.Sequential(*conv(3, 24, 3, 2))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inside = 24
        for name, n, outside in (("stage2", 4, 48), ("stage3", 8, 96), ("stage4", 4, 192)):
            units = [Unit(inside, outside, 2)] + [Unit(outside, outside, 1) for _ in range(n - 1)]
            setattr(self, name, nn.Sequential(*units))
            inside = outside

    def forward(self, x):
        fine = self.stage2(self.maxpool(self.first_conv(x)))
        middle = self.stage3(fine)
        return fine, middle, self.stage4(middle)


class Named(nn.Module):
    def __init__(self, name, layers):
        super().__init__()
        self.name = name
        setattr(self, name, nn.Sequential(*layers))

    def forward(self, x):
        return getattr(self, self.name)(x)


def depthwise(n):
    return [layer for _ in range(n) for layer in conv(96, 96, 5, groups=96)]


class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.Conv1x1 = Named("conv1x1", conv(336, 96))
        self.S1, self.S2, self.S3 = (nn.Sequential(*depthwise(n)) for n in (1, 2, 3))
        self.output = nn.Sequential(*conv(288, 96, relu=False))

    def forward(self, x):
        x = self.Conv1x1(x)
        wide = self.output(torch.cat([self.S1(x), self.S2(x), self.S3(x)], 1))
        return torch.relu(x + wide)


class Head(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.conv1x1 = Named("conv1x1", conv(96, 96))
        for name, n in (("obj_layers", 1), ("reg_layers", 4), ("cls_layers", n_classes)):
            layers = [*conv(96, 96, 5, groups=96), *conv(96, n, relu=False)]
            setattr(self, name, Named("conv5x5", layers))

    def forward(self, x):
        x = self.conv1x1(x)
        return self.obj_layers(x), self.reg_layers(x), self.cls_layers(x)


class FastestDet(nn.Module):
    """images_BCHW, RGB in 0..1 -> boxes_BN4 in pixels of the input, scores_BNC."""

    def __init__(self, n_classes=80):
        super().__init__()
        self.backbone, self.SPP, self.detect_head = Backbone(), Pyramid(), Head(n_classes)

    def forward(self, images):
        fine, middle, coarse = self.backbone(images.flip(1))  # it was trained on BGR
        coarse = nn.functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
        fine = nn.functional.avg_pool2d(fine, 3, 2, 1)
        objectness, box, classes = self.detect_head(self.SPP(torch.cat([fine, middle, coarse], 1)))
        high, wide = box.shape[2:]
        y, x = torch.meshgrid(
            torch.arange(high, device=box.device),
            torch.arange(wide, device=box.device),
            indexing="ij",
        )
        middle_x = (box[:, 0].tanh() + x) / wide * images.shape[3]
        middle_y = (box[:, 1].tanh() + y) / high * images.shape[2]
        half_w = box[:, 2].sigmoid() * images.shape[3] / 2
        half_h = box[:, 3].sigmoid() * images.shape[2] / 2
        sides = [middle_x - half_w, middle_y - half_h, middle_x + half_w, middle_y + half_h]
        boxes = torch.stack(sides, -1).flatten(1, 2)
        scores = objectness.sigmoid() * classes.softmax(1)
        return boxes, scores.flatten(2).transpose(1, 2)


def load(folder):
    """The published weights (safe: no pickled programs are run) and the names of the classes."""
    net = FastestDet()
    net.load_state_dict(torch.load(folder / "fastestdet_coco.pth", "cpu", weights_only=True))
    names = (folder / "coco.names").read_text().split("\n")
    return net.eval(), tuple(name.strip() for name in names if name.strip())
