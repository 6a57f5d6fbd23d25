"""What the embedded engine prints of its buffers, beside the plan's terms."""

from pathlib import Path

from onecard.inference.llamacpp import LlamaCpp
from onecard.memory.architectures.gguf import read_model
from onecard.memory.architectures.gguf_model import from_header
from onecard.memory.estimators import llm_inference

TERMS = {
    "model": ("weights", "repacked weights"),
    "kv": ("KV cache",),
    "state": ("recurrent state",),
    "compute": ("compute",),
}


def compare(path: Path, n_ctx: int, n_ubatch: int, kv_type: str) -> dict[str, tuple[float, float]]:
    """Buffer -> (planned, printed) in MiB."""
    terms = llm_inference.llamacpp(
        from_header(read_model(path)), "", n_ctx, k_type=kv_type, n_ubatch=n_ubatch, device="cpu"
    )
    with LlamaCpp(path, n_ctx=n_ctx, n_ubatch=n_ubatch, kv_type=kv_type) as engine:
        printed = engine.buffers()
    return {
        name: (sum(t.bytes for t in terms if t.name in parts) / 2**20, printed[name])
        for name, parts in TERMS.items()
    }
