"""Sample grids of a training: the same prompts on the same seeds at every look."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from onecard.datasets.images import sheets
from onecard.tasks.diffusion.configs import TrainConfig

STEPS = 20
"""Of the sampler: a grid shows whether training goes well, not the best picture."""
UNTRIGGERED = "a house by a lake"
"""What a grid shows without the trigger where no class is named: it should stay as the base's."""


def prompts(config: TrainConfig, captions: Sequence[str]) -> list[str]:
    """Those of the settings; else the first caption, a caption of something else with the trigger,
    and one without it."""
    if named := [text for text in config.validation_prompts if text.strip()]:
        return named
    usual = [captions[0]] if captions else []
    if config.trigger:
        usual.append(f"{UNTRIGGERED}, {config.trigger}")
    usual.append(config.class_prompt or UNTRIGGERED)
    return list(dict.fromkeys(usual))


def generate(
    pipe: Any,
    embeds: Mapping[str, Tensor],
    negative: Mapping[str, Tensor],
    seed: int,
    size: tuple[int, int],
    device: torch.device,
    steps: int = STEPS,
) -> Image.Image:
    """One picture of a prompt's embeddings; width and height in px."""
    arguments = {name: value.to(device, pipe.unet.dtype) for name, value in embeds.items()}
    arguments |= {
        f"negative_{name}": value.to(device, pipe.unet.dtype) for name, value in negative.items()
    }
    width, height = size
    result = pipe(
        **arguments,
        width=width,
        height=height,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
        output_type="pil",
    )
    image: Image.Image = result.images[0]
    return image


@contextmanager
def decoder_on(pipe: Any, device: torch.device) -> Iterator[None]:
    """The VAE beside the denoiser while pictures are decoded, in the denoiser's type; it goes back
    to where it waited and to the type in which it encodes."""
    weight = next(pipe.vae.parameters())
    place, dtype = weight.device, weight.dtype
    pipe.vae.to(device, pipe.unet.dtype if pipe.unet.dtype.is_floating_point else dtype)
    try:
        yield
    finally:
        pipe.vae.to(place, dtype)
        if place != device:
            torch.cuda.empty_cache()


def write_grid(
    pictures: Callable[[str, int], Image.Image],
    texts: Sequence[str],
    n: int,
    seed: int,
    path: Path,
) -> None:
    """A PNG with a row for each prompt and a column for each seed. Raises DataError for a full
    disk."""
    tiles: list[sheets.Tile] = []
    for text in texts:
        for i in range(n):
            tiles.append((np.asarray(pictures(text, seed + i)), None, text if i == 0 else ""))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheets.draw_tiles(tiles, (), path, columns=n)
