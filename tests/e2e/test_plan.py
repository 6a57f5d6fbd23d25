"""The plan against the buffers that the embedded llama.cpp prints itself."""

import http.server
import json
import threading
from dataclasses import replace

import pytest

from onecard import api
from onecard.hub import names
from onecard.inference.llamacpp import LlamaCpp
from onecard.memory.architectures import lm
from onecard.memory.estimators import llm_inference, training


@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "q4_0"])
@pytest.mark.parametrize(("n_ctx", "n_ubatch"), [(512, 512), (2048, 256), (8192, 512)])
def test_smollm2_takes_what_was_planned(home, n_ctx, n_ubatch, kv_type):
    """Weights and KV cache within 1 %, compute buffer within 10 %."""
    model = names.find("smollm2-135m")
    planned = {
        t.name: t.bytes / 2**20
        for t in llm_inference.llamacpp(
            model.counts(), "", n_ctx, k_type=kv_type, n_ubatch=n_ubatch, device="cpu"
        )
    }
    with LlamaCpp(model.path, n_ctx=n_ctx, n_ubatch=n_ubatch, kv_type=kv_type) as engine:
        printed = engine.buffers()
    assert planned["weights"] == pytest.approx(printed["model"], rel=0.01) and planned[
        "KV cache"
    ] == pytest.approx(printed["kv"], rel=0.01)
    assert planned["compute"] == pytest.approx(printed["compute"], rel=0.1), printed


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
@pytest.mark.parametrize(("n_ctx", "n_ubatch"), [(512, 512), (2048, 256), (8192, 512)])
def test_gemma_takes_what_was_planned(home, n_ctx, n_ubatch, kv_type):
    """A sliding window in five of six layers; weights (with those laid out anew) and KV cache
    within 1 %, compute buffer within 10 %."""
    api.pull("gemma3-270m-base", "q4_k_m")
    model = names.find("gemma3-270m-base")
    planned = {
        t.name: t.bytes / 2**20
        for t in llm_inference.llamacpp(
            model.counts(), "", n_ctx, k_type=kv_type, n_ubatch=n_ubatch, device="cpu"
        )
    }
    with LlamaCpp(model.path, n_ctx=n_ctx, n_ubatch=n_ubatch, kv_type=kv_type) as engine:
        printed = engine.buffers()
    assert planned["KV cache"] == pytest.approx(printed["kv"], rel=0.01) and planned[
        "compute"
    ] == pytest.approx(printed["compute"], rel=0.1), printed
    assert planned["weights"] + planned.get("repacked weights", 0) == pytest.approx(
        printed["model"], rel=0.01
    )


@pytest.mark.parametrize(
    ("method", "name", "checkpointing", "attention", "B", "T"),
    [
        ("full", "smollm2-135m", False, "sdpa", 1, 512),
        ("lora", "smollm2-135m", False, "eager", 1, 512),
        ("qlora", "smollm2-135m", False, "sdpa", 1, 512),
        ("full", "tinyllama", True, "sdpa", 2, 1024),
        ("lora", "tinyllama", True, "sdpa", 2, 1024),
        ("full", "llama-3.2-1b", False, "sdpa", 1, 512),
        ("qlora", "llama-3.2-1b", False, "sdpa", 1, 512),
        ("full", "qwen2.5-0.5b", True, "sdpa", 1, 1024),
        ("qlora", "qwen2.5-0.5b", True, "sdpa", 1, 1024),
    ],
)
def test_formulas_agree_with_the_real_class_on_fake_tensors(
    method, name, checkpointing, attention, B, T
):
    """Within 5 %, on a few of the layers, which are all alike: the time is in their operations."""
    trace = pytest.importorskip("onecard.memory.fake_tensor", reason="installed by make test")
    model = lm.find(name).with_layers(5)
    recipe = training.Recipe(
        method,
        "nf4" if method == "qlora" else "bf16",
        B,
        T,
        checkpointing=checkpointing,
        attention=attention,
        accumulation=1 if method == "full" else 2,
        keeps_logits=False,
    )
    assert sum(term.bytes for term in training.step(model, recipe)) == pytest.approx(
        trace.step(model, recipe).peak_bytes, rel=0.05
    )


