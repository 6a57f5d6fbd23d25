"""Latents of pictures and embeddings of captions on the disk, so that the encoders run once.

A file's name is a hash of all that its content depends on. What cannot be read is made again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from onecard import fsio
from onecard.errors import DataError, OneCardError
from onecard.reporting import Reporter
from onecard.tasks.diffusion import dataset
from onecard.tasks.diffusion.dataset import TrainingPicture
from onecard.training import output_dir
from onecard.units import size

BLOCK = 4096
"""Bytes of a disk's block: a file takes whole ones."""
FORM = "2"
"""Of the files; one of another form is made again."""


def module_fingerprint(*modules: nn.Module) -> str:
    """sha256 over the configurations and weights of networks, in hex."""
    total = hashlib.sha256()
    for module in modules:
        config: Any = getattr(module, "config", None) or {}
        values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
        plain = {
            key: value
            for key, value in values.items()
            if key[:1] != "_" and key != "transformers_version"
        }
        total.update(json.dumps(plain, sort_keys=True, default=str).encode())
        for name, value in sorted(module.state_dict().items()):
            if isinstance(value, Tensor):
                total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                total.update(raw.numpy().tobytes())
    return total.hexdigest()


class TensorFolder:
    """Named tensors in a file for each key, written whole."""

    def __init__(self, folder: Path, what: str) -> None:
        self.folder, self.what = folder, what

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def read(self, key: str) -> dict[str, Tensor] | None:
        """None for a file that is not there, truncated, or of something else."""
        path = self.path(key)
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != key or metadata.get("form") != FORM:
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            return None

    def write(self, key: str, tensors: Mapping[str, Tensor]) -> int:
        """Bytes that the file takes. Raises DataError where the disk is full."""
        path = self.path(key)
        try:
            with fsio.atomic_write(path) as draft:
                plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
                save_file(plain, draft, metadata={"key": key, "form": FORM})
        except (SafetensorError, DataError) as fault:
            why = fault.why if isinstance(fault, DataError) else str(fault)[:200]
            raise self.full(why) from None
        return -(-path.stat().st_size // BLOCK) * BLOCK

    def full(self, why: str) -> DataError:
        return DataError(
            f"{self.folder} takes no more {self.what}",
            why=f"{why}; what was written is whole and is used again",
            fix="free some disk space, --output_dir elsewhere, or --no_cache_latents",
        )

    def require(self, n_files: int, n_bytes: int, n_written: int) -> None:
        """Raises DataError, with what would fit, where there is no room for `n_bytes` more."""
        if n_files <= 0:
            return
        free_files = f"{n_written} of {n_written + n_files} are written, {size(n_bytes)} more are"
        output_dir.require_space(
            self.folder,
            n_bytes,
            f"the {self.what}",
            f"{free_files} needed: free that much, --output_dir elsewhere, --no_cache_latents, or "
            "fewer or smaller pictures",
        )


class LatentCache:
    """Latents of pictures: mean and standard deviation of an AutoencoderKL, the latents alone of an
    AutoencoderTiny. Stored as the encoder gives them, scaled when they are read."""

    def __init__(self, folder: Path, vae: Any, vae_fingerprint: str) -> None:
        """`vae_fingerprint`: `module_fingerprint(vae)`."""
        self._files = TensorFolder(folder, "latents")
        self._vae: Any = vae
        self._upcast = bool(_setting(vae, "force_upcast")) and vae.dtype == torch.float16
        number_type = torch.float32 if self._upcast else vae.dtype
        self._base = f"{vae_fingerprint} {number_type}"
        self._shift = float(_setting(vae, "shift_factor") or 0.0)
        scale = _setting(vae, "scaling_factor")
        self._scale = 1.0 if scale is None else float(scale)
        self._mean, self._std = _setting(vae, "latents_mean"), _setting(vae, "latents_std")

    def release(self) -> None:
        """Forget the encoder: what was prepared can still be read."""
        self._vae = None

    def key(self, picture: TrainingPicture, flip: bool = False) -> str:
        parts = [picture.sha256, list(picture.bucket), flip, self._base]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def prepare(
        self, pictures: Sequence[TrainingPicture], reporter: Reporter, flips: bool = False
    ) -> tuple[TrainingPicture, ...]:
        """Encode what is missing, mirrored too with `flips`; the pictures that can be used.

        One that was removed or changed meanwhile is told and left out. Raises DataError where the
        disk has no room for all of them, or no picture is left.
        """
        sides = (False, True) if flips else (False,)
        left = [(p, flip) for p in pictures for flip in sides if not self._is_whole(p, flip)]
        reasons: dict[str, str] = {}
        written = 0
        with reporter.progress("latents", len(left)) as progress:
            for i, (picture, flip) in enumerate(left):
                progress.step()
                if picture.name in reasons:
                    continue
                try:
                    tensors = self.encode(picture, flip)
                except OneCardError as fault:
                    reasons[picture.name] = fault.why
                    continue
                n_bytes = self._files.write(self.key(picture, flip), tensors)
                written += 1
                if written == 1:
                    per_pixel = n_bytes / (picture.bucket[0] * picture.bucket[1])
                    rest = [p.bucket[0] * p.bucket[1] * per_pixel for p, _ in left[i + 1 :]]
                    self._files.require(len(rest), int(sum(rest)), written)
        for name, why in reasons.items():
            reporter.warn(f"{name} is left out: {why}")
        usable = tuple(picture for picture in pictures if picture.name not in reasons)
        if pictures and not usable:
            raise DataError(
                "no picture is left to learn from",
                why="; ".join(f"{name}: {why}" for name, why in list(reasons.items())[:3]),
                fix="put the pictures back or correct what is said of them, and start again",
            )
        return usable

    def _is_whole(self, picture: TrainingPicture, flip: bool) -> bool:
        tensors = self._files.read(self.key(picture, flip))
        return tensors is not None and "mean" in tensors

    def moments(self, picture: TrainingPicture, flip: bool = False) -> tuple[Tensor, Tensor | None]:
        """(mean, standard deviation or None), [C, h, w] each, float32, not scaled.

        A file that was lost since `prepare` is made again while the encoder is there. Raises
        DataError, NotFound.
        """
        tensors = self._files.read(self.key(picture, flip))
        if tensors is None or "mean" not in tensors:
            if self._vae is None:
                raise DataError(
                    f"the latents of {picture.name} are gone",
                    why=f"{self._files.path(self.key(picture, flip))} was removed or damaged",
                    fix="start again with --resume: they are made again",
                )
            tensors = self.encode(picture, flip)
            self._files.write(self.key(picture, flip), tensors)
        return tensors["mean"], tensors.get("std")

    def latents(
        self,
        picture: TrainingPicture,
        flip: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """[C, h, w], float32, scaled as the denoiser takes them: a sample drawn with `generator`,
        or the mean without one."""
        mean, std = self.moments(picture, flip)
        drawn = mean
        if std is not None and generator is not None:
            drawn = mean + std * torch.randn(mean.shape, generator=generator)
        return self.scaled(drawn)

    def scaled(self, latents_CHW: Tensor) -> Tensor:
        """As the pipelines of diffusers scale: by shift_factor and scaling_factor, or by the mean
        and deviation of each channel where the encoder names them."""
        if self._mean is not None and self._std is not None:
            mean = torch.tensor(self._mean).reshape(-1, 1, 1)
            std = torch.tensor(self._std).reshape(-1, 1, 1)
            return (latents_CHW - mean) * self._scale / std
        return (latents_CHW - self._shift) * self._scale

    @torch.no_grad()
    def encode(self, picture: TrainingPicture, flip: bool = False) -> dict[str, Tensor]:
        """`mean`, and `std` of an AutoencoderKL, [C, h, w] each. Raises DataError, NotFound."""
        vae = self._vae
        if self._upcast:  # its activations exceed 65504 in fp16
            vae.to(torch.float32)
        values = dataset.pixels(picture, flip)[None]
        device = next(vae.parameters()).device
        output = vae.encode(values.to(device, torch.float32 if self._upcast else vae.dtype))
        if hasattr(output, "latent_dist"):
            tensors = {"mean": output.latent_dist.mean, "std": output.latent_dist.std}
        else:
            tensors = {"mean": output.latents}
        tensors = {name: value[0].float().cpu() for name, value in tensors.items()}
        if not all(bool(value.isfinite().all()) for value in tensors.values()):
            raise DataError(
                f"{picture.name} cannot be encoded",
                why="its latents are not finite numbers in this precision",
                fix="--quant fp32",
            )
        return tensors


def _setting(vae: Any, name: str) -> Any:
    return getattr(vae.config, name, None)


class TextCache:
    """Embeddings of captions: what `encode` gives for a prompt, named tensors."""

    def __init__(self, folder: Path, encoder_fingerprint: str) -> None:
        """`encoder_fingerprint`: `module_fingerprint` of all text encoders, with whatever else the
        embeddings depend on (tokens, a layer that is left out)."""
        self._files = TensorFolder(folder, "embeddings of captions")
        self._base = encoder_fingerprint

    def key(self, prompt: str) -> str:
        parts = ["text", prompt, self._base]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def prepare(
        self,
        prompts: Sequence[str],
        encode: Callable[[str], Mapping[str, Tensor]],
        reporter: Reporter,
    ) -> None:
        """Encode what is missing. Raises DataError where the disk has no room."""
        left = [p for p in dict.fromkeys(prompts) if self._files.read(self.key(p)) is None]
        with reporter.progress("captions encoded", len(left)) as progress:
            for i, prompt in enumerate(left):
                n_bytes = self._files.write(self.key(prompt), encode(prompt))
                progress.step()
                if i == 0:
                    self._files.require(len(left) - 1, n_bytes * (len(left) - 1), 1)

    def embeddings(self, prompt: str) -> dict[str, Tensor]:
        """Raises DataError for a prompt that was not prepared, or whose file is gone."""
        tensors = self._files.read(self.key(prompt))
        if tensors is None:
            raise DataError(
                f"the embedding of {prompt[:60]!r} is gone",
                why=f"{self._files.path(self.key(prompt))} is not there, or damaged",
                fix="start again with --resume: it is made again",
            )
        return tensors
