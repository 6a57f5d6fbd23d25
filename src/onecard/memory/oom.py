"""Reads an out-of-memory message and names the part of the plan that grew, from where it happened
and how much was asked for. Knows texts, no card.

Forms: torch's OutOfMemoryError with its traceback, llama.cpp's failed allocation, a system that
killed the process.
"""

import re
from dataclasses import asdict, dataclass
from typing import Any

from onecard.errors import DataError
from onecard.units import GIB, KIB, MIB, size

UNITS = {
    "KiB": KIB,
    "MiB": MIB,
    "GiB": GIB,
    "TiB": 1024 * GIB,
    "bytes": 1,
    "MB": 10**6,
    "GB": 10**9,
}
# what stands in the last lines of a traceback, and the term it belongs to; the first that matches
# counts
PLACES = (
    (r"cross_entropy|log_softmax|nll_loss|ForCausalLMLoss|loss_utils|lm_head|logits", "loss"),
    (r"optim\w*[/.]|adam|optimizer\.step|_init_group|exp_avg", "optimizer"),
    (
        r"eager_attention|softmax|scaled_dot_product|flash_attn|sdpa|attn_weights",
        "one layer's backward",
    ),
    (r"cache_utils|past_key_value|key_cache|DynamicCache|kv_cache|llama_kv_cache", "KV cache"),
    (r"graph_reserve|compute buffer|ggml_gallocr|sched_reserve", "compute"),
    (
        r"from_pretrained|load_state_dict|_load_|\.to\(device|\.cuda\(|load_tensors|"
        r"llama_model_load|model buffer",
        "weights",
    ),
    (r"_run_backward|\.backward\(|autograd", "activations"),
    (r"forward|linear|conv", "activations"),
)
MEANS = {
    "loss": "the logits over the whole vocabulary and what cross-entropy makes of them",
    "optimizer": "the optimizer's states, made at its first step",
    "KV cache": "the keys and values of all tokens so far",
    "one layer's backward": "attention's score matrices or the one layer that is recomputed",
    "weights": "the weights alone, before any work",
    "activations": "what the layers keep for the backward pass",
    "compute": "llama.cpp's buffer for one micro-batch",
}


@dataclass(frozen=True)
class Oom:
    """What the message says; 0 where it does not."""

    term: str
    asked_bytes: int
    total_bytes: int
    free_bytes: int
    allocated_bytes: int
    reserved_idle_bytes: int
    line: str
    """The line of the traceback that names the place."""

    @property
    def fragmented(self) -> bool:
        """Whether what torch holds and does not use would have been enough."""
        return 0 < self.asked_bytes <= self.reserved_idle_bytes

    def as_dict(self) -> dict[str, Any]:
        facts = asdict(self)
        del facts["reserved_idle_bytes"]
        return facts | {"fragmented": self.fragmented}

    def render(self) -> str:
        out = [f"{self.term}: {MEANS[self.term]}"]
        if self.line:
            out.append(f"seen in: {self.line[:150]}")
        facts = {
            "asked for": self.asked_bytes,
            "free": self.free_bytes,
            "of": self.total_bytes,
            "held by torch": self.allocated_bytes,
            "held and not used": self.reserved_idle_bytes,
        }
        figures = ", ".join(f"{name} {size(value)}" for name, value in facts.items() if value)
        if figures:
            out.append(figures)
        if self.fragmented:
            out.append(
                "memory is in pieces: PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True gives them "
                "back"
            )
        return "\n".join(out)


def read(text: str) -> Oom:
    """Raises DataError for a text that tells of no lack of memory."""
    if not re.search(
        r"(?i)out of memory|OutOfMemoryError|failed to allocate|cudaMalloc failed|unable to "
        r"allocate|oom-kill|Killed process",
        text,
    ):
        raise DataError(
            "this text tells of no lack of memory",
            why="neither 'out of memory' nor a failed allocation stands in it",
            fix="give the whole traceback, or the run's folder",
        )
    term, line = _place(text)
    return Oom(
        term,
        _number(
            r"[Tt]ried to allocate ([\d.]+) (\w+)|allocating ([\d.]+) (\w+)|failed to allocate "
            r".*?size ([\d.]+)()",
            text,
        ),
        _number(r"total capacity of ([\d.]+) (\w+)|([\d.]+) (\w+) total capacity", text),
        _number(r"of which ([\d.]+) (\w+) is free|([\d.]+) (\w+) free", text),
        _number(r"([\d.]+) (\w+) is allocated by PyTorch|([\d.]+) (\w+) already allocated", text),
        _number(r"([\d.]+) (\w+) is reserved by PyTorch but unallocated", text),
        line,
    )


def _place(text: str) -> tuple[str, str]:
    """From the innermost line outwards; within a line the first form of PLACES."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    body = [
        line
        for line in lines
        if not re.match(r"(torch\.)?(cuda\.)?OutOfMemoryError|.*CUDA out of memory", line)
    ]
    for line in reversed(body[-40:]):
        for form, term in PLACES[:-2]:
            if re.search(form, line):
                return term, line
    for line in reversed(body[-40:]):
        for form, term in PLACES[-2:]:
            if re.search(form, line):
                return term, line
    return "activations", ""


def _number(form: str, text: str) -> int:
    match = re.search(form, text)
    if not match:
        return 0
    groups = [group for group in match.groups() if group is not None]
    unit = groups[1] if len(groups) > 1 and groups[1] else "bytes"
    try:
        return round(float(groups[0].rstrip(".")) * UNITS.get(unit, 1))
    except ValueError:
        return 0
