"""Memory of a training step of a language model: full, LoRA and QLoRA. Pure arithmetic;
fake_tensor.py is its truth check.

The step's peak is what always lies there (weights, adapters, gradients, optimizer, kept
activations) plus the larger of two humps:
the loss over the vocabulary, and the layer whose backward pass is running.
Letters: V vocabulary, D width, F feed-forward, L layers, H heads, G kv heads, K head width, B
samples, T tokens, r rank.
"""

from dataclasses import dataclass
from typing import Literal

from onecard.memory import formats
from onecard.memory.architectures.layers import LM, Layer
from onecard.memory.plan import Term
from onecard.units import MIB

OPTIMIZER = {  # bytes of state a trained weight: (weights in fp32, weights in 16 bits)
    "adamw": (8.0, 4.0),
    "adamw-8bit": (2.0 + 8 / 256, 2.0 + 8 / 256),
    "paged-adamw-8bit": (0.0, 0.0),
    "paged-adamw": (0.0, 0.0),
    "adafactor": (0.02, 0.02),
    "lion": (4.0, 2.0),
    "lion-8bit": (1.0 + 4 / 256, 1.0 + 4 / 256),
    "sgd": (0.0, 0.0),
    "sgd-momentum": (4.0, 2.0),
    "muon": (4.0, 2.0),
}
"""Adam keeps two moments, Lion and momentum one; 8-bit states carry an fp32 scale for 256 values
(Dettmers 2022); paged states may live in the computer's memory."""
ALL_LINEAR = ("q", "k", "v", "o", "gate", "up", "down")
UPCAST_COPIES = 3.0
"""Copies of the logits in fp32 when the loss is upcast: cast, log-softmax, gradient and its 16-bit
form (traced); and half a one, the logits
themselves, in a loop that keeps them (can-i-finetune-this at 053ce9e measured 14 bytes a token
and word)."""
FP32_COPIES = 4.0
"""The same when the head is in fp32 already (measured by fitcheck-llm and can-i-finetune-this)."""
PLAIN_COPIES = 2.0
"""A loss in 16 bits: logits, their chunks, log-softmax and gradient."""
SCORE_COPIES = 7.7
"""Score matrices alive in the backward pass of eager attention (7.4 to 9 in measurements of
fitcheck-llm 0.3.1)."""
FROZEN_CHUNK = 256
"""Tokens whose logits onecard's own loss makes at once (training/frozen_head.py)."""
CHUNKED_SHARE = 1 / 8
"""A chunked loss casts this share of the logits at a time (torchtune: 8 chunks)."""
CHUNKED_COPIES = 0.5
"""All chunks of a chunked loss in 16 bits, as copies in fp32: the model returns them as a list."""


@dataclass(frozen=True)
class Recipe:
    """What is trained and how."""

    method: Literal["full", "lora", "qlora"] = "lora"
    weights: str = "bf16"
    B: int = 1
    T: int = 1024
    r: int = 16
    targets: tuple[str, ...] = ALL_LINEAR
    optimizer: str = "adamw"
    checkpointing: bool = True
    attention: Literal["eager", "sdpa", "flash", "samples"] = "sdpa"
    """samples: onecard's own, one fused attention a sample, whose keys and values are not repeated
    for grouped heads."""
    rest_fp32: bool = False
    """Embeddings, head and norms in fp32, as PEFT's prepare_model_for_kbit_training makes them."""
    adapter_fp32: bool = True
    loss: Literal["upcast", "plain", "chunked", "fused", "frozen"] = "upcast"
    """upcast: transformers' own, in fp32; plain: in the model's 16 bits, as litgpt; chunked: a part
    at a time, as torchtune; fused: Liger; frozen: onecard's own
    trainer, a chunk at a time with its gradient, and adapters that read their layer's input itself.
    """
    compute_fp32: bool = False
    """No autocast: activations are in fp32."""
    keeps_logits: bool = True
    """The loop holds the model's output while it runs backward; the Trainers of transformers and
    TRL drop it."""
    accumulation: int = 1
    """Micro-batches of a step: from the second on, gradients lie there while the loss is made."""
    mixed: bool = False
    """Full training with fp32 master weights under autocast."""
    deepspeed: bool = False
    """Its fp16 optimizer keeps 16-bit and fp32 weights and gradients side by side: 4 B a trained
    weight more."""
    dropout: bool = False
    """Adapters read a copy of their input from which some values are dropped; the mask is kept, and
    the copy where it is not cast."""
    keeps_inputs: bool = False
    """4-bit layers keep what they read, as bitsandbytes did before it saw that only the weights are
    needed (its MatMul4Bit kept A and B until 2024)."""
    untied: bool = False
    """A trainer that holds head and table apart though the model ties them (litgpt)."""
    optimizer_in_backward: bool = False
    compiled: bool = False
    """torch.compile keeps what matrix products read and make in 16 bits, and computes the rest of
    norms and gates anew."""
    offload_activations: bool = False
    shards: int = 1
    """Ranks that share optimizer and gradients (ZeRO-2), and weights (ZeRO-3)."""
    zero: Literal[0, 1, 2, 3] = 0


