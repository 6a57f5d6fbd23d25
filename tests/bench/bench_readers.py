"""Hostile and ordinary files through every reader: none stops an index, each within its limits.

python tests/bench/bench_readers.py [--n 20000] [--seed 0]

Writes generated files, reads each through the same child process as `rag index` and prints by
ending how many were read, refused with a reason, or cost the child its life; the slowest; the
largest memory of the child. 20,000 files take about 40 minutes.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import hostile_files  # noqa: E402

from onecard.datasets import documents  # noqa: E402
from onecard.errors import DataError  # noqa: E402
from onecard.reporting import table  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    dice = random.Random(args.seed)
    outcomes, slowest, largest, stops = {}, [], [], []
    with tempfile.TemporaryDirectory() as folder, documents.DocumentReader() as reader:
        for number in range(args.n):
            path = hostile_files.write(dice, Path(folder), number)
            start = time.monotonic()
            try:
                reader.read(path)
                outcome = "read"
            except DataError as fault:
                ended = ("crashes its reader", "takes too long", "takes too much memory")
                outcome = next((end for end in ended if end in fault.what), "refused")
            except Exception as fault:
                outcome = "STOPS THE INDEX"
                stops.append((path.name, repr(fault)))
            seconds = time.monotonic() - start
            outcomes.setdefault(path.suffix, Counter())[outcome] += 1
            slowest = sorted([*slowest, (seconds, path.name, outcome)])[-10:]
            if reader._child:
                largest = sorted([*largest, (peak_mb(reader._child.pid), path.name)])[-5:]
            path.unlink()
    names = sorted({name for counts in outcomes.values() for name in counts})
    outcomes["all"] = sum(outcomes.values(), Counter())
    rows = [[ending, *[str(counts[n]) for n in names]] for ending, counts in outcomes.items()]
    print(table(rows, ["ending", *names]))
    print("slowest:", *[f"{s:.1f} s {name} ({what})" for s, name, what in reversed(slowest)])
    print("most memory:", *[f"{mb:.0f} MB {name}" for mb, name in reversed(largest)])
    print(f"{len(stops)} stop an index", *stops)


def peak_mb(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    main()
