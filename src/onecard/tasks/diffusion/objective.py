"""What a denoiser learns: noise levels, the target, and the weight of each level."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """The noise schedule of a base with the weights of a training."""

    scheduler: Any
    snr_gamma: float = 0.0
    noise_offset: float = 0.0

    @classmethod
    def of(
        cls, scheduler: Any, prediction_type: str, snr_gamma: float, noise_offset: float
    ) -> "Objective":
        """`scheduler`: the base's sampler, whose settings name the schedule it was trained with;
        `prediction_type` "auto" takes its own."""
        own = {} if prediction_type == "auto" else {"prediction_type": prediction_type}
        kind: Any = DDPMScheduler
        return cls(kind.from_config(scheduler.config, **own), snr_gamma, noise_offset)

    @property
    def levels(self) -> int:
        return int(self.scheduler.config.num_train_timesteps)

    @property
    def prediction_type(self) -> str:
        return str(self.scheduler.config.prediction_type)

    def draw(self, latents_BCHW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(noise [B, C, H, W], timesteps [B]); drawn on the CPU, so that a seed gives the same on
        every device."""
        shape = latents_BCHW.shape
        noise = torch.randn(shape, generator=generator)
        if self.noise_offset:
            # https://www.crosslabs.org/blog/diffusion-with-offset-noise
            shift = torch.randn((shape[0], shape[1], 1, 1), generator=generator)
            noise = noise + self.noise_offset * shift
        steps = torch.randint(0, self.levels, (shape[0],), generator=generator)
        device = latents_BCHW.device
        return noise.to(device), steps.to(device)

    def add_noise(self, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        noisy: Tensor = self.scheduler.add_noise(latents, noise, steps)
        return noisy

    def target(self, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """What the denoiser is to give: the noise, or its velocity (Salimans & Ho 2022)."""
        if self.prediction_type == "v_prediction":
            velocity: Tensor = self.scheduler.get_velocity(latents, noise, steps)
            return velocity
        return noise

    def weights(self, steps: Tensor) -> Tensor:
        """[B]: min-SNR-gamma (Hang et al. 2023, equation 8), with 1 more below the line for a
        velocity; ones without gamma."""
        if not self.snr_gamma:
            return torch.ones(len(steps), device=steps.device)
        signal = self.scheduler.alphas_cumprod.to(steps.device)[steps].float()
        snr = signal / (1 - signal)
        below = snr + 1 if self.prediction_type == "v_prediction" else snr
        # a schedule with zero terminal SNR: such a level weighs as its limit
        return torch.where(below > 0, snr.clamp(max=self.snr_gamma) / below.clamp(min=1e-12), 1.0)

    def loss(self, output: Tensor, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Mean over the batch of the weighted squared error."""
        return self.distance(output, self.target(latents, noise, steps), steps)

    def distance(self, output: Tensor, target: Tensor, steps: Tensor) -> Tensor:
        """The same to any target."""
        error = (output.float() - target.float()).square()
        return (self.weights(steps) * error.mean(dim=(1, 2, 3))).mean()
