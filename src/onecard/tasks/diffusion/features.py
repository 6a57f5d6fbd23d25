"""What pictures are compared by: DINOv2 or CLIP of transformers, else EfficientNet-Lite0, whose
weights come with a Python package. Features have length 1, so that a dot product is a cosine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from onecard.errors import DataError, NotFound, OneCardError
from onecard.hub import checkpoints, network
from onecard.reporting import Reporter
from onecard.training import backbones

SIDE = 224
"""Of EfficientNet-Lite0's input (px)."""
OFFLINE = "efficientnet-lite0"
HUB = {"dinov2": "facebook/dinov2-small", "clip": "openai/clip-vit-base-patch32"}
"""Short names; DINO features are those of DreamBooth's DINO score (Ruiz et al. 2023)."""
BATCH = 16

Features = NDArray[np.float32]
"""N x D, each row of length 1."""


@dataclass(frozen=True)
class Extractor:
    """Pictures, and with CLIP texts, to features."""

    name: str
    """Stands beside every figure that was measured with it."""
    _pictures: Callable[[Sequence[Image.Image]], Tensor]
    _texts: Callable[[Sequence[str]], Tensor] | None = None

    @property
    def reads_text(self) -> bool:
        return self._texts is not None

    def pictures(self, images: Sequence[Image.Image]) -> Features:
        parts = [
            _unit(self._pictures([image.convert("RGB") for image in images[i : i + BATCH]]))
            for i in range(0, len(images), BATCH)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)

    def texts(self, prompts: Sequence[str]) -> Features:
        assert self._texts is not None
        return _unit(self._texts(prompts))


def _unit(values: Tensor) -> Features:
    return np.asarray(functional.normalize(values.float(), dim=-1).cpu().numpy(), np.float32)


def load(name: str, reporter: Reporter) -> Extractor:
    """By a name of HUB, OFFLINE, "auto", a folder, or a name of the hub.

    auto: DINOv2, then CLIP, where one lies here or the hub answers; else EfficientNet-Lite0.
    Raises NotFound, DataError.
    """
    if name == "auto":
        for short, repo in HUB.items():
            if network.hub_reachable() or _is_here(repo):
                try:
                    return _of_transformers(short, repo, reporter)
                except OneCardError as fault:
                    reporter.warn(f"{short} is not used: {fault.why}")
        return _efficientnet(reporter)
    if name == OFFLINE:
        return _efficientnet(reporter)
    return _of_transformers(name, HUB.get(name, name), reporter)


def _is_here(repo: str) -> bool:
    """Whether the hub's own cache has it."""
    from huggingface_hub import try_to_load_from_cache  # 0.3 s, and only `auto` asks

    return isinstance(try_to_load_from_cache(repo, "config.json"), str)


def _efficientnet(reporter: Reporter) -> Extractor:
    """1280 averages of its last maps. Raises NotFound without its package: random features would
    measure nothing."""
    if not backbones.has_weights(OFFLINE):
        raise _no_features(f"{OFFLINE} has no trained weights here")
    net = backbones.create(OFFLINE, pretrained=False, reporter=reporter, num_classes=0)
    state = backbones.timm_state(backbones.embedded_weights(reporter))
    body = {key: value for key, value in state.items() if not key.startswith("classifier")}
    net.load_state_dict(body)
    device = _device()
    net = net.eval().to(device)
    mean, std = (torch.tensor(row).reshape(1, 3, 1, 1) for row in backbones.normalization(net))

    @torch.no_grad()
    def pictures(images: Sequence[Image.Image]) -> Tensor:
        stack = np.stack([np.asarray(_square(image, SIDE)) for image in images])
        values = torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255
        features: Tensor = net(((values - mean) / std).to(device))
        return features

    return Extractor(OFFLINE, pictures)


def _square(image: Image.Image, side: int) -> Image.Image:
    """The whole picture, stretched: what lies at its edges counts too."""
    return image.resize((side, side), Image.Resampling.BICUBIC)


def _of_transformers(name: str, where: str, reporter: Reporter) -> Extractor:
    kinds = f"--features {OFFLINE}, dinov2, clip, or a folder of one of these kinds"
    try:
        folder = checkpoints.folder(where, reporter)
    except NotFound as fault:
        why = "no folder and no repository of the hub has that name" if name == where else fault.why
        raise NotFound(f"{name} is not on this machine", why=why, fix=kinds) from None
    checkpoints.quiet()
    try:
        kind = str(AutoConfig.from_pretrained(folder).model_type)
        model: Any = AutoModel.from_pretrained(folder).eval().to(_device())
        processor: Any = AutoImageProcessor.from_pretrained(folder)
        reads_text = hasattr(model, "get_text_features")
        tokenizer: Any = AutoTokenizer.from_pretrained(folder) if reads_text else None
    except (ValueError, KeyError, OSError, ImportError) as fault:
        raise DataError(
            f"{name} cannot compare pictures",
            why=str(fault).splitlines()[0][:200],
            fix=kinds,
        ) from None
    label = name if name in HUB else f"{kind} ({Path(name).name})"

    @torch.no_grad()
    def pictures(images: Sequence[Image.Image]) -> Tensor:
        inputs = processor(images=list(images), return_tensors="pt").to(model.device)
        if reads_text:
            return _pooled(model.get_image_features(**inputs))
        return _pooled(model(**inputs))

    @torch.no_grad()
    def texts(prompts: Sequence[str]) -> Tensor:
        inputs = tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt")
        return _pooled(model.get_text_features(**inputs.to(model.device)))

    return Extractor(label, pictures, texts if reads_text else None)


def _pooled(output: Any) -> Tensor:
    """One row a picture: what the model itself pools, else its first token."""
    if isinstance(output, Tensor):
        return output
    pooled = getattr(output, "pooler_output", None)
    rows: Tensor = output.last_hidden_state[:, 0] if pooled is None else pooled
    return rows.flatten(1)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _no_features(why: str) -> NotFound:
    return NotFound(
        "there is nothing to compare pictures by",
        why=why,
        fix="go online once, or --features with the folder of a DINOv2 or CLIP model",
    )
