"""LoRA files: read, written, matched with a pipeline's layers and put on it. Knows no training.

Two forms are written. diffusers': unet.LAYER.lora_A.weight, as its load_lora_weights reads; the
scale alpha / rank is inside lora_B, because most programs take it as 1 there. kohya's:
lora_unet_LAYER.lora_down.weight with .alpha beside, as sd-scripts, ComfyUI and A1111 read.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from onecard import fsio
from onecard.errors import DataError, NotFound, unreadable_file
from onecard.runs.record import fingerprint
from onecard.tasks.diffusion import lora_metadata, lora_names

Form = Literal["diffusers", "kohya"]
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
MAX_SHOWN = 6
MAX_CHARS = 160
"""Of a name that is shown: a file may hold any."""
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
"""A path has one slash of an address's two."""
_DOWN = re.compile(r"(.+)\.(?:lora_A|lora_down|lora\.down)(?:\.default)?\.weight")
_UP = re.compile(r"(.+)\.(?:lora_B|lora_up|lora\.up)(?:\.default)?\.weight")
_OLD = (
    (".processor.", "."),
    (".lora_linear_layer.", ".lora."),
    (".to_out_lora.", ".to_out.0.lora."),
    (".to_q_lora.", ".to_q.lora."),
    (".to_k_lora.", ".to_k.lora."),
    (".to_v_lora.", ".to_v.lora."),
)
"""Key names of diffusers before 0.22."""
ADAPTER_METADATA = "lora_adapter_metadata"
"""diffusers' own key: LoraConfig of each network, with its alpha."""


@dataclass(frozen=True)
class Adapter:
    """Of one layer: up @ down, times alpha / rank."""

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]


@dataclass(frozen=True)
class LoraFile:
    path: Path
    form: Form
    adapters: Mapping[str, Adapter]
    """By the layer's name as the file spells it."""
    strange: tuple[str, ...]
    """Keys that are no part of a plain LoRA."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Of most layers."""
        ranks = [adapter.rank for adapter in self.adapters.values()]
        return max(set(ranks), key=ranks.count) if ranks else 0

    @property
    def alpha(self) -> float:
        """Of most layers; in diffusers' form the rank."""
        alphas = [adapter.alpha for adapter in self.adapters.values()]
        return max(set(alphas), key=alphas.count) if alphas else 0.0

    @property
    def triggers(self) -> tuple[str, ...]:
        """Words that call what was learned, as the trainer noted them."""
        return lora_metadata.triggers(self.metadata)

    @cached_property
    def sha256(self) -> str:
        return fingerprint(self.path)


@dataclass(frozen=True)
class Match:
    """A file against the layers of a pipeline."""

    matched: tuple[str, ...]
    unmatched: tuple[str, ...]
    """Names for which the pipeline has no layer."""
    misfits: tuple[str, ...]
    """Layers of another shape: name, the file's shape and the layer's."""
    state: Mapping[str, Tensor]
    """What matched, in fp32 under the pipeline's own names."""
    alphas: Mapping[str, Mapping[str, float]]
    """Component -> layer -> alpha."""

    def render(self) -> str:
        text = f"{len(self.matched)} layers matched, {len(self.unmatched)} unmatched"
        return text + (f": {_some(self.unmatched)}" if self.unmatched else "")


