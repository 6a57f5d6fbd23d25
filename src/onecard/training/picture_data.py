"""Batches of pictures for training: the same for the same seed, epoch and number, whatever ran
before and however many processes read."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import albumentations
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from onecard.datasets.images.decode import read_rgb
from onecard.datasets.images.records import Box, Picture
from onecard.datasets.splits import hash_rank
from onecard.training.config import AugmentConfig

GREY = 114
"""What a letterbox pads with, as YOLO trainers do."""
IGNORED = 255
"""Of a mask: pixels without a class, padding among them; at most 255 classes are left."""
MIN_VISIBLE = 0.1
"""Share of a box that must lie in the augmented picture: less is hardly the object."""
MULTI_SCALE = (0.75, 0.875, 1.0, 1.125, 1.25)
"""Sizes of multi-scale training, as shares of the nominal one; the plan counts the largest."""
MAX_WORKERS = 8
SEED_STRIDE = 1_000_003
"""A prime above the number of pictures and epochs of a training here."""
ReadMask = Callable[[Picture], np.ndarray]
"""HW of class numbers, IGNORED where there is none."""


@dataclass
class Sample:
    """One picture as the network takes it."""

    image: np.ndarray
    """HWC, RGB, uint8."""
    boxes: np.ndarray
    """N4, x0 y0 x1 y1 in pixels of `image`; no row without boxes."""
    labels: np.ndarray
    """N, of the boxes."""
    label: int = -1
    """Of the whole picture."""
    mask: np.ndarray | None = None
    """HW, class numbers, IGNORED where there is none."""
    name: str = ""

    def as_boxes(self) -> tuple[Box, ...]:
        rows = zip(self.boxes.tolist(), self.labels.tolist(), strict=True)
        return tuple(Box(int(label), *box) for box, label in rows)


def boxes_of(picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """(boxes N4, labels N) without crowds."""
    rows = [box for box in picture.boxes if not box.crowd]
    boxes = np.array([[b.x0, b.y0, b.x1, b.y1] for b in rows], dtype=np.float32).reshape(-1, 4)
    return boxes, np.array([b.label for b in rows], dtype=np.int64)


Kind = Literal["boxes", "pixels", "class"]
"""What is known of a picture: objects in boxes, a class for every pixel, a class for all of it."""


def augmentation(
    kind: Kind, height: int, width: int, config: AugmentConfig, resize: str = "letterbox"
) -> albumentations.Compose:
    """Random changes of a picture with its boxes or mask, ending at (height, width).

    boxes and pixels: fitted in whole, then shifted, scaled and turned; class: a random crop.
    """
    jitter = albumentations.ColorJitter(
        brightness=(1 - config.hsv_v, 1 + config.hsv_v),
        contrast=(1 - config.hsv_v / 2, 1 + config.hsv_v / 2),
        saturation=(1 - config.hsv_s, 1 + config.hsv_s),
        hue=(-config.hsv_h, config.hsv_h),
        p=0.8,
    )
    smallest = (1 - config.scale) ** 2
    if kind == "class":
        fit: list[Any] = [
            albumentations.RandomResizedCrop(
                (height, width), scale=(max(0.08, smallest), 1.0), ratio=(0.75, 4 / 3)
            )
        ]
        move = [albumentations.Rotate(limit=config.degrees, p=1.0)] if config.degrees else []
    else:
        fit = fitted(height, width, resize)
        move = [
            albumentations.Affine(
                scale=(1 - config.scale, 1 + config.scale),
                translate_percent=(-config.translate, config.translate),
                rotate=(-config.degrees, config.degrees),
                fill=GREY,
                fill_mask=IGNORED,
                balanced_scale=True,
                keep_ratio=True,
                p=1.0,
            )
        ]
    flips = [albumentations.HorizontalFlip(p=config.fliplr)]
    flips += [albumentations.VerticalFlip(p=config.flipud)]
    steps = [*fit, *move, *flips, jitter] if config.augment else fitted(height, width, resize)
    return _compose(steps, kind)


def fitted(height: int, width: int, resize: str) -> list[Any]:
    """Steps that bring a whole picture to (height, width)."""
    if resize == "stretch":
        return [albumentations.Resize(height, width)]
    return [
        albumentations.LongestMaxSize(max_size_hw=(height, width)),
        albumentations.PadIfNeeded(height, width, fill=GREY, fill_mask=IGNORED),
    ]


def _compose(steps: list[Any], kind: Kind) -> albumentations.Compose:
    boxes = None
    if kind == "boxes":
        boxes = albumentations.BboxParams(
            format="pascal_voc",
            label_fields=["labels"],
            min_visibility=MIN_VISIBLE,
            min_width=1,
            min_height=1,
            clip=True,
            filter_invalid_bboxes=True,
        )
    return albumentations.Compose(steps, bbox_params=boxes)


class PictureSamples(Dataset[Sample]):
    """Pictures augmented: item (epoch, number) is always the same."""

    def __init__(
        self,
        pictures: Sequence[Picture],
        kind: Kind,
        steps: albumentations.Compose,
        seed: int,
        read_mask: ReadMask | None = None,
    ) -> None:
        self.pictures, self.kind, self.steps, self.seed = list(pictures), kind, steps, seed
        self.read_mask = read_mask

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, number = key
        picture = self.pictures[number]
        seed = (self.seed * SEED_STRIDE + epoch) * SEED_STRIDE + number
        # one source for all steps: set_random_seed gives each its own with the same numbers
        self.steps.set_random_state(np.random.default_rng(seed), random.Random(seed))
        image = read_rgb(picture.path)
        boxes, labels = boxes_of(picture)
        if self.kind == "boxes":
            out = self.steps(image=image, bboxes=boxes, labels=labels)
            rows = np.asarray(out["bboxes"], dtype=np.float32).reshape(-1, 4)
            kept = np.asarray(out["labels"], dtype=np.int64).reshape(-1)
            return Sample(out["image"], rows, kept, name=picture.name)
        if self.read_mask is not None:
            out = self.steps(image=image, mask=self.read_mask(picture))
            return Sample(out["image"], boxes[:0], labels[:0], mask=out["mask"], name=picture.name)
        image = self.steps(image=image)["image"]
        return Sample(image, boxes[:0], labels[:0], picture.label, name=picture.name)


class Batches:
    """Micro-batches of each epoch in a random order that depends on seed and epoch alone."""

    def __init__(self, samples: PictureSamples, batch: int, workers: int) -> None:
        self.samples, self.batch = samples, batch
        self._order: list[list[tuple[int, int]]] = []
        self._loader = DataLoader(
            samples,
            batch_sampler=self._order,
            num_workers=workers,
            collate_fn=list,
            persistent_workers=False,
            prefetch_factor=2 if workers else None,
        )

    def __len__(self) -> int:
        """Batches of an epoch: a last one of a single picture is left out where there are others,
        as batch norm cannot take it."""
        n = len(self.samples)
        whole, rest = divmod(n, self.batch)
        return max(1, whole + (rest > 1 or (rest == 1 and self.batch == 1)))

    def epoch(self, epoch: int) -> Iterator[list[Sample]]:
        names = [f"{epoch}:{picture.name}" for picture in self.samples.pictures]
        order = sorted(range(len(names)), key=lambda i: hash_rank(self.samples.seed, names[i]))
        keys = [(epoch, number) for number in order]
        self._order[:] = [keys[i * self.batch : (i + 1) * self.batch] for i in range(len(self))]
        yield from self._loader


def inverse_frequency(labels: Sequence[int], n: int, power: float) -> np.ndarray | None:
    """Weight of each of n classes, their mean 1: the inverse of its frequency to `power`; None for
    a power of 0. A class without labels has the mean of the others."""
    if power == 0:
        return None
    counts = np.bincount(np.array(labels, dtype=int), minlength=n).astype(float)
    weights = np.maximum(counts, 1.0) ** -power
    weights[counts == 0] = weights[counts > 0].mean() if counts.any() else 1.0
    return np.asarray(weights / weights.mean(), dtype=np.float32)


def random_size(height: int, width: int) -> list[int]:
    """A size of MULTI_SCALE, in steps of 32 px; drawn from torch's seeded state."""
    share = MULTI_SCALE[int(torch.randint(len(MULTI_SCALE), ()))]
    return [max(32, round(side * share / 32) * 32) for side in (height, width)]


def to_tensor(samples: Sequence[Sample], device: torch.device) -> Tensor:
    """images_BCHW, RGB in 0..1."""
    stack = np.stack([sample.image for sample in samples])
    images = torch.from_numpy(stack).to(device, non_blocking=True)
    return images.permute(0, 3, 1, 2).float() / 255


def worker_count(workers: int, device: torch.device, cpus: int) -> int:
    """-1: none on a CPU, which the network needs itself; else up to 8."""
    if workers >= 0:
        return workers
    return 0 if device.type == "cpu" else min(MAX_WORKERS, cpus)
