"""Groundedness of questions that an index answers, and of near ones that it does not.

python tests/bench/bench_abstention.py [--data ../shared/data] [--keep FOLDER]     about 10 minutes

Unanswerable are: questions whose documents are taken out of the index (drcd, medquad, cosqa; in
medquad all documents on the same disease), made questions on things, dates, versions and plans that
are not in the notes, and questions written beside the documentation of httpx and fastapi (Chinese
notes, a third of the questions in English). For each source a threshold is chosen on the others and
tried on it. Writes bench-results/abstention.json.
"""

import argparse
import json
import random
import re
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np

from onecard.inference.embeddings import open_embedder
from onecard.reporting import Reporter, table
from onecard.tasks.rag.answer import groundedness
from onecard.tasks.rag.bm25 import BM25Index
from onecard.tasks.rag.configs import AskConfig, IndexConfig, SearchConfig
from onecard.tasks.rag.indexer import Indexer
from onecard.tasks.rag.retrieve import Retriever
from onecard.tasks.rag.store import Store

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import made_notes  # noqa: E402

WRITTEN = json.loads((Path(__file__).parent / "abstention_questions.json").read_text())
ABSENT_THINGS = (
    "piano", "pool pump", "garage lift", "sewing machine", "ice maker", "chicken coop", "hot tub",
    "wine fridge", "snow blower", "weather vane", "projector", "trampoline",
)  # fmt: skip
ABSENT_PLANS = ("Starter", "Family", "Platinum", "Student")
COMMON = frozenset(
    re.findall(
        r"\w+",
        "what need know about disease syndrome kidney chronic children your with problems "
        "disorders bladder blood type information people",
    )
)
"""Words of a medquad title that do not name the disease."""
BROAD = re.compile("need to know|[Dd]iabetes|Failure|Guide|Program|:")
"""Titles of medquad documents whose subject is in many others."""
KEPT = 0.97
QUESTIONS = 150


def written(data, name, suffix="*.md"):
    files = {
        str(path.relative_to(data / name)): path.read_text() for path in (data / name).rglob(suffix)
    }
    return files, WRITTEN[name]["answerable"], WRITTEN[name]["unanswerable"]


def drcd(data, source):
    files, questions = {}, []
    for article in json.loads((data / "drcd/DRCD_dev.json").read_text())["data"]:
        for paragraph in article["paragraphs"][: max(0, 500 - len(files))]:
            name = f"{len(files)}.md"
            files[name] = f"# {article['title']}\n\n{paragraph['context']}\n"
            questions += [(qa["question"], {name}) for qa in paragraph["qas"]]
    return files, source.sample(questions, QUESTIONS)


def medquad(data, source):
    files, questions, subjects = {}, [], {}
    for path in sorted((data / "medquad/5_NIDDK_QA").glob("*.xml")):
        root = ET.parse(path).getroot()
        title, name = (root.findtext("Focus") or "").strip(), f"{path.stem}.md"
        subjects[name] = set(re.findall("[a-z]{4,}", title.lower())) - COMMON
        sections = [f"# {title}"]
        for pair in root.iter("QAPair"):
            question, text = pair.find("Question"), (pair.findtext("Answer") or "").strip()
            sections.append(f"## {question.get('qtype')}\n\n{text}")
            if subjects[name] and not BROAD.search(title):
                questions.append((" ".join(question.text.split()), name))
        files[name] = "\n\n".join(sections)
    chosen = source.sample(questions, QUESTIONS)
    return files, [
        (text, {other for other in files if subjects[other] & subjects[name]})
        for text, name in chosen
    ]


def cosqa(data, source):
    codes = json.loads((data / "cosqa/code_idx_map.txt").read_text())
    rows = json.loads((data / "cosqa/cosqa-retrieval-dev-500.json").read_text())
    rows = source.sample(rows, QUESTIONS)
    wanted = {row["retrieval_idx"] for row in rows}
    files = {f"{n}.py": code for code, n in codes.items() if n in wanted or n % 6 == 0}
    return files, [(row["doc"], {f"{row['retrieval_idx']}.py"}) for row in rows]


