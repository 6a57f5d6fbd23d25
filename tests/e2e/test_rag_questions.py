"""Question sets for rag: evaluating, comparing settings, drafting from the notes."""

import json
from pathlib import Path

import pytest

from onecard.inference.client import Reply
from onecard.tasks.rag import draft_questions
from onecard.tasks.rag.store import Chunk


@pytest.fixture
def index(onecard, notes, tmp_path):
    done = onecard("rag", "index", notes, "--index", tmp_path / "index", "--json")
    assert done.code == 0, done.err
    return tmp_path / "index"


QUESTIONS = [
    {
        "id": "r",
        "question": "How long may a retry wait at most?",
        "answer": "never longer than 30 seconds",
        "evidence": [{"path": "guide/timeouts.md", "quote": "is never longer than 30 seconds"}],
    },
    {
        "id": "p",
        "question": "How many connections are kept open?",
        "answer": "At most 100 connections",
        "evidence": [{"path": "guide/pool.md", "quote": "At most 100 connections are kept open."}],
    },
    {"id": "z", "question": "快取檔案何時刪除？", "evidence": [{"path": "guide/中文.md"}]},
    {"id": "n", "question": "Who won the chess championship in Norway?", "answerable": False},
]


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "q.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in QUESTIONS]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_evaluate_scores_and_a_repetition_is_inconclusive(onecard, index, questions):
    done = onecard("rag", "evaluate", "--questions", questions, "--index", index, "--json")
    assert done.code == 0, done.err
    metrics = done.data["metrics"]
    values = {name: metrics[name]["value"] for name in ("recall@5", "token_recall", "abstained")}
    assert values == {"recall@5": 1, "token_recall": 1, "abstained": 1}
    assert metrics["mrr"]["value"] > 0.8
    assert {"citation_precision", "f1", "latency_s", "ndcg@10", "token_iou"} <= metrics.keys()
    run_id = done.data["run"].rsplit("/", 1)[1]
    against = onecard("runs", "rerun", run_id, "--json").data["against"]
    assert against["metrics"]["ndcg@10"]["test"]["verdict"] == "inconclusive"


def test_ablate_compares_modes_and_chunk_sizes(onecard, index, questions):
    table = onecard("rag", "evaluate", "--questions", questions, "--index", index, "--ablate")
    assert table.code == 0, table.err
    assert "winner: inconclusive" in table.out
    for variant in ("lexical", "dense", "hybrid, feedback", "hybrid, 160 tokens"):
        assert variant in table.out


class Writer:
    """Stands where the language model drafts a question: the prompt tells it the sentence."""

    def __init__(self, question):
        self.question = question

    def chat(self, messages, **options):
        return Reply(json.dumps({"question": self.question}))


CHUNK = Chunk(
    7,
    "/notes/pool.md",
    "Connection pool",
    "At most 100 connections are kept open at the same time.\nMore wait.",
    1,
    2,
    0,
)


def test_a_drafted_question_has_its_evidence():
    row = draft_questions.draft_question(CHUNK, Writer("How many connections are kept open"), 3)
    sentence = "At most 100 connections are kept open at the same time."
    assert row == {
        "id": "q3",
        "question": "How many connections are kept open?",
        "answer": sentence,
        "answerable": True,
        "checked": False,
        "evidence": [{"path": "/notes/pool.md", "quote": sentence}],
    }


@pytest.mark.parametrize("question", ["How?", "Who painted the Mona Lisa?", "100 connections are"])
def test_a_draft_that_is_no_question_about_the_sentence_is_rejected(question):
    assert draft_questions.draft_question(CHUNK, Writer(question), 0) is None


FACTS = {
    "Penguins": "Emperor penguins breed in the Antarctic winter, and the male keeps the egg warm "
    "on his feet for two months.",
    "Coffee": "Coffee plants grow best between 1,000 and 2,000 metres above the sea, where the "
    "nights are cool.",
    "The bridge": "The Golden Gate Bridge was opened in 1937 and was then the longest suspension "
    "bridge in the world.",
    "Bread": "Bread dough rises because yeast turns sugar into carbon dioxide, which the gluten "
    "holds in small bubbles.",
    "Tides": "The tides are caused by the gravity of the moon and the sun, and they are highest at "
    "new moon and full moon.",
    "Library": "The public library opens at nine in the morning and lends each reader at most ten "
    "books for four weeks.",
    "Violin": "A violin has four strings that are tuned in fifths, and its bow is strung with the "
    "hair of a horse.",
    "Volcano": "Mount Etna on Sicily is the tallest active volcano in Europe and erupts almost "
    "every year.",
}


def test_make_questions_writes_rows_with_evidence_of_the_notes(onecard, tmp_path):
    """The embedded model writes a usable question for about two of these eight."""
    folder, path = tmp_path / "facts", tmp_path / "drafts.jsonl"
    folder.mkdir()
    for title, sentence in FACTS.items():
        filler = "This note says no more about it. " * 5
        (folder / f"{title}.md").write_text(f"# {title}\n\n{sentence} {filler}\n")
    assert onecard("rag", "index", folder, "--index", tmp_path / "ix").code == 0
    done = onecard("rag", "draft-questions", path, "--index", tmp_path / "ix", "--json")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == done.data["n"] >= 1
    for row in rows:
        assert row["checked"] is False
        assert row["question"].endswith("?")
        file = Path(row["evidence"][0]["path"])
        assert row["answer"] == row["evidence"][0]["quote"] == FACTS[file.stem]


def test_make_questions_never_overwrites(onecard, index, tmp_path):
    path = tmp_path / "corrected.jsonl"
    path.write_text("my own\n")
    done = onecard("rag", "draft-questions", path, "--index", index)
    assert done.code == 2
    assert path.read_text() == "my own\n"
