"""Whisper between CTranslate2's form and transformers', both ways: what is embedded can be trained,
and what was trained can be heard with. Knows no training.

The reader follows ctranslate2's published layout of model.bin (version 6): names, shapes, types,
bytes, then aliases.
"""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizerFast,
)

from onecard import paths
from onecard.errors import DataError
from onecard.hub import checkpoints, download
from onecard.reporting import Reporter
from onecard.tasks.asr import model as models

TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
SUPPORTED = 6


def dense_folder(name: str, reporter: Reporter) -> Path:
    """A folder that transformers opens; the embedded model is turned once and kept.

    Raises NotFound, DataError.
    """
    path = Path(name).expanduser()
    if path.is_dir() and (path / "config.json").exists() and list(path.glob("*.safetensors")):
        return path
    if name.startswith("run:"):
        return checkpoints._whole(models.of_run(name[4:]).parent / "merged")
    plain = name.removeprefix("openai/").removeprefix("whisper-")
    if plain != models.EMBEDDED or path.is_dir():
        return checkpoints.folder(name if "/" in name else f"openai/whisper-{plain}", reporter)
    target = paths.home() / "dense" / f"whisper-{plain}"
    with download.locked(target, reporter):
        if not (target / ".whole").exists():
            reporter.line("turning the embedded Whisper into safetensors, once")
            to_transformers(models.folder(name, reporter), target)
            (target / ".whole").touch()
    return target


def read(path: Path) -> dict[str, np.ndarray]:
    """Variables of a model.bin by name.

    Raises DataError for another version or a file cut short.
    """
    data = path.read_bytes()
    at = 0

    def take(form: str) -> int:
        nonlocal at
        value = struct.unpack_from("<" + form, data, at)[0]
        at += struct.calcsize(form)
        return int(value)

    def text() -> str:
        nonlocal at
        length = take("H")
        at += length
        return data[at - length : at].rstrip(b"\0").decode()

    try:
        version, _, _ = take("I"), text(), take("I")
        if version != SUPPORTED:
            raise DataError(
                f"{path} has another layout",
                why=f"version {version} of CTranslate2's, {SUPPORTED} is known here",
                fix="take the model in transformers' form: --model_name openai/whisper-base",
            )
        out: dict[str, np.ndarray] = {}
        for _ in range(take("I")):
            name = text()
            shape = [take("I") for _ in range(take("B"))]
            kind, size = TYPES[take("B")], take("I")
            if at + size > len(data):
                raise IndexError
            out[name] = np.frombuffer(
                data, kind, count=size // np.dtype(kind).itemsize, offset=at
            ).reshape(shape)
            at += size
        for _ in range(take("I")):
            alias = text()
            out[alias] = out[text()]
    except (struct.error, IndexError, KeyError, UnicodeDecodeError) as fault:
        raise DataError(
            f"{path} is cut short or damaged",
            why=str(fault) or "its bytes end early",
            fix=f"remove {path.parent} and run it again",
        ) from None
    return out


