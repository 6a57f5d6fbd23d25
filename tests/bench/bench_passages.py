"""Passages of 200 tokens against those of 320: recall, nDCG and token IoU of the evidence.

python tests/bench/bench_passages.py [--data ../shared/data] [--keep FOLDER]     about 5 minutes

Evidence is the sentence with the answer (drcd) or the first paragraphs of it (medquad). Writes
bench-results/passages.json.
"""

import argparse
import json
import random
import re
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

from onecard.evaluation import stats
from onecard.inference.embeddings import open_embedder
from onecard.reporting import Reporter, table
from onecard.tasks.rag.configs import IndexConfig, SearchConfig
from onecard.tasks.rag.evidence_metrics import ranking_scores
from onecard.tasks.rag.indexer import Indexer
from onecard.tasks.rag.retrieve import Retriever
from onecard.tasks.rag.store import Store

ROOT = Path(__file__).parents[2]
SIZES = (320, 200)
METRICS = ("recall@5", "ndcg@10", "token_recall", "token_iou")
QUESTIONS = 200
ENDS = re.compile(r"(?<=[。！？\n])")


def drcd(data):
    files, questions = {}, []
    for article in json.loads((data / "drcd/DRCD_dev.json").read_text())["data"]:
        for paragraph in article["paragraphs"][: max(0, 500 - len(files))]:
            name = f"{len(files)}.md"
            files[name] = f"# {article['title']}\n\n{paragraph['context']}\n"
            sentences = ENDS.split(paragraph["context"])
            for asked in paragraph["qas"]:
                answer = asked["answers"][0]["text"]
                quotes = [sentence for sentence in sentences if answer in sentence][:1]
                if quotes:
                    questions.append((asked["question"], [{"path": name, "quote": quotes[0]}]))
    return files, questions


def medquad(data):
    files, questions = {}, []
    for path in sorted((data / "medquad/5_NIDDK_QA").glob("*.xml")):
        root, name = ET.parse(path).getroot(), f"{path.stem}.md"
        sections = [f"# {(root.findtext('Focus') or '').strip()}"]
        for pair in root.iter("QAPair"):
            asked, answer = pair.find("Question"), (pair.findtext("Answer") or "").strip()
            sections.append(f"## {asked.get('qtype')}\n\n{answer}")
            paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", answer)]
            quotes = [part for part in paragraphs if len(part.split()) >= 8][:3]
            if quotes:
                evidence = [{"path": name, "quote": quote} for quote in quotes]
                questions.append((" ".join(asked.text.split()), evidence))
        files[name] = "\n\n".join(sections)
    return files, questions


def measure(folder, size, questions, embedder):
    index = folder / f"index-{size}"
    store = Store(index, create=True)
    config = IndexConfig(index=str(index), chunk_tokens=size)
    Indexer(store, config, Reporter(), embedder).update([folder / "docs"])
    store.close()
    retriever = Retriever(SearchConfig(index=str(index)), embedder=embedder)
    scores = [ranking_scores(retriever.search(q, 10), evidence, 5) for q, evidence in questions]
    retriever.close()
    return {metric: [row[metric] for row in scores] for metric in METRICS}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--keep", type=Path, help="keep the indexes here for the next time")
    options = parser.parse_args()
    embedder, result, rows = open_embedder("e5-small"), {}, []
    with tempfile.TemporaryDirectory() as temp:
        for read in (drcd, medquad):
            name = read.__name__
            folder = (options.keep or Path(temp)) / name
            (folder / "docs").mkdir(parents=True, exist_ok=True)
            files, questions = read(options.data)
            for file, text in files.items():
                (folder / "docs" / file).write_text(text)
            questions = random.Random(0).sample(questions, QUESTIONS)
            large, small = (measure(folder, size, questions, embedder) for size in SIZES)
            result[name] = {}
            for metric in METRICS:
                gains = [b - a for a, b in zip(large[metric], small[metric], strict=True)]
                means = [sum(scores[metric]) / QUESTIONS for scores in (large, small)]
                gain = stats.mean_interval(gains)
                result[name][metric] = {"means": means, "gain": gain.as_dict()}
                rows.append([name, metric, *(f"{mean:.3f}" for mean in means), gain.render()])
    print(table(rows, ["source", "metric", *map(str, SIZES), "gain"]))
    path = ROOT / "bench-results" / "passages.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
