"""What a check of data comes upon: counted, with examples, and what was done about it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from onecard.reporting import Table, table


@dataclass
class Finding:
    issue: str
    count: int
    examples: list[str] = field(default_factory=list)
    action: str = ""
    """What was done about it."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "what": self.issue,
            "count": self.count,
            "examples": self.examples,
            "done": self.action,
        }


def findings_table(findings: Sequence[Finding]) -> Table:
    """One row a finding, with two of its examples."""
    rows = [[str(f.count), f.issue, f.action, "; ".join(f.examples[:2])[:100]] for f in findings]
    return table(rows, ["rows", "what", "action", "for example"])
