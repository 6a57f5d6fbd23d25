"""Cross-entropy under a frozen output head, a few hundred tokens at a time. Knows tensors only.

The head is not trained, so the gradient of the hidden states is computed in the forward pass, while
the logits of a chunk exist: two products with the vocabulary a chunk instead of three, and no
logits are ever kept. The idea is that of fused linear cross-entropy (Hsu 2024, Liger Kernel;
Wijmans 2024, Cut Your Losses).

Letters at the end of a tensor's name: N tokens with a label, T tokens of a row, D width, V
vocabulary.
"""

from typing import Any

import torch

from onecard.memory.estimators.training import FROZEN_CHUNK

CHUNK = FROZEN_CHUNK
"""Tokens of a chunk: 256 x 128k logits in fp32 are 125 MiB, and half of it once more in 16 bits."""
SCALING_KEYS = ("logit_scale", "logits_scaling", "output_multiplier", "lm_head_multiplier")
"""Config keys of heads that scale their logits; TRL's own loss handles those."""


def supports(model: Any) -> bool:
    """Whether the output head is a plain frozen matrix."""
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    plain = type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad
    scaled = any(getattr(config, key, None) not in (None, 1, 1.0) for key in SCALING_KEYS)
    return plain and not scaled


class FrozenHead(torch.autograd.Function):
    """Sum over N tokens of -log p(label), from hidden_ND, weight_VD, labels_N (none of them
    ignored) and the softcap of the logits (0: none)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        labels_N: torch.Tensor,
        softcap: float,
    ) -> torch.Tensor:
        device = hidden_ND.device.type
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        needs_grad = ctx.needs_input_grad[0]
        grad_ND = torch.empty_like(hidden_ND) if needs_grad else None
        dtype = weight_VD.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        weight_VD = weight_VD.to(dtype)
        with torch.autocast(device, enabled=False):
            for start in range(0, len(labels_N), CHUNK):
                stop = min(start + CHUNK, len(labels_N))
                logits = (hidden_ND[start:stop].to(dtype) @ weight_VD.T).float()
                slope = None
                if softcap:
                    capped = torch.tanh(logits / softcap)
                    logits = softcap * capped
                    slope = 1 - capped * capped if needs_grad else None
                labels = labels_N[start:stop, None]
                label_logits, highest = logits.gather(1, labels), logits.amax(-1, keepdim=True)
                # in place all the way: torch.logsumexp would hold three of these at once
                logits.sub_(highest).exp_()
                sums = logits.sum(-1, keepdim=True)
                total += (highest + sums.log() - label_logits).sum()
                if grad_ND is not None:
                    # d loss / d logits = softmax - one-hot of the label
                    logits.div_(sums).scatter_add_(1, labels, torch.full_like(sums, -1.0))
                    if slope is not None:
                        logits.mul_(slope)
                    grad_ND[start:stop] = (logits.to(dtype) @ weight_VD).to(grad_ND.dtype)
                del logits, slope  # else they would coexist with the next chunk's
        if grad_ND is not None:
            ctx.save_for_backward(grad_ND)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (grad_ND,) = ctx.saved_tensors
        return grad_ND * grads[0].to(grad_ND.dtype), None, None, None


def answer_loss(
    model: Any, hidden_TD: torch.Tensor, labels_T: torch.Tensor, ignored: int = -100
) -> torch.Tensor:
    """Sum of -log p of the answers' tokens (nats), each given what stands before it in its row."""
    positions = (labels_T[1:] != ignored).nonzero().flatten()
    softcap = float(getattr(model.config.get_text_config(), "final_logit_softcapping", None) or 0)
    return FrozenHead.apply(  # type: ignore[no-any-return]
        hidden_TD[positions],
        model.get_output_embeddings().weight,
        labels_T[positions + 1],
        softcap,
    )
