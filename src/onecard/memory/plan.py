"""A plan is a list of terms in bytes, each with the reason for it, held against a card.

Knows no kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from onecard.memory.devices import Device
from onecard.reporting import table
from onecard.units import gib, size


@dataclass(frozen=True)
class Term:
    name: str
    bytes: int
    reason: str
    """The arithmetic in words, e.g. '30 layers x 4096 tokens x 2 x 3 heads x 64 x 2 B'."""


@dataclass(frozen=True)
class Plan:
    terms: tuple[Term, ...]
    device: Device
    choices: dict[str, Any] = field(default_factory=dict)
    """What the plan decided for the user: the quantization, the layers on the card."""
    notes: tuple[str, ...] = ()
    band: float = 0.0
    """Half-width of the uncertainty, as a share of the total; 0 where it is not known."""

    @property
    def high_bytes(self) -> int:
        """The upper end of the band."""
        return round(self.total_bytes * (1 + self.band))

    @property
    def total_bytes(self) -> int:
        return sum(term.bytes for term in self.terms)

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.device.free_bytes

    @property
    def verdict(self) -> str:
        return (
            "does not fit"
            if not self.fits
            else "fits"
            if self.high_bytes <= self.device.free_bytes
            else "fits closely"
        )

    def largest(self) -> Term:
        return max(self.terms, key=lambda term: term.bytes)

    def as_dict(self) -> dict[str, Any]:
        return {
            "total_bytes": self.total_bytes,
            "low_bytes": round(self.total_bytes * (1 - self.band)),
            "high_bytes": self.high_bytes,
            "verdict": self.verdict,
            "fits": self.fits,
            "card": self.device.as_dict(),
            "choices": self.choices,
            "notes": list(self.notes),
            "terms": [{"name": t.name, "bytes": t.bytes, "because": t.reason} for t in self.terms],
        }

    def render(self) -> str:
        rows = [[size(term.bytes), term.name, term.reason] for term in self.terms]
        spread = (
            f" ({size(round(self.total_bytes * (1 - self.band)))} to {size(self.high_bytes)})"
            if self.band
            else ""
        )
        rows.append(
            [size(self.total_bytes), "total", f"{self.verdict}{spread}: {self.device.render()}"]
        )
        lines = [table(rows, ["bytes", "part", "because"])]
        lines += [f"{name}: {value}" for name, value in self.choices.items()]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def on_cpu(terms: Sequence[Term], device: Device) -> Plan:
    """A plan whose parts all lie in the computer's memory, whatever card is present."""
    return Plan(
        tuple(terms),
        device,
        notes=()
        if device.type == "cpu"
        else (f"runs on the CPU; {gib(device.free_bytes)} of the card stay free",),
    )
