"""llama.cpp's LLaVA with a class token (CLIP), which its graph puts in the wrong place (#25814).

The graph appends the token to the patches, but numbers the positions and takes the outputs as if it
stood before them: every patch gets its neighbour's position, the first one's output is lost, and
the token's stands in for it. Here the last patch is moved to the front of the picture and the first
and last row of the table of positions are exchanged. Then every patch has its own position and
place again, but for the last one, where the class token's output stays: 575 of 576 tokens are
right. Which builds do so is measured (tests/e2e/test_mmproj_files.py), not assumed.
"""

import hashlib
import importlib.metadata
import shutil
from pathlib import Path

import gguf
import numpy as np

from onecard import fsio, paths
from onecard.datasets.images.decode import Rgb
from onecard.memory.architectures.gguf import Header

MEASURED = ("2026.10.11549",)
"""Versions of xllamacpp that were seen to do so."""
POSITIONS, TOKEN = "v.position_embd.weight", "v.class_embd"
PINPOINTS = "clip.vision.image_grid_pinpoints"
"""Key of LLaVA-1.6, whose pictures llama.cpp cuts into tiles itself."""
NOT_MENDED = (
    "llama.cpp may read this vision tower with its class token in the wrong place (llama.cpp "
    "#25814): answers may differ from those of --engine transformers"
)
MENDED = (
    "llama.cpp puts the class token of this vision tower in the wrong place (llama.cpp #25814); "
    "that is made good, but for the last token of each picture"
)


def is_concerned(header: Header) -> bool:
    """Whether the file's tower has a class token that llama.cpp's graph of LLaVA joins."""
    names = {tensor.name for tensor in header.tensors}
    return TOKEN in names and str(header.keys.get("clip.projector_type", "")) == "mlp"


def can_be_mended(header: Header) -> bool:
    """Only with a build that was measured, and where each picture is one square."""
    try:
        version = importlib.metadata.version("xllamacpp")
    except importlib.metadata.PackageNotFoundError:
        return False
    return version in MEASURED and PINPOINTS not in header.keys


def mended(path: Path) -> Path:
    """A copy in the cache with the first and last row of the table of positions exchanged."""
    facts = path.stat()
    key = f"{path.absolute()} {facts.st_size} {facts.st_mtime_ns}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    target = paths.home() / "mmproj" / f"{path.stem}-{digest}.gguf"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with fsio.atomic_write(target) as draft:
            shutil.copyfile(path, draft)
            reader = gguf.GGUFReader(draft, "r+")
            (table,) = [tensor.data for tensor in reader.tensors if tensor.name == POSITIONS]
            table[[0, -1]] = table[[-1, 0]]
            reader.data.flush()
    return target


def rolled(rgb: Rgb, patch: int) -> Rgb:
    """[side, side, 3] with its last patch in front of the others."""
    n = rgb.shape[0] // patch
    blocks = rgb.reshape(n, patch, n, patch, 3).swapaxes(1, 2).reshape(n * n, patch, patch, 3)
    blocks = np.roll(blocks, 1, axis=0).reshape(n, n, patch, patch, 3)
    return np.ascontiguousarray(blocks.swapaxes(1, 2).reshape(rgb.shape))
