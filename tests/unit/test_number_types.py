"""Which devices multiply bf16, by the flags of /proc/cpuinfo and the masks of torch and oneDNN; and
that plans, fallbacks and trainings act on it."""

from dataclasses import replace

import pytest

from onecard import api
from onecard.errors import SettingsError
from onecard.memory import devices, fallbacks, number_types
from onecard.memory.estimators import training
from onecard.memory.number_types import AMX, ARM, AVX512
from onecard.reporting import TerminalReporter
from onecard.tasks.asr import compute_types
from onecard.tasks.asr import memory as asr
from onecard.tasks.asr.configs import TrainConfig as AsrConfig
from onecard.tasks.asr.configs import TranscribeConfig
from onecard.tasks.finetune import memory as finetune
from onecard.tasks.finetune.configs import TrainConfig as FinetuneConfig
from onecard.tasks.tinylm import memory as tinylm
from onecard.tasks.tinylm.configs import TrainConfig as TinyConfig
from onecard.training import number_type

AVX2 = frozenset({"avx", "avx2", "fma", "f16c"})
ZEN4 = AVX2 | {"avx512f", "avx512bw", "avx512_bf16"}
SAPPHIRE = ZEN4 | {"amx_bf16", "amx_tile"}
GRAVITON = frozenset({"asimd", "bf16", "i8mm"})


