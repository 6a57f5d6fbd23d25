"""The number of engine threads, on made-up machines."""

import os

import pytest

from onecard.inference import threads
from onecard.inference.threads import CpuState, decide


def machine(cores, siblings=1, busy=(), **more):
    """`cores` physical cores with `siblings` logical CPUs each: CPU i lies on core i % cores."""
    cpus = frozenset(range(cores * siblings))
    core_of = {cpu: (0, cpu % cores) for cpu in cpus}
    return CpuState(cpus, core_of, busy=dict(enumerate(busy)), **more)


@pytest.mark.parametrize(
    ("state", "n", "reason"),
    [
        (machine(2), 2, "2 physical cores free"),
        (machine(8, siblings=2), 8, "8 physical cores free"),
        (machine(2, busy=(1.0, 1.0)), 1, "other programs use 2.0 of 2 physical cores"),
        (machine(8, busy=(1.0,)), 7, "other programs use 1.0 of 8"),
        # background noise of a desktop: nothing is taken away
        (machine(8, busy=(0.05,) * 8), 8, "8 physical cores free"),
        # four times a quarter of a core is one core's work
        (machine(4, busy=(0.25,) * 4), 3, "other programs use 1.0 of 4"),
        # two busy hyperthreads share one core
        (machine(4, siblings=2, busy=(1, 0, 0, 0, 1, 0, 0, 0)), 3, "use 1.0 of 4"),
        # our own process works on one core meanwhile
        (machine(4, busy=(1.0, 0.0, 0.0, 0.0), own=1.0), 4, "4 physical cores free"),
        (machine(8, quota=2.5), 2, "the cgroup grants 2.5 CPUs"),
        (machine(8, quota=0.5), 1, "the cgroup grants 0.5 CPUs"),
        (machine(2, quota=16.0), 2, "2 physical cores free"),
        (machine(8, busy=(1.0,) * 6, quota=4.0), 2, "other programs use 6.0 of 8"),
        # 6 fast cores with two threads each, 8 slow ones
        (
            CpuState(
                frozenset(range(20)),
                {cpu: (0, cpu // 2 if cpu < 12 else cpu) for cpu in range(20)},
                frozenset(range(12, 20)),
            ),
            6,
            "6 physical cores free",
        ),
        # pinned to slow cores alone
        (CpuState(frozenset({12, 13}), efficiency_cpus=frozenset({12, 13})), 2, "2 physical"),
        # no topology is told: every CPU is a core
        (CpuState(frozenset(range(4))), 4, "4 physical cores free"),
        (CpuState(frozenset()), 1, "empty"),
    ],
)
def test_one_thread_a_free_physical_core(state, n, reason):
    choice = decide(state)
    assert choice.n == n
    assert reason in choice.reason


def test_load_outside_the_affinity_mask_does_not_count():
    state = CpuState(
        frozenset({0, 1}),
        {cpu: (0, cpu) for cpu in range(4)},
        busy={2: 1.0, 3: 1.0},
    )
    assert decide(state).n == 2


def test_a_busy_hyperthread_outside_the_mask_counts():
    state = CpuState(frozenset({0, 1}), {0: (0, 0), 1: (0, 1), 2: (0, 0)}, busy={2: 1.0})
    assert decide(state).n == 1


def test_cores_of_two_processors_are_told_apart():
    state = CpuState(frozenset(range(4)), {0: (0, 0), 1: (0, 1), 2: (1, 0), 3: (1, 1)})
    assert decide(state).n == 4


def test_a_number_that_was_asked_for_stands():
    choice = threads.choose(3)
    assert (choice.n, choice.render()) == (3, "3 threads: set by --n_threads")
    assert threads.worker_count(5) == 5


STAT = """cpu  0 0 0 0 0 0 0 0 0 0
cpu0 {0} 0 0 {1} 0 0 0 0 0 0
cpu1 {2} 0 0 {3} 0 0 0 0 0 0
intr 12345
"""


@pytest.fixture
def machine_files(tmp_path):
    """A machine of 2 cores with a cgroup of 1.5 CPUs: (proc, sys, write_sample)."""
    proc, sys = tmp_path / "proc", tmp_path / "sys"
    (proc / "self").mkdir(parents=True)
    (proc / "self/status").write_text("Name:\tx\nCpus_allowed_list:\t0-1\n")
    (proc / "self/cgroup").write_text("0::/user.slice/job\n")
    for cpu in (0, 1):
        folder = sys / f"devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "core_id").write_text(f"{cpu}\n")
        (folder / "physical_package_id").write_text("0\n")
    (sys / "fs/cgroup/user.slice/job").mkdir(parents=True)
    (sys / "fs/cgroup/user.slice/cpu.max").write_text("150000 100000\n")
    (sys / "fs/cgroup/user.slice/job/cpu.max").write_text("max 100000\n")

    def write_sample(own, *ticks):
        (proc / "stat").write_text(STAT.format(*ticks))
        (proc / "self/stat").write_text(f"1 (a (b) c) S 1 1 1 0 -1 0 0 0 0 0 {own} 0 0 0\n")

    write_sample(100, 1000, 5000, 1000, 5000)
    return proc, sys, write_sample


def test_the_reader_takes_load_topology_and_quota(machine_files):
    proc, sys, write_sample = machine_files
    # 20 ticks later: CPU 0 worked all of them, CPU 1 half; 10 of these were our own process
    state = threads.read_cpu_state(
        proc, sys, wait=lambda: write_sample(110, 1020, 5000, 1010, 5010)
    )
    assert state == CpuState(
        frozenset({0, 1}), {0: (0, 0), 1: (0, 1)}, frozenset(), 1.5, {0: 1.0, 1: 0.5}, 0.5
    )
    assert decide(state).n == 1


def test_the_reader_knows_slow_cores_and_no_quota(machine_files):
    proc, sys, _ = machine_files
    (sys / "devices/cpu_atom").mkdir()
    (sys / "devices/cpu_atom/cpus").write_text("1\n")
    (proc / "self/cgroup").write_text("12:cpu:/v1\n")
    state = threads.read_cpu_state(proc, sys, wait=None)
    assert state.efficiency_cpus == {1}
    assert state.quota is None
    assert state.busy == {}


@pytest.mark.parametrize("content", ["", "Cpus_allowed_list:\tnonsense\n"])
def test_a_system_without_these_files_is_no_error(tmp_path, content):
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text(content)
    assert threads.read_cpu_state(tmp_path, tmp_path, wait=None) is None
    assert threads.read_cpu_state(tmp_path / "none", tmp_path, wait=None) is None


def test_this_machine_gives_no_more_than_its_affinity_mask():
    cpus = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cpus)})
        assert (threads.choose().n, threads.worker_count()) == (1, 1)
    finally:
        os.sched_setaffinity(0, cpus)
    assert 1 <= threads.choose().n <= len(cpus)
    assert 1 <= threads.worker_count() <= len(cpus)
