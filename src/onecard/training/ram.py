"""Growth of the computer's memory during a training: it ends with a reason before the machine
pages."""

from dataclasses import dataclass, field

import psutil

from onecard.errors import DoesNotFit
from onecard.units import GIB, size

LEAST_FREE_SHARE = 0.03
LEAST_FREE_BYTES = GIB // 2
"""Free memory, as the kernel counts it with what caches can give back, below which a Linux desktop
begins to page: the larger of both."""
EVERY = 20
"""Steps between two looks: one takes 0.1 ms."""


@dataclass
class RamWatch:
    """Looks at the free memory every few steps."""

    start_bytes: int = field(default_factory=lambda: resident_bytes())

    def short(self, step: int) -> bool:
        """Whether memory is about to run out."""
        if step % EVERY:
            return False
        memory = psutil.virtual_memory()
        return bool(memory.available < max(LEAST_FREE_SHARE * memory.total, LEAST_FREE_BYTES))

    def refusal(self, step: int, fix: str) -> DoesNotFit:
        free, now = psutil.virtual_memory().available, resident_bytes()
        return DoesNotFit(
            f"the computer's memory is nearly full after step {step}",
            why=f"{size(free)} are free; this training grew from {size(self.start_bytes)} to "
            f"{size(now)}. Paging would make every step a hundred times slower",
            fix=fix,
        )


def resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)
