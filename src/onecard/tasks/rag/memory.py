"""What rag will need: the language model on the card, the embedder and the index in the computer's
memory."""

from onecard.inference.config import plan_terms
from onecard.memory.devices import Device
from onecard.memory.plan import Plan, Term
from onecard.memory.terms import flat_index
from onecard.tasks.rag.configs import Settings
from onecard.units import MIB

E5_BYTES = 290 * MIB
"""Peak resident size of the embedded embedder with its tokenizer while it works, measured
(tests/bench/bench_embedder.py)."""
TYPICAL_CHUNKS = 20_000
"""A large notebook or a mid-sized code base; `onecard rag index` tells the true number."""


def plan(settings: Settings, device: Device) -> Plan:
    """On a card only the language model counts: embedder and index run on the CPU."""
    parts, chosen, notes = plan_terms(settings, device)
    index = Term(
        "index", flat_index(TYPICAL_CHUNKS, 384), f"{TYPICAL_CHUNKS} passages x 384 x fp32"
    )
    if device.type == "cpu":
        embedder = (
            [
                Term(
                    "embedder",
                    E5_BYTES,
                    "multilingual-e5-small in int8, with its tokenizer and a batch",
                )
            ]
            if settings.embedding_model == "e5-small"
            else []
        )
        return Plan((*parts, *embedder, index), device, chosen, tuple(notes))
    return Plan(
        tuple(parts),
        device,
        chosen,
        (
            *notes,
            f"embedder and index take about {(E5_BYTES + index.bytes) // MIB} MiB of the "
            "computer's own memory",
        ),
    )
