"""The plan of a GGUF file against the buffers that the embedded llama.cpp prints itself."""

import pytest
import random_gguf
from engine_buffers import compare

PRINTED = 0.006
"""The engine prints two decimals of a MiB."""


@pytest.mark.parametrize("arch", random_gguf.WRITERS)
@pytest.mark.parametrize(
    ("n_ctx", "n_ubatch", "kv_type"), [(512, 512, "f16"), (4096, 256, "f16"), (8192, 512, "q8_0")]
)
def test_every_kind_of_layer_takes_what_was_planned(tmp_path, arch, n_ctx, n_ubatch, kv_type):
    """Weights, cache and recurrent state within 0.5 %, the compute buffer within 5 %."""
    path = random_gguf.write(tmp_path / "m.gguf", arch, **random_gguf.SIZES[arch])
    found = compare(path, n_ctx, n_ubatch, kv_type)
    for name in ("model", "kv", "state"):
        assert found[name][0] == pytest.approx(found[name][1], rel=0.005, abs=PRINTED), name
    assert found["compute"][0] == pytest.approx(found["compute"][1], rel=0.05), found
