"""An image generator that stands in no table, by its own files: the configs of a folder in
diffusers' form, or the header of a single safetensors file. Reads no weights."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onecard.errors import DataError, NotFound
from onecard.memory.architectures import denoisers, pipelines
from onecard.memory.architectures.denoisers import Dit, UNet
from onecard.memory.architectures.pipelines import Decoder, Pipeline, Text, find

INDEX = "model_index.json"
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
MAX_HEADER_BYTES = 100 << 20
"""Of a safetensors file: the format's own limit."""
MAX_CONFIG_BYTES = 8 << 20
MAX_SIDE = 4096
SD3_TOKENS, FLUX_TOKENS = 77 + 256, 512
"""Text tokens as their pipelines pad them."""
SAME = 0.01
"""Difference in weights below which a transformer is the one of a table."""
USUAL_WIDTHS, USUAL_WEIGHTS = (128, 256, 512, 512), 83.7e6
"""Of AutoencoderKL in all published pipelines of Stable Diffusion."""
TEXT_PARTS = ("text_encoder", "text_encoder_2", "text_encoder_3")
SINGLE_FILES = (
    ("conditioner.embedders.1.", "sdxl"),
    ("double_blocks.18.", "flux.1"),
    ("joint_blocks.37.", "sd3.5-large"),
    ("joint_blocks.0.x_block.attn2.", "sd3.5-medium"),
    ("joint_blocks.", "sd3-medium"),
    ("cond_stage_model.model.", "sd-2.1"),
    ("cond_stage_model.", "sd-1.5"),
)
"""Parts of names in a single file -> model, the most telling first."""


def is_named(name: str) -> bool:
    """Whether a model's name leads to files: a bare word that the catalog has does not."""
    path = Path(name).expanduser()
    if not path.exists():
        return path.suffix.lower() == ".safetensors"
    if "/" in name or name.startswith((".", "~")) or path.is_file():
        return True
    try:
        find(name)
    except NotFound:
        return True
    return False


def read(path: Path) -> Pipeline:
    """Raises NotFound where nothing lies there, DataError for what is no pipeline or one whose
    denoiser or text encoder nobody here knows."""
    refuse_pickle(path)
    if not path.exists():
        raise NotFound(
            f"there is no model {path}",
            why="nothing lies at that path",
            fix="a folder in diffusers' form, a .safetensors file, or a name as sd-1.5 or sdxl",
        )
    if path.is_file():
        return _single_file(path)
    _json(path / INDEX)
    try:
        return _folder(path)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as fault:
        raise _unknown(path, f"a config in it lacks something: {fault}"[:200]) from None


def _folder(path: Path) -> Pipeline:
    decoder, channels, factor, upcast = _decoder(path)
    texts = tuple(
        _text(path / name) for name in TEXT_PARTS if (path / name / "config.json").is_file()
    )
    if (path / "unet" / "config.json").is_file():
        values = _json(path / "unet" / "config.json")
        side = _first(values.get("sample_size"), 64) * factor
        return Pipeline(
            path.name,
            path.name,
            texts,
            side if side <= MAX_SIDE else 1024,
            # an inpainting UNet sees mask and picture beside the latents
            min(_first(values.get("in_channels"), channels), channels),
            upcast=upcast,
            factor=factor,
            decoder=decoder,
            unet=_unet(values, path),
        )
    if (path / "transformer" / "config.json").is_file():
        return _transformer(path, texts, decoder, channels, factor)
    raise _unknown(path, "it has neither a UNet nor a transformer")


def _unet(values: Mapping[str, Any], path: Path) -> UNet:
    kinds = values["down_block_types"]
    widths = tuple(int(width) for width in values["block_out_channels"])
    layers = values.get("layers_per_block", 2)
    known = {"DownBlock2D", "CrossAttnDownBlock2D"}
    if len(kinds) != len(widths) or not isinstance(layers, int) or not set(kinds) <= known:
        raise _unknown(path, f"its UNet has blocks {', '.join(map(str, kinds))}"[:200])
    depths = values.get("transformer_layers_per_block", 1)
    deep = depths if isinstance(depths, list) else [depths] * len(widths)
    return UNet(
        widths,
        tuple(int(n) if "Cross" in kind else 0 for n, kind in zip(deep, kinds, strict=True)),
        _first(values.get("cross_attention_dim"), 768),
        _first(values.get("projection_class_embeddings_input_dim"), 0),
        bool(values.get("use_linear_projection")),
        _first(values.get("encoder_hid_dim"), 0),
        layers=layers,
        middle=int(deep[-1]),
        channels=_first(values.get("out_channels"), 4),
    )


def _decoder(path: Path) -> tuple[Decoder, int, int, bool]:
    """(decoder, channels of a latent picture, pixels of its side, whether it runs in fp32)."""
    values = _json(path / "vae" / "config.json")
    channels = _first(values.get("latent_channels"), 4)
    if values.get("_class_name") == "AutoencoderTiny":
        blocks = tuple(values.get("encoder_block_out_channels") or (64,) * 4)
        weights = float(_stored(path / "vae") or 2.4e6)
        return Decoder(weights, blocks, tiny=True), channels, 2 ** (len(blocks) - 1), False
    widths = tuple(int(width) for width in values.get("block_out_channels") or USUAL_WIDTHS)
    weights = USUAL_WEIGHTS
    if widths != USUAL_WIDTHS:
        weights = float(_stored(path / "vae") or USUAL_WEIGHTS)
    upcast = bool(values.get("force_upcast", True)) and (path / "text_encoder_2").is_dir()
    return Decoder(weights, widths), channels, 2 ** (len(widths) - 1), upcast