def adapter_params(lm: LM, targets: tuple[str, ...], r: int) -> int:
    """Weights of LoRA's pairs: r (in + out) for each target of each layer.

    >>> from onecard.memory.architectures.lm import find
    >>> adapter_params(find("qwen2.5-1.5b"), ("q", "k", "v", "o"), 32)
    8716288
    """
    total = 0
    for layer, n in lm.groups:
        adapted = [m for m in layer.matrices if not m.is_expert and adapts(m.role) & set(targets)]
        total += n * sum(r * (matrix.rows + matrix.columns) for matrix in adapted)
    return total + (r * (lm.D + lm.V) if "head" in targets else 0)


def adapts(role: str) -> set[str]:
    """The targets that mean a matrix of this role: latent attention splits its projections in two.

    >>> sorted(adapts("kv_b")), adapts("ple")
    (['k', 'v'], set())
    """
    names = {"kv_a": "kv", "kv_b": "kv", "q_a": "q", "q_b": "q"}.get(role)
    return set(names) if names else {role} & set(ALL_LINEAR)


def step(lm: LM, recipe: Recipe) -> list[Term]:
    """The terms of the step's peak, as torch's allocator counts them."""
    s, n = recipe, lm.n_params
    tokens = s.B * s.T
    weights = formats.hf(lm, s.weights, 4.0 if s.rest_fp32 else 2.0)
    each = 2.0 if s.weights not in ("fp32", "f32") and not s.mixed else 4.0
    if s.method == "full":
        trained, at = n, each
        frozen = 0
    else:
        trained, at = adapter_params(lm, s.targets, s.r), 4.0 if s.adapter_fp32 else 2.0
        frozen = weights.total
    state = OPTIMIZER[s.optimizer][0 if at == 4 else 1]
    ranks = s.shards if s.zero else 1
    frozen += round(lm.V * lm.D * 2) if s.untied and lm.tied and frozen else 0
    out = []
    if frozen:
        reason = f"{n / 1e9:.2f}e9 in {s.weights}"
        reason += ", embeddings, head and norms in fp32" if s.rest_fp32 else ""
        out.append(Term("weights", round(frozen / (ranks if s.zero == 3 else 1)), reason))
    out.append(
        Term(
            "trained weights",
            round(trained * at / (ranks if s.zero == 3 else 1)),
            f"{trained / 1e6:.1f}e6 x {at:.0f} B"
            + (f", rank {s.r} on {'+'.join(s.targets)}" if s.method != "full" else ""),
        )
    )
    out.append(
        Term(
            "optimizer",
            round(trained * (state + 4 * s.deepspeed) / ranks),
            f"{s.optimizer}: {state + 4 * s.deepspeed:.2f} B a trained weight",
        )
    )
    gradients = round(trained * at / (ranks if s.zero >= 2 else 1))
    return out + _passing(lm, s, tokens, 0 if s.optimizer_in_backward else gradients)


