"""Scores search and answers on a question set: passages, tokens, citations, abstention, text,
latency, each with an interval.

A row: {"question": ..., "answer"?: ..., "answerable"?: true, "evidence"?: [{"path": ..., "quote"?:
..., "grade"?: 1}], "id"?: ...}.
A path may be the end of one, as docs/a.md. Evidence with a quote is found when a passage of that
file holds its words.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onecard.datasets import rows as data_rows
from onecard.errors import DataError, SettingsError
from onecard.evaluation import metrics, stats
from onecard.reporting import Result, table
from onecard.runs.compare import regressions
from onecard.runs.record import Run, fingerprint
from onecard.runs.store import RunRecord, recent
from onecard.tasks.rag.ask import Session, session
from onecard.tasks.rag.configs import Settings
from onecard.tasks.rag.index import Indexer
from onecard.tasks.rag.retrieve import Hit, Retriever
from onecard.tasks.rag.store import Store

DEPTH = 10
"""How deep a ranking is scored, whatever top_k says: nDCG@10 and MRR@10 are what papers give."""


def evaluate(settings: Settings, run: Run) -> Result:
    """Raises DataError with file:line, SettingsError without questions."""
    if not settings.questions:
        raise SettingsError(
            "there are no questions to score",
            why="--questions names no file",
            fix="--questions FILE; draft one with: onecard rag make-questions FILE",
        )
    path = Path(settings.questions)
    rows = data_rows.jsonl(path, need=("question",), check=_wrong)
    for number, row in enumerate(rows, 1):
        row["id"] = str(row.get("id", number))
    seen = [row["id"] for row in rows]
    if twice := next((i for i in seen if seen.count(i) > 1), ""):
        raise DataError(
            f"{path} has two rows of the id {twice}",
            why="results are paired by id",
            fix="make the ids differ, or leave them out",
        )
    run.data("questions", rows=len(rows), sha256=fingerprint(path))
    if settings.ablate:
        return _ablate(rows, settings, run)
    searching = settings if settings.answers else settings.model_copy(update={"style": "quote"})
    items: list[dict[str, Any]] = []
    with session(searching, run) as opened, run.reporter.progress("questions", len(rows)) as bar:
        run.data("index", rows=len(opened.retriever.ids), sha256=opened.retriever.store.digest())
        for number, row in enumerate(rows):
            items.append(_score(row, opened, settings))
            run.log(number, latency_s=items[-1]["scores"].get("latency_s", 0.0))
            bar.step()
    result = summary(items)
    run.items(items)
    verdicts = [
        f"{row['id']}: evidence not in the index: {row['missing'][0]}"
        for row in items
        if row["missing"]
    ][:10]
    run.scores(result, verdicts=verdicts)
    if run.folder:
        verdicts += regressions(RunRecord(run.folder), recent())
        run.scores(result, verdicts=verdicts)
    cells = [
        [name, f"{r['value']:.3f}", f"{r['low']:.3f} – {r['high']:.3f}", str(r["n"])]
        for name, r in result.items()
    ]
    return Result(
        {"metrics": result, "verdicts": verdicts},
        "\n".join([table(cells, ["metric", "value", "95 % interval", "items"]), *verdicts]),
    )


def _wrong(row: dict[str, Any]) -> str:
    """What is wrong with a row of a question set; empty when nothing is."""
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
    bad = next(
        (
            e
            for e in evidence
            if not isinstance(e.get("quote", ""), str)
            or not isinstance(e.get("grade", 1), int | float)
        ),
        None,
    )
    return f"a quote must be a text and a grade a number: {str(bad)[:80]}" if bad else ""


def summary(items: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every metric's mean with its interval, over the items that have it."""
    names = list(dict.fromkeys(name for item in items for name in item["scores"]))
    return {
        name: stats.mean_interval(
            [item["scores"][name] for item in items if item["scores"].get(name) is not None]
        ).as_dict()
        for name in names
    }


