"""The first quotation of the answer, on made notes: changelogs, FAQs, tables, look-alike dates.

python tests/bench/bench_quotes.py [--seeds 4] [--n 10] [--verbose]     about 4 minutes

Each seed writes other notes and asks `n` questions of each kind. Right: the first quotation holds
the answer. Writes bench-results/quotes.json.
"""

import argparse
import collections
import json
import sys
import tempfile
from pathlib import Path

from onecard.reporting import Reporter, table
from onecard.tasks.rag import quotes
from onecard.tasks.rag.configs import IndexConfig, SearchConfig
from onecard.tasks.rag.indexer import Indexer
from onecard.tasks.rag.retrieve import Retriever
from onecard.tasks.rag.store import Store

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import made_notes  # noqa: E402


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    right, asked = collections.Counter(), collections.Counter()
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as temp:
            notes, index = Path(temp, "notes"), Path(temp, "index")
            questions = made_notes.write(notes, seed, options.n)
            store = Store(index, create=True)
            Indexer(store, IndexConfig(index=str(index)), Reporter()).update([notes])
            store.close()
            retriever = Retriever(SearchConfig(index=str(index)))
            for question in questions:
                hits = retriever.search(question.text)
                best = quotes.best_quotes(question.text, hits, retriever.embedder)
                first = best[0].text if best else ""
                good = question.answer in first and not any(w in first for w in question.wrong)
                asked[question.kind] += 1
                right[question.kind] += good
                if options.verbose and not good:
                    print(f"{question.text}\n   wants {question.answer!r}, got {first[:150]!r}")
            retriever.close()
    rows = [[kind, str(asked[kind]), f"{right[kind] / asked[kind]:.2f}"] for kind in asked]
    rows.append(["all", str(asked.total()), f"{right.total() / asked.total():.3f}"])
    print(table(rows, ["kind", "questions", "first quotation right"]))
    path = ROOT / "bench-results" / "quotes.json"
    path.write_text(json.dumps({kind: [right[kind], asked[kind]] for kind in asked}, indent=1))


if __name__ == "__main__":
    main()
