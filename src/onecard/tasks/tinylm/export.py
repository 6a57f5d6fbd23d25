"""onecard tinylm export: a tiny language model as what others open. Safetensors in Llama's or
Qwen3's layout, and GGUF."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from onecard import fsio
from onecard.errors import SettingsError, not_found
from onecard.reporting import Result
from onecard.runs.record import Run
from onecard.tasks.tinylm import saved_model, tokenization
from onecard.tasks.tinylm.configs import ExportConfig
from onecard.tasks.tinylm.model import TinyLM
from onecard.tasks.tinylm.model_config import ModelConfig
from onecard.tasks.tinylm.tokenization import END_OF_TEXT
from onecard.units import size

TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['content'] }}{% "
    "endif %}{% endfor %}"
)
"""The model continues a text and knows no roles: the messages are the text."""
QUANTS = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
LAYER_NAMES = {
    "attention_norm": ("input_layernorm", "attn_norm"),
    "mlp_norm": ("post_attention_layernorm", "ffn_norm"),
    "attention.wq": ("self_attn.q_proj", "attn_q"),
    "attention.wk": ("self_attn.k_proj", "attn_k"),
    "attention.wv": ("self_attn.v_proj", "attn_v"),
    "attention.wo": ("self_attn.o_proj", "attn_output"),
    "attention.q_norm": ("self_attn.q_norm", "attn_q_norm"),
    "attention.k_norm": ("self_attn.k_norm", "attn_k_norm"),
    "mlp.gate": ("mlp.gate_proj", "ffn_gate"),
    "mlp.up": ("mlp.up_proj", "ffn_up"),
    "mlp.down": ("mlp.down_proj", "ffn_down"),
}
"""Our names of a layer's weights to those of transformers and of GGUF."""
Q8_BLOCK = 32
"""Weights that share a scale in q8_0."""


def export(config: ExportConfig, run: Run) -> Result:
    """Raises NotFound, SettingsError where no layout of others fits the model."""
    model = saved_model.load(config.run_id)
    out = model.folder.parent
    if config.output_dir:
        out = Path(config.output_dir).expanduser()
    files = export_all(model.net.cpu(), model.tokenizer, out, config.quants)
    record_for_chat(files, run)
    return Result(
        {"files": [str(path) for path in files]},
        "\n".join(f"wrote {path}: {size(_disk_bytes(path))}" for path in files),
    )


def export_all(net: TinyLM, tokenizer: Tokenizer, out: Path, quants: tuple[str, ...]) -> list[Path]:
    """The folder for transformers, and a GGUF file of each type. Raises SettingsError, NotFound."""
    gguf_types = require_quants(quants)
    layout = layout_of(net.model_config)
    if reason := tokenization.incompatibility(tokenizer):
        raise SettingsError(
            "this tokenizer has no form that others open",
            why=reason,
            fix="onecard tinylm generate works with it; for chat: --tokenizer char, bpe or code",
        )
    files = [to_transformers(net, tokenizer, out / "hf", layout)]
    for quant in gguf_types:
        width = net.model_config.n_embd
        if quant == "q8_0" and width % Q8_BLOCK:
            raise SettingsError(
                "q8_0 does not divide this model",
                why=f"it takes {Q8_BLOCK} weights at a time, the width is {width}",
                fix="--quants f16",
            )
        files.append(out / "gguf" / f"tinylm-{quant}.gguf")
        to_gguf(net, tokenizer, files[-1], layout, quant)
    return files


def record_for_chat(files: list[Path], run: Run) -> None:
    """Name the file that `onecard chat --model run:ID` opens: the first GGUF, else the folder."""
    default = next((path for path in files if path.suffix == ".gguf"), files[0])
    run.artifact("result.json", json.dumps({"model": str(default.resolve())}))


def _disk_bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.iterdir())


def layout_of(config: ModelConfig) -> str:
    """qwen3 with QK-norm, llama without.

    Raises SettingsError for what neither transformers nor llama.cpp has.
    """
    reason = ""
    if config.position != "rope":
        reason = f"positions are {config.position}, theirs are rope"
    elif config.mlp != "swiglu":
        reason = f"the MLP is {config.mlp}, theirs is swiglu"
    if reason:
        raise SettingsError(
            "this model has no layout that others open",
            why=f"{reason}; the folder `model` in our own layout is complete",
            fix="onecard tinylm generate works with it; a model for chat: --position rope --mlp "
            "swiglu",
        )
    return "qwen3" if config.qk_norm else "llama"


def require_quants(quants: tuple[str, ...]) -> list[str]:
    """The GGUF types that were named, without "none". Raises NotFound for one not made here."""
    names = [quant.lower() for quant in quants if quant.lower() != "none"]
    if unknown := [name for name in names if name not in QUANTS]:
        raise not_found("GGUF type", unknown[0], [*QUANTS, "none"])
    return names


# safetensors for transformers


