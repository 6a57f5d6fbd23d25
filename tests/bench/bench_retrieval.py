"""Search quality on Cranfield, DRCD (Traditional Chinese) and CoSQA (code), through the real index.

python tests/bench/bench_retrieval.py [--data ../shared/data] [--only cranfield]

Needs the data; about 10 minutes on 2 cores.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from onecard.evaluation import stats
from onecard.evaluation.metrics import retrieval
from onecard.inference.embeddings import open_embedder
from onecard.reporting import Reporter, table
from onecard.tasks.rag.configs import IndexConfig, SearchConfig
from onecard.tasks.rag.indexer import Indexer
from onecard.tasks.rag.retrieve import Retriever
from onecard.tasks.rag.store import Store

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import cranfield as cranfield_data  # noqa: E402


def cranfield(data):
    """Files by name, and (question, {file: grade})."""
    documents, questions = cranfield_data.read(data / "cranfield")
    files = {
        f"{name}.md": f"# {' '.join(title.split())}\n\n{' '.join(text.split())}\n"
        for name, (title, text) in documents.items()
        if text.strip()
    }
    return files, [
        (question, {f"{name}.md": grade for name, grade in grades.items()})
        for question, grades in questions
    ]


def drcd(data):
    docs, questions = {}, []
    for article in json.loads((data / "drcd/DRCD_dev.json").read_text())["data"]:
        for paragraph in article["paragraphs"]:
            name = f"{len(docs)}.md"
            docs[name] = f"# {article['title']}\n\n{paragraph['context']}\n"
            questions += [(qa["question"], {name: 1.0}) for qa in paragraph["qas"]]
    return docs, questions


def cosqa(data):
    codes = json.loads((data / "cosqa/code_idx_map.txt").read_text())
    docs = {f"{number}.py": code for code, number in codes.items()}
    rows = json.loads((data / "cosqa/cosqa-retrieval-dev-500.json").read_text())
    return docs, [(row["doc"], {f"{row['retrieval_idx']}.py": 1.0}) for row in rows]


def ranked_files(retriever, question, vector, settings):
    """File names in the order of their best passage."""
    rows, _, _, _ = retriever.rank(question, vector, settings)
    return list(
        dict.fromkeys(
            Path(chunk.path).name
            for chunk in retriever.store.chunks([int(retriever.ids[r]) for r in rows[:40]])
        )
    )


def run(name, docs, questions, keep):
    folder = keep / name
    (folder / "docs").mkdir(parents=True, exist_ok=True)
    for file, text in docs.items():
        if not (folder / "docs" / file).exists():
            (folder / "docs" / file).write_text(text, encoding="utf-8")
    embedder = open_embedder("e5-small")
    base = IndexConfig(index=str(folder / "index"), chunk_tokens=480)
    default = IndexConfig(index=str(folder / "index-default"))
    out = {}
    for label, build in (("whole documents", base), ("default passages", default)):
        store = Store(Path(build.index), create=True)
        stats_of_pass = Indexer(store, build, Reporter(), embedder).update([folder / "docs"])
        settings = SearchConfig(index=build.index)
        print(
            f"{name}, {label}: {stats_of_pass.embedded} embedded, "
            f"{stats_of_pass.embedded / max(stats_of_pass.embed_s, 1e-9):.1f}/s",
            flush=True,
        )
        retriever = Retriever(settings, embedder=embedder)
        vectors = embedder.queries([question for question, _ in questions])
        modes = {
            "words": {"mode": "lexical"},
            "meaning": {"mode": "dense"},
            "both": {},
            "both, feedback": {"pseudo_relevance_feedback": True},
        }
        for mode, change in modes.items():
            varied = settings.model_copy(update=change)
            orders = [
                ranked_files(retriever, q, None if mode == "words" else v, varied)
                for (q, _), v in zip(questions, vectors, strict=True)
            ]
            out[f"{label}: {mode}"] = {
                "ndcg@10": [
                    retrieval.ndcg_at(o, rel, 10)
                    for o, (_, rel) in zip(orders, questions, strict=True)
                ],
                "recall@5": [
                    retrieval.recall_at(o, {d for d, g in rel.items() if g > 0}, 5)
                    for o, (_, rel) in zip(orders, questions, strict=True)
                ],
                "mrr": [
                    retrieval.reciprocal_rank(o[:10], {d for d, g in rel.items() if g > 0})
                    for o, (_, rel) in zip(orders, questions, strict=True)
                ],
            }
        retriever.close()
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", choices=["cranfield", "drcd", "cosqa"])
    parser.add_argument("--keep", type=Path, help="keep the indexes here for the next time")
    args = parser.parse_args()
    result = {}
    with tempfile.TemporaryDirectory() as temp:
        for name, read in (("cranfield", cranfield), ("drcd", drcd), ("cosqa", cosqa)):
            if args.only in (None, name):
                per = run(name, *read(args.data), args.keep or Path(temp))
                rows = [
                    [label, *(stats.mean_interval(v).render() for v in m.values())]
                    for label, m in per.items()
                ]
                print(table(rows, [name, "nDCG@10", "recall@5", "MRR@10"]))
                words, both = (
                    np.array(per[f"default passages: {k}"]["mrr"]) for k in ("words", "both")
                )
                gain = stats.mean_interval((both - words).tolist())
                print(f"{name}: both against words, MRR: {gain.render()}", flush=True)
                result[name] = {
                    "gain_mrr_over_words": gain.as_dict(),
                    **{
                        label: {k: stats.mean_interval(v).as_dict() for k, v in m.items()}
                        for label, m in per.items()
                    },
                }
    target = ROOT / "bench-results" / "retrieval.json"
    target.parent.mkdir(exist_ok=True)
    previous = json.loads(target.read_text()) if target.exists() else {}
    target.write_text(json.dumps({**previous, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
