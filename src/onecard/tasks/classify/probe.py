"""The head of a pretrained classifier, fitted to its features before anything else is trained: from
a random head the first steps bend the features that are worth keeping (Kumar et al. 2022,
"Fine-tuning can distort pretrained features")."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onecard.datasets.images.decode import read_rgb
from onecard.datasets.images.records import Picture
from onecard.datasets.splits import hash_rank
from onecard.inference.picture_io import prepare
from onecard.inference.picture_model import ModelCard
from onecard.reporting import Reporter
from onecard.tasks.classify.model import Classifier

MOST_PICTURES = 5_000
"""More do not change a linear head by much, and each is read once before the training."""
BATCH = 16
STEPS = 100
"""Of L-BFGS: a convex problem of a few thousand weights is at its end long before."""


def fit_head(
    net: Classifier,
    card: ModelCard,
    pictures: Sequence[Picture],
    device: torch.device,
    reporter: Reporter,
) -> bool:
    """Set the last layer by logistic regression on the features of the pictures; False for a
    network whose last layer is no linear one."""
    body: Any = net.net
    head = body.get_classifier() if hasattr(body, "get_classifier") else None
    if not isinstance(head, nn.Linear):
        return False
    chosen = sorted(pictures, key=lambda picture: hash_rank(0, picture.name))[:MOST_PICTURES]
    net.to(device).eval()
    rows: list[Tensor] = []
    with torch.no_grad(), reporter.progress("features", len(chosen)) as bar:
        for start in range(0, len(chosen), BATCH):
            part = chosen[start : start + BATCH]
            images = np.stack([prepare(read_rgb(picture.path), card)[0] for picture in part])
            rows.append(features(net, torch.from_numpy(images).to(device)))
            bar.step(len(part))
    x = torch.cat(rows).float()
    if x.shape[1] != head.in_features:
        return False
    labels = torch.tensor([picture.label for picture in chosen], device=device)
    weight, bias = logistic(x, labels, head.out_features)
    with torch.no_grad():
        head.weight.copy_(weight)
        if head.bias is not None:
            head.bias.copy_(bias)
    return True


def features(net: Classifier, images: Tensor) -> Tensor:
    """What the last layer reads, features_BD."""
    body: Any = net.net
    inner = body.forward_features(net.normalize(images))
    out: Tensor = body.forward_head(inner, pre_logits=True)
    return out


def logistic(x_ND: Tensor, labels_N: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """(weight_CD, bias_C) of multinomial logistic regression with unit ridge on standardized
    features, as scikit-learn's default has it."""
    mean, std = x_ND.mean(0), x_ND.std(0).clamp_min(1e-6)
    x = (x_ND - mean) / std
    weight = torch.zeros(n_classes, x.shape[1], device=x.device, requires_grad=True)
    bias = torch.zeros(n_classes, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        fit = nn.functional.cross_entropy(x @ weight.T + bias, labels_N)
        loss = fit + 0.5 * weight.square().sum() / len(x)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    scaled = weight.detach() / std
    return scaled, bias.detach() - scaled @ mean
