"""GGUF headers (hostile ones too), cards, and what fits, without a model."""

import contextlib
import struct
import sys
import time
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.errors import DataError, NotFound, SettingsError
from onecard.memory import devices, formats, quant_selection
from onecard.memory.architectures import lm
from onecard.memory.architectures.gguf import read_header


def text(value):
    return struct.pack("<Q", len(value)) + value


def gguf(n_tensors=1, n_keys=2, shape=(32, 2), kind=8, data=64 * 34 // 32, offset=0):
    keys = (
        text(b"general.architecture")
        + struct.pack("<I", 8)
        + text(b"llama")
        + text(b"llama.block_count")
        + struct.pack("<II", 4, 3)
    )
    info = (
        text(b"blk.0.w")
        + struct.pack("<I", len(shape))
        + b"".join(struct.pack("<Q", n) for n in shape)
        + struct.pack("<IQ", kind, offset)
    )
    head = b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + keys + info
    return head + b"\0" * (-len(head) % 32) + b"\0" * data


def test_a_header_is_read_to_the_byte(tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf())
    header = read_header(path)
    assert header.architecture == "llama" and header.number("block_count") == 3
    assert header.data_bytes == 68 and header.layer_bytes() == [68] and not header.has_chat_template


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GGUF",
        b"GGML" + b"\0" * 60,
        gguf()[:60],
        gguf(n_tensors=2**40),
        gguf(n_keys=2**50),
        gguf(shape=(2**60, 2**60)),
        gguf(shape=(32,) * 9),
        gguf(kind=77),
        gguf(offset=2**63),
        gguf(data=3),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**62),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"k") + struct.pack("<IIQ", 9, 8, 2**40),
    ],
    ids=range(13),
)
def test_a_hostile_header_is_refused(tmp_path, data):
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(DataError):
        read_header(path)


@settings(max_examples=300, deadline=2000)
@given(st.integers(0, 160), st.binary(min_size=1, max_size=12))
def test_any_damage_is_refused_or_read_in_bounded_time(tmp_path_factory, at, junk):
    whole = bytearray(gguf())
    whole[at : at + len(junk)] = junk
    path = tmp_path_factory.mktemp("g") / "x.gguf"
    path.write_bytes(bytes(whole))
    started = time.monotonic()
    with contextlib.suppress(DataError):
        read_header(path)
    assert time.monotonic() - started < 1


def test_cards_by_name_and_by_size():
    assert devices.find("RTX 4070 Ti").name == devices.find("4070ti").name == "RTX 4070 Ti"
    assert devices.find("rtx4070tisuper").total_bytes == 16 * 2**30
    assert devices.find("cpu").type == "cpu" and devices.find("cpu").free_bytes > 0
    with pytest.raises(NotFound):
        devices.find("4071")
    with pytest.raises(SettingsError):
        devices.find("100m")


def stand_in_nvml(free):
    """NVML's own names, with one 4070 Ti behind them."""
    nvml = types.ModuleType("pynvml")
    nvml.NVMLError = type("NVMLError", (Exception,), {})
    nvml.nvmlInit = nvml.nvmlShutdown = lambda: None
    nvml.nvmlSystemGetDriverVersion = lambda: "580.1"
    nvml.nvmlDeviceGetCount = lambda: 1
    nvml.nvmlDeviceGetHandleByIndex = lambda i: i
    nvml.nvmlDeviceGetMemoryInfo = lambda h: types.SimpleNamespace(
        total=12282 << 20, free=free, used=0
    )
    nvml.nvmlDeviceGetName = lambda h: "NVIDIA GeForce RTX 4070 Ti"
    nvml.nvmlDeviceGetCudaComputeCapability = lambda h: (8, 9)
    return nvml


def test_a_real_card_is_asked_and_a_cpu_only_engine_beside_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", stand_in_nvml(11 << 30))
    found = devices.find("auto")
    assert (found.name, found.type, found.bandwidth_gb_s, found.real) == (
        "RTX 4070 Ti",
        "cuda",
        504,
        True,
    )
    assert found.compute_capability == pytest.approx(8.9)
    from onecard import doctor
    from onecard.inference import llamacpp

    warning = llamacpp.unused_gpu_warning([])
    assert (
        "RTX 4070 Ti" in warning
        and "pip install xllamacpp" in warning
        and llamacpp.unused_gpu_warning(["RTX 4070 Ti"]) == ""
    )
    row = next(c for c in doctor.examine({}).data["checks"] if c["name"] == "llama.cpp")
    assert row["state"] == "bad" and "pip install" in row["fix"]


def test_the_best_quantization_that_the_card_holds():
    shape = lm.find("llama3.1:8b")
    have = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q2_k")
    picks = {
        name: quant_selection.best_quant(shape, 8192, "f16", 512, devices.find(name), have)
        for name in ("24gb", "12gb", "8gb", "6gb", "cpu")
    }
    assert picks == {
        "24gb": "q8_0",
        "12gb": "q8_0",
        "8gb": "q6_k",
        "6gb": "q4_k_m",
        "cpu": "q4_k_m",
    }
    assert (
        quant_selection.layers_on_card(shape, "q4_k_m", 8192, "f16", 512, devices.find("6gb")) < 33
    )


def test_published_sizes():
    # bartowski's Meta-Llama-3.1-8B-Instruct files: Q4_K_M 4.92 GB, Q8_0 8.54 GB
    held = lm.find("llama3.1:8b")
    assert formats.gguf(held, "q4_k_m").total / 1e9 == pytest.approx(4.92, rel=0.003)
    assert formats.gguf(held, "q8_0").total / 1e9 == pytest.approx(8.54, rel=0.003)


def test_where_the_layers_went_is_read_from_a_gpu_builds_line(tmp_path):
    from onecard.inference.llamacpp import LlamaCpp
    from onecard.inference.threads import ThreadChoice

    engine = object.__new__(LlamaCpp)
    engine.log, engine.devices = tmp_path / "log", ["NVIDIA GeForce RTX 4070 Ti"]
    engine.threads = ThreadChoice(2, "2 physical cores free")
    engine.log.write_text("load_tensors: offloaded 20/33 layers to GPU\n")
    assert engine.placement() == (
        "20 of 33 layers on NVIDIA GeForce RTX 4070 Ti, the rest on the CPU "
        "(2 threads: 2 physical cores free)"
    )
