"""The BM25 index of rag beside bm25s: quality, index time, query time, memory, update.

pip install bm25s --no-deps
python tests/bench/bench_bm25.py [--n 100000] [--data ../shared/data]     about 5 minutes

Both get the same terms (rag's analyzer), so that only the engines differ; bm25s also runs with its
own tokenizer on Cranfield. "Update" is 1 % of the chunks changed: rag's index packs the changed
ones and builds the arrays from the packed terms of all, which lie in SQLite; bm25s has no update,
and indexes the term lists of all again, which a caller would have to store. Each engine runs in a
process of its own. "Resident" also counts the stored terms and, for bm25s, its vocabulary.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import bm25s
import numpy as np
import snowballstemmer

from onecard.evaluation import stats
from onecard.evaluation.metrics.retrieval import ndcg_at
from onecard.reporting import table
from onecard.tasks.rag import bm25
from onecard.tasks.rag.analyzer import terms
from onecard.units import size

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/bench")]
import cranfield  # noqa: E402
from bench_scale import WORDS  # noqa: E402

TOP = 10
QUERIES = 200
CHANGED = 0.01


class Ours:
    """rag's index; `pack` is kept for each chunk, as in SQLite."""

    def __init__(self, texts):
        self.packed = [bm25.pack_terms("", text) for text in texts]
        self._build()

    def _build(self):
        blobs, lengths = zip(*self.packed, strict=True)
        self.index = bm25.BM25Index.build(blobs, lengths)

    def update(self, changes):
        for i, text in changes.items():
            self.packed[i] = bm25.pack_terms("", text)
        self._build()

    def scores(self, question):
        return self.index.scores(question, len(self.packed))

    def arrays(self):
        index = self.index
        return (index.hashes, index.starts, index.rows, index.weights)


class Bm25s:
    """bm25s with the same constants and terms; term lists are kept for an update."""

    def __init__(self, texts):
        self.terms = [terms(text) for text in texts]
        self._build()

    def _build(self):
        self.index = bm25s.BM25(method="lucene", k1=bm25.K1, b=bm25.B)
        self.index.index(self.terms, show_progress=False)

    def update(self, changes):
        for i, text in changes.items():
            self.terms[i] = terms(text)
        self._build()

    def scores(self, question):
        known = [term for term in terms(question) if term in self.index.vocab_dict]
        if not known:
            return np.zeros(len(self.terms), dtype=np.float32)
        return self.index.get_scores(known)

    def arrays(self):
        return [self.index.scores[name] for name in ("data", "indices", "indptr")]


ENGINES = {"onecard": Ours, "bm25s": Bm25s}


def top(scores):
    """The first TOP, best first, ties in the order of rows, as rag takes them."""
    part = np.argpartition(-scores, TOP)[:TOP] if len(scores) > TOP else np.arange(len(scores))
    return part[np.lexsort((part, -scores[part]))]


def quality(data):
    """nDCG@10 on Cranfield, per question, for both engines and bm25s with its own tokenizer."""
    documents, questions = cranfield.read(data / "cranfield")
    names = list(documents)
    texts = ["\n".join(parts) for parts in documents.values()]
    result = {}
    engines = {name: make(texts) for name, make in ENGINES.items()}
    for name, engine in engines.items():
        orders = [top(engine.scores(question)) for question, _ in questions]
        result[name] = [
            ndcg_at([names[i] for i in order], grades, TOP)
            for order, (_, grades) in zip(orders, questions, strict=True)
        ]
    # the largest difference of the scores themselves: lucene's form lacks the constant k1 + 1
    difference = max(
        float(
            np.abs(engines["onecard"].scores(q) / (bm25.K1 + 1) - engines["bm25s"].scores(q)).max()
        )
        for q, _ in questions
    )
    stemmer = snowballstemmer.stemmer("english").stemWords
    own = bm25s.BM25(method="lucene", k1=bm25.K1, b=bm25.B)
    options = {"stopwords": "en", "stemmer": stemmer, "show_progress": False}
    own.index(bm25s.tokenize(texts, **options), show_progress=False)
    asked = bm25s.tokenize([q for q, _ in questions], return_ids=False, **options)
    result["bm25s, own tokenizer"] = [
        ndcg_at([names[i] for i in top(own.get_scores(query))], grades, TOP)
        for query, (_, grades) in zip(asked, questions, strict=True)
    ]
    return result, difference


def made_up_texts(n):
    """Texts of 80 words, Zipf-distributed, as in bench_scale."""
    random = np.random.default_rng(0)
    share = 1 / np.arange(1, len(WORDS) + 1)
    cdf = np.cumsum(share / share.sum())
    picks = np.minimum(np.searchsorted(cdf, random.random((n, 80))), len(WORDS) - 1)
    return [" ".join(WORDS[row]) + f" item{i}" for i, row in enumerate(picks)]


def resident():
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def measure(name, n):
    """One engine in this process: seconds, milliseconds and bytes."""
    texts = made_up_texts(n)
    terms(texts[0])
    before = resident()
    start = time.perf_counter()
    engine = ENGINES[name](texts)
    index_s = time.perf_counter() - start
    memory = resident() - before
    random = np.random.default_rng(2)
    times = []
    for _ in range(QUERIES):
        picks = np.minimum(random.zipf(1.3, size=random.integers(5, 16)) - 1, len(WORDS) - 1)
        question = " ".join(WORDS[picks])
        start = time.perf_counter()
        assert len(top(engine.scores(question))) == TOP
        times.append(time.perf_counter() - start)
    changes = {int(i): texts[-int(i)] for i in random.choice(n, max(int(n * CHANGED), 1), False)}
    start = time.perf_counter()
    engine.update(changes)
    return {
        "n": n,
        "index_s": index_s,
        "query_p50_ms": 1e3 * float(np.percentile(times, 50)),
        "query_p95_ms": 1e3 * float(np.percentile(times, 95)),
        "array_bytes": sum(array.nbytes for array in engine.arrays()),
        "resident_bytes": memory,
        "update_s": time.perf_counter() - start,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--engine", choices=ENGINES)
    args = parser.parse_args()
    if args.engine:
        print(json.dumps(measure(args.engine, args.n)))
        return
    scores, difference = quality(args.data)
    intervals = {name: stats.mean_interval(values) for name, values in scores.items()}
    print(
        table([[n, v.render()] for n, v in intervals.items()], ["engine", "Cranfield nDCG@10"])
        + f"\nlargest difference of a score: {difference:.1e}\n",
        flush=True,
    )
    rows = {}
    for name in ENGINES:
        command = [sys.executable, __file__, "--n", str(args.n), "--engine", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows[name] = json.loads(done.stdout.splitlines()[-1])
    cells = [
        [
            name,
            f"{row['index_s']:.1f}",
            f"{row['query_p50_ms']:.2f}",
            f"{row['query_p95_ms']:.2f}",
            size(row["array_bytes"]),
            size(row["resident_bytes"]),
            f"{row['update_s']:.2f}",
        ]
        for name, row in rows.items()
    ]
    head = [
        "engine",
        "index s",
        "p50 ms",
        "p95 ms",
        "arrays",
        "with terms, resident",
        "update of 1 % s",
    ]
    print(f"{args.n:,} chunks\n{table(cells, head)}")
    result = {
        "cranfield_ndcg@10": {name: value.as_dict() for name, value in intervals.items()},
        "largest_score_difference": difference,
        "scale": rows,
    }
    target = ROOT / "bench-results" / "bm25.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