def made(folder, source):
    """Writes its notes itself."""
    asked, others = made_notes.write(folder, 7, 10), []
    for question in asked:
        text = question.text
        thing = next((t for t in made_notes.THINGS if t in text), "")
        if thing:
            text = text.replace(thing, source.choice(ABSENT_THINGS))
        elif question.kind == "changelog":
            text = re.sub(r"\d\.\d\.\d", f"{source.randint(5, 9)}.{source.randint(0, 9)}.7", text)
        elif question.kind == "date":
            text = text.replace("2025", "2023")
        else:
            text = re.sub(r"the \w+ plan", f"the {source.choice(ABSENT_PLANS)} plan", text)
        others.append(text)
    return [question.text for question in asked], others


class Without:
    """The vectors of an index without some rows."""

    def __init__(self, vectors, rows):
        self.vectors, self.rows, self.mean = vectors, rows, vectors.mean

    def search(self, query, k):
        rows, cosines = self.vectors.search(query, k + len(self.rows))
        keep = ~np.isin(rows, self.rows)
        return rows[keep][:k], cosines[keep][:k]

    def at(self, rows):
        return self.vectors.at(rows)


def words_without(index, rows):
    keep = ~np.isin(index.rows, rows)
    before = np.concatenate([[0], np.cumsum(keep)])
    return BM25Index(index.hashes, before[index.starts], index.rows[keep], index.weights[keep])


def scores(folder, answerable, unanswerable, gold, embedder):
    """(groundedness of answerable ones, of the others)."""
    index = folder / "index"
    store = Store(index, create=True)
    Indexer(store, IndexConfig(index=str(index)), Reporter(), embedder).update([folder / "docs"])
    store.close()
    retriever = Retriever(SearchConfig(index=str(index)), embedder=embedder)

    def all_of(questions):
        return [groundedness(retriever.search(question)) for question in questions]

    good, bad = all_of(answerable), all_of(unanswerable)
    names = [Path(c.path).name for c in retriever.store.chunks(retriever.ids.tolist())]
    vectors, words = retriever.vectors, retriever.bm25
    for question, files in gold:
        retriever.vectors, retriever.bm25 = vectors, words
        good += all_of([question])
        rows = [i for i, name in enumerate(names) if name in files]
        retriever.vectors, retriever.bm25 = Without(vectors, rows), words_without(words, rows)
        bad += all_of([question])
    retriever.close()
    return np.array(good), np.array(bad)


def auc(good, bad):
    return float((good[:, None] > bad).mean() + (good[:, None] == bad).mean() / 2)


def threshold(sources):
    """The highest that keeps KEPT of the answerable questions, as a mean over the sources."""
    grid = np.linspace(0, 1, 201)
    kept = [np.mean([(good >= t).mean() for good, _ in sources]) for t in grid]
    return float(grid[np.flatnonzero(np.array(kept) >= KEPT).max()])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--keep", type=Path, help="keep the indexes here for the next time")
    options = parser.parse_args()
    embedder, measured = open_embedder("e5-small"), {}
    with tempfile.TemporaryDirectory() as temp:
        for name in ("httpx", "fastapi", "made", "drcd", "medquad", "cosqa"):
            folder, source = (options.keep or Path(temp)) / name, random.Random(0)
            files, good, bad, gold = {}, [], [], []
            if name == "made":
                good, bad = made(folder / "docs", source)
            elif name in WRITTEN:
                files, good, bad = written(options.data, name)
            else:
                files, gold = globals()[name](options.data, source)
            for file, text in files.items():
                path = folder / "docs" / file
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    path.write_text(text)
            measured[name] = scores(folder, good, bad, gold, embedder)
            print(name, len(measured[name][0]), flush=True)
    default = AskConfig().abstain_below
    rows, result = [], {}
    for name, (good, bad) in measured.items():
        held = threshold([pair for other, pair in measured.items() if other != name])
        result[name] = {
            "n": [len(good), len(bad)],
            "auc": round(auc(good, bad), 3),
            "default": [float((good >= default).mean()), float((bad < default).mean())],
            "held_threshold": held,
            "held": [float((good >= held).mean()), float((bad < held).mean())],
        }
        shares = [*result[name]["default"], held, *result[name]["held"]]
        rows.append([name, str(len(good)), f"{auc(good, bad):.3f}", *(f"{v:.2f}" for v in shares)])
    heads = ["source", "of each", "AUC", f"kept at {default}", "refused", "chosen on the others"]
    print(table(rows, [*heads, "kept", "refused"]))
    path = ROOT / "bench-results" / "abstention.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
