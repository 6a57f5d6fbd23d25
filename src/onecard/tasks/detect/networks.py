"""Detectors under permissive licences: D-FINE and RT-DETR of transformers (Apache-2.0), FCOS of
torchvision (BSD-3). Each takes images in 0..1 and gives boxes in pixels with a score a class."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from transformers import (
    DFineConfig,
    DFineForObjectDetection,
    RTDetrConfig,
    RTDetrForObjectDetection,
    TimmBackboneConfig,
)

from onecard.errors import NotFound, not_found
from onecard.hub import network
from onecard.reporting import Reporter
from onecard.tasks.detect.permissive import MODELS, Permissive
from onecard.training import backbones
from onecard.training.normalization import Normalize

CLASSES: dict[str, Any] = {"d-fine": DFineForObjectDetection, "rt-detr": RTDetrForObjectDetection}
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Mean and standard deviation of D-FINE's and RT-DETR's own weights: colours in 0..1."""
Targets = Sequence[tuple[Tensor, Tensor]]
"""Of each image: (boxes_N4 in pixels, labels_N)."""


class QueryDetector(nn.Module):
    """D-FINE or RT-DETR: a fixed number of queries, one object each, no suppression."""

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net, self.normalize = net, Normalize(mean, std)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """boxes_BQ4 (pixels), scores_BQC."""
        height, width = images.shape[-2:]
        out = self.net(pixel_values=self.normalize(images))
        centre, size = out.pred_boxes[..., :2], out.pred_boxes[..., 2:]
        corners = torch.cat([centre - size / 2, centre + size / 2], -1)
        scale = torch.tensor([width, height, width, height], device=images.device)
        return corners * scale, out.logits.sigmoid()

    def loss(self, images: Tensor, targets: Targets) -> Tensor:
        height, width = images.shape[-2:]
        scale = torch.tensor([width, height, width, height], device=images.device)
        labels = []
        for boxes, classes in targets:
            corners = boxes / scale
            centre = (corners[:, :2] + corners[:, 2:]) / 2
            size = corners[:, 2:] - corners[:, :2]
            labels.append({"class_labels": classes, "boxes": torch.cat([centre, size], -1)})
        loss: Tensor = self.net(pixel_values=self.normalize(images), labels=labels).loss
        return loss

    @property
    def body(self) -> nn.Module:
        """The backbone, and its name among the parameters."""
        return self.net.model.backbone  # type: ignore[union-attr,return-value]

    body_name = "net.model.backbone."


