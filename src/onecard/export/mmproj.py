"""The vision half of a LLaVA as llama.cpp's mmproj file: a CLIP or SigLIP tower and its projector.

Keys and names of tensors are those of llama.cpp's tools/mtmd/clip-impl.h; the graph that reads them
is tools/mtmd/models/llava.cpp. How a picture becomes the square that the tower takes is not among
those keys: it is kept under keys of our own (FIT and others), which llama.cpp passes over and our
engine reads, so that both libraries see the same pixels.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from onecard import fsio
from onecard.errors import DataError, not_found
from onecard.memory.architectures.mmproj import AFTER

Tensors = Mapping[str, NDArray[np.float32]]
OUTTYPES = {"f32": np.float32, "f16": np.float16}
FIT, SHORTEST, RESAMPLE = "onecard.image.fit", "onecard.image.shortest", "onecard.image.resample"
FITS = ("crop", "pad", "stretch")
"""A picture is scaled by its shorter side and its middle cut out, padded to a square with the mean
colour, or stretched."""
ACTIVATIONS = {"quick_gelu": "", "gelu": "use_gelu", "gelu_pytorch_tanh": "use_gelu"}
"""Of the tower -> the flag that llama.cpp knows it by."""
EMBEDDINGS = {
    "embeddings.class_embedding": "v.class_embd",
    "embeddings.patch_embedding.weight": "v.patch_embd.weight",
    "embeddings.patch_embedding.bias": "v.patch_embd.bias",
    "embeddings.position_embedding.weight": "v.position_embd.weight",
    "pre_layrnorm.weight": "v.pre_ln.weight",
    "pre_layrnorm.bias": "v.pre_ln.bias",
}
SQUARE = ("feed_forward_length", "embedding_length")
LAYER = {
    "layer_norm1": "ln1",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "layer_norm2": "ln2",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes what the tower takes."""

    fit: str
    """One of FITS."""
    shortest: int
    """Length that the shorter side is scaled to before the middle is cut out, px."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of red, green and blue in 0..1."""
    resample: int = 3
    """Pillow's number of the filter: 3 is bicubic."""


def write_llava(folder: Path, target: Path, outtype: str = "f16", *, after: str = "") -> None:
    """The mmproj file of a folder of transformers' LlavaForConditionalGeneration. `after`: what its
    prompts have between a picture and the text behind it.

    Raises DataError for another model, NotFound for an unknown `outtype`.
    """
    config = _read_json(folder / "config.json")
    if config.get("model_type") not in ("llava", "vipllava"):
        raise _refusal(folder, f"its model_type is {str(config.get('model_type'))[:40]}, not llava")
    vision = dict(config.get("vision_config") or {})
    tower, projector = _read_tensors(folder)
    layers: Any = config.get("vision_feature_layer", -2)
    strategy = config.get("vision_feature_select_strategy", "default")
    has_class = "embeddings.class_embedding" in tower
    if (strategy == "full") == has_class:
        raise _refusal(
            folder, f"vision_feature_select_strategy {strategy} keeps or lacks the class token"
        )
    if config.get("projector_hidden_act", "gelu") != "gelu":
        raise _refusal(folder, f"its projector's activation is {config['projector_hidden_act']}")
    write_clip_llava(
        vision,
        tower,
        projector,
        preprocessing_of(folder, int(vision.get("image_size", 0) or 0)),
        target,
        layers=layers if isinstance(layers, list) else [layers],
        outtype=outtype,
        after=after,
        name=folder.name,
    )


