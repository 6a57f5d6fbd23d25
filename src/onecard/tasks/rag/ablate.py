"""`onecard rag evaluate --ablate`: search settings compared on the same questions, in one table."""

from pathlib import Path
from typing import Any

from onecard.errors import DataError
from onecard.evaluation import stats
from onecard.reporting import Result, table
from onecard.runs.record import Run
from onecard.tasks.rag import descriptions
from onecard.tasks.rag.configs import EvaluateConfig, IndexConfig
from onecard.tasks.rag.evidence_metrics import DEPTH, ranking_scores
from onecard.tasks.rag.indexer import Indexer
from onecard.tasks.rag.retrieve import Retriever
from onecard.tasks.rag.store import Store

ItemScores = dict[str, dict[str, float]]
"""Question id -> metric -> score."""


def ablate(rows: list[dict[str, Any]], config: EvaluateConfig, run: Run) -> Result:
    """Score every variant; a winner is named only if the second best is worse beyond noise.

    Raises DataError for fewer than two questions with evidence.
    """
    rows = [row for row in rows if row.get("evidence")]
    if len(rows) < 2:
        raise DataError(
            "nothing to compare",
            why="fewer than 2 questions have evidence",
            fix="add evidence to the questions",
        )
    base = Retriever(config, run.reporter)
    variants = _search_variants(config) | _chunk_variants(config, base, run)
    scores: dict[str, ItemScores] = {}
    with run.reporter.progress("variants", len(variants)) as bar:
        for name, variant in variants.items():
            same_index = variant.index == config.index or not variant.index
            retriever = base if same_index else Retriever(variant, run.reporter, base.embedder)
            scores[name] = {
                row["id"]: ranking_scores(
                    retriever.search(row["question"], max(DEPTH, config.top_k), variant),
                    row["evidence"],
                    config.top_k,
                )
                for row in rows
            }
            bar.step(note=name)
    return _compare(scores, config, run)


def _search_variants(config: EvaluateConfig) -> dict[str, EvaluateConfig]:
    """Ways of searching the index as it is."""
    variants = {
        mode: config.model_copy(update={"mode": mode, "rerank_model": ""})
        for mode in ("lexical", "dense", "hybrid")
    }
    variants["hybrid, feedback"] = config.model_copy(
        update={"mode": "hybrid", "pseudo_relevance_feedback": True, "rerank_model": ""}
    )
    if config.rerank_model:
        variants["reranked"] = config.model_copy(update={"mode": "hybrid"})
    return variants


def _chunk_variants(config: EvaluateConfig, base: Retriever, run: Run) -> dict[str, EvaluateConfig]:
    """Half and double the chunk size, each indexed into a folder of its own."""
    variants = {}
    for size in (config.chunk_tokens // 2, config.chunk_tokens * 2):
        if not 32 <= size <= 2000:
            continue
        folder = base.store.folder / f"chunks-{size}"
        variant = config.model_copy(
            update={"mode": "hybrid", "rerank_model": "", "index": str(folder)}
        )
        kept = base.store.folder / descriptions.KEPT
        files = [Path(name) for name in base.store.meta("descriptions").split("\n") if name]
        build = IndexConfig(
            descriptions=tuple(str(path) for path in (*files, kept) if path.is_file()),
            index=str(folder),
            embedding_model=base.config.embedding_model,
            chunk_tokens=size,
            n_threads=config.n_threads,
        )
        store = Store(folder, create=True)
        run.reporter.line(f"indexing with passages of {size} tokens")
        Indexer(store, build, run.reporter, base.embedder).update(base.store.roots())
        store.close()
        variants[f"hybrid, {size} tokens"] = variant
    return variants


def _compare(scores: dict[str, ItemScores], config: EvaluateConfig, run: Run) -> Result:
    """The table, best nDCG@10 first, each variant tested against the best, all tests together."""
    columns = [f"recall@{config.top_k}", "ndcg@10", "mrr", "token_recall", "token_iou"]
    means = {
        name: {
            metric: stats.metric_interval(
                metric, [s[metric] for s in items.values() if metric in s]
            )
            for metric in columns
        }
        for name, items in scores.items()
    }
    order = sorted(scores, key=lambda name: -means[name]["ndcg@10"].value)
    ndcg = {
        name: {i: item["ndcg@10"] for i, item in items.items()} for name, items in scores.items()
    }
    best = order[0]
    against_best = stats.holm(
        {name: stats.compare_metric("ndcg@10", ndcg[name], ndcg[best]) for name in order[1:]}
    )
    cells = []
    for name in order:
        values = [means[name][metric] for metric in columns]
        test = against_best[name].render() if name in against_best else "the best mean"
        cells.append([name, *(v.render() if v.n else "–" for v in values), test])
    second = against_best[order[1]]
    verdict = f"winner: {best}"
    if second.verdict != stats.BETTER:
        verdict = (
            f"winner: {stats.INCONCLUSIVE} ({best} and {order[1]} differ by "
            f"{second.delta.value:+.3f} nDCG@10, p={second.p_value:.2f})"
        )
    run.scores(
        {f"{name}: ndcg@10": means[name]["ndcg@10"].as_dict() for name in order}, verdicts=[verdict]
    )
    run.items(
        [
            {"id": i, "scores": {f"{name}: ndcg@10": ndcg[name][i] for name in order}}
            for i in ndcg[best]
        ]
    )
    text = table(cells, ["variant", *columns, "the best against it (nDCG@10)"])
    data = {
        "verdict": verdict,
        "variants": {
            name: {metric: value.as_dict() for metric, value in row.items()}
            for name, row in means.items()
        },
    }
    return Result(data, f"{text}\n{verdict}")
