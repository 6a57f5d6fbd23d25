"""A tiny language model on the disk, and as what others open: safetensors in Llama's or Qwen3's
layout, and GGUF. Knows no training."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from onecard import fsio
from onecard.errors import DataError, NotFound, SettingsError, not_found
from onecard.reporting import Result
from onecard.runs import store
from onecard.runs.record import Run, read_json
from onecard.tasks.tinylm import model_config as shapes
from onecard.tasks.tinylm import tokenizers as ours
from onecard.tasks.tinylm.configs import Settings
from onecard.tasks.tinylm.model import TinyLM
from onecard.tasks.tinylm.model_config import ModelConfig
from onecard.units import size

TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['content'] }}{% "
    "endif %}{% endfor %}"
)
"""The model knows no talk, it goes on with a text: what was said is the text."""
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
LAYER = {
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
"""Our names to those of transformers and of GGUF."""


def save(net: TinyLM, folder: Path, tokenizer: Tokenizer, facts: dict[str, Any]) -> None:
    """model.safetensors, config.json and tokenizer.json, each whole or not at all."""
    with fsio.atomic_write(folder / "model.safetensors") as draft:
        save_file(
            {name: weight.detach().cpu().contiguous() for name, weight in net.named_parameters()},
            draft,
        )
    fsio.write_text(folder / "tokenizer.json", tokenizer.to_str())
    fsio.write_text(
        folder / "config.json",
        json.dumps({"model_type": "onecard-tinylm", **net.shape.as_dict(), **facts}, indent=1),
    )


def opened(name: str) -> tuple[TinyLM, Tokenizer, Path, dict[str, Any]]:
    """The model of a run or a folder, ready to answer.

    Raises NotFound, SettingsError, DataError with what does not fit together.
    """
    if not name:
        raise SettingsError(
            "there is no model",
            why="no run was named",
            fix="onecard tinylm generate last, or the ID of a training: onecard runs list",
        )
    folder = Path(name).expanduser()
    if not folder.is_dir():
        past = store.find(name.removeprefix("run:"))
        told = Path(str(read_json(past.folder / "artifacts" / "tinylm.json").get("model", "")))
        folder = told if told.name and told.is_dir() else past.folder / "artifacts" / "model"
    if not (folder / "model.safetensors").is_file():
        raise NotFound(
            f"{name} holds no tiny language model",
            why=f"{folder} has no model.safetensors",
            fix="onecard tinylm train makes one",
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as fault:  # the tokenizers library raises a bare Exception
        raise DataError(
            f"{folder} is not whole",
            why=f"config.json or tokenizer.json: {str(fault).splitlines()[0][:150]}",
            fix="give the folder as the training wrote it",
        ) from None
    shape = shapes.from_dict(config, str(folder / "config.json"))
    if tokenizer.get_vocab_size() != shape.vocab_size:
        raise DataError(
            f"the tokenizer in {folder} is another model's",
            why=f"it has {tokenizer.get_vocab_size()} tokens, the model {shape.vocab_size}",
            fix="put back the tokenizer.json that the training wrote",
        )
    net = TinyLM(shape)
    try:
        net.load_state_dict(load_file(folder / "model.safetensors"))
    except (SafetensorError, RuntimeError) as fault:
        raise DataError(
            f"{folder / 'model.safetensors'} is cut short or another model's",
            why=str(fault).splitlines()[0][:200],
            fix="train again, or give another folder",
        ) from None
    return net.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, folder, config


def export(settings: Settings, run: Run) -> Result:
    """Safetensors that transformers opens, and GGUF files.

    Raises SettingsError where no such layout exists for the model.
    """
    net, tokenizer, folder, _ = opened(settings.run_id)
    out = Path(settings.output_dir).expanduser() if settings.output_dir else folder.parent
    made = everything(net.cpu(), tokenizer, out, settings.quants)
    run.artifact(
        "result.json",
        json.dumps(
            {
                "model": str(
                    next(
                        (path.resolve() for path in made if path.suffix == ".gguf"),
                        made[0].resolve(),
                    )
                )
            }
        ),
    )
    return Result(
        {"files": [str(path) for path in made]},
        "\n".join(
            f"made {path}: "
            f"{size(sum(p.stat().st_size for p in path.iterdir()) if path.is_dir() else path.stat().st_size)}"
            for path in made
        ),
    )


def layout(shape: ModelConfig) -> str:
    """qwen3 with QK-norm, llama without.

    Raises SettingsError for what neither transformers nor llama.cpp has.
    """
    wrong = (
        f"positions are {shape.position}, theirs are rope"
        if shape.position != "rope"
        else f"the MLP is {shape.mlp}, theirs is swiglu"
        if shape.mlp != "swiglu"
        else ""
    )
    if wrong:
        raise SettingsError(
            "this model has no layout that others open",
            why=f"{wrong}; the folder `model` with our own names is whole",
            fix="onecard tinylm generate writes with it; a model for chat: --position rope --mlp "
            "swiglu",
        )
    return "qwen3" if shape.qk_norm else "llama"


def need_quants(quants: tuple[str, ...]) -> list[str]:
    """Raises NotFound for a GGUF type that is not made here."""
    chosen = [quant.lower() for quant in quants if quant.lower() != "none"]
    if unknown := [quant for quant in chosen if quant not in QUANTS]:
        raise not_found("GGUF type", unknown[0], [*QUANTS, "none"])
    return chosen


def everything(net: TinyLM, tokenizer: Tokenizer, out: Path, quants: tuple[str, ...]) -> list[Path]:
    """Raises SettingsError, NotFound."""
    chosen = need_quants(quants)
    arch = layout(net.shape)
    if wrong := ours.foreign(tokenizer):
        raise SettingsError(
            "this tokenizer has no form that others open",
            why=wrong,
            fix="onecard tinylm generate writes with it; for chat: --tokenizer char, bpe or code",
        )
    made = [to_transformers(net, tokenizer, out / "hf", arch)]
    for quant in chosen:
        if quant == "q8_0" and net.shape.n_embd % 32:
            raise SettingsError(
                "q8_0 does not divide this model",
                why=f"it takes 32 weights at a time, the width is {net.shape.n_embd}",
                fix="--quants f16",
            )
        made.append(out / "gguf" / f"tinylm-{quant}.gguf")
        to_gguf(net, tokenizer, made[-1], arch, quant)
    return made


def to_transformers(net: TinyLM, tokenizer: Tokenizer, folder: Path, arch: str) -> Path:
    """A folder for AutoModelForCausalLM and AutoTokenizer."""
    s = net.shape
    named = {
        "model.embed_tokens.weight": net.embedding.weight,
        "model.norm.weight": net.norm.weight,
    }
    for name, weight in net.named_parameters():
        if name.startswith("blocks."):
            _, layer, rest = name.split(".", 2)
            named[f"model.layers.{layer}.{LAYER[rest.removesuffix('.weight')][0]}.weight"] = weight
    with fsio.atomic_write(folder / "model.safetensors") as draft:
        save_file(
            {name: weight.detach().cpu().contiguous() for name, weight in named.items()},
            draft,
            metadata={"format": "pt"},
        )
    end = tokenizer.token_to_id(ours.END)
    config = {
        "model_type": arch,
        "architectures": ["Qwen3ForCausalLM" if arch == "qwen3" else "LlamaForCausalLM"],
        "vocab_size": s.vocab_size,
        "hidden_size": s.n_embd,
        "intermediate_size": s.d_ff,
        "num_hidden_layers": s.n_layer,
        "num_attention_heads": s.n_head,
        "num_key_value_heads": s.n_kv_head,
        "head_dim": s.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": s.block_size,
        "rms_norm_eps": s.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": s.rope_theta},
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": end,
        "torch_dtype": "float32",
    }
    fsio.write_text(folder / "config.json", json.dumps(config, indent=1))
    fsio.write_text(folder / "tokenizer.json", tokenizer.to_str())
    fsio.write_text(
        folder / "tokenizer_config.json",
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": ours.END,
                "model_max_length": s.block_size,
                "chat_template": TEMPLATE,
                "clean_up_tokenization_spaces": False,
            },
            indent=1,
        ),
    )
    return folder


def to_gguf(net: TinyLM, tokenizer: Tokenizer, target: Path, arch: str, quant: str) -> None:
    """One file for llama.cpp. Norms stay in fp32, as its own converter leaves them."""
    s = net.shape
    with fsio.atomic_write(target) as draft:
        writer = gguf.GGUFWriter(draft, arch)
        writer.add_name(f"tinylm {s.n_params / 1e6:.1f}M")
        writer.add_file_type(FILE_TYPES[quant])
        writer.add_context_length(s.block_size)
        writer.add_embedding_length(s.n_embd)
        writer.add_block_count(s.n_layer)
        writer.add_feed_forward_length(s.d_ff)
        writer.add_head_count(s.n_head)
        writer.add_head_count_kv(s.n_kv_head)
        writer.add_key_length(s.head_width)
        writer.add_value_length(s.head_width)
        writer.add_rope_dimension_count(s.head_width)
        writer.add_rope_freq_base(s.rope_theta)
        writer.add_layer_norm_rms_eps(s.norm_eps)
        writer.add_vocab_size(s.vocab_size)
        _vocabulary(writer, tokenizer)
        for name, array in _tensors(net, arch):
            kind = QUANTS[quant] if array.ndim == 2 else gguf.GGMLQuantizationType.F32
            if array.ndim == 2 and array.shape[1] % 32 and quant == "q8_0":
                kind = gguf.GGMLQuantizationType.F16
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    end = tokenizer.token_to_id(ours.END)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("starcoder" if ours.is_code(tokenizer) else "gpt-2")
    writer.add_token_list([word for word, _ in words])
    writer.add_token_types(
        [gguf.TokenType.CONTROL if number == end else gguf.TokenType.NORMAL for _, number in words]
    )
    writer.add_token_merges(
        [" ".join(pair) if isinstance(pair, list) else pair for pair in merges]
        or [_no_merge(words)]
    )
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    if end is not None:
        writer.add_eos_token_id(end)
        writer.add_bos_token_id(end)


def _no_merge(words: list[tuple[str, int]]) -> str:
    """llama.cpp asks for merges; this pair makes a word that is in no vocabulary of characters, and
    so never comes to pass."""
    letters = [word for word, _ in words if len(word) == 1]
    return f"{letters[0]} {letters[-1]}"


def _tensors(net: TinyLM, arch: str) -> list[tuple[str, np.ndarray]]:
    s = net.shape
    out: list[tuple[str, torch.Tensor]] = [
        ("token_embd.weight", net.embedding.weight),
        ("output_norm.weight", net.norm.weight),
    ]
    for name, weight in net.named_parameters():
        if name.startswith("blocks."):
            _, layer, rest = name.split(".", 2)
            ours_name = rest.removesuffix(".weight")
            if arch == "llama" and ours_name in ("attention.wq", "attention.wk"):
                out.append(
                    (
                        f"blk.{layer}.{LAYER[ours_name][1]}.weight",
                        _interleaved(weight, s.n_head if ours_name.endswith("wq") else s.n_kv_head),
                    )
                )
                continue
            out.append((f"blk.{layer}.{LAYER[ours_name][1]}.weight", weight))
    return [(name, weight.detach().float().cpu().contiguous().numpy()) for name, weight in out]


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp turns neighbours (x_2i, x_2i+1) in Llama's layout, we and transformers turn (x_i,
    x_i+K/2): rows of each head change places."""
    return (
        weight.view(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
        .transpose(1, 2)
        .reshape(weight.shape)
    )
