"""What of a model is trained: LoRA on either half, the projector, or whole halves; and the files of
it."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from onecard import fsio
from onecard.errors import SettingsError
from onecard.tasks.vlm import parts
from onecard.tasks.vlm.configs import TrainConfig
from onecard.tasks.vlm.model import ADAPTER, BASE, WHOLE, Vlm


def attach(vlm: Vlm, config: TrainConfig) -> None:
    """Put adapters on the model, and make what is trained fp32: AdamW's small steps are lost in 16
    bits. Raises SettingsError, DataError."""
    _require(config)
    net = vlm.net
    language, tower = parts.language(net), parts.tower(net)
    whole = parts.projector(net) if config.projector == "full" else []
    targets: list[str] = []
    if config.language_model == "lora":
        targets += parts.linear_layers(net, language)
    if config.vision_tower == "lora":
        targets += parts.linear_layers(net, tower)
    if config.vision_tower == "full":
        # a projector that stands inside the tower is trained with it
        whole = [tower, *(name for name in whole if not name.startswith(f"{tower}."))]
    if targets:
        lora = LoraConfig(
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=targets,
            modules_to_save=whole or None,
            task_type="CAUSAL_LM",
        )
        vlm.net = get_peft_model(net, lora)
        for module in vlm.net.modules():
            # autocast casts anyway: with PEFT's cast a second copy of each input is kept
            if hasattr(module, "cast_input_dtype_enabled") and _narrow(net):
                module.cast_input_dtype_enabled = False
    else:
        if config.language_model == "full":
            _match_features(net)
            whole = [language, *whole, *_head(net)]
        for _, weight in parts.parameters(net, whole):
            weight.requires_grad_(True)
    for weight in vlm.net.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def _narrow(net: torch.nn.Module) -> bool:
    """Whether a training computes under autocast: its frozen weights are in 16 bits."""
    types = {p.dtype for p in net.parameters() if p.is_floating_point() and not p.requires_grad}
    return bool(types & {torch.bfloat16, torch.float16})


def train_projector(vlm: Vlm) -> None:
    """Mark the projector alone."""
    for _, weight in parts.parameters(vlm.net, parts.projector(vlm.net)):
        weight.requires_grad_(True)
        weight.data = weight.data.float()


def _match_features(net: Any) -> None:
    """Give embeddings, trained in fp32, the type of the frozen tower: SmolVLM and Idefics 3
    lay features of that type among them."""
    if not any(name.rpartition(".")[2] == "connector" for name in parts.projector(net)):
        return
    dtype = next(weight.dtype for _, weight in parts.parameters(net, [parts.tower(net)]))

    def cast(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output.to(dtype)

    net.get_input_embeddings().register_forward_hook(cast)


def _require(config: TrainConfig) -> None:
    if (config.language_model, config.projector, config.vision_tower) == ("frozen",) * 3:
        raise SettingsError(
            "nothing would be trained",
            why="language model, projector and vision tower are all frozen",
            fix="--language_model lora, the default",
        )
    if config.language_model == "full" and config.vision_tower == "lora":
        raise SettingsError(
            "a language model that is trained whole goes with no adapters on the vision tower",
            why="an adapter's file holds adapters and no language model",
            fix="--vision_tower full or frozen, or --language_model lora",
        )
    if config.language_model == "full" and (config.load_in_4bit or config.load_in_8bit):
        raise SettingsError(
            "weights in 4 or 8 bits cannot be trained",
            why="only adapters on them can",
            fix="--language_model lora, or leave --load_in_4bit out",
        )


def _head(net: Any) -> list[str]:
    """Name of an output head that is no copy of the embeddings."""
    head = net.get_output_embeddings()
    if head is None or head.weight is net.get_input_embeddings().weight:
        return []
    return [name for name, module in net.named_modules() if module is head]


def trained(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Name -> weight of all that is trained, in a fixed order."""
    return {name: weight for name, weight in net.named_parameters() if weight.requires_grad}


def part_of(name: str, net: torch.nn.Module) -> str:
    """`projector`, `tower` or `language`: whose learning rate a weight has."""
    words = set(name.split("."))
    if words & set(parts.PROJECTOR):
        return "projector"
    return "tower" if words & set(parts.TOWER) else "language"


def save(vlm: Vlm, base_name: str, out: Path) -> Path:
    """OUT/adapter with the processor, or OUT/model where whole weights were trained. Whole or not
    at all."""
    has_adapter = vlm.net is not vlm.base
    target = out / (ADAPTER if has_adapter else WHOLE)
    draft = target.with_name(target.name + ".part")
    if draft.exists():
        shutil.rmtree(draft)
    net = vlm.net
    if vlm.widened:
        net = vlm.widened()
        own = trained(vlm.net)
        with torch.no_grad():
            for name, weight in net.named_parameters():
                if name in own:
                    weight.copy_(own[name])
    net.save_pretrained(draft)
    vlm.processor.save_pretrained(draft)
    if has_adapter:
        values = {"model": base_name, "folder": str(vlm.place.folder)}
        fsio.write_text(draft / BASE, json.dumps(values))
    if target.exists():
        shutil.rmtree(target)
    draft.rename(target)
    return target