def _text(folder: Path) -> Text:
    """Weights by its config for CLIP and T5, by its files for all others."""
    values = _json(folder / "config.json")
    inner = values.get("text_config")
    values = inner if isinstance(inner, dict) else values
    name = str((values.get("architectures") or ["a text encoder"])[0])
    width = _first(values.get("hidden_size") or values.get("d_model"), 768)
    layers = _first(values.get("num_hidden_layers") or values.get("num_layers"), 12)
    wide = _first(values.get("intermediate_size") or values.get("d_ff"), 4 * width)
    table = _first(values.get("vocab_size"), 49408) * width
    if "T5" in name:
        heads = _first(values.get("num_heads"), 8) * _first(values.get("d_kv"), 64)
        gated = "gated" in str(values.get("feed_forward_proj", ""))
        linear = layers * (4 * width * heads + (3 if gated else 2) * width * wide)
        return Text(name, linear / 1e6, table / 1e6, layers * width * wide / 1e6)
    if "CLIP" in name:
        linear = layers * (4 * width * width + 2 * width * wide)
        return Text(name, linear / 1e6, table / 1e6, layers=layers, width=width)
    stored = _stored(folder)
    if not stored:
        raise _unknown(folder, f"{name} is not known, and its weights are not there to be counted")
    return Text(name, (stored - table) / 1e6, table / 1e6)


def _transformer(
    path: Path, texts: tuple[Text, ...], decoder: Decoder, channels: int, factor: int
) -> Pipeline:
    """One of a table by its number of weights, or SD3's and FLUX's classes by their configs."""
    values = _json(path / "transformer" / "config.json")
    stored = _stored(path / "transformer")
    for known in pipelines.PIPELINES:
        params = denoisers.DITS[known.net].params if known.net in denoisers.DITS else 0
        if params and stored and abs(stored / params - 1) < SAME:
            return known
    kind = str(values.get("_class_name"))
    heads = int(values["num_attention_heads"])
    width, layers = heads * int(values["attention_head_dim"]), int(values["num_layers"])
    text = _first(values.get("joint_attention_dim"), 4096)
    if kind == "SD3Transformer2DModel":
        dit = Dit(width, layers, 0, heads, text, SD3_TOKENS, channels, params=stored)
    elif kind == "FluxTransformer2DModel":
        single = int(values["num_single_layers"])
        dit = Dit(width, layers, single, heads, text, FLUX_TOKENS, 4 * channels, params=stored)
    else:
        raise _unknown(path, f"its denoiser is {kind[:80]}, which stands in no table")
    side = _first(values.get("sample_size"), 128) * factor
    return Pipeline(
        path.name,
        path.name,
        texts,
        side if dit.single == 0 and side <= MAX_SIDE else 1024,
        channels,
        guided=dit.single == 0,
        factor=factor,
        decoder=decoder,
        dit=dit,
    )


def refuse_pickle(path: Path) -> None:
    """Raises DataError for a file that could run a program, by its name."""
    if path.suffix.lower() in PICKLES:
        raise DataError(
            f"{path} is not opened",
            why="it is a pickle, which can run any program when it is read",
            fix="take the .safetensors of the same model",
        )


def _single_file(path: Path) -> Pipeline:
    names = _header(path)
    for part, model in SINGLE_FILES:
        if any(part in name for name in names):
            return find(model)
    raise _unknown(path, "the names of its weights are none of Stable Diffusion's or FLUX.1's")


# Files


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as fault:
        raise DataError(
            f"{path.parent} is no pipeline",
            why=f"its {path.name} cannot be read: {fault}"[:200],
            fix="a folder that save_pretrained of a diffusers pipeline wrote",
        ) from None
    return values if isinstance(values, dict) else {}


def _stored(folder: Path) -> int:
    """Weights in the safetensors files of a folder, 0 where there are none; of variants as fp16
    only one is counted."""
    files = sorted(folder.glob("*.safetensors"))
    whole = [file for file in files if ".fp16" not in file.name] or files
    rows = [row for file in whole for row in _header(file).values()]
    return sum(math.prod(int(n) for n in row.get("shape", [])) for row in rows)


def _header(file: Path) -> dict[str, dict[str, Any]]:
    """https://github.com/huggingface/safetensors: eight bytes of length, then JSON."""
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if not 0 < size <= MAX_HEADER_BYTES:
                raise ValueError(f"a header of {size} bytes")
            values = json.loads(stream.read(size))
        return {
            name: row
            for name, row in values.items()
            if name != "__metadata__" and isinstance(row, dict)
        }
    except (OSError, ValueError, AttributeError, RecursionError) as fault:
        raise DataError(
            f"{file} is no whole safetensors file",
            why=str(fault)[:150],
            fix="copy or download it again",
        ) from None


def _first(value: Any, usual: int) -> int:
    """A config's number; of a list (one for each block) the largest."""
    if isinstance(value, list | tuple) and value:
        value = max(value)
    is_number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40
    return int(value) if is_number else usual


def _unknown(path: Path, why: str) -> DataError:
    return DataError(
        f"the size of {path} is not known",
        why=why,
        fix="a folder of Stable Diffusion 1, 2, XL or 3, or of FLUX.1; or a name as sd-1.5",
    )
