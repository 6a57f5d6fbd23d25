"""The files of an export: merged weights in transformers' form, and llama.cpp's pair."""

import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from onecard import fsio
from onecard.errors import DataError
from onecard.export import gguf, mmproj, quantize
from onecard.hub import checkpoints
from onecard.reporting import Reporter
from onecard.tasks.vlm import model, parts, prompts
from onecard.tasks.vlm.items import MARKER, Turn
from onecard.tasks.vlm.model import Place
from onecard.tasks.vlm.pretrain_projector import FLAT
from onecard.training.config import PrecisionConfig
from onecard.units import size

MAX_FP32_BYTES = 4 * 10**9
"""Weights up to this size are merged in fp32, larger ones in bf16."""
MERGED = "merged"
OWN_WRITER = ("llava", "vipllava")
"""model_type of families whose vision half is written here; the others by llama.cpp's converter."""


def merge(place: Place, out: Path, reporter: Reporter) -> Path:
    """The adapter added to the weights in full width; a model that was trained whole is taken as it
    is. Raises DataError where the disk is too small."""
    if place.adapter is None:
        return place.folder
    needed = fsio.disk_bytes(place.folder) * 2
    if shutil.disk_usage(out).free < needed:
        raise DataError(
            f"{out} has no room for the merged model",
            why=f"it and its GGUF files take about {size(needed)}",
            fix="free some disk space; then onecard vlm export RUN",
        )
    reporter.line("merging the adapter")
    vlm = model.load(
        str(place.adapter), PrecisionConfig(), dtype=width_of(place.folder), reporter=reporter
    )
    assert isinstance(vlm.net, PeftModel)
    net: Any = vlm.net.merge_and_unload(safe_merge=True)
    target, draft = out / MERGED, out / f"{MERGED}.part"
    for folder in (target, draft):
        if folder.exists():
            shutil.rmtree(folder)
    net.save_pretrained(draft)
    vlm.processor.save_pretrained(draft)
    draft.rename(target)
    return target


def width_of(folder: Path) -> torch.dtype:
    return torch.float32 if fsio.disk_bytes(folder) < MAX_FP32_BYTES else torch.bfloat16


def gguf_pair(folder: Path, out: Path, quants: list[str], reporter: Reporter) -> dict[str, Path]:
    """Quantization -> the language model's file in OUT/gguf; the mmproj file lies beside them.

    Raises DataError for a family that llama.cpp or its converter does not know.
    """
    target = out / "gguf"
    target.mkdir(parents=True, exist_ok=True)
    f16, vision = target / "model-f16.gguf", target / "mmproj-f16.gguf"
    if checkpoints.about(folder).get("model_type") in OWN_WRITER:
        mmproj.write_llava(folder, vision, after=_after_picture(folder))
        _language_file(folder, out, f16, reporter)
    else:
        gguf.vision_half_to_gguf(folder, vision, "f16", reporter)
        try:
            gguf.language_half_to_gguf(folder, f16, "f16", reporter)
        except DataError:  # families whose language model is one of its own: SmolVLM's is a Llama
            _language_file(folder, out, f16, reporter)
    files = {quant: target / f"model-{quant}.gguf" for quant in quants}
    for quant, path in files.items():
        if quant != "f16":
            quantize.quantize(f16, path, quant, reporter)
    if "f16" not in files:
        f16.unlink()
    return files


def _after_picture(folder: Path) -> str:
    """What the model's template puts between a picture and the text behind it: llama.cpp puts
    nothing there, and answers differ by a line end."""
    processor = model.processor_of(folder)
    text = prompts.render(processor, (Turn("user", f"{MARKER}\nx"),), generation=False)
    after = text.rpartition(str(processor.image_token))[2].partition("x")[0]
    return after if not after.strip() else ""


def _language_file(folder: Path, out: Path, target: Path, reporter: Reporter) -> None:
    language = _language_half(folder, out / "language.part")
    try:
        gguf.to_gguf(language, target, "f16", reporter)
    finally:
        shutil.rmtree(language, ignore_errors=True)


def _language_half(folder: Path, target: Path) -> Path:
    """The language model as a folder of its own. Its chat template is the one that it had before
    it was joined: llama.cpp puts the pictures' markers into the text itself."""
    vlm = model.load(str(folder), PrecisionConfig(), dtype=width_of(folder), reporter=Reporter())
    with torch.device("meta"):
        language: Any = AutoModelForCausalLM.from_config(vlm.net.config.get_text_config())
    language.to_empty(device="cpu")
    language = language.to(next(vlm.net.parameters()).dtype)
    layers = vlm.net.get_submodule(parts.language(vlm.net))
    language.model.load_state_dict(layers.state_dict())
    language.lm_head.load_state_dict(vlm.net.get_output_embeddings().state_dict())
    language.generation_config = vlm.net.generation_config
    if target.exists():
        shutil.rmtree(target)
    language.save_pretrained(target)
    tokenizer = vlm.processor.tokenizer
    template = str(vlm.processor.chat_template or tokenizer.chat_template or "")
    tokenizer.chat_template = template.partition(FLAT)[2] or template
    tokenizer.save_pretrained(target)
    return target
