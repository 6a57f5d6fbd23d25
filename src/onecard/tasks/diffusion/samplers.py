"""Samplers by the names of the settings, as schedulers of diffusers."""

from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)

from onecard.errors import SettingsError

KINDS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "euler-a": EulerAncestralDiscreteScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "lcm": LCMScheduler,
}


def choose(pipe: Any, name: str) -> None:
    """Give the pipeline another sampler; auto keeps the one of its folder. Raises SettingsError for
    a model that flows straight from noise to picture, whose samplers are others."""
    if name == "auto":
        return
    now = type(pipe.scheduler).__name__
    if now.startswith("FlowMatch"):
        raise SettingsError(
            f"--scheduler {name} does not fit this model",
            why=f"it was trained for flow matching, whose sampler is {now}",
            fix="leave out --scheduler",
        )
    values = dict(pipe.scheduler.config)
    pipe.scheduler = KINDS[name].from_config(values)
