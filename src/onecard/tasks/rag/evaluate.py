"""`onecard rag evaluate`: scores search and answers on a question set, with intervals.

A row: {"question": ..., "answer"?: ..., "answerable"?: true, "evidence"?: [{"path": ..., "quote"?:
..., "grade"?: 1}], "id"?: ...}
"""

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onecard.datasets import rows as data_rows
from onecard.errors import DataError, SettingsError
from onecard.evaluation import stats
from onecard.evaluation.metric_table import metric_table
from onecard.evaluation.metrics.text import TEXT_METRICS
from onecard.reporting import Result
from onecard.runs.compare import regressions
from onecard.runs.record import Run, fingerprint
from onecard.runs.store import RunRecord, recent
from onecard.tasks.rag.ablate import ablate
from onecard.tasks.rag.answer import groundedness
from onecard.tasks.rag.configs import EvaluateConfig
from onecard.tasks.rag.evidence_metrics import DEPTH, covers, ranking_scores
from onecard.tasks.rag.session import Session, open_session
from onecard.tasks.rag.store import Store

MAX_MISSING_SHOWN = 10
MIN_OF_EACH = 3
"""Answerable and unanswerable questions from which a threshold is suggested."""


def evaluate(config: EvaluateConfig, run: Run) -> Result:
    """With `ablate`, a comparison of search settings instead.

    Raises SettingsError without questions, DataError with file:line.
    """
    if not config.questions:
        raise SettingsError(
            "there are no questions to score",
            why="--questions names no file",
            fix="--questions FILE; draft one with: onecard rag draft-questions FILE",
        )
    path = Path(config.questions)
    rows = _question_rows(path)
    run.data("questions", rows=len(rows), sha256=fingerprint(path))
    if config.ablate:
        return ablate(rows, config, run)
    items: list[dict[str, Any]] = []
    # without answers no model is needed
    opening = config if config.answers else config.model_copy(update={"style": "quote"})
    with (
        open_session(opening, run) as session,
        run.reporter.progress("questions", len(rows)) as bar,
    ):
        store = session.retriever.store
        run.data("index", rows=len(session.retriever.ids), sha256=store.digest())
        for row in rows:
            items.append(_item(row, session, config))
            bar.step()
    metrics = mean_scores(items)
    run.items(items)
    suggestion = suggest_threshold(
        [
            (item["groundedness"], row.get("answerable", True))
            for item, row in zip(items, rows, strict=True)
        ],
        config.abstain_below,
    )
    verdicts = [
        f"{item['id']}: evidence not in the index: {item['missing'][0]}"
        for item in items
        if item["missing"]
    ][:MAX_MISSING_SHOWN]
    if suggestion:
        verdicts.append(suggestion)
    run.scores(metrics, verdicts=verdicts)
    if run.folder:
        verdicts += regressions(RunRecord(run.folder), recent())
        run.scores(metrics, verdicts=verdicts)
    return Result(
        {"metrics": metrics, "verdicts": verdicts},
        "\n".join([metric_table(metrics), *verdicts]),
    )


def _question_rows(path: Path) -> list[dict[str, Any]]:
    """The question set, with an id in each row. Raises DataError with file:line."""
    rows = data_rows.jsonl(path, need=("question",), check=_row_fault)
    ids: set[str] = set()
    for number, row in enumerate(rows, 1):
        row["id"] = str(row.get("id", number))
        if row["id"] in ids:
            raise DataError(
                f"{path} has two rows of the id {row['id']}",
                why="results are paired by id",
                fix="make the ids differ, or leave them out",
            )
        ids.add(row["id"])
    return rows


def _row_fault(row: dict[str, Any]) -> str:
    """What is wrong with a row of the question set, or ""."""
    evidence = row.get("evidence", [])
    if not isinstance(row["question"], str) or not row["question"].strip():
        return f"question must be a text, not {str(row['question'])[:60]!r}"
    if not isinstance(row.get("answer", ""), str):
        return f"answer must be a text, not {str(row['answer'])[:60]!r}"
    if not isinstance(row.get("answerable", True), bool):
        return f"answerable must be true or false, not {str(row['answerable'])[:60]!r}"
    if not isinstance(evidence, list) or not all(
        isinstance(e, dict) and isinstance(e.get("path"), str) and e["path"] for e in evidence
    ):
        return (
            f'evidence must be a list of {{"path": ..., "quote": ...}}, not {str(evidence)[:60]!r}'
        )
    for e in evidence:
        if not isinstance(e.get("quote", ""), str) or not isinstance(
            e.get("grade", 1), int | float
        ):
            return f"a quote must be a text and a grade a number: {str(e)[:80]}"
    return ""


