"""The small terms that every workload may have.

Pure functions of counts, in bytes; language models have infer.py and train.py.
"""

from onecard.units import MIB

CUDA_CONTEXT_BYTES = 500 * MIB
"""Context plus cuBLAS workspace of one process.

A guess between published 300 and 700 MiB, until it is calibrated.
"""


def flat_index(n_vectors: int, dim: int) -> int:
    """Bytes of a FAISS flat index: fp32 vectors and a 64-bit id each.

    >>> flat_index(100_000, 384) // MIB
    147
    """
    return n_vectors * (dim * 4 + 8)
