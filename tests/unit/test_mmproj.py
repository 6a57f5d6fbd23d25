"""llama.cpp's file of a vision half, by its header."""

from pathlib import Path

import pytest

from onecard.errors import DataError
from onecard.memory.architectures import gguf, mmproj
from onecard.memory.estimators import vlm

GEMMA3 = {
    "general.architecture": "clip",
    "clip.vision.embedding_length": 1152,
    "clip.vision.block_count": 27,
    "clip.vision.attention.head_count": 16,
    "clip.vision.feed_forward_length": 4304,
    "clip.vision.patch_size": 14,
    "clip.vision.image_size": 896,
    "clip.projector_type": "gemma3",
}
TENSORS = (gguf.Tensor("v.patch_embd.weight", (14, 14, 3, 1152), "f16", 851_000_000),)


def read(**changed):
    return mmproj.of_header(gguf.Header({**GEMMA3, **changed}, TENSORS, 851_000_000), Path("m"))


def test_gemma_3_as_llama_cpp_prints_it():
    """Its log: 256 tokens of an image, a compute buffer of 1132 MiB without flash attention."""
    half = read()
    assert half.tokens() == 256
    weights, compute = vlm.projector(half, 0, 0, flash_attn=False)
    assert weights.bytes == 851_000_000
    assert compute.bytes / 2**20 == pytest.approx(1132, rel=0.05)
    assert vlm.projector(half, 0, 0, flash_attn=True)[1].bytes < compute.bytes / 4


def test_an_image_of_any_size_is_limited():
    half = read(**{"clip.projector_type": "qwen2.5vl_merger"})
    assert half.tokens(280, 280) == 100
    assert half.tokens(16_384, 16_384) == mmproj.MOST_TOKENS


@pytest.mark.parametrize(
    "changed",
    [
        {"clip.vision.embedding_length": 0},
        {"clip.vision.patch_size": 0},
        {"clip.vision.block_count": 2**32 - 1},
        {"clip.vision.image_size": float("nan")},
        {"clip.vision.attention.head_count": -1},
    ],
)
def test_a_header_that_is_no_tower_is_refused(changed):
    with pytest.raises(DataError):
        read(**changed)
