"""Config and inputs of transformers' vision-language classes, made of a model's counts: what its
processor would hand on of pictures and words. Knows no formula.

Heavy: imports torch and transformers.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers

from onecard.errors import DataError
from onecard.memory.architectures.vlm import VLM, Pictures


def config_of(m: VLM) -> Any:
    """The config of the model's own class: as its folder has it, or made of its counts.

    Raises DataError for a class that is not traced.
    """
    values = dict(m.config) or values_of(m)
    values.pop("model_type", None)
    try:
        return transformers.CONFIG_MAPPING[m.family](**values)
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise no_class(m, str(fault)) from None


def no_class(m: VLM, why: str) -> DataError:
    return DataError(
        f"{m.name} cannot be traced",
        why=f"{why.splitlines()[0][:200] if why else 'no class of transformers is known for it'}"
        f"; traced are: {', '.join(sorted(INPUTS))}",
        fix="plan it without --trace",
    )


MROPE = {"qwen2_vl": [16, 24, 24], "qwen2_5_vl": [16, 24, 24], "qwen3_vl": [24, 20, 20]}
"""Rotary angles of time, height and width, of 64."""


def values_of(m: VLM) -> dict[str, Any]:
    """Of a model of the table: its tower's counts, and its language model's config."""
    tower = m.tower
    text = {k: v for k, v in m.words.config.items() if v is not None} | {"vocab_size": m.words.V}
    # Idefics 3 and SmolVLM have a head of their own on language models that have none
    tied = {"tie_word_embeddings": m.words.tied and not m.upscaled}
    vision: dict[str, Any] = {"patch_size": tower.patch, "hidden_size": tower.D}
    if m.family in MROPE:
        text.pop("model_type")
        sections = [round(part * m.words.K / 128) for part in MROPE[m.family]]
        text["rope_parameters"] = {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": sections,
        }
        vision |= {"depth": tower.L, "num_heads": tower.H, "intermediate_size": tower.F}
        vision |= {"out_hidden_size": m.words.D}
        if m.family == "qwen2_vl":
            vision |= {
                "embed_dim": tower.D,
                "hidden_size": m.words.D,
                "mlp_ratio": round(tower.F / tower.D),
            }
        if m.deep:
            vision["deepstack_visual_indexes"] = list(range(m.deep))
        return {"text_config": text, "vision_config": vision, **tied}
    if m.family == "gemma3":
        text.pop("model_type")
    vision |= {
        "num_hidden_layers": tower.L,
        "num_attention_heads": tower.H,
        "intermediate_size": tower.F,
        "image_size": m.tile,
    }
    more: dict[str, Any] = dict(tied)
    if m.family in ("llava", "gemma3", "paligemma"):
        vision["model_type"] = "clip_vision_model" if m.family == "llava" else "siglip_vision_model"
        vision["vision_use_head"] = False
    if m.family in ("idefics3", "smolvlm"):
        more["scale_factor"] = round(m.tile / tower.patch / m.tokens**0.5)
    if m.family == "gemma3":
        more["mm_tokens_per_image"] = m.tokens
    return {"text_config": text, "vision_config": vision, **more}


Inputs = dict[str, Any]


def _ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.long).float()


def _grids(m: VLM, B: int, sight: Pictures) -> Inputs:
    side = m.merge
    grid = [[1, side * rows, side * columns] for columns, rows in sight.grids] * B
    pixels = _ones(B * sight.patches, 3 * 2 * m.tower.patch**2)
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor(grid)}


def _tiles(m: VLM, B: int, sight: Pictures) -> Inputs:
    return {"pixel_values": _ones(B * sight.tiles, 3, m.tile, m.tile)}


def _tiles_in_rows(m: VLM, B: int, sight: Pictures) -> Inputs:
    return {"pixel_values": _ones(B, sight.tiles, 3, m.tile, m.tile)}


INPUTS: Mapping[str, Callable[[VLM, int, Pictures], Inputs]] = {
    "llava": _tiles,
    "gemma3": _tiles,
    "paligemma": _tiles,
    "idefics3": _tiles_in_rows,
    "smolvlm": _tiles_in_rows,
    "qwen2_vl": _grids,
    "qwen2_5_vl": _grids,
    "qwen3_vl": _grids,
}
"""model_type -> how its processor hands on pictures."""


def inputs_of(net: Any, m: VLM, B: int, sight: Pictures, text: int) -> Inputs:
    """Pictures first, in the width of the weights, then words."""
    config = net.config
    mark = int(getattr(config, "image_token_id", 0) or getattr(config, "image_token_index", 0))
    marks_B = torch.full((B, sight.tokens), mark, dtype=torch.long)
    other = 1 if mark != 1 else 2
    ids_BT = torch.cat([marks_B, torch.full((B, text), other, dtype=torch.long)], 1)
    inputs = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)}
    inputs["attention_mask"][1:, -1] = 0  # rows of a batch have different lengths
    if m.rotated:
        inputs["mm_token_type_ids"] = torch.eq(ids_BT, mark).int()
    elif m.family in ("gemma3", "paligemma"):
        inputs["token_type_ids"] = torch.eq(ids_BT, mark).long()
    if sight.tokens:
        inputs |= INPUTS[m.family](m, B, sight)
        inputs["pixel_values"] = inputs["pixel_values"].to(net.dtype)
    return inputs