def _passing(lm: LM, s: Recipe, tokens: int, gradients: int) -> list[Term]:
    """What comes and goes within a step, at its highest: when the loss is made there are no
    gradients yet, when they are all there the activations are gone.

    Adapters' gradients are small and outlive a step in gradient accumulation: they count in both.
    """
    kept, why = _kept(lm, s, tokens)
    loss, layer = loss_hump(lm, s, tokens), layer_hump(lm, s, tokens)
    grown = Term("gradients", gradients, "one for each trained weight")
    hump = Term("one layer's backward", layer, f"{tokens} tokens, {s.attention} attention")
    if loss >= layer:
        hump = Term("loss", loss, f"{tokens} tokens x {lm.V} words, {s.loss}")
    start = [Term("activations", kept, why), hump]
    if s.method != "full" or s.accumulation > 1:
        return [grown, *start]
    table = (
        4 * lm.V * lm.D if lm.tied else 0
    )  # head and table have one gradient: the two are made and added
    end = [
        grown,
        Term(
            "the table's gradient", table, f"{lm.V} words x {lm.D}, once as head and once as table"
        )
        if table > layer
        else Term("one layer's backward", layer, f"{tokens} tokens, {s.attention} attention"),
    ]
    return max(start, end, key=lambda terms: sum(term.bytes for term in terms))


def loss_hump(lm: LM, s: Recipe, tokens: int) -> int:
    """Bytes of logits and what cross-entropy makes of them."""
    if s.loss == "fused":
        return tokens * lm.D * 8 + (
            lm.V * lm.D * 2 if s.method == "full" else 0
        )  # Liger: logits in chunks as large as the hidden states, and a trained head's gradient
    if s.loss == "frozen":
        return min(tokens, FROZEN_CHUNK) * lm.V * (4 if s.compute_fp32 else 6) + tokens * lm.D * (
            8 if s.compute_fp32 else 4
        )  # logits in fp32 and in 16 bits, the hidden states picked and their gradient
    copies = UPCAST_COPIES + 0.5 * s.keeps_logits
    if s.loss == "plain":
        copies = PLAIN_COPIES
    if s.rest_fp32 or s.compute_fp32:
        copies = FP32_COPIES - (s.compute_fp32 and not s.keeps_logits)
    if s.loss == "chunked":
        copies = CHUNKED_SHARE * copies + CHUNKED_COPIES
    return round(tokens * lm.V * 4 * copies)


def layer_hump(lm: LM, s: Recipe, tokens: int) -> int:
    """Bytes of the widest layer that is recomputed and run backward; without checkpointing only its
    gradients are new."""
    return max(_one_layer_hump(lm, layer, s, tokens) for layer, _ in lm.groups)


def _one_layer_hump(lm: LM, layer: Layer, s: Recipe, tokens: int) -> int:
    wide = 4 if s.compute_fp32 or s.rest_fp32 else 2
    q, narrow = layer.H * layer.K, layer.G * layer.K
    # fitcheck-llm 0.3.1
    rows = 12 * lm.D + 3 * q + narrow + 3 * layer.F + layer.mixer_width
    scores = (
        s.B
        * layer.H
        * s.T**2
        * (4 if s.compute_fp32 else 2)
        * (SCORE_COPIES if s.attention == "eager" else 0)
    )
    return (
        round(tokens * rows * wide + scores)
        if s.checkpointing
        else round(tokens * (2 * layer.F + 2 * lm.D) * wide + scores / 2)
    )


def _kept(lm: LM, s: Recipe, tokens: int) -> tuple[int, str]:
    """Activations that wait for the backward pass."""
    wide = 4 if s.rest_fp32 or s.compute_fp32 else 2
    if s.checkpointing:
        total = 0 if s.offload_activations else lm.L * tokens * lm.D * wide
        return total + _mask(
            s, wide
        ), f"{lm.L} layers x {tokens} tokens x {lm.D} x {wide} B: each layer's input" + (
            ", offloaded" if s.offload_activations else ""
        )
    rows = sum(n * layer_rows(lm, layer, s) for layer, n in lm.groups)
    return round(tokens * rows) + _mask(s, wide) + _scores_kept(
        lm, s
    ), f"{lm.L} layers x {tokens} tokens x {rows / lm.L / 1024:.0f} KiB: everything a layer makes"


def _mask(s: Recipe, wide: int) -> int:
    return s.B * s.T**2 * wide if s.attention == "eager" else 0


def _scores_kept(lm: LM, s: Recipe) -> int:
    """fp32 softmax and its 16-bit copy of every layer with attention."""
    if s.attention != "eager":
        return 0
    return sum(n * s.B * layer.H * s.T**2 * 6 for layer, n in lm.groups)


