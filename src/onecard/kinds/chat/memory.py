"""What chat will need: the language model, and for `serve` the embedder beside it."""

from onecard.engines.settings import plan_terms
from onecard.kinds.chat.config import Settings
from onecard.memory.card import Card
from onecard.memory.plan import Plan


def plan(settings: Settings, card: Card) -> Plan:
    """Weights, KV cache and buffers of the model on the card."""
    parts, chosen, notes = plan_terms(settings, card)
    return Plan(tuple(parts), card, chosen, tuple(notes))
