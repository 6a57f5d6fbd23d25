"""The card: its name, its memory, what is free right now. Asks the driver (NVML), a table of named
cards, or /proc; never torch.

Knows nothing of models. A card of device "cpu" stands for the computer's own memory.
"""

import os
import re
import tomllib
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import psutil

from onecard.errors import SettingsError, not_found
from onecard.units import GIB, MIB, gib, parse_bytes

DESKTOP_BYTES = 512 * MIB
"""What a desktop session and the driver hold of a named card.

A guess; a real card is asked instead.
"""


@dataclass(frozen=True)
class Device:
    name: str
    total_bytes: int
    free_bytes: int
    type: Literal["cuda", "cpu"] = "cuda"
    bandwidth_gb_s: float = 0.0
    """Memory bandwidth in 10^9 bytes a second; 0 means not known."""
    driver: str = ""
    fp32_tflops: float = 0.0
    """Shader throughput in 10^12 fp32 operations a second; 0 means not known."""
    real: bool = True
    """False for a card that was named on the command line and is not in this machine."""
    compute_capability: float = 0.0
    """Of NVIDIA's cards, as 8.9; 0 means not known."""

    def render(self) -> str:
        where = "" if self.real else " (named, not asked)"
        return f"{self.name}{where}: {gib(self.free_bytes)} free of {gib(self.total_bytes)}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def find(name: str = "auto") -> Device:
    """The card to plan for: 'auto' (the first real one, else the CPU), 'cpu', '4070ti' or a size as
    '12gb'.

    Raises NotFound for a card that is not in the table, SettingsError for a size that is none.
    """
    if name == "cpu":
        return _cpu()
    if name in ("", "auto"):
        present = installed()
        return present[0] if present else _cpu()
    key = _key(name)
    table = named()
    for row, facts in table.items():
        bare, full = row.replace("-", ""), _key(facts["name"]).replace("-", "")
        if key.replace("-", "") in (bare, bare + "gb", full):
            total = int(facts["memory_gib"]) * GIB
            return Device(
                facts["name"],
                total,
                total - DESKTOP_BYTES,
                "cuda",
                facts["bandwidth_gb_s"],
                fp32_tflops=facts["fp32_tflops"],
                real=False,
            )
    try:
        if name.strip().isdigit():
            raise ValueError("a number without a unit is no size")
        total = parse_bytes(name)
    except ValueError:
        raise not_found("card", name, [*table, "auto", "cpu", "12gb"]) from None
    if total < GIB:
        raise SettingsError(
            f"a card with {gib(total)} is too small for any plan",
            why="the CUDA context alone takes half a GiB",
            fix="--card 12gb, --card 4070ti or --card cpu",
        )
    return Device(f"a {gib(total)} card", total, total - DESKTOP_BYTES, real=False)


def _key(name: str) -> str:
    """A card's name without its maker's words: '4060ti' of 'NVIDIA GeForce RTX 4060 Ti'."""
    bare = name.lower().removeprefix("nvidia").replace("geforce", "").replace("rtx", "")
    return re.sub(r"[^a-z0-9-]", "", bare)


@cache
def named() -> dict[str, dict[str, Any]]:
    """The table of known cards, by their short names."""
    return tomllib.loads(Path(__file__).with_name("devices.toml").read_text(encoding="utf-8"))


def installed() -> list[Device]:
    """The NVIDIA cards in this machine, the one with most free memory first; empty where there is
    none."""
    try:
        import pynvml  # ctypes over the driver's library; without a driver nvmlInit raises
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        cards = [_read_nvml(pynvml, i, driver) for i in range(pynvml.nvmlDeviceGetCount())]
        return sorted(cards, key=lambda device: -device.free_bytes)
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def _read_nvml(nvml: Any, index: int, driver: str) -> Device:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    name = str(nvml.nvmlDeviceGetName(handle)).removeprefix("NVIDIA ").removeprefix("GeForce ")
    facts = next((row for row in named().values() if row["name"].lower() == name.lower()), {})
    return Device(
        name,
        int(memory.total),
        int(memory.free),
        "cuda",
        facts.get("bandwidth_gb_s", 0.0),
        driver,
        facts.get("fp32_tflops", 0.0),
        compute_capability=_capability(nvml, handle),
    )


def _capability(nvml: Any, handle: Any) -> float:
    try:
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    except nvml.NVMLError:  # an old driver
        return 0.0
    return int(major) + int(minor) / 10


def _cpu() -> Device:
    total, free = memory_bytes()
    return Device(f"CPU ({os.cpu_count()} cores)", total, free, "cpu")


def memory_bytes() -> tuple[int, int]:
    """Total and available memory of the computer, cgroup limits (containers) taken into account."""
    rows: dict[str, int] = {}
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            key, value, *_ = line.replace(":", "").split()
            rows[key] = int(value) * 1024
    except (OSError, ValueError):
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return pages, pages // 2
    total, free = rows["MemTotal"], rows.get("MemAvailable", rows["MemFree"])
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        total, free = min(total, limit), min(free, max(limit - used, 0))
    except (OSError, ValueError):
        pass  # no cgroup v2 here, or its limit is the word "max"
    return total, free


def process_bytes(pid: int) -> int:
    """Memory that a process and its children hold now: on the cards, as the driver counts it, where
    they hold any there, else resident. 0 for a process that is gone."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        resident = sum(each.memory_info().rss for each in family)
    except (psutil.Error, ValueError, OverflowError):
        return 0
    return _on_cards({each.pid for each in family}) or resident


def _on_cards(pids: set[int]) -> int:
    try:
        import pynvml  # ctypes over the driver's library
    except ImportError:
        return 0
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    try:
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        rows = [row for each in handles for row in _compute_processes(pynvml, each)]
        return sum(int(row.usedGpuMemory or 0) for row in rows if row.pid in pids)
    except pynvml.NVMLError:
        return 0
    finally:
        pynvml.nvmlShutdown()


def _compute_processes(nvml: Any, handle: Any) -> list[Any]:
    return list(nvml.nvmlDeviceGetComputeRunningProcesses(handle))