def layer_rows(lm: LM, layer: Layer, s: Recipe) -> float:
    """Bytes that one token leaves in one layer without checkpointing: norms, projections, rotated
    heads, feed-forward.

    A frozen matrix does not keep what it read. An fp32 adapter does, in a 16-bit copy of its own:
    PEFT casts to fp32, autocast casts back.
    """
    wide = 4 if s.compute_fp32 else 2
    # fp32 norms hand on fp32, and 4-bit and frozen layers answer in the type they were asked in:
    # the feed-forward's rows are fp32 then, while attention casts to 16 bits
    rows = 4 if s.rest_fp32 else wide
    H, q, narrow, F = layer.H, layer.H * layer.K, layer.G * layer.K, layer.F
    if s.compiled and s.method == "full":
        return wide * (4 * lm.D + 2 * q + 2 * narrow + (3 if lm.gated else 2) * F) + 4 * H
    heads: float = wide * (2 * q + 3 * narrow + 2 * q * (H > layer.G and s.attention != "samples"))
    heads += 4 * H + wide * layer.mixer_width
    if lm.qk_norm:  # RMSNorm's input in fp32, and for its own weight's gradient the normed
        heads += (4 + wide * (s.method == "full")) * (q + narrow)
    if s.method == "full":
        norm = (
            2 * wide if not lm.gated else 4 + 2 * wide
        )  # LayerNorm keeps input and output; RMSNorm its input in fp32, the normed, its output
        return lm.norms * norm * lm.D + heads + wide * (4 if lm.gated else 2) * F
    norm = 2 * wide if not lm.gated else 4
    into = _adapter_rows(lm, layer, s, wide)
    return (
        lm.norms * norm * lm.D
        + into
        + heads
        + (rows * (3 if lm.gated else 1) + wide * ("down" in s.targets)) * F
    )


def _adapter_rows(lm: LM, layer: Layer, s: Recipe, wide: int) -> float:
    """Bytes that adapters, and frozen matrices of some libraries, keep of what they read."""
    q, F = layer.H * layer.K, layer.F
    readers = sum(name in s.targets for name in ("q", "k", "v", "gate", "up"))
    casts = s.adapter_fp32 and not s.compute_fp32 and s.loss != "frozen"
    read = readers if casts else 2 * (readers > 0)
    into: float = wide * (read * lm.D + ("o" in s.targets) * q * casts)
    if s.dropout and casts:  # PEFT: a mask for each adapter; what is left is the cast copy above
        into += readers * lm.D + ("o" in s.targets) * q + ("down" in s.targets) * F
    elif s.dropout:  # litgpt: fused projections have one adapter, q, k and v read once
        into += 3 * (
            any(name in s.targets for name in "qkv") * lm.D
            + ("o" in s.targets) * q
            + (("gate" in s.targets) * lm.gated + ("up" in s.targets)) * lm.D
            + ("down" in s.targets) * F
        )
    if s.keeps_inputs:
        into += (4 if lm.gated else 2) * (
            2 * lm.D + q + lm.gated * lm.D + F
        )  # RMSNorm hands on fp32 (litgpt's published rows of Llama and Gemma against Phi)
    return into


FREE_BYTES = 50 * MIB
"""Segments that are held and not full, at the least."""
FRAGMENTS_EAGER, FRAGMENTS_FUSED = 0.65, 1.0
"""Of the smaller of the two humps, what its blocks hold beside the larger one: attention with score
matrices, and fused attention."""
FRAGMENTS_LOSS = 0.03
"""Of the loss, what its blocks hold and do not fill."""


def fragments(lm: LM, s: Recipe) -> Term:
    """What torch's allocator holds beyond the peak: the loss's blocks do not fit the layers' and
    the other way round.

    Fitted to fitcheck-llm 0.3.1's pairs of allocated and reserved, which differ by 11 % between
    equal runs.
    """
    tokens = s.B * s.T
    loss, layer = loss_hump(lm, s, tokens), layer_hump(lm, s, tokens)
    share = FRAGMENTS_EAGER if s.attention == "eager" else FRAGMENTS_FUSED
    return Term(
        "fragments",
        round(FREE_BYTES + share * min(loss, layer) + FRAGMENTS_LOSS * loss),
        f"{share} x the smaller of loss and layer, and {FRAGMENTS_LOSS:.0%} of the loss",
    )
