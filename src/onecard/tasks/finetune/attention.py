"""Attention over samples that share a row: each attends to itself only. Knows transformers'
interface and no model.

A mask over the whole row would cost the square of its length, half of it for nothing. Here each
sample is a causal attention of its own, with SDPA's fused kernel; FlashAttention does the same on a
card where its package is installed.

Letters: B rows, T tokens, H query heads, G key and value heads, K width of a head.
"""

import importlib.util
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PretrainedConfig
from transformers.masking_utils import AttentionMaskInterface

NAME = "onecard_samples"


def by_sample(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """query (B, H, T, K), key and value (B, G, T, K) to (B, T, H, K).

    cu_seq_lens_q: where each sample begins, and T. Without it this is plain causal attention; a
    single query over a cache attends to all of it.
    """
    grouped = query.shape[1] != key.shape[1]
    if cu_seq_lens_q is None:
        out = scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attention_mask,
            dropout_p=dropout,
            is_causal=attention_mask is None and query.shape[2] > 1,
            scale=scaling,
            enable_gqa=grouped,
        )
    else:
        parts = [
            scaled_dot_product_attention(
                query[:, :, a:b],
                key[:, :, a:b],
                value[:, :, a:b],
                dropout_p=dropout,
                is_causal=True,
                scale=scaling,
                enable_gqa=grouped,
            )
            for a, b in pairwise(cu_seq_lens_q.tolist())
        ]
        out = torch.cat(parts, dim=2)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, by_sample)
AttentionMaskInterface.register(NAME, lambda *args, **unused: None)


def choose_attention(config: PretrainedConfig) -> str:
    """The attention that keeps samples apart in this model: FlashAttention where it is installed,
    ours where every layer attends to all tokens, else SDPA with a mask by position."""
    text = config.get_text_config()
    if torch.cuda.is_available() and importlib.util.find_spec("flash_attn"):
        return "flash_attention_2"
    special = (
        getattr(text, "sliding_window", None)
        or getattr(text, "attn_logit_softcapping", None)
        or getattr(text, "attention_chunk_size", None)
    )
    return "sdpa" if special and getattr(text, "use_sliding_window", True) else NAME
