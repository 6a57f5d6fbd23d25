"""Search quality on public collections: Cranfield, DRCD (Traditional Chinese) and CoSQA (code),
through the real index.

python tests/bench/bench_retrieval.py [--data ../shared/data] [--only cranfield]    needs the data; about 10 minutes on 2 cores
"""

import argparse
import json
import re
import tempfile
from pathlib import Path

import numpy as np

from onecard.evaluation import metrics, stats
from onecard.inference.embeddings import open_embedder
from onecard.reporting import Reporter, table
from onecard.tasks.rag.configs import EvaluateConfig
from onecard.tasks.rag.index import Indexer
from onecard.tasks.rag.retrieve import Retriever
from onecard.tasks.rag.store import Store

ROOT = Path(__file__).parents[2]


def cranfield(data):
    """Documents by number, questions, and graded judgements."""
    docs = {}
    for block in re.split(r"^\.I ", (data / "cranfield/cran.all.1400").read_text(), flags=re.M)[1:]:
        found = re.match(r"(\d+)\s*\n\.T\s*(.*?)\n\.A.*?\n\.W(.*)", block, re.S)
        if found[3].strip():
            docs[f"{found[1]}.md"] = (
                f"# {' '.join(found[2].split())}\n\n{' '.join(found[3].split())}\n"
            )
    asked = [
        " ".join(re.split(r"\n\.W\s*", b)[1].split())
        for b in re.split(r"^\.I ", (data / "cranfield/cran.qry").read_text(), flags=re.M)[1:]
    ]
    judged = [{} for _ in asked]
    for line in (data / "cranfield/QRelsCorrectedforTRECeval").read_text().splitlines():
        query, _, doc, grade = line.split()
        judged[int(query) - 1][f"{doc}.md"] = float(grade)
    return docs, list(zip(asked, judged, strict=True))


def drcd(data):
    docs, asked = {}, []
    for article in json.loads((data / "drcd/DRCD_dev.json").read_text())["data"]:
        for paragraph in article["paragraphs"]:
            name = f"{len(docs)}.md"
            docs[name] = f"# {article['title']}\n\n{paragraph['context']}\n"
            asked += [(qa["question"], {name: 1.0}) for qa in paragraph["qas"]]
    return docs, asked


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


def run(name, docs, asked, keep):
    folder = keep / name
    (folder / "docs").mkdir(parents=True, exist_ok=True)
    for file, text in docs.items():
        if not (folder / "docs" / file).exists():
            (folder / "docs" / file).write_text(text, encoding="utf-8")
    embedder = open_embedder("e5-small")
    base = EvaluateConfig(index=str(folder / "index"), chunk_tokens=480)
    default = EvaluateConfig(index=str(folder / "index-default"))
    out = {}
    for label, settings in (("whole documents", base), ("default passages", default)):
        store = Store(Path(settings.index), create=True)
        tally = Indexer(store, settings, Reporter(), embedder).update([folder / "docs"])
        print(
            f"{name}, {label}: {tally.embedded} embedded, "
            f"{tally.embedded / max(tally.embed_s, 1e-9):.1f}/s",
            flush=True,
        )
        retriever = Retriever(settings, embedder=embedder)
        vectors = embedder.queries([question for question, _ in asked])
        modes = {
            "words": {"mode": "lexical"},
            "meaning": {"mode": "dense", "feedback": False},
            "both, no feedback": {"feedback": False},
            "both": {},
        }
        for mode, change in modes.items():
            varied = settings.model_copy(update=change)
            orders = [
                ranked_files(retriever, q, None if mode == "words" else v, varied)
                for (q, _), v in zip(asked, vectors, strict=True)
            ]
            out[f"{label}: {mode}"] = {
                "ndcg@10": [
                    metrics.ndcg_at(o, rel, 10) for o, (_, rel) in zip(orders, asked, strict=True)
                ],
                "recall@5": [
                    metrics.recall_at(o, {d for d, g in rel.items() if g > 0}, 5)
                    for o, (_, rel) in zip(orders, asked, strict=True)
                ],
                "mrr": [
                    metrics.reciprocal_rank(o[:10], {d for d, g in rel.items() if g > 0})
                    for o, (_, rel) in zip(orders, asked, strict=True)
                ],
            }
        retriever.close()
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", choices=["cranfield", "drcd", "cosqa"])
    parser.add_argument("--keep", type=Path, help="keep the indexes here for the next time")
    asked = parser.parse_args()
    result = {}
    with tempfile.TemporaryDirectory() as temp:
        for name, read in (("cranfield", cranfield), ("drcd", drcd), ("cosqa", cosqa)):
            if asked.only in (None, name):
                per = run(name, *read(asked.data), asked.keep or Path(temp))
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
    held = json.loads(target.read_text()) if target.exists() else {}
    target.write_text(json.dumps({**held, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