def _score(row: dict[str, Any], opened: Session, settings: Settings) -> dict[str, Any]:
    """One question: its ranking, and its answer when answers are wanted."""
    started = time.monotonic()
    hits = opened.retriever.search(row["question"], max(DEPTH, settings.top_k), settings)
    scores: dict[str, float] = {}
    evidence = row.get("evidence", [])
    if evidence:
        scores |= ranking_scores(hits, evidence, settings.top_k)
    scores["search_s"] = time.monotonic() - started
    item = {
        "id": row["id"],
        "question": row["question"],
        "scores": scores,
        "missing": missing(evidence, opened.retriever.store),
        "passages": [f"{hit.chunk.path}:{hit.chunk.line}" for hit in hits],
    }
    if settings.answers:
        started = time.monotonic()
        done, cited_hits, calls = opened.ask(row["question"], settings)
        scores["latency_s"] = time.monotonic() - started
        answerable = row.get("answerable", True)
        scores["answered" if answerable else "abstained"] = float(done.abstained != answerable)
        if evidence and done.citations:
            good = [
                any(_covers(cited_hits[c["n"] - 1], e) for e in evidence)
                for c in done.citations
                if c["n"] <= len(cited_hits)
            ]
            scores["citation_precision"] = sum(good) / len(good) if good else 0.0
        if done.citations:
            scores["citations_valid"] = float(done.wrong_citations == 0)
        if row.get("answer") and answerable:
            scores |= {
                name: metric(done.text, str(row["answer"]))
                for name, metric in metrics.TEXT_METRICS.items()
            }
        if calls.made:
            scores["tool_validity"] = calls.valid / calls.made
        item |= {
            "answer": done.text,
            "reference": row.get("answer", ""),
            "citations": done.citations,
            "dropped": done.dropped,
            "tool_calls": calls.log,
        }
    return item


def ranking_scores(
    hits: Sequence[Hit], evidence: Sequence[dict[str, Any]], k: int
) -> dict[str, float]:
    """recall@k, recall@10, nDCG@10 and MRR by evidence found; recall, precision and IoU by tokens
    of the quotes in the first k passages."""
    ranked, seen = [], set()
    for place, hit in enumerate(hits):
        found = [
            str(i) for i, row in enumerate(evidence) if str(i) not in seen and _covers(hit, row)
        ]
        if found or not any(
            _covers(hit, row) for row in evidence
        ):  # another passage of a found document is passed over
            ranked.append((place, found))
        seen |= set(found)
    order = [name for _, found in ranked for name in (found or ["-"])]
    gains = {str(i): float(row.get("grade", 1)) for i, row in enumerate(evidence)}
    relevant = set(gains)
    within = {name for place, found in ranked if place < k for name in found}
    scores = {f"recall@{k}": len(within) / len(relevant)}
    if k != DEPTH:
        scores[f"recall@{DEPTH}"] = metrics.recall_at(order, relevant, DEPTH)
    scores |= {
        "ndcg@10": metrics.ndcg_at(order, gains, DEPTH),
        "mrr": metrics.reciprocal_rank(order[:DEPTH], relevant),
    }
    return scores | token_scores(hits[:k], evidence)