def write_clip_llava(
    config: Mapping[str, Any],
    tower: Tensors,
    projector: Tensors,
    pixels: Preprocessing,
    target: Path,
    *,
    layers: Sequence[int] = (-2,),
    outtype: str = "f16",
    name: str = "llava",
    after: str = "",
) -> None:
    """Write the file whole or not at all.

    `config`: of a CLIPVisionModel or SiglipVisionModel. `tower`: its state with names from
    `embeddings.` and `encoder.layers.` on. `projector`: `linear_1.weight` [hidden, n_layers x D],
    `linear_2.weight` [out, hidden] and their biases, with a GELU between. `layers`: what
    vision_feature_layer says, counted as hidden_states are: 0 is the embeddings. Raises DataError
    for what llama.cpp's graph has no place for, NotFound for an unknown `outtype`.
    """
    if outtype not in OUTTYPES:
        raise not_found("type of an mmproj file", outtype, OUTTYPES)
    n_layers = _count(config, "num_hidden_layers")
    chosen = _feature_layers(layers, n_layers, name)
    tensors = _tower_tensors(tower, max(chosen), name)
    if _count(config, "intermediate_size") == _count(config, "hidden_size"):
        # llama.cpp takes square ones for those of old files, whose names were exchanged
        tensors = {_exchanged(key): value for key, value in tensors.items()}
    tensors |= _projector_tensors(projector, chosen, _count(config, "hidden_size"), name)
    with fsio.atomic_write(target) as draft:
        writer = gguf.GGUFWriter(draft, "clip")
        _add_keys(writer, config, pixels, sorted(chosen), int(tensors["mm.2.weight"].shape[0]))
        writer.add_name(name)
        writer.add_string(AFTER, after)
        writer.add_file_type(
            gguf.LlamaFileType.ALL_F32 if outtype == "f32" else gguf.LlamaFileType.MOSTLY_F16
        )
        for key, value in tensors.items():
            # a table of positions is added to fp32, not multiplied
            is_matrix = value.ndim > 1 and key != "v.position_embd.weight"
            kind = OUTTYPES[outtype] if is_matrix else np.float32
            writer.add_tensor(key, np.ascontiguousarray(value.astype(kind)))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def preprocessing_of(folder: Path, image_size: int) -> Preprocessing:
    """From preprocessor_config.json, or processor_config.json of transformers 5.

    Raises DataError for a form that is not known.
    """
    path = folder / "preprocessor_config.json"
    facts = _read_json(path) if path.is_file() else {}
    if not facts and (folder / "processor_config.json").is_file():
        facts = dict(_read_json(folder / "processor_config.json").get("image_processor") or {})
    if not facts:
        raise _refusal(folder, "no preprocessor_config.json says what it does to a picture")
    size, crop = facts.get("size"), facts.get("crop_size")
    size = {"shortest_edge": size} if isinstance(size, int) else dict(size or {})
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else dict(crop or {})
    shortest = int(size.get("shortest_edge") or 0)
    cropped = bool(facts.get("do_center_crop") and crop)
    if facts.get("do_pad") or facts.get("image_aspect_ratio") == "pad":
        fit, shortest = "pad", image_size
    elif cropped and shortest and {crop.get("height"), crop.get("width")} == {image_size}:
        fit = "crop"
    elif {size.get("height"), size.get("width")} == {image_size}:
        fit, shortest = "stretch", image_size
    else:
        raise _refusal(folder, f"pictures are scaled to {size} and cut to {crop}: no known way")
    try:
        mean, std = (tuple(map(float, facts[f"image_{key}"])) for key in ("mean", "std"))
    except (KeyError, TypeError, ValueError):
        raise _refusal(folder, "its preprocessor has no image_mean and image_std") from None
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise _refusal(folder, "image_mean and image_std are no three colours")
    return Preprocessing(fit, shortest, mean, std, int(facts.get("resample", 3)))


# Reading


def read_back(path: Path) -> tuple[Tensors, Tensors]:
    """(tower, projector) of a file that `write_clip_llava` wrote, under transformers' names: what a
    comparison with the model needs. Later layers and the last norm are not in it."""
    reader = gguf.GGUFReader(path)
    values = {tensor.name: np.array(tensor.data, np.float32) for tensor in reader.tensors}
    blocks = {key.split(".")[2] for key in values if key.startswith("v.blk.")}
    field = {key: reader.fields[f"clip.vision.{key}"].contents() for key in SQUARE}
    if field["feed_forward_length"] == field["embedding_length"]:
        values = {_exchanged(key): value for key, value in values.items()}
    names = {ours: theirs for theirs, ours in EMBEDDINGS.items()}
    for i in blocks:
        for theirs, ours in LAYER.items():
            for kind in ("weight", "bias"):
                names[f"v.blk.{i}.{ours}.{kind}"] = f"encoder.layers.{i}.{theirs}.{kind}"
    tower = {names[key]: value for key, value in values.items() if key in names}
    projector = {
        f"linear_{1 + int(key.split('.')[1]) // 2}.{key.rsplit('.', 1)[1]}": value
        for key, value in values.items()
        if key.startswith("mm.")
    }
    return tower, projector


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise _refusal(path.parent, f"{path.name}: {fault}"[:200]) from None
    if not isinstance(value, dict):
        raise _refusal(path.parent, f"{path.name} is no object")
    return value


def _read_tensors(folder: Path) -> tuple[Tensors, Tensors]:
    """(the tower's, the projector's) in fp32; the language model's are not read."""
    tower: dict[str, NDArray[np.float32]] = {}
    projector: dict[str, NDArray[np.float32]] = {}
    files = sorted(folder.glob("*.safetensors"))
    try:
        for file in files:
            with safe_open(file, "pt") as opened:
                for key in opened.keys():  # noqa: SIM118  it is no dictionary
                    parts = key.removeprefix("model.").partition(".")
                    if parts[0] == "vision_tower":
                        name = parts[2].removeprefix("vision_model.")
                        tower[name] = opened.get_tensor(key).to(torch.float32).numpy()
                    elif parts[0] == "multi_modal_projector":
                        projector[parts[2]] = opened.get_tensor(key).to(torch.float32).numpy()
    except (OSError, SafetensorError, TypeError) as fault:
        raise _refusal(folder, f"its safetensors do not open: {fault}"[:200]) from None
    if not tower or not projector:
        raise _refusal(folder, "its safetensors hold no vision_tower and multi_modal_projector")
    return tower, projector


