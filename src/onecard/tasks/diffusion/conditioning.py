"""What a UNet of Stable Diffusion is told beside the noisy latents: text embeddings, and for SDXL
sizes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from onecard.errors import SettingsError

TRAINED_FAMILIES = ("sd", "sdxl")


def require_unet(family: str, name: str) -> None:
    """Raises SettingsError for a base that is no UNet."""
    if family not in TRAINED_FAMILIES:
        raise SettingsError(
            f"a LoRA of {name} cannot be trained here",
            why=f"it is a pipeline of the family {family}; training knows the UNets of Stable "
            "Diffusion 1.x, 2.x and SDXL",
            fix="--model sd-1.5 or sdxl; onecard plan diffusion-lora plans the others",
        )


def text_encoders(pipe: Any) -> dict[str, Any]:
    """Name in the pipeline -> network."""
    names = ("text_encoder", "text_encoder_2")
    return {name: getattr(pipe, name) for name in names if getattr(pipe, name, None) is not None}


def encode(pipe: Any, family: str, prompts: Sequence[str], device: Any) -> dict[str, Tensor]:
    """`prompt_embeds` [B, T, D], and for SDXL `pooled_prompt_embeds` [B, P]. Keeps gradients where
    they are on."""
    if family == "sdxl":
        embeds, _, pooled, _ = pipe.encode_prompt(
            list(prompts),
            device=device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
    embeds, _ = pipe.encode_prompt(
        list(prompts),
        device=device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
    )
    return {"prompt_embeds": embeds}


def stack(rows: Sequence[Mapping[str, Tensor]], device: Any) -> dict[str, Tensor]:
    """Embeddings of single prompts as those of a batch."""
    return {name: torch.cat([row[name] for row in rows]).to(device) for name in rows[0]}


def unet_arguments(
    family: str,
    embeds: Mapping[str, Tensor],
    sizes: Sequence[tuple[int, int]],
    bucket: tuple[int, int],
) -> dict[str, Any]:
    """Keyword arguments of the UNet. `sizes`: width and height of the pictures before they were
    resized (px); `bucket`: after it."""
    arguments: dict[str, Any] = {"encoder_hidden_states": embeds["prompt_embeds"]}
    if family == "sdxl":
        hidden = embeds["prompt_embeds"]
        width, height = bucket
        rows = [[tall, wide, 0, 0, height, width] for wide, tall in sizes]
        arguments["added_cond_kwargs"] = {
            "text_embeds": embeds["pooled_prompt_embeds"],
            "time_ids": torch.tensor(rows, dtype=hidden.dtype, device=hidden.device),
        }
    return arguments
