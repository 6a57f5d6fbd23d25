"""What chat will need: the language model, and for `serve` the embedder beside it."""

from onecard.inference.config import plan_terms
from onecard.memory.devices import Device
from onecard.memory.plan import Plan
from onecard.tasks.chat.configs import Settings


def plan(settings: Settings, device: Device) -> Plan:
    """Weights, KV cache and buffers of the model on the card."""
    parts, chosen, notes = plan_terms(settings, device)
    return Plan(tuple(parts), device, chosen, tuple(notes))
