"""CPU time of starting: help, completion and plans against `import pydantic, click`.

    python tests/bench/bench_startup.py [--rounds 15]     writes bench-results/startup.json

Each round runs every command once; the medians of user + system time are compared.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

BASE = [sys.executable, "-c", "import pydantic, click"]
ONECARD = [sys.executable, "-m", "onecard"]
COMMANDS = {
    "import pydantic, click": (BASE, {}),
    "onecard --help": ([*ONECARD, "--help"], {}),
    "completion": (
        ONECARD,
        {
            "_ONECARD_COMPLETE": "bash_complete",
            "COMP_WORDS": "onecard rag se",
            "COMP_CWORD": "2",
        },
    ),
    "plan qlora": ([*ONECARD, "plan", "qlora", "llama-3.1-8b", "--card", "12gb"], {}),
    "chat plan": ([*ONECARD, "chat", "plan", "--model", "llama3.1:8b", "--card", "4070ti"], {}),
    "plan detect": ([*ONECARD, "plan", "detect", "yolov8n", "--card", "8gb"], {}),
}
LIMIT = 2.5


def cpu_s(words, env):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, capture_output=True, env={**os.environ, **env})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    times = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, (words, env) in COMMANDS.items():
            times[name].append(cpu_s(words, env))
    medians = {name: statistics.median(values) for name, values in times.items()}
    base = medians["import pydantic, click"]
    for name, value in medians.items():
        print(f"{name:24} {value * 1000:6.0f} ms  {value / base:4.2f}x")
    path = Path(__file__).parents[2] / "bench-results" / "startup.json"
    path.write_text(json.dumps({"rounds": rounds, "median_s": medians, "limit": LIMIT}, indent=1))


if __name__ == "__main__":
    main()