def to_transformers(source: Path, target: Path) -> None:
    """A folder in CTranslate2's form (fp16 or fp32) to one of transformers, in fp32."""
    held = read(source / "model.bin")
    about = json.loads((source / "config.json").read_text(encoding="utf-8"))
    width, vocab = (
        held["encoder/layer_norm/gamma"].shape[0],
        held["decoder/embeddings/weight"].shape[0],
    )
    layers = {
        side: 1
        + max(
            int(name.split("/")[1][6:])
            for name in held
            if name.startswith(f"{side}/layer_") and name.split("/")[1][6:].isdigit()
        )
        for side in ("encoder", "decoder")
    }
    config = WhisperConfig(
        vocab_size=vocab,
        num_mel_bins=held["encoder/conv1/weight"].shape[1],
        d_model=width,
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        encoder_attention_heads=width // 64,
        decoder_attention_heads=width // 64,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        bos_token_id=50257,
        eos_token_id=50257,
        pad_token_id=50257,
        decoder_start_token_id=50258,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    net = WhisperForConditionalGeneration(config)
    lacking = net.load_state_dict(_state(held, layers, width), strict=False)
    if lacking.missing_keys or lacking.unexpected_keys:
        raise DataError(
            f"{source} is no Whisper",
            why=f"{[*lacking.missing_keys, *lacking.unexpected_keys][:3]} do not fit",
            fix="take the model in transformers' form",
        )
    tokenizer = WhisperTokenizerFast(
        tokenizer_file=str(source / "tokenizer.json"),
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=None,
    )
    net.generation_config = GenerationConfig(
        bos_token_id=50257,
        eos_token_id=50257,
        pad_token_id=50257,
        decoder_start_token_id=50258,
        max_length=448,
        is_multilingual=True,
        lang_to_id={tokenizer.convert_ids_to_tokens(i): i for i in about["lang_ids"]},
        task_to_id={"translate": 50358, "transcribe": 50359},
        no_timestamps_token_id=50363,
        suppress_tokens=about.get("suppress_ids"),
        begin_suppress_tokens=about.get("suppress_ids_begin"),
        alignment_heads=about["alignment_heads"],
        max_initial_timestamp_index=50,
        prev_sot_token_id=50361,
        return_timestamps=False,
        forced_decoder_ids=None,
    )
    net.save_pretrained(target)
    hears = WhisperFeatureExtractor(feature_size=config.num_mel_bins)
    WhisperProcessor(feature_extractor=hears, tokenizer=tokenizer).save_pretrained(target)
    hears.save_pretrained(target)


def _state(
    held: dict[str, np.ndarray], layers: dict[str, int], width: int
) -> dict[str, torch.Tensor]:
    """Our names to theirs: fused matrices are cut apart."""
    out: dict[str, torch.Tensor] = {}

    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(np.array(held[name], dtype=np.float32))

    def linear(theirs: str, mine: str) -> None:
        out[f"{theirs}.weight"] = tensor(f"{mine}/weight")
        if f"{mine}/bias" in held:
            out[f"{theirs}.bias"] = tensor(f"{mine}/bias")

    def norm(theirs: str, mine: str) -> None:
        out[f"{theirs}.weight"], out[f"{theirs}.bias"] = (
            tensor(f"{mine}/gamma"),
            tensor(f"{mine}/beta"),
        )

    def pieces(theirs: str, mine: str, names: tuple[str, ...]) -> None:
        weight, bias = tensor(f"{mine}/weight"), tensor(f"{mine}/bias")
        for i, name in enumerate(names):
            out[f"{theirs}.{name}.weight"] = weight[i * width : (i + 1) * width].clone()
            if name != "k_proj":  # Whisper's keys have no bias
                out[f"{theirs}.{name}.bias"] = bias[i * width : (i + 1) * width].clone()

    for i in (1, 2):
        linear(f"model.encoder.conv{i}", f"encoder/conv{i}")
    for side in ("encoder", "decoder"):
        out[f"model.{side}.embed_positions.weight"] = tensor(f"{side}/position_encodings/encodings")
        norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        for i in range(layers[side]):
            theirs, mine = f"model.{side}.layers.{i}", f"{side}/layer_{i}"
            norm(f"{theirs}.self_attn_layer_norm", f"{mine}/self_attention/layer_norm")
            pieces(
                f"{theirs}.self_attn",
                f"{mine}/self_attention/linear_0",
                ("q_proj", "k_proj", "v_proj"),
            )
            linear(f"{theirs}.self_attn.out_proj", f"{mine}/self_attention/linear_1")
            if side == "decoder":
                norm(f"{theirs}.encoder_attn_layer_norm", f"{mine}/attention/layer_norm")
                linear(f"{theirs}.encoder_attn.q_proj", f"{mine}/attention/linear_0")
                pieces(f"{theirs}.encoder_attn", f"{mine}/attention/linear_1", ("k_proj", "v_proj"))
                linear(f"{theirs}.encoder_attn.out_proj", f"{mine}/attention/linear_2")
            norm(f"{theirs}.final_layer_norm", f"{mine}/ffn/layer_norm")
            linear(f"{theirs}.fc1", f"{mine}/ffn/linear_0")
            linear(f"{theirs}.fc2", f"{mine}/ffn/linear_1")
    out["model.decoder.embed_tokens.weight"] = out["proj_out.weight"] = tensor(
        "decoder/embeddings/weight"
    )
    return out


def to_ct2(source: Path, target: Path, quantization: str = "float16") -> Path:
    """transformers' folder to CTranslate2's, with the tokenizer beside it; whole or not at all.

    Raises DataError.
    """
    draft = target.with_name(target.name + ".part")
    try:
        made: Any = ctranslate2.converters.TransformersConverter(
            str(source), copy_files=["tokenizer.json", "preprocessor_config.json"]
        )
        made.convert(str(draft), quantization=quantization, force=True)
    except (RuntimeError, ValueError, OSError) as fault:
        raise DataError(
            f"{source} did not convert",
            why=str(fault).splitlines()[0][:300],
            fix="keep the adapter and the merged folder, which are whole",
        ) from None
    if target.exists():
        shutil.rmtree(target)
    draft.rename(target)
    return target
