"""Cross-entropy under a frozen output head, a few hundred tokens at a time. Knows tensors only.

The head is not trained, so that the gradient of the hidden states can be made at once while a
chunk's logits are there:
two products with the vocabulary a chunk instead of three, and no logits are ever kept (the idea is
that of fused linear
cross-entropy: Hsu 2024, Liger Kernel; Wijmans 2024, Cut Your Losses).
"""

from typing import Any

import torch

from onecard.memory.estimators.training import FROZEN_CHUNK

CHUNK = FROZEN_CHUNK
"""Tokens of a chunk: 256 x 128k words in fp32 are 125 MiB, and half of it once more in 16 bits."""
SCALED = ("logit_scale", "logits_scaling", "output_multiplier", "lm_head_multiplier")
"""Names in a config of heads that scale their logits; TRL's own loss serves those."""


def serves(model: Any) -> bool:
    """Whether this head is a plain frozen matrix."""
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    plain = (
        isinstance(head, torch.nn.Linear)
        and type(head) is torch.nn.Linear
        and head.bias is None
        and not head.weight.requires_grad
    )
    return plain and not any(getattr(config, name, None) not in (None, 1, 1.0) for name in SCALED)


class FrozenHead(torch.autograd.Function):
    """sum over tokens of -log p(label): hidden_ND, weight_VD, labels_N (no label is ignored),
    softcap (0: none)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        labels_N: torch.Tensor,
        cap: float,
    ) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        need = ctx.needs_input_grad[0]
        grads = torch.empty_like(hidden_ND) if need else None
        dtype = (
            torch.get_autocast_dtype(hidden_ND.device.type)
            if torch.is_autocast_enabled(hidden_ND.device.type)
            else weight_VD.dtype
        )
        weight = weight_VD.to(dtype)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            for start in range(0, len(labels_N), CHUNK):
                stop = min(start + CHUNK, len(labels_N))
                logits = (hidden_ND[start:stop].to(dtype) @ weight.T).float()
                slope = None
                if cap:
                    bent = torch.tanh(logits / cap)
                    logits, slope = cap * bent, 1 - bent * bent if need else None
                own = labels_N[start:stop, None]
                picked, top = logits.gather(1, own), logits.amax(-1, keepdim=True)
                logits.sub_(
                    top
                ).exp_()  # in place all the way: logsumexp would hold three of these at once
                sums = logits.sum(-1, keepdim=True)
                total += (top + sums.log() - picked).sum()
                if grads is not None:
                    logits.div_(sums).scatter_add_(1, own, torch.full_like(sums, -1.0))
                    if slope is not None:
                        logits.mul_(slope)
                    grads[start:stop] = (logits.to(dtype) @ weight).to(grads.dtype)
                del logits, slope  # else they lie beside the next chunk's
        if grads is not None:
            ctx.save_for_backward(grads)
        return total

    @staticmethod
    def backward(ctx: Any, *grown: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (grads,) = ctx.saved_tensors
        return grads * grown[0].to(grads.dtype), None, None, None


def answer_loss(
    model: Any, hidden_TD: torch.Tensor, labels_T: torch.Tensor, ignored: int = -100
) -> torch.Tensor:
    """Sum of -log p of the answers' tokens (nats), each given what stands before it in its row."""
    kept = (labels_T[1:] != ignored).nonzero().flatten()
    cap = float(getattr(model.config.get_text_config(), "final_logit_softcapping", None) or 0)
    return FrozenHead.apply(  # type: ignore[no-any-return]
        hidden_TD[kept], model.get_output_embeddings().weight, labels_T[kept + 1], cap
    )
