"""The plan against the buffers that the embedded llama.cpp prints itself."""

import pytest

from onecard.engines.llamacpp import LlamaCpp
from onecard.memory import infer
from onecard.models import resolve


@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "q4_0"])
@pytest.mark.parametrize(("n_ctx", "n_ubatch"), [(512, 512), (2048, 256), (8192, 512)])
def test_smollm2_takes_what_was_planned(home, n_ctx, n_ubatch, kv_type):
    """Weights and KV cache within 1 %, compute buffer within 10 %."""
    model = resolve.find("smollm2-135m")
    lm, exact_bytes = model.counts()
    planned = {t.name: t.bytes / 2**20 for t in infer.llamacpp(lm, model.quant, n_ctx, k_type=kv_type, n_ubatch=n_ubatch, device="cpu", exact_bytes=exact_bytes)}
    with LlamaCpp(model.path, n_ctx=n_ctx, n_ubatch=n_ubatch, kv_type=kv_type) as engine:
        printed = engine.buffers()
    assert planned["weights"] == pytest.approx(printed["model"], rel=0.01) and planned["KV cache"] == pytest.approx(printed["kv"], rel=0.01)
    assert planned["compute"] == pytest.approx(printed["compute"], rel=0.1), printed
