"""Names of a network's layers in LoRA files: diffusers' and kohya's. Knows no file.

diffusers   unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q
kohya       lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q
kohya, SDXL lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q

kohya's rule (sd-scripts, networks/lora.py): a prefix and the layer's name in the network that is
trained, with "_" for ".". That network is diffusers' for Stable Diffusion 1 and 2, and Stability's
own (sgm) for SDXL. ComfyUI and A1111 read both spellings of a UNet, sd-scripts only the one it
writes.
"""

import re
from collections.abc import Iterator, Mapping

from torch import nn

UNET = "unet"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
TEXT_MODEL = "text_model."
"""Of CLIP's layers in every LoRA file. transformers 5 dropped it from CLIPTextModel, and kept it in
CLIPTextModelWithProjection."""
PREFIXES = {
    "sd": {"lora_te": "text_encoder"},
    "sdxl": {"lora_te1": "text_encoder", "lora_te2": "text_encoder_2"},
}
"""kohya's prefix of each text encoder; the UNet's is always lora_unet."""
_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_BLOCK = re.compile(r"(down_blocks|up_blocks)\.(\d+)\.(\w+)\.(\d+)(?:\.(.+))?")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)(?:\.(.+))?")


def sgm_name(name: str, layers: int = 2) -> str:
    """A UNet's layer under the name that Stability's code gives it; `layers`: layers_per_block.

    >>> sgm_name("down_blocks.1.attentions.0.proj_in")
    'input_blocks.4.1.proj_in'
    >>> sgm_name("up_blocks.1.upsamplers.0.conv")
    'output_blocks.5.2.conv'
    """
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    if middle := _MIDDLE.fullmatch(name):
        kind, number, rest = middle[1], int(middle[2]), middle[3] or ""
        place = 1 if kind == "attentions" else 2 * number
        return _joined(f"middle_block.{place}", kind, rest)
    block = _BLOCK.fullmatch(name)
    if not block:
        return name
    side, kind, rest = block[1], block[3], block[5] or ""
    level, number, step = int(block[2]), int(block[4]), layers + 1
    if kind == "downsamplers":
        return f"input_blocks.{step * (level + 1)}.0.op"
    if kind == "upsamplers":
        # after a residual block and its attention
        return f"output_blocks.{step * level + layers}.2.conv"
    first = "input_blocks" if side == "down_blocks" else "output_blocks"
    place = step * level + number + (1 if side == "down_blocks" else 0)
    return _joined(f"{first}.{place}.{1 if kind == 'attentions' else 0}", kind, rest)


def _joined(head: str, kind: str, rest: str) -> str:
    return ".".join(filter(None, [head, _RESNET.get(rest, rest) if kind == "resnets" else rest]))


def kohya_name(component: str, module: str, family: str, layers: int = 2) -> str:
    """The name of a layer in kohya's files. `module`: in diffusers' or transformers' network.

    >>> kohya_name("text_encoder", "encoder.layers.0.mlp.fc1", "sd")
    'lora_te_text_model_encoder_layers_0_mlp_fc1'
    """
    if component == UNET:
        name = sgm_name(module, layers) if family == "sdxl" else module
        return f"lora_unet_{name}".replace(".", "_")
    prefix = next(p for p, part in PREFIXES[family].items() if part == component)
    return f"{prefix}_{text_name(module)}".replace(".", "_")


def text_name(module: str) -> str:
    """A text encoder's layer as LoRA files name it: below text_model. The projection after it
    stands beside."""
    outside = module.startswith((TEXT_MODEL, "text_projection"))
    return module if outside else TEXT_MODEL + module


def layers_of(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers that an adapter fits: linear ones and convolutions; with adapters on them already, the
    layers below."""
    for name, module in net.named_modules():
        if ".base_layer" in name or ".lora_" in name:
            continue
        layer = getattr(module, "base_layer", module)
        if isinstance(layer, nn.Linear | nn.Conv2d):
            yield name, layer


def index(nets: Mapping[str, nn.Module], layers: int = 2) -> dict[str, tuple[str, str, nn.Module]]:
    """Every name of every layer in LoRA files -> (component, name in the network, layer). `nets`:
    the pipeline's denoiser and text encoders."""
    out: dict[str, tuple[str, str, nn.Module]] = {}
    for component, net in nets.items():
        for name, layer in layers_of(net):
            for spelling in _spellings(component, name, layers):
                out[spelling] = (component, name, layer)
    return out


def _spellings(component: str, name: str, layers: int) -> Iterator[str]:
    yield f"{component}.{name}"
    if component == UNET:
        yield kohya_name(component, name, "sd")
        yield kohya_name(component, name, "sdxl", layers)
    elif component in TEXT_ENCODERS:
        yield f"{component}.{text_name(name)}"
        for family, prefixes in PREFIXES.items():
            if component in prefixes.values():
                yield kohya_name(component, name, family)
