"""Threads of the llama.cpp engine: tokens/s idle and beside a busy loop on each CPU.

python tests/bench/bench_threads.py [--rounds 3] [--tokens 64]     about 4 minutes

Ways: all CPUs as threads, with libgomp's own spin count and with onecard's; and the number that
onecard chooses. Loads: none; busy loops from before the engine starts; busy loops that begin after
it (a server keeps the number that it chose at its start). A busy machine is a matter of luck, so
each figure is a median over engines that were started anew.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from onecard import api
from onecard.inference import threads
from onecard.inference.backends import language_model
from onecard.inference.llamacpp import SPIN_COUNT
from onecard.reporting import Reporter, table
from onecard.tasks.chat.bench import measure
from onecard.tasks.chat.configs import BenchConfig

ROOT = Path(__file__).parents[2]
GOMP_DEFAULT = "300000"
"""Spin count of libgomp without OMP_WAIT_POLICY and GOMP_SPINCOUNT."""
WAYS = {
    "all CPUs": (os.cpu_count() or 1, GOMP_DEFAULT),
    "all CPUs, bounded spin": (os.cpu_count() or 1, SPIN_COUNT),
    "onecard": (0, SPIN_COUNT),
}
LOADS = ("idle", "busy", "busy after the start")


@contextmanager
def busy_loops(n):
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def run(n_threads, spin_count, load, n_tokens):
    """(tokens/s, threads) of one engine."""
    os.environ.pop("OMP_WAIT_POLICY", None)
    os.environ["GOMP_SPINCOUNT"] = spin_count
    settings = BenchConfig(
        n_ctx=1024, prompt_tokens=32, generate_tokens=n_tokens, n_threads=n_threads
    )
    plan = api.plan("chat", settings, card="cpu")
    n_cpus = os.cpu_count() or 1
    with (
        busy_loops(n_cpus if load == "busy" else 0),
        language_model(settings, plan, Reporter()) as client,
        busy_loops(n_cpus if load == "busy after the start" else 0),
    ):
        measure(client, settings, 0)
        rate = measure(client, settings, 1)["generate_tokens_per_s"]
        return rate, client.engine.threads.n


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    print(f"this machine: {threads.choose().render()}", flush=True)
    rows = {}
    for i in range(args.rounds):
        for load in LOADS:
            for way, (n_threads, spin_count) in WAYS.items():
                rate, n = run(n_threads, spin_count, load, args.tokens)
                row = rows.setdefault(f"{way}, {load}", {"threads": [], "tokens_per_s": []})
                row["tokens_per_s"].append(rate)
                row["threads"].append(n)
                print(f"round {i}: {way}, {load}: {n} threads, {rate:.1f} tokens/s", flush=True)
    cells = [
        [
            name,
            " ".join(map(str, row["threads"])),
            f"{statistics.median(row['tokens_per_s']):.1f}",
            " ".join(f"{rate:.1f}" for rate in row["tokens_per_s"]),
        ]
        for name, row in rows.items()
    ]
    print(table(cells, ["way, load", "threads", "median tokens/s", "rounds"]))
    target = ROOT / "bench-results" / "threads.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"cpus": os.cpu_count(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
