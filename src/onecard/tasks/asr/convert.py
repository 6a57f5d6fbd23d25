"""Whisper between CTranslate2's format and transformers', both ways: the embedded model can be
trained, and a trained model can transcribe.

The reader follows ctranslate2's published layout of model.bin (version 6): names, shapes, types,
bytes, then aliases.
"""

import json
import re
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

from onecard import fsio, paths
from onecard.errors import DataError, NotFound
from onecard.hub import checkpoints, download
from onecard.reporting import Reporter
from onecard.tasks.asr import model_files

TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
LAYOUT_VERSION = 6
COMPLETE = ".whole"
HEAD_WIDTH = 64
"""Of all Whisper models."""


def transformers_folder(name: str, reporter: Reporter) -> Path:
    """A folder that transformers opens; the embedded model is converted once and cached.

    Raises NotFound, DataError.
    """
    path = model_files.local_folder(name)
    if path and (path / "config.json").exists() and list(path.glob("*.safetensors")):
        return path
    if name.startswith("run:"):
        merged = model_files.of_run(name[4:]).parent / "merged"
        if not merged.is_dir():
            raise NotFound(
                f"{name} has no model that can be trained",
                why=f"there is no {merged}",
                fix="name a training of onecard asr train that reached its end",
            )
        return checkpoints.folder(str(merged), reporter)
    short = model_files.short_name(name)
    if short != model_files.EMBEDDED or path:
        return checkpoints.folder(name if "/" in name else f"openai/whisper-{short}", reporter)
    target = paths.home() / "dense" / f"whisper-{short}"
    with download.locked(target, reporter):
        if not (target / COMPLETE).exists():
            reporter.line("converting the embedded Whisper to safetensors, once")
            to_transformers(model_files.find(name, reporter), target)
            (target / COMPLETE).touch()
    return target