def to_transformers(net: TinyLM, tokenizer: Tokenizer, folder: Path, layout: str) -> Path:
    """A folder for AutoModelForCausalLM and AutoTokenizer."""
    tensors = {
        "model.embed_tokens.weight": net.embedding.weight,
        "model.norm.weight": net.norm.weight,
    }
    for layer, name, weight in _layer_weights(net):
        tensors[f"model.layers.{layer}.{LAYER_NAMES[name][0]}.weight"] = weight
    with fsio.atomic_write(folder / "model.safetensors") as draft:
        save_file(
            {name: weight.detach().cpu().contiguous() for name, weight in tensors.items()},
            draft,
            metadata={"format": "pt"},
        )
    config = _transformers_config(net.model_config, layout, tokenizer.token_to_id(END_OF_TEXT))
    fsio.write_text(folder / "config.json", json.dumps(config, indent=1))
    fsio.write_text(folder / "tokenizer.json", tokenizer.to_str())
    fsio.write_text(
        folder / "tokenizer_config.json",
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": END_OF_TEXT,
                "model_max_length": net.model_config.block_size,
                "chat_template": TEMPLATE,
                "clean_up_tokenization_spaces": False,
            },
            indent=1,
        ),
    )
    return folder


def _layer_weights(net: TinyLM) -> Iterator[tuple[int, str, torch.Tensor]]:
    """(layer, name in LAYER_NAMES, weight) of all layers."""
    for name, weight in net.named_parameters():
        if name.startswith("blocks."):
            _, layer, rest = name.split(".", 2)
            yield int(layer), rest.removesuffix(".weight"), weight


def _transformers_config(c: ModelConfig, layout: str, end: int | None) -> dict[str, Any]:
    return {
        "model_type": layout,
        "architectures": ["Qwen3ForCausalLM" if layout == "qwen3" else "LlamaForCausalLM"],
        "vocab_size": c.vocab_size,
        "hidden_size": c.n_embd,
        "intermediate_size": c.d_ff,
        "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head,
        "num_key_value_heads": c.n_kv_head,
        "head_dim": c.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": c.block_size,
        "rms_norm_eps": c.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": end,
        "torch_dtype": "float32",
    }


# GGUF for llama.cpp


def to_gguf(net: TinyLM, tokenizer: Tokenizer, target: Path, layout: str, quant: str) -> None:
    """One file for llama.cpp. Norms stay in fp32, as its own converter leaves them."""
    c = net.model_config
    with fsio.atomic_write(target) as draft:
        writer = gguf.GGUFWriter(draft, layout)
        writer.add_name(f"tinylm {c.n_params / 1e6:.1f}M")
        writer.add_file_type(FILE_TYPES[quant])
        writer.add_context_length(c.block_size)
        writer.add_embedding_length(c.n_embd)
        writer.add_block_count(c.n_layer)
        writer.add_feed_forward_length(c.d_ff)
        writer.add_head_count(c.n_head)
        writer.add_head_count_kv(c.n_kv_head)
        writer.add_key_length(c.head_width)
        writer.add_value_length(c.head_width)
        writer.add_rope_dimension_count(c.head_width)
        writer.add_rope_freq_base(c.rope_theta)
        writer.add_layer_norm_rms_eps(c.norm_eps)
        writer.add_vocab_size(c.vocab_size)
        _write_vocabulary(writer, tokenizer)
        for name, array in _gguf_tensors(net, layout):
            kind = QUANTS[quant] if array.ndim == 2 else gguf.GGMLQuantizationType.F32
            if quant == "q8_0" and array.ndim == 2 and array.shape[1] % Q8_BLOCK:
                kind = gguf.GGMLQuantizationType.F16
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _write_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in vocabulary]
    end = tokenizer.token_to_id(END_OF_TEXT)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    lines = [" ".join(pair) if isinstance(pair, list) else pair for pair in merges]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("starcoder" if tokenization.splits_digits(tokenizer) else "gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if number == end else normal for _, number in vocabulary])
    writer.add_token_merges(lines or [_unused_merge(tokens)])
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    if end is not None:
        writer.add_eos_token_id(end)
        writer.add_bos_token_id(end)


def _unused_merge(tokens: list[str]) -> str:
    """llama.cpp requires a list of merges. This pair makes a token that is in no vocabulary of
    characters, and is therefore never merged."""
    characters = [token for token in tokens if len(token) == 1]
    return f"{characters[0]} {characters[-1]}"


def _gguf_tensors(net: TinyLM, layout: str) -> list[tuple[str, np.ndarray]]:
    c = net.model_config
    tensors: list[tuple[str, torch.Tensor]] = [
        ("token_embd.weight", net.embedding.weight),
        ("output_norm.weight", net.norm.weight),
    ]
    rotated_heads = {"attention.wq": c.n_head, "attention.wk": c.n_kv_head}
    for layer, name, weight in _layer_weights(net):
        if layout == "llama" and name in rotated_heads:
            weight = _interleaved(weight, rotated_heads[name])
        tensors.append((f"blk.{layer}.{LAYER_NAMES[name][1]}.weight", weight))
    return [(name, weight.detach().float().cpu().contiguous().numpy()) for name, weight in tensors]


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp rotates neighbours (x_2i, x_2i+1) in Llama's layout, transformers and we rotate
    (x_i, x_i+K/2): the rows of each head are reordered."""
    return (
        weight.view(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
        .transpose(1, 2)
        .reshape(weight.shape)
    )
