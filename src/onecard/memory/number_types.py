"""Which devices multiply bfloat16, and what a program says about it. Never torch: plans ask too.

A processor without the instructions emulates it: with AVX2 alone the training bench ran at 3.9
tokens/s in bf16, and products of matrices took 35 times as long as in fp32.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from onecard.memory import devices
from onecard.memory.devices import Device

BF16_CAPABILITY = 8.0
"""Compute capability from which NVIDIA's tensor cores multiply bf16 (Ampere)."""
AMX, AVX512, ARM = "AMX-BF16", "AVX512-BF16", "ARM BF16"
EMULATED = "this processor emulates bf16: many times slower than fp32"


def bf16_unit(device: Device) -> str:
    """What multiplies bf16 on this device; empty where it is emulated."""
    if device.type == "cpu":
        return cpu_bf16_unit(cpu_flags(), os.environ)
    # a card that was only named, or whose driver does not tell, is taken for a recent one
    if 0 < device.compute_capability < BF16_CAPABILITY:
        return ""
    return "tensor cores"


def here(device_type: str) -> Device:
    """The device of a program that runs on a card ("cuda") or not."""
    return devices.find("auto" if device_type == "cuda" else "cpu")


def cpu_bf16_unit(flags: frozenset[str], environ: Mapping[str, str]) -> str:
    """`environ`: ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA keep torch and oneDNN from
    instructions that the processor has."""
    kernels = environ.get("ATEN_CPU_CAPABILITY", "").lower()
    if kernels in ("default", "avx2"):
        return ""
    isa = (environ.get("ONEDNN_MAX_CPU_ISA") or environ.get("DNNL_MAX_CPU_ISA") or "ALL").upper()
    unlimited = isa in ("ALL", "DEFAULT")
    if "amx_bf16" in flags and (unlimited or "AMX" in isa):
        return AMX
    has_avx512 = unlimited or "AMX" in isa or isa.startswith("AVX10")
    has_avx512 = has_avx512 or isa in ("AVX512_CORE_BF16", "AVX512_CORE_FP16")
    if "avx512_bf16" in flags and has_avx512:
        return AVX512
    return ARM if "bf16" in flags else ""


@cache
def cpu_flags() -> frozenset[str]:
    """Instruction sets by the names of Linux; empty on other systems, whose bf16 counts as
    emulated."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    return read_flags(text)


def read_flags(cpuinfo: str) -> frozenset[str]:
    """Of the first processor: `flags` on x86, `Features` on ARM."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def describe(bf16: bool, device: Device) -> str:
    """What a training computes in, and why."""
    unit = bf16_unit(device)
    if bf16:
        return (
            f"computing in bf16 ({unit})"
            if unit
            else f"computing in bf16, but {EMULATED} (leave --bf16 out)"
        )
    if unit:
        return f"computing in fp32 ({unit} would multiply bf16)"
    return "computing in fp32 (this processor emulates bf16)"


def in_bf16(config: Any, device: Device) -> bool:
    """Does a training with these settings compute in bf16? With 4-bit weights never where it is
    emulated: the width of the products there costs no memory that counts."""
    return bool(config.bf16) and not (config.load_in_4bit and not bf16_unit(device))


def products_in_bf16(config: Any, device: Device) -> bool:
    """Are the products with frozen weights in bf16? On a card those with 4-bit weights are, as
    bitsandbytes' kernels are made for 16 bits."""
    on_card = device.type == "cuda" and config.load_in_4bit and bool(bf16_unit(device))
    return on_card or in_bf16(config, device)


LENGTHS = ("max_seq_length", "block_size")
"""Settings whose change is another training: emulation comes before it."""


def priced(
    changes: Iterable[tuple[dict[str, Any], str]], device: Device
) -> Iterator[tuple[dict[str, Any], str]]:
    """Fallbacks in the order of least loss on this device: where bf16 is emulated it comes late and
    says what it costs."""
    if bf16_unit(device):
        yield from changes
        return
    late: list[tuple[dict[str, Any], str]] = []
    for change, cost in changes:
        if change.get("bf16") in (True, "on"):
            late.append((change, EMULATED))
            continue
        if any(name in change for name in LENGTHS):
            yield from late
            late = []
        yield change, cost
    yield from late
