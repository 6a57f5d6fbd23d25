"""The base model in the width that was asked for, adapters on it, and their loss on held-out
answers. Knows no data and no trainer."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging as hf_logging

from onecard.errors import DataError, MissingExtra, SettingsError
from onecard.memory.estimators.training import FROZEN_CHUNK
from onecard.tasks.finetune.attention import choose
from onecard.tasks.finetune.configs import Settings
from onecard.tasks.finetune.tokenize_rows import IGNORED, TokenizedExample


def tokenizer_of(folder: Path) -> Any:
    """Raises DataError where the folder has none."""
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as fault:
        raise DataError(
            f"{folder} has no tokenizer that can be read",
            why=str(fault).splitlines()[0][:200],
            fix="copy tokenizer.json and tokenizer_config.json into it",
        ) from None


def base(folder: Path, settings: Settings, *, device: str = "") -> Any:
    """The frozen model.

    Embeddings, norms and head stay in the type of the rest: only what is trained needs more. Raises
    DataError, MissingExtra.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = (
        torch.bfloat16
        if settings.bf16 or (device == "cuda" and settings.load_in_4bit)
        else torch.float32
    )
    more: dict[str, Any] = {"device_map": {"": 0}} if device == "cuda" else {}
    if settings.load_in_4bit and settings.load_in_8bit:
        raise SettingsError(
            "4 and 8 bits are both asked for",
            why="weights lie in one width",
            fix="leave --load_in_4bit or --load_in_8bit out",
        )
    if settings.load_in_4bit or settings.load_in_8bit:
        try:
            import bitsandbytes  # noqa: F401
        except ModuleNotFoundError:
            raise MissingExtra(
                "weights in 4 or 8 bits need bitsandbytes",
                why="it is not installed",
                fix="pip install 'onecard[finetune]'",
            ) from None
        more["quantization_config"] = (
            BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            )
            if settings.load_in_4bit
            else BitsAndBytesConfig(load_in_8bit=True)
        )
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=choose(config), use_safetensors=True, **more
        )
    except (OSError, ValueError, KeyError) as fault:
        raise DataError(
            f"{folder} cannot be opened",
            why=str(fault).splitlines()[0][:200],
            fix="the folder needs a config.json of a causal language model and its safetensors",
        ) from None
    keep_4bit_honest(model)
    model.config.use_cache = False
    return model.requires_grad_(False)


def keep_4bit_honest(model: torch.nn.Module) -> None:
    """bitsandbytes repacks 4-bit weights for AVX512-BF16 in the first pass without gradients, after
    which training silently loses the input gradient (0.50.2)."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010


def lora(settings: Settings, model: Any) -> LoraConfig:
    """Raises SettingsError for layers that the model has not."""
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    } - {"lm_head"}
    wanted = [name for name in settings.target_modules if name in names]
    if (
        tuple(settings.target_modules) == Settings.model_fields["target_modules"].default
    ):  # all linear layers, whatever this family calls them
        wanted = sorted(names)
    elif missing := [name for name in settings.target_modules if name not in names]:
        raise SettingsError(
            f"the model has no layer '{missing[0]}'",
            why=f"its linear layers are: {', '.join(sorted(names))}",
            fix=f"--target_modules {sorted(names)[0]}",
        )
    return LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        target_modules=wanted,
        task_type="CAUSAL_LM",
    )


def with_adapter(model: Any, adapter: Path) -> Any:
    """Raises DataError for a folder that holds none."""
    if not (adapter / "adapter_model.safetensors").is_file():
        raise DataError(
            f"{adapter} holds no adapter",
            why="adapter_model.safetensors is missing",
            fix="give a finished training run",
        )
    return PeftModel.from_pretrained(model, adapter)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was)


def losses(
    model: Any,
    items: Sequence[TokenizedExample],
    *,
    bf16: bool = False,
    tokens: int = 2048,
    step: Any = None,
) -> list[float]:
    """Mean negative log-likelihood (nats a token) of each item's answer tokens; nan where none is
    left. Rows of `tokens` hold several items, attention stays within each."""
    out = [math.nan] * len(items)
    device = next(model.parameters()).device
    order = sorted(range(len(items)), key=lambda i: len(items[i].ids))
    with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        while order:
            row = [order.pop()]
            while (
                order and sum(len(items[i].ids) for i in row) + len(items[order[-1]].ids) <= tokens
            ):
                row.append(order.pop())
            batch = flat([items[i] for i in row], device)
            labels = batch.pop("labels")[0]
            hidden = backbone(model)(**batch, use_cache=False).last_hidden_state[0]
            found = answer_nll(model, hidden, labels)
            start = 0
            for i in row:
                stop = start + len(items[i].ids)
                kept = labels[start:stop] != IGNORED
                kept[0] = False
                if kept.any():
                    out[i] = float(found[start:stop][kept].mean())
                start = stop
            if step:
                step(len(row))
    return out


def backbone(model: Any) -> Any:
    """The layers under the output head, adapters included."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return inner.model if hasattr(inner, "model") else inner.base_model


def answer_nll(model: Any, hidden_TD: torch.Tensor, labels_T: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each token given those before, in fp32; zero where labels are
    IGNORED. Only answers' logits are made, no more at once than in training."""
    head = model.get_output_embeddings()
    out = torch.zeros(len(labels_T), device=hidden_TD.device)
    places = (labels_T[1:] != IGNORED).nonzero().flatten()
    for part in places.split(FROZEN_CHUNK):
        logits = head(hidden_TD[part]).float()
        if cap := getattr(model.config.get_text_config(), "final_logit_softcapping", None):
            logits = cap * torch.tanh(logits / cap)
        out[part + 1] = torch.nn.functional.cross_entropy(
            logits, labels_T[part + 1], reduction="none"
        )
    return out


def flat(items: Sequence[TokenizedExample], device: Any = None) -> dict[str, Any]:
    """Several samples as one row (1, T): nothing is padded.

    Each begins at position 0, and its first token is no target.
    """
    ids = torch.tensor([token for item in items for token in item.ids])
    labels = torch.tensor([label for item in items for label in (IGNORED, *item.labels[1:])])
    sizes = torch.tensor([len(item.ids) for item in items])
    cuts = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)]).to(torch.int32)
    places = torch.cat([torch.arange(int(size)) for size in sizes])
    out = {
        "input_ids": ids[None],
        "labels": labels[None],
        "position_ids": places[None],
        "cu_seq_lens_q": cuts,
        "cu_seq_lens_k": cuts,
    }
    moved: dict[str, Any] = {
        key: value.to(device) if device is not None else value for key, value in out.items()
    }
    return moved | {"max_length_q": int(sizes.max()), "max_length_k": int(sizes.max())}
