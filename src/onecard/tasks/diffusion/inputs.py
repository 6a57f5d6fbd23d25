"""What a step sees of pictures and captions: read from the caches, or encoded anew."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onecard.reporting import Reporter
from onecard.tasks.diffusion import cache, conditioning
from onecard.tasks.diffusion.cache import LatentCache, TextCache
from onecard.tasks.diffusion.dataset import TrainingPicture

MEMORY_BYTES = 512 * 2**20
"""Of latents and embeddings that stay in the computer's memory: all of a usual training's."""


class Encoders:
    """The text encoders and the VAE of a pipeline, with or without caches."""

    def __init__(
        self,
        pipe: Any,
        family: str,
        device: torch.device,
        folder: Path,
        *,
        caches: bool,
        trains_text: bool,
        flip: bool,
        reporter: Reporter,
    ) -> None:
        """`folder`: of the caches."""
        self.pipe, self.family, self.device, self.flip = pipe, family, device, flip
        self.reporter = reporter
        self._latents = LatentCache(
            folder / "latents", pipe.vae, cache.module_fingerprint(pipe.vae)
        )
        self._texts: TextCache | None = None
        if not trains_text:
            encoders = conditioning.text_encoders(pipe).values()
            print_of = cache.module_fingerprint(*encoders)
            self._texts = TextCache(folder / "texts", f"{family} {print_of}")
        self._vae_dtype = pipe.vae.dtype
        self._caches = caches
        self._memory = _Memory(MEMORY_BYTES)

    def prepare(
        self, pictures: Sequence[TrainingPicture], prompts: Sequence[str]
    ) -> tuple[TrainingPicture, ...]:
        """Encode what is missing of pictures, their captions and other prompts; the pictures that
        can be used. Raises DataError where the disk is full or no picture is left."""
        if self._texts:
            texts = [*prompts, *(picture.caption for picture in pictures)]
            self._texts.prepare(texts, self._encode_one, self.reporter)
        if not self._caches:
            return tuple(pictures)
        return self._latents.prepare(pictures, self.reporter, self.flip)

    def release(self) -> None:
        """Move what is not needed any more off the card, the VAE in the type that it had: encoding
        in fp16 may have widened it."""
        self.pipe.vae.to(dtype=self._vae_dtype)
        if self.device.type == "cpu":
            return
        for net in self._waiting():
            net.to("cpu")
        torch.cuda.empty_cache()

    def restore(self) -> None:
        """Move back what `release` moved, for pictures made by the whole pipeline."""
        self.pipe.vae.to(dtype=self._vae_dtype)
        for net in self._waiting():
            net.to(self.device)

    def _waiting(self) -> list[Any]:
        """Networks that a step does not need; one in 4 or 8 bits stays where it was loaded."""
        nets = [*conditioning.text_encoders(self.pipe).values()] if self._texts else []
        nets += [self.pipe.vae] if self._caches else []
        return [net for net in nets if getattr(net, "hf_quantizer", None) is None]

    def latents(self, example: TrainingPicture, generator: torch.Generator) -> Tensor:
        """[1, C, h, w]; mirrored by a draw where that was asked for. A picture that cannot be read
        any more, without a cache, is a DataError."""
        mirrored = self.flip and bool(torch.randint(0, 2, (1,), generator=generator))
        if self._caches:
            key = (example.name, example.sha256, mirrored)
            mean, std = self._memory.get(key, partial(self._latents.moments, example, mirrored))
        else:
            values = self._latents.encode(example, mirrored)
            mean, std = values["mean"], values.get("std")
        drawn = mean
        if std is not None:
            drawn = mean + std * torch.randn(mean.shape, generator=generator)
        return self._latents.scaled(drawn)[None]

    def embeds(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Of a batch; with gradients where the text encoders learn."""
        texts = self._texts
        if texts is None:
            return conditioning.encode(self.pipe, self.family, captions, self.device)
        rows = [self._memory.get(text, partial(texts.embeddings, text)) for text in captions]
        return conditioning.stack(rows, self.device)

    @torch.no_grad()
    def _encode_one(self, prompt: str) -> dict[str, Tensor]:
        return conditioning.encode(self.pipe, self.family, [prompt], self.device)


class _Memory:
    """Tensors that were read, up to so many bytes."""

    def __init__(self, limit: int) -> None:
        self._rows: dict[Any, Any] = {}
        self._left = limit

    def get(self, key: Any, read: Callable[[], Any]) -> Any:
        if key in self._rows:
            return self._rows[key]
        row = read()
        values = row.values() if isinstance(row, Mapping) else row
        n_bytes = sum(value.numel() * value.element_size() for value in values if value is not None)
        if n_bytes <= self._left:
            self._left -= n_bytes
            self._rows[key] = row
        return row
