"""The base model in the width that was asked for, adapters on it, and its loss on held-out answers.

Knows no data and no trainer. Letters at the end of a tensor's name: T tokens of a row, D width.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

from onecard.errors import DataError, SettingsError
from onecard.memory import number_types
from onecard.memory.estimators.training import FROZEN_CHUNK
from onecard.tasks.finetune.attention import choose_attention
from onecard.tasks.finetune.configs import TrainConfig
from onecard.tasks.finetune.tokenization import IGNORED, TokenizedExample
from onecard.training import quantization


def load_tokenizer(folder: Path) -> Any:
    """Raises DataError where the folder has none."""
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as fault:
        raise DataError(
            f"{folder} has no tokenizer that can be read",
            why=str(fault).splitlines()[0][:200],
            fix="copy tokenizer.json and tokenizer_config.json into it",
        ) from None


def load_base(folder: Path, config: TrainConfig, *, device: str = "") -> Any:
    """The frozen model. Embeddings, norms and head stay in the dtype of the rest: only what is
    trained needs fp32.

    Raises DataError, MissingExtra, SettingsError.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    narrow = number_types.products_in_bf16(config, number_types.here(device))
    dtype = torch.bfloat16 if narrow else torch.float32
    options: dict[str, Any] = {"device_map": {"": 0}} if device == "cuda" else {}
    if config.load_in_4bit or config.load_in_8bit:
        options["quantization_config"] = quantization.bits_config(config, dtype)
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        architecture = AutoConfig.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=choose_attention(architecture),
            use_safetensors=True,
            **options,
        )
    except (OSError, ValueError, KeyError) as fault:
        raise DataError(
            f"{folder} cannot be opened",
            why=str(fault).splitlines()[0][:200],
            fix="the folder needs a config.json of a causal language model and its safetensors",
        ) from None
    quantization.disable_4bit_repacking(model)
    model.config.use_cache = False
    return model.requires_grad_(False)


def lora_config(config: TrainConfig, model: Any) -> LoraConfig:
    """Raises SettingsError for layers that the model does not have."""
    linear_layers = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    } - {"lm_head"}
    targets = list(config.target_modules)
    if config.target_modules == TrainConfig.model_fields["target_modules"].default:
        targets = sorted(linear_layers)  # all of them, whatever this family calls them
    elif missing := [name for name in targets if name not in linear_layers]:
        raise SettingsError(
            f"the model has no layer '{missing[0]}'",
            why=f"its linear layers are: {', '.join(sorted(linear_layers))}",
            fix=f"--target_modules {sorted(linear_layers)[0]}",
        )
    return LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )


def load_adapter(model: Any, adapter: Path) -> Any:
    """Raises DataError for a folder that holds none."""
    if not (adapter / "adapter_model.safetensors").is_file():
        raise DataError(
            f"{adapter} holds no adapter",
            why="adapter_model.safetensors is missing",
            fix="name a finished training run",
        )
    return PeftModel.from_pretrained(model, adapter)


def backbone(model: Any) -> Any:
    """The layers under the output head, adapters included."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return inner.model if hasattr(inner, "model") else inner.base_model


# Loss on held-out answers


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Without gradients and dropout; the mode from before comes back."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def losses(
    model: Any,
    examples: Sequence[TokenizedExample],
    *,
    bf16: bool = False,
    tokens: int = 2048,
    step: Callable[[int], None] | None = None,
) -> list[float]:
    """Mean negative log-likelihood (nats a token) of each example's answer tokens; nan where it has
    none.

    Rows of up to `tokens` hold several examples, longest first; attention stays within each.
    """
    out = [math.nan] * len(examples)
    device = next(model.parameters()).device
    remaining = sorted(range(len(examples)), key=lambda i: len(examples[i].ids))
    with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        while remaining:
            row = [remaining.pop()]
            n_tokens = len(examples[row[0]].ids)
            while remaining and n_tokens + len(examples[remaining[-1]].ids) <= tokens:
                row.append(remaining.pop())
                n_tokens += len(examples[row[-1]].ids)
            batch = concatenate([examples[i] for i in row], device)
            labels_T = batch.pop("labels")[0]
            hidden_TD = backbone(model)(**batch, use_cache=False).last_hidden_state[0]
            nll_T = answer_nll(model, hidden_TD, labels_T)
            start = 0
            for i in row:
                stop = start + len(examples[i].ids)
                is_answer = labels_T[start:stop] != IGNORED
                is_answer[0] = False  # nothing stands before the first token of an example
                if is_answer.any():
                    out[i] = float(nll_T[start:stop][is_answer].mean())
                start = stop
            if step:
                step(len(row))
    return out


def answer_nll(model: Any, hidden_TD: torch.Tensor, labels_T: torch.Tensor) -> torch.Tensor:
    """(T): negative log-likelihood of each token given those before, in fp32; zero where labels are
    IGNORED. Logits are computed for answers alone, as many at once as in training."""
    head = model.get_output_embeddings()
    softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    nll_T = torch.zeros(len(labels_T), device=hidden_TD.device)
    positions = (labels_T[1:] != IGNORED).nonzero().flatten()
    for chunk in positions.split(FROZEN_CHUNK):
        logits = head(hidden_TD[chunk]).float()
        if softcap:
            logits = softcap * torch.tanh(logits / softcap)
        nll_T[chunk + 1] = torch.nn.functional.cross_entropy(
            logits, labels_T[chunk + 1], reduction="none"
        )
    return nll_T


def concatenate(examples: Sequence[TokenizedExample], device: Any = None) -> dict[str, Any]:
    """Several examples as one row (1, T) without padding.

    Each begins at position 0, and its first token is no target. `cu_seq_lens`: where each example
    begins, and T, as FlashAttention takes it.
    """
    ids = torch.tensor([token for e in examples for token in e.ids])
    labels = torch.tensor([label for e in examples for label in (IGNORED, *e.labels[1:])])
    sizes = torch.tensor([len(e.ids) for e in examples])
    boundaries = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)]).to(torch.int32)
    positions = torch.cat([torch.arange(int(size)) for size in sizes])
    tensors = {
        "input_ids": ids[None],
        "labels": labels[None],
        "position_ids": positions[None],
        "cu_seq_lens_q": boundaries,
        "cu_seq_lens_k": boundaries,
    }
    batch: dict[str, Any] = dict(tensors)
    if device is not None:
        batch = {key: value.to(device) for key, value in tensors.items()}
    longest = int(sizes.max())
    return batch | {"max_length_q": longest, "max_length_k": longest}
