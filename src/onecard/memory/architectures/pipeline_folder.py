"""An image generator by its files: a folder in diffusers' form, whose configs say how it is built,
or a single safetensors file, whose names of weights say what it is. Reads headers alone."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onecard.errors import DataError, NotFound
from onecard.memory.architectures import denoisers as nets
from onecard.memory.architectures.pipelines import Decoder, Pipeline, Text, find

INDEX = "model_index.json"
MAX_HEADER = 100 << 20
"""Bytes of a safetensors header, the format's own limit."""
MAX_SIDE = 4096
CLASSES = {
    "KolorsPipeline": "kolors",
    "Flux2Pipeline": "flux.2-dev",
    "Flux2KleinPipeline": "flux.2-klein-4b",
    "ChromaPipeline": "chroma",
    "ZImagePipeline": "z-image",
    "QwenImagePipeline": "qwen-image",
    "PixArtSigmaPipeline": "pixart",
    "PixArtAlphaPipeline": "pixart",
    "HunyuanDiTPipeline": "hunyuandit",
    "SanaPipeline": "sana-1.6b",
    "Lumina2Pipeline": "lumina-2",
    "AuraFlowPipeline": "auraflow",
}
"""Classes whose sizes are those of one published model."""
KEYS = (
    ("conditioner.embedders.1.", "sdxl"),
    ("double_blocks.", "flux.1"),
    ("joint_blocks.", "sd3.5-medium"),
    ("cond_stage_model.model.", "sd-2.1"),
    ("cond_stage_model.", "sd-1.5"),
)
"""Parts of names in a single file -> model, the most telling first."""


def is_named(name: str) -> bool:
    """Whether a model's name leads to files: a bare word that the catalog has does not."""
    path = Path(name).expanduser()
    if not path.exists():
        return False
    if "/" in name or name.startswith((".", "~")) or path.is_file():
        return True
    try:
        find(name)
    except NotFound:
        return True
    return False


def read(path: Path) -> Pipeline:
    """Raises DataError for what is no pipeline, or one whose size nobody here knows."""
    if path.is_file():
        return _single(path)
    index = _json(path / INDEX)
    name = str(index.get("_class_name"))
    if name in CLASSES:
        return find(CLASSES[name])
    part = next((p for p in ("unet", "transformer") if (path / p / "config.json").is_file()), "")
    if not part:
        raise _unknown(path, f"its {INDEX} names neither a UNet nor a transformer")
    try:
        return _pipeline(path, index, part, _json(path / part / "config.json"))
    except (KeyError, TypeError, ValueError, IndexError) as fault:
        raise _unknown(path, f"a config in it lacks something: {fault}") from None


def _pipeline(path: Path, index: dict[str, Any], part: str, config: dict[str, Any]) -> Pipeline:
    vae = _json(path / "vae" / "config.json")
    widths = tuple(vae.get("block_out_channels") or vae["decoder_block_out_channels"])
    factor = 2 ** (len(widths) - 1)
    key = f"files:{path.resolve()}"
    channels = int(config["in_channels"])
    if part == "unet":
        nets.UNETS[key] = _unet(config)
    else:
        nets.DITS[key] = _dit(config, path)
        channels = int(vae.get("latent_channels", channels))
    side = config.get("sample_size")
    size = side * factor if isinstance(side, int) and 0 < side * factor <= MAX_SIDE else 1024
    names = [name for name in index if name.startswith("text_encoder") and index[name][0]]
    return Pipeline(
        path.name,
        key,
        tuple(_text(name, path / name) for name in names),
        size,
        channels,
        upcast=bool(vae.get("force_upcast")) and "text_encoder_2" in names,
        factor=factor,
        decoder=Decoder(float(sum(_counts(path / "vae").values())), widths),
        guided=part == "unet" or "guidance_embeds" not in config,
    )


def _unet(config: dict[str, Any]) -> nets.UNet:
    widths = tuple(int(width) for width in config["block_out_channels"])
    layers = config.get("transformer_layers_per_block", 1)
    depths = layers if isinstance(layers, list) else [layers] * len(widths)
    kinds = config["down_block_types"]
    context = config["cross_attention_dim"]
    return nets.UNet(
        widths,
        tuple(int(n) if "CrossAttn" in kind else 0 for n, kind in zip(depths, kinds, strict=True)),
        max(context) if isinstance(context, list) else int(context),
        int(config.get("projection_class_embeddings_input_dim") or 0),
        bool(config.get("use_linear_projection")),
    )


def _dit(config: dict[str, Any], path: Path) -> nets.Dit:
    heads = int(config["num_attention_heads"])
    single = int(config.get("num_single_layers", 0))
    return nets.Dit(
        heads * int(config["attention_head_dim"]),
        int(config["num_layers"]),
        single,
        heads,
        int(config["joint_attention_dim"]),
        512 if single else 77 + 256,
        int(config["in_channels"]) * int(config.get("patch_size", 1)) ** 2,
        params=sum(_counts(path / "transformer").values()),
    )


def _text(name: str, folder: Path) -> Text:
    counts = _counts(folder)
    table = sum(n for key, n in counts.items() if "embed" in key or key.startswith("shared."))
    return Text(name, (sum(counts.values()) - table) / 1e6, table / 1e6)


def _single(path: Path) -> Pipeline:
    names = list(_header(path))
    for part, model in KEYS:
        if any(part in name for name in names):
            return find(model)
    raise _unknown(path, "the names of its weights are no image generator's")


# Files


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as fault:
        raise DataError(
            f"{path.parent} is no pipeline",
            why=f"its {path.name} cannot be read: {fault}"[:200],
            fix="a folder that save_pretrained of a diffusers pipeline wrote",
        ) from None
    return values if isinstance(values, dict) else {}


def _counts(folder: Path) -> dict[str, int]:
    """Number of values of each weight of a network, from the headers."""
    files = sorted(folder.glob("*.safetensors"))
    whole = [file for file in files if ".fp16" not in file.name] or files
    return {name: n for file in whole for name, n in _rows(file)}


def _rows(file: Path) -> Iterator[tuple[str, int]]:
    for name, row in _header(file).items():
        if name != "__metadata__" and isinstance(row, dict):
            yield name, math.prod(int(n) for n in row.get("shape", []))


def _header(file: Path) -> dict[str, Any]:
    """https://github.com/huggingface/safetensors: eight bytes of length, then JSON."""
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if size > MAX_HEADER:
                raise ValueError("its header is too long")
            values = json.loads(stream.read(size))
    except (OSError, ValueError, RecursionError) as fault:
        raise DataError(
            f"{file} is no whole safetensors file",
            why=str(fault)[:150],
            fix="copy or download it again",
        ) from None
    return values if isinstance(values, dict) else {}


def _unknown(path: Path, why: str) -> DataError:
    return DataError(
        f"the size of {path} is not known",
        why=why,
        fix="a folder of Stable Diffusion 1, 2, XL or 3, or of FLUX.1; or a name as sd-1.5",
    )
