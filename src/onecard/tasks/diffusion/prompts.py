"""Prompts to text embeddings. CLIP reads 77 tokens at once: a longer prompt is read in chunks whose
embeddings stand one after the other, as A1111 and ComfyUI do.

A chunk holds 75 tokens between CLIP's start and end. The negative prompt gets as many chunks as the
prompt, since the denoiser looks at both in one batch.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTokenizer

CHUNKED_FAMILIES = ("sd", "sdxl")
BACKTRACK = 20
"""Tokens before a chunk's end in which a comma is looked for, as A1111 does."""
END_OF_WORD = "</w>"
MOST_TOKENS = 100_000
"""A tokenizer without a limit names a much larger number."""


@dataclass(frozen=True)
class Embeddings:
    """Of one prompt and its negative: keyword arguments of the pipeline, a batch of one."""

    values: dict[str, Tensor]
    n_chunks: int


def tokenizers(pipe: Any) -> list[Any]:
    names = ("tokenizer", "tokenizer_2", "tokenizer_3")
    return [t for name in names if (t := getattr(pipe, name, None)) is not None]


def chunks(tokenizer: Any, text: str) -> list[list[int]]:
    """Token ids of a text in parts of at most 75, at least one: cut after a comma where one is
    near, else between words."""
    ids = tokenizer(text, add_special_tokens=False, truncation=False).input_ids
    size = tokenizer.model_max_length - 2
    out = []
    while len(ids) > size:
        cut = _cut(tokenizer.convert_ids_to_tokens(ids[: size + 1]), size)
        out.append(ids[:cut])
        ids = ids[cut:]
    return [*out, ids]


def _cut(words: Sequence[str], size: int) -> int:
    near = range(size, max(size - BACKTRACK, 0), -1)
    for n in near:
        if words[n - 1] == f",{END_OF_WORD}":
            return n
    return next((n for n in near if words[n - 1].endswith(END_OF_WORD)), size)


def describe(pipe: Any, family: str, text: str, name: str = "the prompt") -> str:
    """What happens to a text that is longer than the text encoder reads at once; empty for one that
    is not."""
    parts = []
    longest = inspect.signature(pipe.__call__).parameters.get("max_sequence_length")
    for tokenizer in tokenizers(pipe):
        limit = tokenizer.model_max_length
        if longest is not None and not isinstance(tokenizer, CLIPTokenizer):
            limit = min(limit, int(longest.default))
        if limit > MOST_TOKENS:
            continue
        if family in CHUNKED_FAMILIES:
            rows = chunks(tokenizer, text)
            if len(rows) == 1:
                continue
            second = tokenizer.decode(rows[1]).strip()[:40]
            return (
                f"{name} has {sum(map(len, rows))} tokens, more than the {limit - 2} that CLIP "
                f"reads at once: it is read in {len(rows)} chunks, the second from '{second}' on"
            )
        ids = tokenizer(text, truncation=False).input_ids
        if len(ids) > limit:
            lost = tokenizer.decode(ids[limit - 1 : -1], skip_special_tokens=True).strip()
            parts.append(
                f"a text encoder reads {limit} of {len(ids)} tokens of {name} and does not see "
                f"'{lost[:200]}'"
            )
    return "; ".join(dict.fromkeys(parts))


@torch.no_grad()
def embed(pipe: Any, family: str, prompt: str, negative: str, guided: bool) -> Embeddings:
    """Of a pipeline of CHUNKED_FAMILIES. A short prompt goes through diffusers' own encoder."""
    rows = [
        chunks(tokenizer, text) for tokenizer in tokenizers(pipe) for text in (prompt, negative)
    ]
    n = max(map(len, rows)) if guided else max(map(len, rows[::2]))
    if n == 1:
        return Embeddings(_whole(pipe, family, prompt, negative, guided), 1)
    positive, pooled = _chunked(pipe, family, prompt, n)
    values = {"prompt_embeds": positive}
    if family == "sdxl":
        values["pooled_prompt_embeds"] = pooled
    if guided:
        zero = not negative and getattr(pipe.config, "force_zeros_for_empty_prompt", False)
        against, against_pooled = (
            (torch.zeros_like(positive), torch.zeros_like(pooled))
            if zero
            else _chunked(pipe, family, negative, n)
        )
        values["negative_prompt_embeds"] = against
        if family == "sdxl":
            values["negative_pooled_prompt_embeds"] = against_pooled
    return Embeddings(values, n)


def _whole(pipe: Any, family: str, prompt: str, negative: str, guided: bool) -> dict[str, Tensor]:
    """By diffusers' own encode_prompt."""
    answer = pipe.encode_prompt(
        prompt,
        device=pipe._execution_device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=guided,
        negative_prompt=negative or None,
    )
    names = ["prompt_embeds", "negative_prompt_embeds"]
    if family == "sdxl":
        names += ["pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
    pairs = zip(names, answer, strict=True)
    return {name: value for name, value in pairs if value is not None}


def _chunked(pipe: Any, family: str, text: str, n: int) -> tuple[Tensor, Tensor]:
    """(embeddings [1, 77 n, D], pooled [1, P] of the first chunk; without meaning for SD)."""
    encoders = [pipe.text_encoder]
    if family == "sdxl":
        both = (pipe.text_encoder, pipe.text_encoder_2)
        encoders = [encoder for encoder in both if encoder is not None]
    wide, pooled = [], torch.zeros(1, 1)
    for tokenizer, encoder in zip(tokenizers(pipe), encoders, strict=False):
        rows = chunks(tokenizer, text)
        rows += [[]] * (n - len(rows))
        ids = torch.tensor([_framed(tokenizer, row) for row in rows])
        answer = encoder(ids.to(pipe._execution_device), output_hidden_states=family == "sdxl")
        hidden = answer.hidden_states[-2] if family == "sdxl" else answer[0]
        pooled = answer[0][:1]
        wide.append(hidden.reshape(1, -1, hidden.shape[-1]))
    return torch.cat(wide, dim=-1).to(pipe.unet.dtype), pooled


def _framed(tokenizer: Any, ids: list[int]) -> list[int]:
    """CLIP's start, the tokens, its end, and padding up to 77."""
    framed = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    return framed + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(framed))