# Tensors


def _feature_layers(layers: Sequence[int], n_layers: int, name: str) -> list[int]:
    """As counts from the embeddings, in the order of the projector's columns."""
    chosen = [each if each >= 0 else n_layers + 1 + each for each in layers]
    if not chosen or len(set(chosen)) < len(chosen):
        raise _refusal(name, f"vision_feature_layer {list(layers)} names a layer twice or none")
    if not all(0 < each <= n_layers for each in chosen):
        raise _refusal(name, f"vision_feature_layer {list(layers)} of {n_layers} layers")
    return chosen


def _tower_tensors(tower: Tensors, n_layers: int, name: str) -> dict[str, NDArray[np.float32]]:
    """Those that are computed: later layers and the last norm are not read by LLaVA."""
    tensors = {ours: tower[theirs] for theirs, ours in EMBEDDINGS.items() if theirs in tower}
    wanted = {"v.patch_embd.weight", "v.position_embd.weight"}
    for i in range(n_layers):
        for theirs, ours in LAYER.items():
            for kind in ("weight", "bias"):
                wanted.add(key := f"v.blk.{i}.{ours}.{kind}")
                if (value := tower.get(f"encoder.layers.{i}.{theirs}.{kind}")) is not None:
                    tensors[key] = value
    if missing := sorted(wanted - set(tensors)):
        raise _refusal(name, f"its tower lacks {', '.join(missing[:3])} (as llama.cpp names them)")
    if tensors["v.patch_embd.weight"].ndim != 4:
        raise _refusal(name, "its patches are not embedded by a convolution")
    return tensors


def _exchanged(key: str) -> str:
    other = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}
    return ".".join(other.get(part, part) for part in key.split("."))


def _projector_tensors(
    projector: Tensors, chosen: Sequence[int], width: int, name: str
) -> dict[str, NDArray[np.float32]]:
    try:
        first, second = projector["linear_1.weight"], projector["linear_2.weight"]
    except KeyError as fault:
        raise _refusal(name, f"its projector lacks {fault}: no two layers with a GELU") from None
    unknown = set(projector) - {f"linear_{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}
    if unknown:
        raise _refusal(name, f"its projector has {', '.join(sorted(unknown)[:3])} too")
    if first.ndim != 2 or first.shape[1] != width * len(chosen):
        raise _refusal(name, f"its projector takes {first.shape[-1]} values, not {width} a layer")
    # llama.cpp joins the layers' outputs in ascending order
    order = sorted(range(len(chosen)), key=lambda i: chosen[i])
    first = np.concatenate([first[:, i * width : (i + 1) * width] for i in order], axis=1)
    zeros = np.zeros(1, np.float32)
    return {
        "mm.0.weight": first,
        "mm.0.bias": projector.get("linear_1.bias", zeros.repeat(first.shape[0])),
        "mm.2.weight": second,
        "mm.2.bias": projector.get("linear_2.bias", zeros.repeat(second.shape[0])),
    }


def _add_keys(
    writer: gguf.GGUFWriter,
    config: Mapping[str, Any],
    pixels: Preprocessing,
    layers: list[int],
    projection_dim: int,
) -> None:
    activation = str(config.get("hidden_act", "quick_gelu"))
    if activation not in ACTIVATIONS:
        raise _refusal("the tower", f"its activation {activation} is not known to llama.cpp")
    writer.add_bool("clip.has_text_encoder", False)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.has_llava_projector", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", ACTIVATIONS[activation] == "use_gelu")
    for key, name in (
        ("image_size", "image_size"),
        ("patch_size", "patch_size"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
    ):
        writer.add_uint32(f"clip.vision.{key}", _count(config, name))
    writer.add_uint32("clip.vision.projection_dim", projection_dim)
    writer.add_uint32("clip.vision.block_count", max(layers))
    writer.add_array("clip.vision.feature_layer", layers)
    writer.add_float32(
        "clip.vision.attention.layer_norm_epsilon", float(config.get("layer_norm_eps", 1e-5))
    )
    writer.add_array("clip.vision.image_mean", list(pixels.mean))
    writer.add_array("clip.vision.image_std", list(pixels.std))
    writer.add_string(FIT, pixels.fit)
    writer.add_uint32(SHORTEST, pixels.shortest)
    writer.add_uint32(RESAMPLE, pixels.resample)


def _count(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _refusal("the tower", f"its {name} is {value!r}")
    return value


def _refusal(what: Path | str, why: str) -> DataError:
    return DataError(
        f"{what} does not become an mmproj file",
        why=why,
        fix="a LLaVA with a CLIP or SigLIP tower and two layers between; for others: llama.cpp's "
        "convert_hf_to_gguf.py --mmproj",
    )
