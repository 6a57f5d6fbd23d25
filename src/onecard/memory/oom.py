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
LACKS = re.compile(
    r"(?i)out of (?:host |device |gpu |shared )?memory|OutOf\w*Memory|failed to allocate|"
    r"cudaMalloc failed|unable to allocate|can.t allocate memory|cannot allocate memory|"
    r"oom-kill|killed process|killed by signal: (?:killed|bus)|exit(?:ed with)? (?:code |status )?"
    r"-?137\b|returned 137|^killed$|MemoryError|ALLOC_FAILED|no available memory for the cache|"
    r"larger than the maximum number of tokens that can be stored in KV cache|"
    r"less than desired GPU memory utilization|RESOURCE_EXHAUSTED|smaller than requested bytes|"
    r"requires more (?:system|gpu)? ?memory|insufficient memory|MPS backend out of memory|"
    r"cudaErrorMemoryAllocation|shared memory limit",
    re.MULTILINE,
)
"""What programs say when memory is short: torch, CTranslate2, llama.cpp, Ollama, vLLM,
bitsandbytes, cuBLAS and cuDNN, ONNX Runtime, XLA, numpy, Linux and its shells, Metal, Vulkan."""
WHOLE = (
    (r"shared memory limit|out of shared memory|signal: bus", "shared memory"),
    (
        r"oom-kill|killed process|killed by signal: killed|\b-?137\b|^killed$|MemoryError|"
        r"DefaultCPUAllocator|_ArrayMemoryError|requires more system memory|"
        r"for an array with shape|std::bad_alloc",
        "host memory",
    ),
    (
        r"kv[ _]cache|cache blocks|stored in KV cache|for the KV cache",
        "KV cache",
    ),
    (r"compute buffers?|graph_reserve|ggml_gallocr", "compute"),
    (r"autoencoder|vae[_.]decode|\bvae\b|VaeDecode|decode_first_stage", "decoder"),
    (r"unable to allocate \S+ buffer|model buffer|llama_model_load|load_tensors", "weights"),
)
"""Whole messages that name what did not fit, whatever stands around them; the first counts."""
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
    "decoder": "the picture's decoder (VAE), whose layers are as large as the picture",
    "host memory": "the computer's own memory, not the card's: the system stopped the program",
    "shared memory": "memory that DataLoader's workers share (/dev/shm), not the card's",
}
ADVICE = {
    "decoder": "VAE tiling or slicing decodes it in parts",
    "host memory": "fewer DataLoader workers, a smaller cache or data set in memory, or swap",
    "shared memory": "num_workers=0, or docker run --shm-size=8g",
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
        if self.term in ADVICE:
            out.append(f"what helps: {ADVICE[self.term]}")
        if self.fragmented:
            out.append(
                "memory is in pieces: PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True gives them "
                "back"
            )
        return "\n".join(out)


def read(text: str) -> Oom:
    """Raises DataError for a text that tells of no lack of memory."""
    if not LACKS.search(text):
        raise DataError(
            "this text tells of no lack of memory",
            why="neither 'out of memory' nor a failed allocation stands in it",
            fix="give the whole traceback, or the run's folder",
        )
    term, line = _whole(text) or _place(text)
    return Oom(
        term,
        _number(
            r"[Tt]ried to allocate ([\d.]+) (\w+)|allocating ([\d.]+) (\w+)|failed to allocate "
            r".*?size ([\d.]+)()|Unable to allocate ([\d.]+) (\w+)|while trying to allocate "
            r"([\d.]+) (\w+)|buffer of size ([\d.]+)()",
            text,
        ),
        _number(r"total capacity of ([\d.]+) (\w+)|([\d.]+) (\w+) total capacity", text),
        _number(r"of which ([\d.]+) (\w+) is free|([\d.]+) (\w+) free", text),
        _number(r"([\d.]+) (\w+) is allocated by PyTorch|([\d.]+) (\w+) already allocated", text),
        _number(r"([\d.]+) (\w+) is reserved by PyTorch but unallocated", text),
        line,
    )


def _whole(text: str) -> tuple[str, str] | None:
    """(term, line) of a message that names what did not fit; None for another.

    torch's own error is judged by its traceback, except where a picture's decoder stands in it.
    """
    of_torch = re.search(r"OutOfMemoryError|CUDA out of memory|HIP out of memory", text)
    for form, term in WHOLE:
        if of_torch and term not in ("decoder", "shared memory"):
            continue
        match = re.search(f"(?im){form}", text)
        if match:
            start = text.rfind("\n", 0, match.start()) + 1
            return term, text[start:].split("\n", 1)[0].strip()
    return None


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