class _BinaryReader:
    """Little-endian values out of bytes. Raises struct.error or IndexError at their end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def integer(self, format: str) -> int:
        value = struct.unpack_from("<" + format, self.data, self.position)[0]
        self.position += struct.calcsize(format)
        return int(value)

    def text(self) -> str:
        """Zero-terminated, after its length."""
        length = self.integer("H")
        self.position += length
        return self.data[self.position - length : self.position].rstrip(b"\0").decode()

    def array(self, dtype: Any, n_bytes: int) -> np.ndarray:
        if self.position + n_bytes > len(self.data):
            raise IndexError
        count = n_bytes // np.dtype(dtype).itemsize
        array = np.frombuffer(self.data, dtype, count=count, offset=self.position)
        self.position += n_bytes
        return array


def read_model_bin(path: Path) -> dict[str, np.ndarray]:
    """Variables of a model.bin by name.

    Raises DataError for another layout or a truncated file.
    """
    reader = _BinaryReader(path.read_bytes())
    try:
        version, _, _ = reader.integer("I"), reader.text(), reader.integer("I")
        if version != LAYOUT_VERSION:
            raise DataError(
                f"{path} has another layout",
                why=f"version {version} of CTranslate2's, {LAYOUT_VERSION} is supported",
                fix="take the model in transformers' form: --model openai/whisper-base",
            )
        variables: dict[str, np.ndarray] = {}
        for _ in range(reader.integer("I")):
            name = reader.text()
            shape = [reader.integer("I") for _ in range(reader.integer("B"))]
            dtype, n_bytes = TYPES[reader.integer("B")], reader.integer("I")
            variables[name] = reader.array(dtype, n_bytes).reshape(shape)
        for _ in range(reader.integer("I")):
            alias = reader.text()
            variables[alias] = variables[reader.text()]
    except (struct.error, IndexError, KeyError, UnicodeDecodeError) as fault:
        raise DataError(
            f"{path} is truncated or damaged",
            why=str(fault) or "its bytes end early",
            fix=f"remove {path.parent} and run it again",
        ) from None
    return variables


def to_transformers(source: Path, target: Path) -> None:
    """A folder in CTranslate2's format (fp16 or fp32) to one of transformers, in fp32.

    Raises DataError where the variables are not those of a Whisper model.
    """
    variables = read_model_bin(source / "model.bin")
    ct2_config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config = _whisper_config(variables)
    net = WhisperForConditionalGeneration(config)
    result = net.load_state_dict(_state_dict(variables, config), strict=False)
    mismatched = [*result.missing_keys, *result.unexpected_keys]
    if mismatched:
        raise DataError(
            f"{source} is no Whisper",
            why=f"{mismatched[:3]} do not match",
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
    net.generation_config = _generation_config(ct2_config, tokenizer)
    net.save_pretrained(target)
    feature_extractor = WhisperFeatureExtractor(feature_size=config.num_mel_bins)
    processor = WhisperProcessor(feature_extractor=feature_extractor, tokenizer=tokenizer)
    processor.save_pretrained(target)
    feature_extractor.save_pretrained(target)


def _whisper_config(variables: dict[str, np.ndarray]) -> WhisperConfig:
    """Sizes from the shapes of the variables."""
    width = variables["encoder/layer_norm/gamma"].shape[0]
    return WhisperConfig(
        vocab_size=variables["decoder/embeddings/weight"].shape[0],
        num_mel_bins=variables["encoder/conv1/weight"].shape[1],
        d_model=width,
        encoder_layers=_n_layers(variables, "encoder"),
        decoder_layers=_n_layers(variables, "decoder"),
        encoder_attention_heads=width // HEAD_WIDTH,
        decoder_attention_heads=width // HEAD_WIDTH,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        bos_token_id=50257,
        eos_token_id=50257,
        pad_token_id=50257,
        decoder_start_token_id=50258,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )


def _n_layers(variables: dict[str, np.ndarray], side: str) -> int:
    numbers = [re.match(rf"{side}/layer_(\d+)/", name) for name in variables]
    return 1 + max(int(match[1]) for match in numbers if match)


def _generation_config(
    ct2_config: dict[str, Any], tokenizer: WhisperTokenizerFast
) -> GenerationConfig:
    """Token numbers are those of the multilingual vocabulary."""
    return GenerationConfig(
        bos_token_id=50257,
        eos_token_id=50257,
        pad_token_id=50257,
        decoder_start_token_id=50258,
        max_length=448,
        is_multilingual=True,
        lang_to_id={tokenizer.convert_ids_to_tokens(i): i for i in ct2_config["lang_ids"]},
        task_to_id={"translate": 50358, "transcribe": 50359},
        no_timestamps_token_id=50363,
        suppress_tokens=ct2_config.get("suppress_ids"),
        begin_suppress_tokens=ct2_config.get("suppress_ids_begin"),
        alignment_heads=ct2_config["alignment_heads"],
        max_initial_timestamp_index=50,
        prev_sot_token_id=50361,
        return_timestamps=False,
        forced_decoder_ids=None,
    )


class _Renamer:
    """CTranslate2's variables under transformers' names; fused matrices are split."""

    def __init__(self, variables: dict[str, np.ndarray], width: int) -> None:
        self.variables, self.width = variables, width
        self.state: dict[str, torch.Tensor] = {}

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.array(self.variables[name], dtype=np.float32))

    def linear(self, target: str, source: str) -> None:
        self.state[f"{target}.weight"] = self.tensor(f"{source}/weight")
        if f"{source}/bias" in self.variables:
            self.state[f"{target}.bias"] = self.tensor(f"{source}/bias")

    def norm(self, target: str, source: str) -> None:
        self.state[f"{target}.weight"] = self.tensor(f"{source}/gamma")
        self.state[f"{target}.bias"] = self.tensor(f"{source}/beta")

    def fused(self, target: str, source: str, names: tuple[str, ...]) -> None:
        """One matrix that holds several, row by row."""
        weight, bias = self.tensor(f"{source}/weight"), self.tensor(f"{source}/bias")
        for i, name in enumerate(names):
            rows = slice(i * self.width, (i + 1) * self.width)
            self.state[f"{target}.{name}.weight"] = weight[rows].clone()
            if name != "k_proj":  # Whisper's keys have no bias
                self.state[f"{target}.{name}.bias"] = bias[rows].clone()


def _state_dict(variables: dict[str, np.ndarray], config: WhisperConfig) -> dict[str, torch.Tensor]:
    r = _Renamer(variables, config.d_model)
    for i in (1, 2):
        r.linear(f"model.encoder.conv{i}", f"encoder/conv{i}")
    n_layers = {"encoder": config.encoder_layers, "decoder": config.decoder_layers}
    for side, n in n_layers.items():
        positions = r.tensor(f"{side}/position_encodings/encodings")
        r.state[f"model.{side}.embed_positions.weight"] = positions
        r.norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        for i in range(n):
            target, source = f"model.{side}.layers.{i}", f"{side}/layer_{i}"
            attention = f"{source}/self_attention"
            r.norm(f"{target}.self_attn_layer_norm", f"{attention}/layer_norm")
            qkv = ("q_proj", "k_proj", "v_proj")
            r.fused(f"{target}.self_attn", f"{attention}/linear_0", qkv)
            r.linear(f"{target}.self_attn.out_proj", f"{attention}/linear_1")
            if side == "decoder":
                cross = f"{source}/attention"
                r.norm(f"{target}.encoder_attn_layer_norm", f"{cross}/layer_norm")
                r.linear(f"{target}.encoder_attn.q_proj", f"{cross}/linear_0")
                r.fused(f"{target}.encoder_attn", f"{cross}/linear_1", ("k_proj", "v_proj"))
                r.linear(f"{target}.encoder_attn.out_proj", f"{cross}/linear_2")
            r.norm(f"{target}.final_layer_norm", f"{source}/ffn/layer_norm")
            r.linear(f"{target}.fc1", f"{source}/ffn/linear_0")
            r.linear(f"{target}.fc2", f"{source}/ffn/linear_1")
    embeddings = r.tensor("decoder/embeddings/weight")
    r.state["model.decoder.embed_tokens.weight"] = r.state["proj_out.weight"] = embeddings
    return r.state


def to_ct2(source: Path, target: Path, quantization: str = "float16") -> Path:
    """transformers' folder to CTranslate2's, with the tokenizer beside it, whole or not at all.

    Raises DataError.
    """
    try:
        converter: Any = ctranslate2.converters.TransformersConverter(
            str(source), copy_files=["tokenizer.json", "preprocessor_config.json"]
        )
        with fsio.atomic_folder(target) as draft:
            converter.convert(str(draft), quantization=quantization, force=True)
    except (RuntimeError, ValueError, OSError) as fault:
        raise DataError(
            f"{source} did not convert",
            why=str(fault).splitlines()[0][:300],
            fix="keep the adapter and the merged folder, which are complete",
        ) from None
    return target
