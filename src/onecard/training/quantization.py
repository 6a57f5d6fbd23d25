"""Frozen weights in 4 or 8 bits by bitsandbytes."""

import importlib.util
from collections.abc import Sequence

import torch
from transformers import BitsAndBytesConfig

from onecard.errors import MissingExtra, SettingsError
from onecard.training.config import PrecisionConfig


def bits_config(
    config: PrecisionConfig, dtype: torch.dtype, wide: Sequence[str] = ()
) -> BitsAndBytesConfig:
    """nf4 with double quantization, or int8. `wide`: names of modules that are left as they are.

    Raises SettingsError, MissingExtra.
    """
    if config.load_in_4bit and config.load_in_8bit:
        raise SettingsError(
            "4 and 8 bits are both set",
            why="weights have one width",
            fix="leave --load_in_4bit or --load_in_8bit out",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra(
            "weights in 4 or 8 bits need bitsandbytes",
            why="it is not installed",
            fix="pip install 'onecard[finetune]'",
        )
    skipped = [*wide] or None
    if config.load_in_8bit:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=skipped,
    )


def disable_4bit_repacking(model: torch.nn.Module) -> None:
    """bitsandbytes 0.50.2 repacks 4-bit weights for AVX512-BF16 in the first pass without
    gradients; training after it silently loses the gradient of the input."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010
