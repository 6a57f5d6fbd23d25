"""What training a tiny language model from scratch will need. Pure arithmetic."""

from collections.abc import Iterable
from typing import Any

from onecard.memory import workloads_nets as nets
from onecard.memory.devices import Device
from onecard.memory.plan import Plan, Term
from onecard.tasks.tinylm.configs import Settings
from onecard.tasks.tinylm.sizing import derive
from onecard.units import GIB

VOCAB = 66
"""Characters of an English text, before the text is read."""
CPU_PROGRAM_BYTES = round(0.84 * GIB)
HEAP_SHARE = 0.4
"""Python with torch, and what heap and oneDNN hold beyond the tensors, as a share of these: fitted
to peaks of resident memory of seven trainings (0.3 to 6 million weights, characters and BPE: 65 to
1757 MiB of tensors,
865 to 1593 MiB beside them), whose totals it meets within 11 % (README)."""


def plan(settings: Settings, device: Device) -> Plan:
    """Weights, gradients, optimizer and activations of one step.

    Raises SettingsError for sizes that do not divide.
    """
    vocab = VOCAB if settings.tokenizer == "char" else settings.vocab_size
    made = derive(settings, vocab, 0)
    s = made.model_config
    narrow = settings.bf16 == "on" or (settings.bf16 == "auto" and device.type != "cpu")
    step = nets.TinySettings(
        n_layer=s.n_layer,
        n_head=s.n_head,
        n_kv_head=s.n_kv_head,
        n_embd=s.n_embd,
        d_ff=s.d_ff,
        mlp=s.mlp,
        qk_norm=s.qk_norm,
        block_size=s.block_size,
        batch=made.batch_size,
        accumulation=made.accumulation_steps,
        vocab_size=s.vocab_size,
        amp=narrow,
        optimizer=settings.optim,
        ema=bool(settings.ema_decay),
    )
    base = nets.plan_tiny(step, device)
    parts = [*base.terms]
    if device.type == "cpu":
        parts.append(
            Term(
                "program",
                CPU_PROGRAM_BYTES + round(HEAP_SHARE * sum(term.bytes for term in parts)),
                f"Python with torch, heap and oneDNN: {CPU_PROGRAM_BYTES / GIB:.2f} GiB and "
                f"{HEAP_SHARE:.0%} of the rest",
            )
        )
    notes = (
        ("the vocabulary is not known before the text is read: 66 characters are assumed",)
        if settings.tokenizer == "char"
        else ()
    )
    return Plan(
        tuple(parts),
        device,
        {
            "weights": f"{s.n_params / 1e6:.2f}e6",
            "layers x width": f"{s.n_layer} x {s.n_embd}",
            "tokens a step": made.tokens_per_step,
        },
        notes,
        base.band,
    )


def smaller(settings: Settings) -> Iterable[tuple[dict[str, Any], str]]:
    """The ladder: the same mathematics with smaller micro-batches, down to one sample."""
    made = derive(settings, VOCAB, 0)
    batch, whole = made.batch_size, made.batch_size * made.accumulation_steps
    while batch > 1:
        batch //= 2
        yield (
            {
                "per_device_train_batch_size": batch,
                "gradient_accumulation_steps": -(-whole // batch),
            },
            "the same mathematics: the effective batch stays; somewhat slower",
        )
    if settings.bf16 != "on":
        yield {"bf16": "on"}, "equal within noise in published runs"