def read(path: str | Path) -> LoraFile:
    """Raises NotFound, DataError for what is no LoRA in safetensors."""
    path = Path(path).expanduser()
    require_safetensors(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as fault:
        raise DataError(
            f"{path} cannot be read",
            why=f"it is no whole safetensors file: {str(fault)[:150]}",
            fix="copy or download it again",
        ) from None
    adapters, strange = _adapters(tensors, metadata)
    if not adapters:
        raise DataError(
            f"{path} is no LoRA",
            why=f"none of its {len(tensors)} keys is a LoRA's: {_some(sorted(tensors))}"
            if tensors
            else "it holds no weights",
            fix="give the .safetensors of a LoRA; a whole model is named with --model",
        )
    dotted = any("." in name for name in adapters)
    form: Form = "diffusers" if dotted else "kohya"
    return LoraFile(path, form, adapters, strange, metadata, tensors)


def require_safetensors(path: Path) -> None:
    """Raises NotFound, DataError for a pickle."""
    if ADDRESS.match(str(path)):
        raise NotFound(
            f"{path} is an address",
            why="LoRAs are read from files",
            fix="download it first",
        )
    if not path.is_file():
        raise NotFound(
            f"there is no LoRA {path}",
            why="it is a folder" if path.is_dir() else "nothing lies at that path",
            fix="--lora FILE.safetensors, FILE.safetensors:0.8 or run:ID",
        )
    try:
        with path.open("rb") as file:
            head = file.read(2)
    except OSError as fault:
        raise unreadable_file(path, fault) from None
    if path.suffix.lower() in PICKLES or head in (b"PK", b"\x80\x02", b"\x80\x04"):
        raise DataError(
            f"{path} is not opened",
            why="it is a pickle, which can run any program when it is read",
            fix="take the .safetensors of the same LoRA",
        )


def _adapters(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> tuple[dict[str, Adapter], tuple[str, ...]]:
    """Pairs of matrices by layer, and the keys that are left over."""
    downs: dict[str, tuple[str, Tensor]] = {}
    ups: dict[str, tuple[str, Tensor]] = {}
    alphas: dict[str, float] = {}
    strange = []
    for key, value in tensors.items():
        name = _plain(key)
        is_matrix = value.ndim in (2, 4) and value.is_floating_point()
        if (match := _DOWN.fullmatch(name)) and is_matrix:
            downs[match[1]] = key, value
        elif (match := _UP.fullmatch(name)) and is_matrix:
            ups[match[1]] = key, value
        elif name.endswith(".alpha") and value.numel() == 1:
            alphas[name.removesuffix(".alpha")] = float(value)
        else:
            strange.append(key)
    for lone in downs.keys() ^ ups.keys():
        strange.append((downs.get(lone) or ups[lone])[0])
    rule = _alpha_rule(metadata)
    adapters = {}
    for layer in downs.keys() & ups.keys():
        down, up = downs[layer][1], ups[layer][1]
        if down.shape[0] != up.shape[1] or not down.shape[0]:
            strange.append(downs[layer][0])
            continue
        alpha = alphas.get(layer)
        adapters[layer] = Adapter(down, up, rule(layer, down.shape[0]) if alpha is None else alpha)
    return dict(sorted(adapters.items())), tuple(sorted(strange))


def _plain(key: str) -> str:
    """A key in today's spelling."""
    for old, new in _OLD:
        key = key.replace(old, new)
    if key.startswith("base_model.model."):
        key = f"{lora_names.UNET}.{key.removeprefix('base_model.model.')}"
    if ".self_attn.to_" in key:  # of a text encoder
        key = re.sub(r"\.to_([qkv])\.lora", r".\1_proj.lora", key)
        key = key.replace(".to_out.0.lora", ".out_proj.lora")
    return key


def _alpha_rule(metadata: Mapping[str, str]) -> Any:
    """(layer, rank) -> alpha, by diffusers' own metadata; without it the rank."""
    try:
        values = json.loads(metadata.get(ADAPTER_METADATA, "{}"))
    except (ValueError, RecursionError):
        values = {}
    values = values if isinstance(values, dict) else {}

    def rule(layer: str, rank: int) -> float:
        component, _, name = layer.partition(".")
        patterns = values.get(f"{component}.alpha_pattern")
        for pattern, alpha in (patterns if isinstance(patterns, dict) else {}).items():
            fits = name == pattern.lstrip("^") or name.endswith(f".{pattern}")
            if fits and isinstance(alpha, int | float):
                return float(alpha)
        alpha = values.get(f"{component}.lora_alpha", rank)
        if not isinstance(alpha, int | float):
            return float(rank)
        rooted = values.get(f"{component}.use_rslora") is True
        return float(alpha) * (rank**0.5 if rooted else 1.0)

    return rule


# Matching


def networks(pipe: Any) -> dict[str, nn.Module]:
    """What a LoRA can lie on, by its name in the pipeline: denoiser and text encoders."""
    names = ("unet", "transformer", *lora_names.TEXT_ENCODERS)
    nets = {name: getattr(pipe, name, None) for name in names}
    return {name: net for name, net in nets.items() if isinstance(net, nn.Module)}


def match(loaded: Any, file: LoraFile) -> Match:
    """`loaded`: a LoadedPipeline, or a pipeline of diffusers."""
    pipe = getattr(loaded, "pipe", loaded)
    nets = networks(pipe)
    adapters: Mapping[str, Adapter] = file.adapters
    unknown: tuple[str, ...] = file.strange
    if "transformer" in nets:
        adapters, unknown = _converted(pipe, file)
    unet = getattr(pipe, "unet", None)
    layers = unet.config.layers_per_block if unet is not None else 2
    known = lora_names.index(nets, layers if isinstance(layers, int) else layers[0])
    matched, unmatched, misfits = [], list(unknown), []
    state: dict[str, Tensor] = {}
    alphas: dict[str, dict[str, float]] = {}
    for name, adapter in adapters.items():
        if name not in known:
            unmatched.append(name)
            continue
        component, layer_name, layer = known[name]
        down, up = _shaped(adapter, layer)
        if fault := _misfit(down, up, layer):
            misfits.append(f"{name}: {fault}")
            continue
        matched.append(name)
        alphas.setdefault(component, {})[layer_name] = adapter.alpha
        key = f"{component}.{layer_name}"
        state[f"{key}.lora_A.weight"] = down.float()
        state[f"{key}.lora_B.weight"] = up.float()
    return Match(tuple(matched), tuple(unmatched), tuple(misfits), state, alphas)


def _converted(pipe: Any, file: LoraFile) -> tuple[Mapping[str, Adapter], tuple[str, ...]]:
    """A transformer's LoRA, whose many spellings diffusers itself knows."""
    if all(name.startswith(("transformer.", "text_encoder")) for name in file.adapters):
        return file.adapters, file.strange
    try:
        answer = pipe.lora_state_dict(dict(file.tensors))
    except (ValueError, KeyError, AttributeError, NotImplementedError, IndexError, RuntimeError):
        return file.adapters, file.strange
    return _adapters(answer[0] if isinstance(answer, tuple) else answer, {})


def _shaped(adapter: Adapter, layer: nn.Module) -> tuple[Tensor, Tensor]:
    """A 1x1 convolution and a linear layer are written as either, by one program or another."""
    down, up = adapter.down, adapter.up
    if isinstance(layer, nn.Conv2d):
        down = down[:, :, None, None] if down.ndim == 2 else down
        up = up[:, :, None, None] if up.ndim == 2 else up
    else:
        down = down.flatten(1) if down.ndim == 4 and down.shape[2:] == (1, 1) else down
        up = up.flatten(1) if up.ndim == 4 and up.shape[2:] == (1, 1) else up
    return down.contiguous(), up.contiguous()


def _misfit(down: Tensor, up: Tensor, layer: nn.Module) -> str:
    rank = down.shape[0]
    wanted: tuple[list[int], list[int]]
    if isinstance(layer, nn.Conv2d):
        wanted = (
            [rank, layer.in_channels, *layer.kernel_size],
            [layer.out_channels, rank, 1, 1],
        )
    else:
        assert isinstance(layer, nn.Linear)
        wanted = [rank, layer.in_features], [layer.out_features, rank]
    if (list(down.shape), list(up.shape)) == wanted:
        return ""
    shapes = (f"{up.shape[0]} x {down.shape[1]}", f"{wanted[1][0]} x {wanted[0][1]}")
    return f"{shapes[0]} in the file, {shapes[1]} in the model"


def require_fit(file: LoraFile, rows: Match, base: str) -> None:
    """Raises DataError for a LoRA of another base, and for one that is no plain LoRA."""
    if odd := [key for key in file.strange if re.search(r"hada_|lokr_|dora_scale|lora_mid", key)]:
        raise DataError(
            f"{file.path.name} is no plain LoRA",
            why=f"{len(odd)} keys are of another kind of adapter: {_some(odd)}",
            fix="a LoRA (networks.lora) of the same style; DoRA, LoHa and LoKr are not read",
        )
    if rows.misfits:
        raise DataError(
            f"{file.path.name} is a LoRA for another base than {base}",
            why=f"{len(rows.misfits)} layers have another shape: {_some(rows.misfits)}"
            + lora_metadata.base_note(file.metadata),
            fix="--model with the base that it was trained on",
        )
    if not rows.matched:
        raise DataError(
            f"{file.path.name} does nothing on {base}",
            why=f"none of its {len(rows.unmatched)} names is a layer there: "
            f"{_some(rows.unmatched)}" + lora_metadata.base_note(file.metadata),
            fix="--model with the base that it was trained on",
        )


def _some(names: Sequence[str]) -> str:
    more = len(names) - MAX_SHOWN
    parts = [" ".join(name.split())[:MAX_CHARS] for name in names[:MAX_SHOWN]]
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")


# On a pipeline


def apply(loaded: Any, loras: Iterable[tuple[str | Path, float]]) -> list[tuple[LoraFile, Match]]:
    """Take off what lies on the pipeline and put these on, each with its weight. Nothing is changed
    where one does not fit. Raises NotFound, DataError."""
    pipe = getattr(loaded, "pipe", loaded)
    base = getattr(loaded, "name", type(pipe).__name__)
    rows = []
    for path, weight in loras:
        file = read(path)
        fit = match(pipe, file)
        require_fit(file, fit, base)
        rows.append((file, fit, weight))
    pipe.unload_lora_weights()
    dtype = getattr(loaded, "dtype", None) or pipe.dtype
    names = []
    for number, (file, fit, _) in enumerate(rows):
        name = f"lora_{number}"
        state = {key: value.to(dtype) for key, value in fit.state.items()}
        pipe.load_lora_weights(state, adapter_name=name)
        _set_alphas(pipe, name, dtype, file, fit)
        names.append(name)
    if names:
        pipe.set_adapters(names, [weight for *_, weight in rows])
    return [(file, fit) for file, fit, _ in rows]


def _set_alphas(pipe: Any, adapter: str, dtype: torch.dtype, file: LoraFile, fit: Match) -> None:
    """Each layer's own alpha, which takes effect with the next set_adapters. diffusers passes over
    keys that it does not know without an error: what did not arrive is a DataError here. peft gives
    adapters the number type of their layer, which in 8 bits cannot compute: they get `dtype`."""
    for component, alphas in fit.alphas.items():
        lost = dict(alphas)
        for name, module in networks(pipe)[component].named_modules():
            if adapter in getattr(module, "lora_A", {}) and name in lost:
                module.lora_alpha[adapter] = lost.pop(name)
                module.lora_A[adapter].to(dtype)
                module.lora_B[adapter].to(dtype)
        if lost:
            raise DataError(
                f"{file.path.name} did not arrive whole in {component}",
                why=f"diffusers left out {len(lost)} layers: {_some(sorted(lost))}",
                fix="pip install -U diffusers peft, or leave this LoRA out",
            )


# Writing


def write(
    path: str | Path,
    state: Mapping[str, Tensor],
    *,
    form: Form = "diffusers",
    family: str = "sd",
    alpha: float | None = None,
    layers: int = 2,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write adapters, whole or not at all.

    state: `unet.LAYER.lora_A.weight` [rank, in] and `lora_B` [out, rank], with `text_encoder.` and
    `text_encoder_2.` for the text encoders, and `LAYER.alpha` where a layer has one of its own.
    `alpha`: of all other layers; None is their rank. `layers`: the UNet's layers_per_block, for
    kohya's names of SDXL. Equal adapters and metadata give equal bytes.
    Raises DataError where the file cannot be written.
    """
    adapters, strange = _adapters(state, {})
    assert not strange, strange
    named = {name for name in state if name.endswith(".alpha")}
    tensors: dict[str, Tensor] = {}
    for name, adapter in adapters.items():
        own = f"{name}.alpha" in named or alpha is None
        layer_alpha = adapter.alpha if own else float(alpha or 0)
        component, _, layer = name.partition(".")
        if form == "kohya":
            key = lora_names.kohya_name(component, layer, family, layers)
            tensors[f"{key}.lora_down.weight"] = adapter.down
            tensors[f"{key}.lora_up.weight"] = adapter.up
            tensors[f"{key}.alpha"] = torch.tensor(layer_alpha)
        else:
            text = component in lora_names.TEXT_ENCODERS
            key = f"{component}.{lora_names.text_name(layer) if text else layer}"
            scale = layer_alpha / adapter.rank
            up = adapter.up if scale == 1 else (adapter.up.float() * scale).to(adapter.up.dtype)
            tensors[f"{key}.lora_A.weight"] = adapter.down
            tensors[f"{key}.lora_B.weight"] = up
    path = Path(path)
    with fsio.atomic_write(path) as draft:
        draft.write_bytes(_serialized(tensors, metadata or {}))
    return path


_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def _serialized(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file (https://github.com/huggingface/safetensors: length, JSON, bytes) whose
    metadata stand in one order: the library's own differ from call to call."""
    rows: dict[str, Any] = {}
    blocks = []
    place = 0
    for name, value in sorted(tensors.items()):
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        span = [place, place + len(raw)]
        rows[name] = {"dtype": _DTYPES[value.dtype], "shape": list(value.shape)}
        rows[name]["data_offsets"] = span
        blocks.append(raw)
        place += len(raw)
    body = b"".join(blocks)
    digest = hashlib.sha256(body).hexdigest()
    known = {
        **metadata,
        "format": "pt",
        "sshs_model_hash": digest,
        "modelspec.hash_sha256": f"0x{digest}",
    }
    header = json.dumps({"__metadata__": dict(sorted(known.items())), **rows}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + body