def mean_scores(items: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean and interval of every metric, over the items that have it."""
    names = list(dict.fromkeys(name for item in items for name in item["scores"]))
    return {
        name: stats.metric_interval(
            name, [item["scores"][name] for item in items if item["scores"].get(name) is not None]
        ).as_dict()
        for name in names
    }


def suggest_threshold(items: Sequence[tuple[float, bool]], current: float) -> str:
    """The value of --abstain_below that tells these questions apart best, from (groundedness,
    answerable); "" with fewer than `MIN_OF_EACH` of a kind.

    >>> suggest_threshold([(0.9, True)] * 5 + [(0.5, False)] * 5, 0.6)
    '--abstain_below 0.70 answers 5 of 5 answerable questions and abstains from 5 of 5 others (now \
0.60: 5 and 5)'
    """
    good = sorted(value for value, answerable in items if answerable)
    bad = sorted(value for value, answerable in items if not answerable)
    if min(len(good), len(bad)) < MIN_OF_EACH:
        return ""

    def counts(threshold: float) -> tuple[int, int]:
        return sum(v >= threshold for v in good), sum(v < threshold for v in bad)

    def balanced(threshold: float) -> float:
        kept, refused = counts(threshold)
        return kept / len(good) + refused / len(bad)

    values = sorted({0.0, 1.0, *good, *bad})
    middles = [(a + b) / 2 for a, b in itertools.pairwise(values)]
    best = max(middles, key=lambda t: (round(balanced(t), 9), -abs(t - current)))
    kept, refused = counts(best)
    return (
        f"--abstain_below {best:.2f} answers {kept} of {len(good)} answerable questions and "
        f"abstains from {refused} of {len(bad)} others (now {current:.2f}: {counts(current)[0]} "
        f"and {counts(current)[1]})"
    )


def _item(row: dict[str, Any], session: Session, config: EvaluateConfig) -> dict[str, Any]:
    """One question: its ranking and, with `answers`, its answer."""
    start = time.monotonic()
    hits = session.retriever.search(row["question"], max(DEPTH, config.top_k), config)
    search_s = time.monotonic() - start
    evidence = row.get("evidence", [])
    scores: dict[str, float] = {}
    if evidence:
        scores |= ranking_scores(hits, evidence, config.top_k)
    scores["search_s"] = search_s
    item = {
        "id": row["id"],
        "question": row["question"],
        "groundedness": groundedness(hits[: config.top_k]),
        "scores": scores,
        "missing": missing_files(evidence, session.retriever.store),
        "passages": [f"{hit.chunk.path}:{hit.chunk.line}" for hit in hits],
    }
    if config.answers:
        item |= _answer(row, session, config, scores)
    return item


def _answer(
    row: dict[str, Any], session: Session, config: EvaluateConfig, scores: dict[str, float]
) -> dict[str, Any]:
    """The answer's part of an item; its scores are added to `scores`."""
    start = time.monotonic()
    answer, hits, calls = session.ask(row["question"], config)
    scores["latency_s"] = time.monotonic() - start
    answerable, evidence = row.get("answerable", True), row.get("evidence", [])
    scores["answered" if answerable else "abstained"] = float(answer.abstained != answerable)
    if evidence and answer.citations:
        good = [
            any(covers(hits[citation["n"] - 1], e) for e in evidence)
            for citation in answer.citations
            if citation["n"] <= len(hits)
        ]
        scores["citation_precision"] = sum(good) / len(good) if good else 0.0
    if answer.citations:
        scores["citations_valid"] = float(answer.wrong_citations == 0)
    if row.get("answer") and answerable:
        reference = str(row["answer"])
        scores |= {name: metric(answer.text, reference) for name, metric in TEXT_METRICS.items()}
    if calls.n_calls:
        scores["tool_validity"] = calls.n_valid / calls.n_calls
    return {
        "answer": answer.text,
        "reference": row.get("answer", ""),
        "citations": answer.citations,
        "dropped": answer.dropped,
        "tool_calls": calls.log,
    }


def missing_files(evidence: Sequence[dict[str, Any]], store: Store) -> list[str]:
    """Files of the evidence that are not in the index: no setting can find them."""
    return [str(row["path"]) for row in evidence if not store.has_file_like(str(row["path"]))]
