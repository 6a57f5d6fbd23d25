"""Text from a tiny language model, with its cache or without. Knows no training."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from onecard.errors import DataError
from onecard.tasks.tinylm import tokenizers as ours
from onecard.tasks.tinylm.configs import Settings
from onecard.tasks.tinylm.model import Cache, TinyLM


def pick(
    logits_BV: Tensor, temperature: float, top_k: int, top_p: float, random: torch.Generator
) -> Tensor:
    """One token of each row (B, 1): drawn from softmax(logits / temperature), of the k likeliest,
    or of the likeliest that make up a share of top_p (Holtzman et al. 2020)."""
    if temperature == 0:
        return logits_BV.argmax(-1, keepdim=True)
    scaled_BV = logits_BV.float() / temperature
    if 0 < top_k < scaled_BV.shape[1]:
        scaled_BV = scaled_BV.masked_fill(
            scaled_BV < scaled_BV.topk(top_k).values[:, -1:], -torch.inf
        )
    chances_BV = scaled_BV.softmax(-1)
    if top_p < 1:
        ordered, places = chances_BV.sort(descending=True)
        ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
        chances_BV = torch.zeros_like(chances_BV).scatter(1, places, ordered)
    return torch.multinomial(chances_BV, 1, generator=random)


@torch.inference_mode()
def tokens(
    net: TinyLM,
    ids_BT: Tensor,
    n: int,
    *,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    cached: bool = True,
    window: int = 0,
) -> Iterator[Tensor]:
    """n tokens behind ids, one (B, 1) at a time. The model looks back at `window` tokens
    (block_size when 0).

    A full cache is made anew from its second half: so no token ever stands at a place that was not
    trained, and the work stays O(1) a token on average.
    """
    window = window or net.shape.block_size
    random = torch.Generator(device=ids_BT.device).manual_seed(seed)
    ids_BT = ids_BT[:, -window:]
    cache, new = (
        (
            Cache(net.shape, ids_BT.shape[0], window, ids_BT.device, net.embedding.weight.dtype),
            ids_BT,
        )
        if cached
        else (None, ids_BT)
    )
    for _ in range(n):
        if cache is not None and cache.length + new.shape[1] > window:
            cache.length, new = 0, ids_BT[:, -max(1, window // 2) :]
        logits_BV = net(new if cache is not None else ids_BT, cache)[:, -1]
        new = pick(logits_BV, temperature, top_k, top_p, random)
        ids_BT = torch.cat([ids_BT, new], dim=1)[:, -window:]
        yield new


def encode(tokenizer: Any, text: str) -> list[int]:
    """Raises DataError for letters that the vocabulary lacks."""
    ids, unknown = ours.encoder(tokenizer)(text)
    if unknown or not len(ids):
        letters = ours.alphabet(tokenizer) or {}
        lacking = sorted({letter for letter in text if letter not in letters})
        raise DataError(
            "the prompt is empty"
            if not text
            else "the prompt has letters that the model does not know",
            why=f"its vocabulary lacks {''.join(lacking[:20])!r}"
            if lacking
            else "there is nothing to go on from",
            fix="--prompt with letters of the training text; --tokenizer bpe would know all",
        )
    return [int(i) for i in ids]


def text(net: TinyLM, tokenizer: Any, prompt: str, n: int, s: Settings) -> Iterator[str]:
    """The prompt and what the model makes of it, as it comes; the end mark ends it."""
    ids = encode(tokenizer, prompt)
    end, where = tokenizer.token_to_id(ours.END), next(net.parameters()).device
    yield prompt
    made, shown = [], ""
    for new in tokens(
        net,
        torch.tensor([ids], device=where),
        n,
        temperature=s.temperature,
        top_k=s.top_k,
        top_p=s.top_p,
        seed=s.seed,
    ):
        if int(new) == end:
            return
        made.append(int(new))
        whole = tokenizer.decode(made, skip_special_tokens=False)
        if not whole.endswith("\ufffd"):  # half a character waits for its other half
            yield whole[len(shown) :]
            shown = whole
