"""The plan against the buffers that the embedded llama.cpp prints itself."""

import pytest

from onecard import api
from onecard.engines.llamacpp import LlamaCpp
from onecard.memory import infer, lm, train
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


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
@pytest.mark.parametrize(("n_ctx", "n_ubatch"), [(512, 512), (2048, 256), (8192, 512)])
def test_gemma_takes_what_was_planned(home, n_ctx, n_ubatch, kv_type):
    """A sliding window in five of six layers; weights (with those laid out anew) and KV cache within 1 %, compute buffer within 10 %."""
    api.pull("gemma3-270m-base", "q4_k_m")
    model = resolve.find("gemma3-270m-base")
    lm, exact_bytes = model.counts()
    planned = {t.name: t.bytes / 2**20 for t in infer.llamacpp(lm, "q4_k_m", n_ctx, k_type=kv_type, n_ubatch=n_ubatch, device="cpu", exact_bytes=exact_bytes)}
    with LlamaCpp(model.path, n_ctx=n_ctx, n_ubatch=n_ubatch, kv_type=kv_type) as engine:
        printed = engine.buffers()
    assert planned["KV cache"] == pytest.approx(printed["kv"], rel=0.01) and planned["compute"] == pytest.approx(printed["compute"], rel=0.1), printed
    assert planned["weights"] + planned.get("repacked weights", 0) == pytest.approx(printed["model"], rel=0.01)


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize(("name", "checkpointing", "attention", "B", "T"), [
    ("smollm2-135m", False, "sdpa", 1, 512), ("smollm2-135m", False, "eager", 1, 512), ("tinyllama", True, "sdpa", 2, 1024), ("llama-3.2-1b", False, "sdpa", 1, 512), ("qwen2.5-0.5b", True, "sdpa", 1, 1024),
])
def test_formulas_agree_with_the_real_class_on_fake_tensors(method, name, checkpointing, attention, B, T):
    """Within 5 %."""
    trace = pytest.importorskip("onecard.memory.trace", reason="installed by make test")
    model = lm.find(name)
    recipe = train.Recipe(method, "nf4" if method == "qlora" else "bf16", B, T, checkpointing=checkpointing, attention=attention, accumulation=1 if method == "full" else 2, keeps_logits=False)
    assert sum(term.bytes for term in train.step(model, recipe)) == pytest.approx(trace.step(model, recipe).peak_bytes, rel=0.05)


def test_trace_on_the_command_line(onecard):
    done = onecard("plan", "lora", "smollm2-135m", "--seq", "256", "--trace", "--json")
    assert done.code == 0 and abs(done.data["error"]) < 0.05, done.err
    assert onecard("plan", "lora", "smollm2-135m", "--trace", "--optimizer", "lion").code == 2 and onecard("plan", "llm-infer", "smollm2-135m", "--trace").code == 2
    assert onecard("plan", "lora", "mixtral-8x7b", "--trace").code == 5
