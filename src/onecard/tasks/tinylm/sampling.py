"""Text from a tiny language model, with its cache or without. Knows no training."""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from onecard.errors import DataError
from onecard.tasks.tinylm import tokenization
from onecard.tasks.tinylm.configs import GenerateConfig
from onecard.tasks.tinylm.model import Cache, TinyLM


def sample_token(
    logits_BV: Tensor, temperature: float, top_k: int, top_p: float, generator: torch.Generator
) -> Tensor:
    """One token of each row (B, 1): drawn from softmax(logits / temperature), among the k likeliest
    or the likeliest that make up a probability of top_p (Holtzman et al. 2020)."""
    if temperature == 0:
        return logits_BV.argmax(-1, keepdim=True)
    scaled_BV = logits_BV.float() / temperature
    if 0 < top_k < scaled_BV.shape[1]:
        kth_B1 = scaled_BV.topk(top_k).values[:, -1:]
        scaled_BV = scaled_BV.masked_fill(scaled_BV < kth_B1, -torch.inf)
    probs_BV = scaled_BV.softmax(-1)
    if top_p < 1:
        sorted_BV, order_BV = probs_BV.sort(descending=True)
        sorted_BV[sorted_BV.cumsum(-1) - sorted_BV >= top_p] = 0
        probs_BV = torch.zeros_like(probs_BV).scatter(1, order_BV, sorted_BV)
    return torch.multinomial(probs_BV, 1, generator=generator)


@torch.inference_mode()
def generate_tokens(
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
    """n tokens after ids_BT, one (B, 1) at a time. The model attends to the last `window` tokens
    (block_size when 0).

    A full cache is rebuilt from the second half of the window, so that no token has a position
    that was not trained, at an amortised cost of O(1) forward passes a token.
    """
    window = window or net.model_config.block_size
    generator = torch.Generator(device=ids_BT.device).manual_seed(seed)
    ids_BT = new_ids = ids_BT[:, -window:]
    cache = None
    if cached:
        dtype = net.embedding.weight.dtype
        cache = Cache(net.model_config, ids_BT.shape[0], window, ids_BT.device, dtype)
    for _ in range(n):
        if cache is not None and cache.length + new_ids.shape[1] > window:
            cache.length, new_ids = 0, ids_BT[:, -max(1, window // 2) :]
        logits_BV = net(new_ids if cache is not None else ids_BT, cache)[:, -1]
        new_ids = sample_token(logits_BV, temperature, top_k, top_p, generator)
        ids_BT = torch.cat([ids_BT, new_ids], dim=1)[:, -window:]
        yield new_ids


ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


def unescape(text: str) -> str:
    """A shell passes `\\n` as two characters: `\\n`, `\\t`, `\\r` and `\\\\` become one each, and
    every other backslash stays.

    >>> unescape(r"KING:\\n"), unescape(r"\\\\n \\d")
    ('KING:\\n', '\\\\n \\\\d')
    """
    return re.sub(r"\\([ntr\\])", lambda match: ESCAPES[match[1]], text)


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """Raises DataError for an empty prompt, or one with characters that the vocabulary lacks."""
    fix = "--prompt with characters of the training text; --tokenizer bpe would know all"
    if not prompt:
        raise DataError("the prompt is empty", why="there is nothing to continue", fix=fix)
    ids, n_unknown = tokenization.encoder(tokenizer)(prompt)
    if n_unknown or not len(ids):
        vocabulary = tokenization.char_vocabulary(tokenizer) or {}
        missing = sorted({character for character in prompt if character not in vocabulary})
        raise DataError(
            "the prompt has characters that the model does not know",
            why=f"its vocabulary lacks {''.join(missing[:20])!r}",
            fix=fix,
        )
    return [int(i) for i in ids]


def generate_text(
    net: TinyLM, tokenizer: Any, prompt: str, n: int, config: GenerateConfig
) -> Iterator[str]:
    """The prompt and its continuation as it comes, up to n tokens, END_OF_TEXT or `config.stop`,
    which is not shown.

    Raises DataError for a prompt that cannot be encoded.
    """
    prompt, stop = unescape(prompt), unescape(config.stop)
    ids = encode_prompt(tokenizer, prompt)
    end = tokenizer.token_to_id(tokenization.END_OF_TEXT)
    yield prompt
    tokens: list[int] = []
    n_shown = 0
    for token in generate_tokens(
        net,
        torch.tensor([ids], device=next(net.parameters()).device),
        n,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        seed=config.seed,
    ):
        if int(token) == end:
            break
        tokens.append(int(token))
        text = tokenizer.decode(tokens, skip_special_tokens=False)
        if stop and stop in text:
            yield text[n_shown : text.index(stop)]
            return
        if not text.endswith("\ufffd"):  # a part of a character waits for the rest of its bytes
            n_safe = len(text) - _begun(text, stop)
            yield text[n_shown:n_safe]
            n_shown = max(n_shown, n_safe)
    if stop and tokens:  # what could have become the stop text
        yield tokenizer.decode(tokens, skip_special_tokens=False)[n_shown:].rstrip("\ufffd")


def _begun(text: str, stop: str) -> int:
    """How many of the last characters of `text` are the beginning of `stop`."""
    lengths = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((n for n in lengths if text.endswith(stop[:n])), 0)
