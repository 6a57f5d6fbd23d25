"""The small terms that every workload may have, in bytes. Language models have their estimators."""

from collections.abc import Sequence

from onecard.memory import calibration
from onecard.memory.devices import Device
from onecard.memory.plan import Term

CNN_SEGMENTS = 0.05
"""Share of activations that torch's allocator holds in partly empty segments while convolutions
train. A guess, until the device is calibrated."""


def flat_index(n_vectors: int, dim: int) -> int:
    """Bytes of a FAISS flat index: fp32 vectors and a 64-bit id each.

    >>> flat_index(100_000, 384) // 2**20
    147
    """
    return n_vectors * (dim * 4 + 8)


def cuda_context(device: Device) -> list[Term]:
    """The CUDA context of a process; nothing on a CPU."""
    if device.type == "cpu":
        return []
    return [Term("CUDA context", *calibration.context_bytes(device))]


def cnn_segments(terms: Sequence[Term], device: Device) -> list[Term]:
    """Segments of the allocator that convolutions leave partly empty; nothing on a CPU."""
    if device.type == "cpu":
        return []
    activations = sum(term.bytes for term in terms if "activations" in term.name)
    share = calibration.segments(device, CNN_SEGMENTS)
    return [Term("fragments", round(share * activations), "allocator segments, partly empty")]
