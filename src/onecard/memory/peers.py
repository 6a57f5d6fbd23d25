"""What other programs' formulas say of the same case, to be read beside a plan. Pure arithmetic.

Sources: accelerate estimate-memory (accelerate/commands/estimate.py: weights by their width, and
for training with Adam four times as much); oobabooga's regression over 19,517 loads of GGUF files
(oobabooga.github.io/blog/posts/gguf-vram-formula: median error 365 MiB, 577 MiB more load in 95 of
100 cases); LLaMA-Factory's table of hardware requirements (its README); Hugging Face's regression
of activations a token (blog "train_memory"). What each leaves out is told.
"""

from dataclasses import dataclass
from math import floor

from onecard.memory.architectures.layers import LM
from onecard.units import MIB

LLAMA_FACTORY_GB_PER_B = {"qlora": 6 / 7, "lora": 16 / 7, "full": 60 / 7}
"""GB a billion weights: 7B takes 6 GB with QLoRA in 4 bits, 16 GB with LoRA and 60 GB whole in
bf16."""
CACHE_BITS = {"q4_0": 4, "q8_0": 8}


@dataclass(frozen=True)
class PeerEstimate:
    name: str
    bytes: int
    leaves_out: str


def accelerate_inference(lm: LM, weight_bytes: int) -> PeerEstimate:
    """It counts a weight as 32, 16, 8 or 4 bits: the nearest to what the format takes."""
    each = 8 * weight_bytes / max(lm.n_params, 1)
    bits = min((32, 16, 8, 4), key=lambda width: abs(width - each))
    return PeerEstimate(
        "accelerate estimate-memory",
        round(lm.n_params * bits / 8),
        "cache, buffers and context",
    )


def oobabooga(lm: LM, file_bytes: int, n_ctx: int, kv_type: str, layers: int) -> PeerEstimate:
    """Its formula for a GGUF file with all or `layers` layers on the card."""
    bits = CACHE_BITS.get(kv_type, 16)
    size_per_layer = file_bytes / MIB / lm.L
    factor = lm.G * bits * n_ctx
    per_context = lm.D / n_ctx
    on_card = min(layers, lm.L) if layers >= 0 else lm.L
    more = max(0.9690636483914102, bits - (floor(50.77817218646521 * per_context) + 9.9879))
    mib = (size_per_layer - 17.99552795246051 + 3.148552680382576e-05 * factor) * (on_card + more)
    return PeerEstimate(
        "oobabooga's GGUF formula",
        round(max(mib + 1516.522943869404, 0) * MIB),
        "windows, recurrent layers, latent attention and experts apart",
    )


def training(lm: LM, method: str, tokens: int) -> list[PeerEstimate]:
    """For one training step of `tokens` tokens."""
    step = 4 * 4 * lm.n_params if method == "full" else 0
    out = [
        PeerEstimate(
            "LLaMA-Factory's table",
            round(LLAMA_FACTORY_GB_PER_B[method] * lm.n_params),
            "length, batch, rank and vocabulary",
        )
    ]
    if step:
        activations = round((4.6894e-4 * lm.n_params + 1.8494e6) * tokens)
        out.append(
            PeerEstimate("accelerate estimate-memory", step, "activations and the loss; fp32 Adam")
        )
        out.append(
            PeerEstimate(
                "Hugging Face's activations a token",
                step + activations,
                "checkpointing, the loss; fp32 Adam",
            )
        )
    return out
