"""Mutated headers and configs through the plan: none falls over, each in bounded time and memory.

python tests/bench/bench_fuzz_headers.py [--n 100000] [--seed 0]        about 10 minutes
"""

import argparse
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import hostile_headers  # noqa: E402
import random_gguf  # noqa: E402

from onecard.errors import OneCardError  # noqa: E402
from onecard.hub import names  # noqa: E402
from onecard.memory import formats, throughput  # noqa: E402
from onecard.memory.devices import find  # noqa: E402
from onecard.memory.estimators import llm_inference, training  # noqa: E402


def plan(path: Path) -> None:
    """What a command does with a file: its model, and every estimate of it."""
    model = names.counts(str(path))
    terms = llm_inference.llamacpp(model, "" if model.file else "q4_k_m", 8192)
    read = throughput.active_bytes(model, formats.gguf(model, (model.file and "") or "q4_k_m"))
    throughput.decode_tokens_per_s(model, read, find("4070ti"), 8192)
    formats.hf(model, "nf4")
    terms += training.step(model, training.Recipe("qlora", "nf4"))
    assert all(term.bytes >= 0 for term in terms), "less than nothing"
    assert sum(term.bytes for term in terms) > 0, "nothing"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    dice = random.Random(args.seed)
    outcomes, slowest, faults = Counter(), (0.0, ""), []
    with tempfile.TemporaryDirectory() as folder:
        whole = [
            random_gguf.write(Path(folder) / f"{arch}.gguf", arch, **random_gguf.SIZES[arch])
            for arch in random_gguf.WRITERS
        ]
        headers = [path.read_bytes()[:60_000] for path in whole]
        sizes = [path.stat().st_size for path in whole]
        gguf, config = Path(folder) / "m.gguf", Path(folder) / "config.json"
        for number in range(args.n):
            if number % 2:
                which = dice.randrange(len(headers))
                with gguf.open("wb") as file:
                    file.write(hostile_headers.mutated_header(dice, headers[which]))
                    file.truncate(sizes[which])
                path = gguf
            else:
                text = hostile_headers.mutated_config(dice)
                config.write_text(text, encoding="utf-8", errors="surrogatepass")
                path = config
            start = time.monotonic()
            try:
                plan(path)
                outcome = "planned"
            except OneCardError:
                outcome = "refused"
            except Exception as fault:
                outcome = "FELL OVER"
                faults.append((number, path.suffix, repr(fault)[:200]))
            slowest = max(slowest, (time.monotonic() - start, f"{path.suffix} {number}"))
            outcomes[path.suffix, outcome] += 1
    for key, count in sorted(outcomes.items()):
        print(*key, count)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"slowest {slowest[0]:.2f} s ({slowest[1]}); peak memory {peak:.0f} MB")
    print(f"{len(faults)} fell over", *faults[:20], sep="\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