def token_scores(hits: Sequence[Hit], evidence: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How much of the quoted evidence the passages hold, and how much of what they hold is evidence
    (Smith & Troynikov 2024)."""
    quoted = [row for row in evidence if row.get("quote")]
    if not quoted:
        return {}
    wanted = held = 0
    for row in quoted:
        words = metrics.words(str(row["quote"]))
        wanted += len(words)
        held += max(
            (
                _longest_run(words, metrics.words(hit.chunk.text))
                for hit in hits
                if _same_file(hit.chunk.path, str(row["path"]))
            ),
            default=0,
        )
    given = sum(len(metrics.words(hit.chunk.text)) for hit in hits)
    return {
        "token_recall": held / wanted if wanted else 0.0,
        "token_precision": held / given if given else 0.0,
        "token_iou": held / (wanted + given - held) if wanted + given > held else 0.0,
    }


def _longest_run(wanted: list[str], words: list[str]) -> int:
    """Words of the quote that stand in the passage in one run: all of them, or the longest part
    from its start or to its end."""
    text, n = f" {' '.join(words)} ", len(wanted)
    if f" {' '.join(wanted)} " in text:
        return n
    for size in range(n - 1, 2, -1):  # a passage that was cut holds the head or the tail of a quote
        if f" {' '.join(wanted[:size])} " in text or f" {' '.join(wanted[-size:])} " in text:
            return size
    return 0


def _same_file(path: str, named: str) -> bool:
    return path == named or path.endswith("/" + named.lstrip("./"))


def _covers(hit: Hit, row: dict[str, Any]) -> bool:
    """Whether a passage is this evidence: of that file, and with at least half of the quote in one
    run."""
    if not _same_file(hit.chunk.path, str(row["path"])):
        return False
    wanted = metrics.words(str(row.get("quote", "")))
    return (
        not wanted
        or _longest_run(wanted, metrics.words(f"{hit.chunk.head}\n{hit.chunk.text}"))
        >= len(wanted) / 2
    )


def missing(evidence: Sequence[dict[str, Any]], store: Store) -> list[str]:
    """Evidence whose file is not in the index: such a question cannot be answered, whatever the
    settings."""
    return [
        str(row["path"])
        for row in evidence
        if not store.db.execute(
            "SELECT 1 FROM files WHERE path = ? OR path LIKE ?",
            (row["path"], "%/" + str(row["path"]).lstrip("./")),
        ).fetchone()
    ]


def _ablate(rows: list[dict[str, Any]], settings: Settings, run: Run) -> Result:
    """Each way of searching over the same questions, in one table; the winner is named when the
    next one is worse beyond noise."""
    rows = [row for row in rows if row.get("evidence")]
    if len(rows) < 2:
        raise DataError(
            "nothing to compare",
            why="fewer than 2 questions have evidence",
            fix="add evidence to the questions",
        )
    variants: dict[str, Settings] = {
        mode: settings.model_copy(update={"mode": mode, "rerank_model": ""})
        for mode in ("lexical", "dense", "hybrid")
    }
    variants["hybrid, no feedback"] = settings.model_copy(
        update={"mode": "hybrid", "feedback": False, "rerank_model": ""}
    )
    if settings.rerank_model:
        variants["reranked"] = settings.model_copy(update={"mode": "hybrid"})
    base = Retriever(settings, run.reporter)
    for size in (settings.chunk_tokens // 2, settings.chunk_tokens * 2):
        if 32 <= size <= 2000:
            folder = base.store.folder / f"chunks-{size}"
            changed = settings.model_copy(
                update={
                    "chunk_tokens": size,
                    "mode": "hybrid",
                    "rerank_model": "",
                    "index": str(folder),
                }
            )
            held = Store(folder, create=True)
            run.reporter.line(f"indexing with passages of {size} tokens")
            Indexer(held, changed, run.reporter, base.embedder).update(base.roots())
            held.close()
            variants[f"hybrid, {size} tokens"] = changed
    per: dict[str, dict[str, dict[str, float]]] = {}
    with run.reporter.progress("variants", len(variants)) as bar:
        for name, varied in variants.items():
            opened = (
                base
                if varied.index == settings.index or not varied.index
                else Retriever(varied, run.reporter, base.embedder)
            )
            per[name] = {
                row["id"]: ranking_scores(
                    opened.search(row["question"], max(DEPTH, settings.top_k), varied),
                    row["evidence"],
                    settings.top_k,
                )
                for row in rows
            }
            bar.step(note=name)
    return _ablated(per, settings, run)


def _ablated(per: dict[str, dict[str, dict[str, float]]], settings: Settings, run: Run) -> Result:
    shown = [f"recall@{settings.top_k}", "ndcg@10", "mrr", "token_recall", "token_iou"]
    means = {
        name: {m: stats.mean_interval([s[m] for s in scores.values() if m in s]) for m in shown}
        for name, scores in per.items()
    }
    order = sorted(per, key=lambda name: -means[name]["ndcg@10"].value)
    first = {i: s["ndcg@10"] for i, s in per[order[0]].items()}
    against = {
        name: stats.compare({i: s["ndcg@10"] for i, s in per[name].items()}, first)
        for name in order[1:]
    }
    cells = [
        [
            name,
            *(means[name][m].render() if means[name][m].n else "–" for m in shown),
            against[name].render() if name in against else "the best mean",
        ]
        for name in order
    ]
    next_best = against[order[1]]
    verdict = (
        f"winner: {order[0]}"
        if next_best.verdict == "better"
        else f"winner: not shown ({order[0]} and {order[1]} differ by {next_best.delta.value:+.3f} "
        f"nDCG@10, p={next_best.p_value:.2f})"
    )
    run.scores(
        {f"{name}: ndcg@10": means[name]["ndcg@10"].as_dict() for name in order}, verdicts=[verdict]
    )
    run.items(
        [
            {"id": i, "scores": {f"{name}: ndcg@10": per[name][i]["ndcg@10"] for name in order}}
            for i in first
        ]
    )
    text = table(cells, ["variant", *shown, "the best against it (nDCG@10)"])
    return Result(
        {
            "verdict": verdict,
            "variants": {
                name: {m: v.as_dict() for m, v in row.items()} for name, row in means.items()
            },
        },
        f"{text}\n{verdict}",
    )
