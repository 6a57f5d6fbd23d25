"""Search over 1,000 to 100,000 passages: seeded vectors, texts that repeat with changes.

python tests/bench/bench_scale.py [--n 1000 10000 100000]     about 4 minutes, 1 GB of disk
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from onecard.reporting import table
from onecard.runs import plots
from onecard.tasks.rag import bm25
from onecard.tasks.rag.configs import SearchConfig
from onecard.tasks.rag.retrieve import Retriever
from onecard.tasks.rag.store import Store
from onecard.units import size

ROOT = Path(__file__).parents[2]
WORDS = np.array(
    [
        f"{a}{b}{c}"
        for a in ("ka", "lo", "mi", "ter", "von", "sul")
        for b in ("ran", "del", "qui", "so", "bel", "tun", "fex")
        for c in (
            "a",
            "en",
            "ot",
            "is",
            "um",
            "or",
            "ix",
            "al",
            "ur",
            "ep",
            "on",
            "ak",
            "ed",
            "iv",
            "oz",
            "yl",
            "an",
            "et",
            "ig",
            "op",
            "us",
            "em",
            "ar",
            "ic",
            "od",
        )
    ]
)


def fill(folder, n):
    """A store of n passages: texts of 80 words, Zipf; every tenth is another one with a few words
    changed."""
    random = np.random.default_rng(0)
    share = 1 / np.arange(1, len(WORDS) + 1)
    cdf = np.cumsum(share / share.sum())
    store = Store(folder, create=True)
    store.set_meta(
        "made_with",
        json.dumps({"embedding_model": "e5-small", "chunk_tokens": "320", "chunk_overlap": "32"}),
    )
    before = None
    for start in range(0, n, 5000):
        chunks, vectors = [], []
        for i in range(start, min(start + 5000, n)):
            words = WORDS[np.minimum(np.searchsorted(cdf, random.random(80)), len(WORDS) - 1)]
            if before is not None and i % 10 == 0:
                words = np.where(random.random(80) < 0.1, words, before)
            before = words
            text = " ".join(words) + f" item{i}"
            digest = hashlib.sha256(text.encode()).digest()
            packed, n_terms = bm25.pack_terms(f"doc {i // 20}", text)
            chunks.append(
                (
                    i + 1,
                    f"/d/{i // 20}.md",
                    i % 20,
                    f"doc {i // 20}",
                    text,
                    i % 20 + 1,
                    i % 20 + 1,
                    0,
                    digest,
                    packed,
                    n_terms,
                )
            )
            vector = random.standard_normal(384).astype(np.float32)
            vectors.append((digest, (vector / np.linalg.norm(vector)).tobytes()))
        store.db.execute("BEGIN")
        store.db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", vectors)
        store.db.executemany("INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", chunks)
        store.set_meta("generation", str(start + 1))
        store.db.execute("COMMIT")
    store.close()


class Seeded:
    """Random unit vectors in place of the embedder, which is not measured here."""

    name, dim = "e5-small", 384

    def __init__(self):
        self.random = np.random.default_rng(1)

    def queries(self, texts):
        vectors = self.random.standard_normal((len(texts), 384)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def measure(folder, n):
    """In a process of its own, so that memory is its own: opening, 200 questions, resident size."""
    started = time.perf_counter()
    Retriever(SearchConfig(index=str(folder)), embedder=Seeded())
    first = time.perf_counter() - started
    base = _rss()
    started = time.perf_counter()
    retriever = Retriever(SearchConfig(index=str(folder)), embedder=Seeded())
    again = time.perf_counter() - started
    random = np.random.default_rng(2)
    times = []
    for _ in range(200):
        picked = WORDS[
            np.minimum(random.zipf(1.3, size=random.integers(5, 16)) - 1, len(WORDS) - 1)
        ]
        question = " ".join(picked)
        started = time.perf_counter()
        hits = retriever.search(question, 5)
        times.append(time.perf_counter() - started)
        assert len(hits) == 5
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "n": n,
        "first_open_s": first,
        "open_s": again,
        "p50_ms": 1000 * float(np.percentile(times, 50)),
        "p95_ms": 1000 * float(np.percentile(times, 95)),
        "rss_bytes": _rss(),
        "rss_open_bytes": base,
        "disk_bytes": disk,
    }


def _rss():
    return next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--measure", type=Path)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.n[0])))
        return
    rows = []
    for n in args.n:
        with tempfile.TemporaryDirectory() as temp:
            started = time.perf_counter()
            fill(Path(temp), n)
            filled = time.perf_counter() - started
            done = subprocess.run(
                [sys.executable, __file__, "--n", str(n), "--measure", temp],
                capture_output=True,
                text=True,
                check=True,
                env=os.environ,
            )
            rows.append({**json.loads(done.stdout), "fill_s": filled})
    cells = [
        [
            f"{r['n']:,}",
            f"{r['p50_ms']:.1f}",
            f"{r['p95_ms']:.1f}",
            f"{r['open_s']:.2f}",
            f"{r['first_open_s']:.2f}",
            size(r["rss_bytes"]),
            size(r["disk_bytes"]),
        ]
        for r in rows
    ]
    print(
        table(cells, ["passages", "p50 ms", "p95 ms", "open s", "first open s", "resident", "disk"])
    )
    (ROOT / "bench-results").mkdir(exist_ok=True)
    (ROOT / "bench-results" / "scale.json").write_text(json.dumps(rows, indent=1) + "\n")
    drawn = plots.lines(
        {
            "p50": [(r["n"], r["p50_ms"]) for r in rows],
            "p95": [(r["n"], r["p95_ms"]) for r in rows],
        },
        "passages",
        "ms a question",
        log_x=True,
    )
    (ROOT / "docs" / "scale.svg").write_text(drawn)


if __name__ == "__main__":
    main()