class Fcos(nn.Module):
    """FCOS (Tian et al. 2019) on a pyramid over a backbone of timm: dense, needs suppression."""

    LEVELS = (8, 16, 32, 64, 128)
    body_name = "body."

    def __init__(self, body: Any, n_classes: int, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.body = body
        self.normalize = Normalize(*backbones.normalization(body))
        widths = body.feature_info.channels()
        extra = LastLevelP6P7(channels, channels)
        self.pyramid = FeaturePyramidNetwork(widths, channels, extra_blocks=extra)
        self.head = FCOSHead(channels, 1, n_classes, num_convs=2)
        sizes = tuple((level,) for level in self.LEVELS)
        self.anchors = AnchorGenerator(sizes, ((1.0,),) * len(sizes))
        self.register_buffer("places", self._places(height, width), persistent=False)

    def _places(self, height: int, width: int) -> Tensor:
        """anchors_N4 (pixels) of an input of this size."""
        maps = [torch.zeros(1, 1, -(-height // level), -(-width // level)) for level in self.LEVELS]
        images = ImageList(torch.zeros(1, 3, height, width), [(height, width)])
        return self.anchors(images, maps)[0]  # type: ignore[no-any-return]

    def _outputs(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor, list[int]]:
        maps = self.pyramid(
            {str(i): level for i, level in enumerate(self.body(self.normalize(images)))}
        )
        levels = list(maps.values())
        places: Tensor = self.places  # type: ignore[assignment]
        sizes = [level.shape[-2] * level.shape[-1] for level in levels]
        if sum(sizes) != len(places):  # multi-scale training
            places = self._places(*images.shape[-2:]).to(images.device)
        return self.head(levels), places, sizes

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """boxes_BN4 (pixels), scores_BNC."""
        out, places, _ = self._outputs(images)
        boxes = self.head.box_coder.decode(
            out["bbox_regression"], places.unsqueeze(0).expand(images.shape[0], -1, -1)
        )
        scores = torch.sqrt(out["cls_logits"].sigmoid() * out["bbox_ctrness"].sigmoid())
        return boxes, scores

    def loss(self, images: Tensor, targets: Targets) -> Tensor:
        out, places, sizes = self._outputs(images)
        matched = [_matched(places, sizes, boxes) for boxes, _ in targets]
        rows = [{"boxes": boxes, "labels": labels} for boxes, labels in targets]
        losses = self.head.compute_loss(rows, out, [places] * len(rows), matched)
        return torch.stack(list(losses.values())).sum()


CENTRE = 1.5
"""Strides around a box's centre in which a place learns it (Tian et al. 2022, centre sampling)."""


def _matched(places: Tensor, sizes: Sequence[int], boxes: Tensor) -> Tensor:
    """index_N of the box that each place learns, -1 for none: the smallest box whose centre is
    near, on the level that suits its size (4 to 8 strides)."""
    if not len(boxes):
        return torch.full((len(places),), -1, dtype=torch.int64, device=places.device)
    stride = places[:, 2] - places[:, 0]
    centre = (places[:, :2] + places[:, 2:]) / 2
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = (centre[:, None] - middle[None]).abs().amax(-1) < CENTRE * stride[:, None]
    sides = torch.cat(
        [centre[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - centre[:, None]], -1
    )
    longest = sides.amax(-1)
    lower, upper = stride * 4, stride * 8
    lower[: sizes[0]] = 0
    upper[-sizes[-1] :] = torch.inf
    fits = (longest > lower[:, None]) & (longest <= upper[:, None])
    inside = sides.amin(-1) > 0
    area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))[None].expand(len(places), -1)
    area = torch.where(near & fits & inside, area, torch.inf)
    smallest, index = area.min(-1)
    return torch.where(smallest < torch.inf, index, -1)


def build(
    name: str, n_classes: int, height: int, width: int, *, pretrained: bool, reporter: Reporter
) -> nn.Module:
    """A detector by its name with the first weights there are. Raises NotFound."""
    facts = MODELS.get(name)
    if facts is None:
        raise not_found("detector", name, [*MODELS, "yolov8n", "yolo11n", "yolo26n"])
    if facts.kind == "fcos":
        body = backbones.create(
            facts.backbone,
            pretrained=pretrained,
            reporter=reporter,
            features_only=True,
            out_indices=(2, 3, 4),
        )
        return Fcos(body, n_classes, facts.channels, height, width)
    if pretrained and facts.repo and network.hub_reachable():
        try:
            return _from_hub(facts, n_classes)
        except (OSError, ValueError) as fault:
            reporter.warn(f"{facts.repo}: {str(fault).splitlines()[0][:160]}")
    if pretrained and facts.repo:
        reporter.warn(f"{name} starts from random weights: the hub cannot be reached")
    return _from_config(facts, n_classes, pretrained, reporter)


def published(name: str) -> tuple[nn.Module | None, dict[int, str]]:
    """(a detector with its weights of COCO, its class names); None where they cannot be had."""
    facts = MODELS.get(name)
    if facts is None or not facts.repo or not network.hub_reachable():
        return None, {}
    try:
        net = CLASSES[facts.kind].from_pretrained(facts.repo, anchor_image_size=None)
    except (OSError, ValueError):
        return None, {}
    names = {int(key): str(word) for key, word in net.config.id2label.items()}
    return QueryDetector(net, *PLAIN), names


def empty(architecture: Mapping[str, Any], height: int, width: int) -> nn.Module:
    """The network of a saved one, its weights still to come."""
    name, n_classes = str(architecture["name"]), int(architecture["n_classes"])
    return build(name, n_classes, height, width, pretrained=False, reporter=Reporter())


def _options(facts: Permissive, n_classes: int) -> dict[str, Any]:
    return {
        "num_labels": n_classes,
        # None: places follow from the images' size, which may differ from the published one
        "anchor_image_size": None,
        "freeze_backbone_batch_norms": False,
        # few places hold an object: sure of nothing at first, as RetinaNet (Lin et al. 2017, 3.3)
        "initializer_bias_prior_prob": 0.01,
        **facts.options,
    }


def _from_hub(facts: Permissive, n_classes: int) -> nn.Module:
    net = CLASSES[facts.kind].from_pretrained(
        facts.repo,
        num_labels=n_classes,
        anchor_image_size=None,
        ignore_mismatched_sizes=True,
    )
    return QueryDetector(net, *PLAIN)


def _from_config(
    facts: Permissive, n_classes: int, pretrained: bool, reporter: Reporter
) -> nn.Module:
    options = _options(facts, n_classes)
    mean, std = PLAIN
    state: dict[str, Tensor] = {}
    if facts.backbone:
        indices = [2, 3, 4]
        options["backbone_config"] = TimmBackboneConfig(
            backbone=backbones.timm_name(facts.backbone), out_indices=indices
        )
        body = backbones.create(
            facts.backbone, pretrained=pretrained, reporter=reporter, features_only=True
        )
        mean, std = backbones.normalization(body)  # type: ignore[assignment]
        state = body.state_dict()
    if facts.kind == "d-fine":
        net: Any = DFineForObjectDetection(DFineConfig(**options))
    else:
        net = RTDetrForObjectDetection(RTDetrConfig(**options))
    if state:
        _fill(net.model.backbone, state)
    return QueryDetector(net, mean, std)


def _fill(body: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy a backbone's weights, which lie deeper here. Raises NotFound where one has no place."""
    own = body.state_dict()
    ends = {key: [name for name in own if name.endswith(f".{key}")] for key in state}
    lacking = [key for key, names in ends.items() if not names]
    if lacking:
        raise NotFound(
            "the backbone's weights have no place in the detector",
            why=f"{len(lacking)} of {len(state)} names do not match, as {lacking[0]}",
            fix="--no_pretrained, and please report it with your versions of timm and transformers",
        )
    body.load_state_dict({names[0]: state[key] for key, names in ends.items()}, strict=False)
