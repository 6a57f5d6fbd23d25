"""Number of CPU threads for an engine: affinity, cgroup quota, physical cores and current load.

llama.cpp's threads meet at a barrier several hundred times a token and spin while they wait. A
thread without a core of its own holds up all others: on 2 busy cores SmolLM2-135M gave 0.4
tokens/s with 2 threads and 4.8 with 1 (tests/bench/bench_threads.py measures it).
"""

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SAMPLE_S = 0.2
"""Length of the load sample: 20 ticks of /proc/stat, so one tick is 5 % of a CPU."""


@dataclass(frozen=True)
class CpuState:
    """What a process may use of a machine's CPUs, and what others use of them."""

    cpus: frozenset[int]
    """Logical CPUs in the affinity mask."""
    core_of: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """Logical CPU -> (package, core); a CPU that is missing counts as a core of its own."""
    efficiency_cpus: frozenset[int] = frozenset()
    """The slow cores of a hybrid processor (Intel from the 12th generation on)."""
    quota: float | None = None
    """CPUs that the cgroup grants (cpu.max); None without a limit."""
    busy: Mapping[int, float] = field(default_factory=dict)
    """Logical CPU -> share of the sample in which it worked, 0 to 1."""
    own: float = 0.0
    """CPUs that this process itself kept busy in the sample."""

    def core(self, cpu: int) -> tuple[int, int]:
        return self.core_of.get(cpu, (-1, cpu))


@dataclass(frozen=True)
class ThreadChoice:
    n: int
    reason: str

    def render(self) -> str:
        return f"{self.n} thread{'s' if self.n > 1 else ''}: {self.reason}"


def decide(state: CpuState) -> ThreadChoice:
    """Threads for work with barriers: one on each physical core that is free, at least one.

    Two threads on one physical core share its arithmetic units and gain nothing; slow cores of a
    hybrid processor hold up the fast ones (llama.cpp leaves both out as well). More threads than
    the quota are throttled together.
    """
    fast = (state.cpus - state.efficiency_cpus) or state.cpus
    cores = {state.core(cpu) for cpu in fast}
    n = len(cores)
    if n == 0:
        return ThreadChoice(1, "the affinity mask is empty")
    load = _core_load(state, cores)
    free = round(n - load)
    limits = [(n, f"{_cores(n)} free")]
    if free < n:
        limits.append((free, f"other programs use {load:.1f} of {_cores(n)}"))
    if state.quota is not None:
        limits.append((math.floor(state.quota), f"the cgroup grants {state.quota:.1f} CPUs"))
    fewest, reason = min(limits, key=lambda limit: limit[0])
    return ThreadChoice(max(fewest, 1), reason)


def _cores(n: int) -> str:
    return f"{n} physical core{'s' if n > 1 else ''}"


def _core_load(state: CpuState, cores: set[tuple[int, int]]) -> float:
    """Work of other processes on these cores, in cores.

    All logical CPUs of a core count, also those outside the affinity mask, and at most 1 together.
    """
    per_core = dict.fromkeys(cores, 0.0)
    for cpu, share in state.busy.items():
        if (core := state.core(cpu)) in per_core:
            per_core[core] += share
    return max(sum(min(load, 1.0) for load in per_core.values()) - state.own, 0.0)


def choose(requested: int = 0) -> ThreadChoice:
    """`requested` if it is set, else by `decide` from the machine as it is now (takes 0.2 s)."""
    if requested:
        return ThreadChoice(requested, "set by --n_threads")
    state = read_cpu_state()
    if state is None:
        return ThreadChoice(os.cpu_count() or 1, "all CPUs: this system has no /proc")
    return decide(state)


def worker_count(requested: int = 0) -> int:
    """Threads for independent pieces of work (no barriers): every CPU that the process may use.

    Load does not count here: a worker without a core of its own holds up nobody, and fewer workers
    would only leave a larger share of the CPU to other programs.
    """
    if requested:
        return requested
    state = read_cpu_state(wait=None)
    if state is None:
        return os.cpu_count() or 1
    granted = len(state.cpus) if state.quota is None else math.floor(state.quota)
    return max(min(len(state.cpus), granted), 1)