@pytest.mark.parametrize(
    ("flags", "environ", "unit"),
    [
        (AVX2, {}, ""),
        (AVX2 | {"avx512f", "avx512bw"}, {}, ""),
        (ZEN4, {}, AVX512),
        (SAPPHIRE, {}, AMX),
        (GRAVITON, {}, ARM),
        (frozenset(), {}, ""),
        (SAPPHIRE, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, AVX512),
        (SAPPHIRE, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, AMX),
        (SAPPHIRE, {"ONEDNN_MAX_CPU_ISA": "avx2"}, ""),
        (SAPPHIRE, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, ""),
        (SAPPHIRE, {"DNNL_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, ""),
        (ZEN4, {"ONEDNN_MAX_CPU_ISA": "DEFAULT"}, AVX512),
        (ZEN4, {"ONEDNN_MAX_CPU_ISA": "AVX10_1_512"}, AVX512),
        (SAPPHIRE, {"ATEN_CPU_CAPABILITY": "avx2"}, ""),
        (ZEN4, {"ATEN_CPU_CAPABILITY": "default"}, ""),
        (ZEN4, {"ATEN_CPU_CAPABILITY": "avx512"}, AVX512),
    ],
)
def test_a_processor_by_its_flags_and_masks(flags, environ, unit):
    assert number_types.cpu_bf16_unit(flags, environ) == unit


@pytest.mark.parametrize(
    ("cpuinfo", "flag"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 amx_bf16\nbugs\t: x\n", "amx_bf16"),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", "bf16"),
    ],
)
def test_flags_of_x86_and_arm(cpuinfo, flag):
    assert flag in number_types.read_flags(cpuinfo)


@pytest.mark.parametrize(
    ("capability", "multiplies"), [(7.5, False), (6.1, False), (8.0, True), (8.9, True), (0, True)]
)
def test_a_card_by_its_capability(capability, multiplies):
    card = replace(devices.find("12gb"), compute_capability=capability)
    assert bool(number_types.bf16_unit(card)) == multiplies


@pytest.fixture(params=[AVX2, ZEN4], ids=["emulates", "multiplies"])
def processor(request, monkeypatch):
    """(does it multiply bf16?) of this machine, for as long as the test runs."""
    if request.param is ZEN4:
        monkeypatch.setattr(number_types, "cpu_flags", lambda: ZEN4)
        for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
            monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    return request.param is ZEN4


TASKS = {
    "finetune": (finetune, FinetuneConfig(model="smollm2-135m"), {"bf16": True}),
    "asr": (asr, AsrConfig(model="base"), {"bf16": True}),
    "tinylm": (tinylm, TinyConfig(), {"bf16": "on"}),
}


@pytest.mark.parametrize("task", TASKS)
def test_the_plan_says_what_it_computes_in(task, processor):
    memory, config, change = TASKS[task]
    cpu = devices.find("cpu")
    notes = " ".join(memory.plan(config, cpu).notes)
    narrow = " ".join(memory.plan(config.model_copy(update=change), cpu).notes)
    if processor:
        assert "computing in fp32" in notes and "(AVX512-BF16" in notes
        assert "computing in bf16 (AVX512-BF16)" in narrow
    else:
        assert "computing in fp32 (this processor emulates bf16)" in notes
        assert "this processor emulates bf16: many times slower" in narrow


@pytest.mark.parametrize("task", TASKS)
def test_fallbacks_offer_emulated_bf16_late_and_with_its_price(task, processor):
    memory, config, change = TASKS[task]
    plain = list(memory.fallbacks(config))
    changes = list(number_types.priced(plain, devices.find("cpu")))
    assert sorted(map(str, (row for row, _ in changes))) == sorted(str(row) for row, _ in plain)
    cost = next(text for row, text in changes if row == change)
    if processor:
        assert changes == plain
        return
    assert "emulates" in cost and "noise" not in cost
    after = changes[[row for row, _ in changes].index(change) + 1 :]
    assert all(row.keys() & set(number_types.LENGTHS) for row, _ in after)


def test_a_fit_on_an_emulating_processor_takes_other_changes_first(monkeypatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    config = FinetuneConfig(model="llama-3.1-8b", per_device_train_batch_size=4)
    small = replace(devices.find("cpu"), free_bytes=20 * 2**30)
    fitted = fallbacks.fit(config, small, finetune.plan, finetune.fallbacks(config))
    names = [name for row in fitted.fallbacks for name in row.changes]
    assert "load_in_4bit" in names and "bf16" not in names


def test_4_bit_weights_compute_in_fp32_where_bf16_is_emulated(processor):
    config = FinetuneConfig(model="smollm2-135m", load_in_4bit=True, bf16=True)
    cpu = devices.find("cpu")
    assert number_types.in_bf16(config, cpu) == processor
    assert number_types.products_in_bf16(config, cpu) == processor
    notes = " ".join(finetune.plan(config, cpu).notes)
    assert ("in bf16 (AVX512-BF16)" if processor else "in fp32 (this processor") in notes


def test_4_bit_weights_compute_in_fp32_on_a_card_without_bf16():
    config = FinetuneConfig(load_in_4bit=True)
    old = replace(devices.find("16gb"), compute_capability=7.5)
    assert not number_types.products_in_bf16(config, old)
    assert number_types.products_in_bf16(config, devices.find("16gb"))


def test_a_named_card_is_planned_in_bf16_as_before():
    plan = api.plan("tinylm", TinyConfig(), card="12gb")
    assert "computing in bf16 (tensor cores)" in " ".join(plan.notes)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_start_says_what_the_plan_says_and_warns_of_emulated_bf16(bf16, processor, capsys):
    cpu = devices.find("cpu")
    number_type.announce(bf16, cpu, TerminalReporter())
    told = capsys.readouterr().err
    assert number_types.describe(bf16, cpu) in " ".join(told.split())
    assert ("warning" in told) == (bf16 and not processor)


@pytest.mark.parametrize("setting", ["float16", "int8_float16"])
def test_a_type_that_a_processor_has_no_kernels_for_is_refused_by_the_plan(setting):
    pytest.importorskip("ctranslate2", reason="installed by make test")
    config = TranscribeConfig(compute_type=setting)
    with pytest.raises(SettingsError, match="float32"):
        asr.plan(config, devices.find("cpu"))
    assert asr.plan(config, devices.find("16gb")).choices["format"] in ("fp16", "int8-fp16")


def test_what_fits_a_transcription_runs_on_a_processor_too():
    changes = [
        row["compute_type"] for row, _ in asr.fallbacks(TranscribeConfig()) if "compute_type" in row
    ]
    assert changes
    assert [compute_types.resolve(change, on_card=False) for change in changes] == changes


@pytest.mark.parametrize("quantized", ["load_in_4bit", "load_in_8bit"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("unit", ["", AVX512])
def test_a_plan_counts_the_type_that_quantized_weights_are_multiplied_in(
    monkeypatch, unit, bf16, checkpointing, quantized
):
    """On every processor: what is not quantized, and what waits for the backward pass, is twice as
    large in fp32."""
    monkeypatch.setattr(number_types, "cpu_bf16_unit", lambda flags, environ: unit)
    cpu = devices.find("cpu")
    values = {"model": "llama-3.2-1b", "bf16": bf16, "gradient_checkpointing": checkpointing}
    config = api.configure("finetune", "train", values={**values, quantized: True})

    def planned(narrow):
        recipe = finetune.recipe_of(config, "cpu", narrow)
        parts = training.step(finetune.counts("llama-3.2-1b"), recipe)
        return {term.name: term.bytes for term in parts}

    narrow = number_types.products_in_bf16(config, cpu)
    parts = {term.name: term.bytes for term in api.plan("finetune", config, card="cpu").terms}
    assert parts.items() >= planned(narrow).items()
    assert narrow == (bf16 and (bool(unit) or quantized == "load_in_8bit"))
    assert planned(False)["weights"] > planned(True)["weights"]
    assert planned(False)["activations"] > 1.5 * planned(True)["activations"]