@pytest.mark.parametrize(
    ("method", "weights"),
    [("full", "fp32"), ("full", "bf16"), ("lora", "fp32"), ("lora", "bf16"), ("qlora", "nf4")],
)
def test_normed_heads_take_what_the_real_class_keeps(method, weights):
    """Qwen3 with and without its norms of queries and keys: the difference within 2 %."""
    trace = pytest.importorskip("onecard.memory.fake_tensor", reason="installed by make test")
    model = replace(lm.find("qwen3-0.6b").with_layers(4), V=8000)
    plain = replace(model, qk_norm=False, config={})
    recipe = training.Recipe(
        method,
        weights,
        2,
        512,
        compute_fp32=weights == "fp32",
        checkpointing=False,
        keeps_logits=False,
    )
    planned, measured = (
        [count(each) for each in (model, plain)]
        for count in (
            lambda m: sum(term.bytes for term in training.step(m, recipe)),
            lambda m: trace.step(m, recipe).peak_bytes,
        )
    )
    assert planned[0] - planned[1] == pytest.approx(measured[0] - measured[1], rel=0.02)


def test_trace_on_the_command_line(onecard):
    done = onecard("plan", "full", "smollm2-135m", "--seq", "256", "--trace", "--json")
    assert done.code == 0 and abs(done.data["error"]) < 0.05, done.err
    assert (
        onecard("plan", "lora", "smollm2-135m", "--trace", "--optimizer", "lion").code == 2
        and onecard("plan", "llm-infer", "smollm2-135m", "--trace").code == 2
    )


class Ranges(http.server.BaseHTTPRequestHandler):
    """A server that hands out parts of one file, and counts the bytes; /whole ignores what was
    asked for, /none is not there."""

    file, sent = None, 0

    def do_GET(self):
        data = self.file.read_bytes() if self.path.startswith("/model") else b"no model" * 100
        if self.path == "/none.gguf":
            return self.send_error(404)
        first, last = (int(n) for n in self.headers["Range"].removeprefix("bytes=").split("-"))
        part = data[first : last + 1]
        type(self).sent += len(part)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_):
        pass


@pytest.fixture
def served(home):
    Ranges.file, Ranges.sent = names.find("smollm2-135m").path, 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_model_far_away_is_planned_from_its_header(onecard, served):
    done = onecard("plan", "llm-infer", f"{served}/model.gguf", "--format", "q4_1", "--json")
    near = onecard("plan", "llm-infer", str(Ranges.file), "--format", "q4_1", "--json")
    assert done.code == 0 and done.data["terms"] == near.data["terms"], done.err
    assert Ranges.sent < Ranges.file.stat().st_size / 4


def test_what_is_no_model_far_away_is_refused(onecard, served):
    for path, code in (("/none.gguf", 6), ("/other.gguf", 5)):
        done = onecard("plan", "llm-infer", served + path)
        assert done.code == code and "fix:" in done.err, done.err
    assert onecard("plan", "llm-infer", "http://127.0.0.1:9/model.gguf").code == 6


@pytest.mark.parametrize(
    ("workload", "extra"),
    [
        ("llm-infer", ["--n_ctx", "64", "--engine", "transformers"]),
        ("lora", ["--seq", "32"]),
    ],
)
def test_an_unknown_architecture_is_traced_and_says_so(onecard, tmp_path, workload, extra):
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "model_type": "mamba",
                "architectures": ["MambaForCausalLM"],
                "hidden_size": 256,
                "num_hidden_layers": 2,
                "vocab_size": 5000,
            }
        )
    )
    if workload == "llm-infer":
        refused = onecard("plan", workload, str(tmp_path), "--json")
        assert (refused.code, "not known" in refused.err) == (5, True), "llama.cpp is not traced"
    done = onecard("plan", workload, str(tmp_path), *extra, "--json")
    assert (
        done.code == 0
        and "traced instead" in done.data["notes"][0]
        and done.data["terms"][1]["bytes"] > 0
    ), done.err
    if workload == "lora":
        fitted = onecard(
            "plan",
            workload,
            str(tmp_path),
            "--max_seq_length",
            "32",
            "--per_device_train_batch_size",
            "64",
            "--fit",
            "--card",
            "1.5gb",
            "--json",
        )
        assert (
            fitted.code == 0
            and fitted.data["changes"][0]["changes"]["gradient_accumulation_steps"] > 1
        ), fitted.err
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "of-nobody", "hidden_size": 256})
    )
    assert onecard("plan", workload, str(tmp_path)).code == 5