def read_cpu_state(
    proc: Path = Path("/proc"),
    sys: Path = Path("/sys"),
    wait: Callable[[], None] | None = lambda: time.sleep(SAMPLE_S),
) -> CpuState | None:
    """The machine from its /proc and /sys; None where there are none (macOS, Windows).

    `wait` passes the time between the two samples of the load; None skips the load.
    """
    try:
        status = (proc / "self/status").read_text()
        allowed = next(line for line in status.splitlines() if line.startswith("Cpus_allowed_list"))
        cpus = frozenset(_cpu_list(allowed.partition(":")[2]))
        busy: dict[int, float] = {}
        own = 0.0
        if wait is not None:
            before, own_before = _cpu_ticks(proc), _own_ticks(proc)
            wait()
            busy, own = _load(before, _cpu_ticks(proc), _own_ticks(proc) - own_before)
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    return CpuState(
        cpus,
        _topology(sys, {*cpus, *busy}),
        frozenset(_cpu_list(_read(sys / "devices/cpu_atom/cpus"))),
        _quota(proc, sys),
        busy,
        own,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _cpu_list(text: str) -> list[int]:
    """The kernel's list form.

    >>> _cpu_list("0-2,8")
    [0, 1, 2, 8]
    """
    cpus: list[int] = []
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            cpus += range(int(first), int(last or first) + 1)
    return cpus


def _topology(sys: Path, cpus: Iterable[int]) -> dict[int, tuple[int, int]]:
    core_of = {}
    for cpu in cpus:
        folder = sys / f"devices/system/cpu/cpu{cpu}/topology"
        package, core = _read(folder / "physical_package_id"), _read(folder / "core_id")
        if core.strip():
            core_of[cpu] = (int(package or 0), int(core))
    return core_of


def _quota(proc: Path, sys: Path) -> float | None:
    """The smallest cpu.max on the way from the process's cgroup (v2) up to the root, in CPUs."""
    line = next((r for r in _read(proc / "self/cgroup").splitlines() if r.startswith("0::")), "")
    if not line:
        return None
    root = sys / "fs/cgroup"
    folder = root / line.removeprefix("0::").strip("/")
    quotas = []
    for place in (folder, *folder.parents):
        limit, _, period = _read(place / "cpu.max").partition(" ")
        if limit.strip().isdigit() and period.strip().isdigit():
            quotas.append(int(limit) / int(period))
        if place == root:
            break
    return min(quotas, default=None)


def _cpu_ticks(proc: Path) -> dict[int, tuple[int, int]]:
    """Logical CPU -> (ticks at work, ticks in all) since boot; waiting for a disk is not work."""
    ticks = {}
    for line in (proc / "stat").read_text().splitlines():
        name, *numbers = line.split()
        if name.startswith("cpu") and name[3:].isdigit():
            # user nice system idle iowait irq softirq steal; guest time is within user already
            values = [int(number) for number in numbers[:8]]
            ticks[int(name[3:])] = (sum(values) - values[3] - values[4], sum(values))
    return ticks


def _own_ticks(proc: Path) -> int:
    """Ticks that this process has worked since its start: utime and stime, fields 14 and 15."""
    fields = (proc / "self/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _load(
    before: Mapping[int, tuple[int, int]], after: Mapping[int, tuple[int, int]], own_ticks: int
) -> tuple[dict[int, float], float]:
    """Share of each CPU at work between two samples, and this process's share in CPUs."""
    busy: dict[int, float] = {}
    longest = 0
    for cpu in before.keys() & after.keys():
        work, total = (after[cpu][i] - before[cpu][i] for i in (0, 1))
        busy[cpu] = min(max(work / total, 0.0), 1.0) if total > 0 else 0.0
        longest = max(longest, total)
    return busy, own_ticks / longest if longest else 0.0
