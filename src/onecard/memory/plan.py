"""A plan is a list of terms in bytes, each with the reason for it, held against a card.

Knows no kind.
"""

from dataclasses import dataclass, field
from typing import Any

from onecard.memory.devices import Device
from onecard.reporting import Table, table
from onecard.units import size


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
        """The upper end of the band; the total where the error is not known."""
        return round(self.total_bytes * (1 + self.band))

    @property
    def total_bytes(self) -> int:
        return sum(term.bytes for term in self.terms)

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.device.free_bytes

    @property
    def verdict(self) -> str:
        """fits, fits closely (the band's upper end does not) or does not fit."""
        if not self.fits:
            return "does not fit"
        return "fits" if self.high_bytes <= self.device.free_bytes else "fits closely"

    def largest(self) -> Term:
        return max(self.terms, key=lambda term: term.bytes)

    def as_dict(self) -> dict[str, Any]:
        return {
            "total_bytes": self.total_bytes,
            "low_bytes": round(self.total_bytes * (1 - self.band)) if self.band else None,
            "high_bytes": self.high_bytes if self.band else None,
            "verdict": self.verdict,
            "fits": self.fits,
            "device": self.device.as_dict(),
            "choices": self.choices,
            "notes": list(self.notes),
            "terms": [{"name": t.name, "bytes": t.bytes, "because": t.reason} for t in self.terms],
        }

    def table(self) -> Table:
        """Every part in bytes with its reason, and the verdict."""
        rows = [[size(term.bytes), term.name, term.reason] for term in self.terms]
        spread = " (how far off such plans are is not known)" if self.terms else ""
        if self.band:
            low = round(self.total_bytes * (1 - self.band))
            spread = f" ({size(low)} to {size(self.high_bytes)})"
        verdict = f"{self.verdict}{spread}: {self.device.render()}"
        rows.append([size(self.total_bytes), "total", verdict])
        return table(rows, ["bytes", "part", "because"])

    def render(self) -> str:
        lines = [str(self.table()), *(f"{name}: {value}" for name, value in self.choices.items())]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])
