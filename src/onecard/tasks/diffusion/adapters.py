"""LoRA adapters on a pipeline that is being trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from onecard.tasks.diffusion import conditioning
from onecard.tasks.diffusion.configs import TrainConfig

NAME = "onecard"
"""Of the adapter inside peft."""
UNET_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")


def attach(pipe: Any, config: TrainConfig) -> dict[str, nn.Module]:
    """Add adapters with seeded random weights; all else is frozen. Prefix of the names in a LoRA
    file -> network with adapters."""
    for part in (pipe.unet, pipe.vae, *conditioning.text_encoders(pipe).values()):
        part.requires_grad_(False)
    torch.manual_seed(config.seed)
    nets: dict[str, nn.Module] = {"unet": pipe.unet}
    pipe.unet.add_adapter(_lora(config, UNET_TARGETS), adapter_name=NAME)
    if config.train_text_encoder:
        for name, net in conditioning.text_encoders(pipe).items():
            net.add_adapter(_lora(config, TEXT_TARGETS), adapter_name=NAME)
            nets[name] = net
    for net in nets.values():
        for weight in net.parameters():
            if weight.requires_grad:
                # a 16-bit adapter rounds small steps away
                weight.data = weight.data.float()
    return nets


def _lora(config: TrainConfig, targets: tuple[str, ...]) -> LoraConfig:
    return LoraConfig(
        r=config.rank,
        lora_alpha=alpha(config),
        lora_dropout=config.lora_dropout,
        init_lora_weights="gaussian",
        target_modules=list(targets),
    )


def alpha(config: TrainConfig) -> float:
    return config.lora_alpha or float(config.rank)


def trained(nets: dict[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Name with its network's prefix -> weight."""
    return {
        f"{prefix}.{name}": weight
        for prefix, net in nets.items()
        for name, weight in net.named_parameters()
        if weight.requires_grad
    }


def state(nets: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Weights under the names of a LoRA file in diffusers' form: unet....lora_A.weight."""
    return {
        f"{prefix}.{name}": value.detach().float().cpu().contiguous()
        for prefix, net in nets.items()
        for name, value in get_peft_model_state_dict(net, adapter_name=NAME).items()
    }


def load_state(nets: dict[str, nn.Module], tensors: dict[str, Tensor]) -> None:
    """Copy what `state` gave."""
    for prefix, net in nets.items():
        own = {
            name.removeprefix(f"{prefix}."): value
            for name, value in tensors.items()
            if name.startswith(f"{prefix}.")
        }
        set_peft_model_state_dict(net, own, adapter_name=NAME)


@contextmanager
def without(nets: dict[str, nn.Module]) -> Iterator[None]:
    """The base alone, as long as the context lasts; what learns still learns after it."""
    layers = [
        layer
        for net in nets.values()
        for layer in net.modules()
        if isinstance(layer, BaseTunerLayer)
    ]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
