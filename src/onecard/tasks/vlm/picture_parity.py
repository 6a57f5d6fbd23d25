"""Is an exported file the same model, in the picture's own numbers: its embedding, and what the
first token of an answer is likely to be."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch

from onecard.export import mmproj
from onecard.tasks.vlm import model, parts, prompts
from onecard.tasks.vlm.engine import picture
from onecard.tasks.vlm.engine_http import HttpEngine
from onecard.tasks.vlm.items import VlmItem
from onecard.tasks.vlm.model import Vlm
from onecard.tasks.vlm.scoring import question_of

TOP = 20
"""Likeliest tokens that llama.cpp tells."""
LIKELY = 4.0
"""Nats below the likeliest token within which a token counts: far below, rounding decides."""


def feature_errors(vlm: Vlm, vision: Path, items: Sequence[VlmItem]) -> list[float]:
    """Relative distance of each item's picture embedding by the mmproj file's tensors from that of
    the model: |a - b| / |b|."""
    tower, projector = mmproj.read_back(vision)
    twin = Vlm(vlm.name, copy.deepcopy(vlm.net), vlm.processor, vlm.device, vlm.place)
    for name, tensors in (
        (parts.tower(twin.net), tower),
        (parts.projector(twin.net)[0], projector),
    ):
        module = twin.net.get_submodule(name)
        own = {key.removeprefix("vision_model."): key for key in module.state_dict()}
        state = {own[key]: torch.from_numpy(value) for key, value in tensors.items() if key in own}
        missing = set(tensors) - set(own)
        assert not missing, f"{sorted(missing)[:3]} are no tensors of {name}"
        module.load_state_dict(state, strict=False)
    errors = []
    for item in items:
        one, other = (_features(each, item) for each in (vlm, twin))
        errors.append(float((one - other).norm() / one.norm().clamp(min=1e-12)))
    return errors


def _features(vlm: Vlm, item: VlmItem) -> torch.Tensor:
    """[tokens, width] of an item's pictures."""
    inputs = vlm.inputs([vlm.marker * len(item.images)], [[picture(p) for p in item.images]])
    inputs = vlm.on_device(inputs)
    wanted = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
    with model.evaluating(vlm.net):
        output = vlm.base.get_image_features(**wanted)
    values = getattr(output, "pooler_output", output)
    return torch.cat([each.float().reshape(-1, each.shape[-1]) for each in values])


def of_transformers(vlm: Vlm, items: Sequence[VlmItem]) -> list[torch.Tensor]:
    """[vocabulary]: log-probabilities of the first token of each item's answer."""
    rows = []
    for item in items:
        text = prompts.render(vlm.processor, item.prompt, generation=True)
        inputs = vlm.inputs([text], [[picture(path) for path in item.images]])
        with model.evaluating(vlm.net):
            logits = vlm.net(**vlm.on_device(inputs), logits_to_keep=1).logits[0, -1]
        rows.append(torch.log_softmax(logits.float(), -1).cpu())
    return rows


def distances(
    engine: HttpEngine, items: Sequence[VlmItem], expected: Sequence[torch.Tensor]
) -> list[float]:
    """For each item the largest difference of the log-probabilities of likely first tokens; empty
    for a server that does not tell them."""
    values = []
    for item, own in zip(items, expected, strict=True):
        theirs = engine.first_token(question_of(item), TOP)
        least = max(theirs.values(), default=0.0) - LIKELY
        likely = {token: value for token, value in theirs.items() if value >= least}
        if likely:
            values.append(max(abs(float(own[token]) - value) for token, value in likely.items()))
    return values
