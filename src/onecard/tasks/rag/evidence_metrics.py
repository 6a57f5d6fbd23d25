"""Retrieval metrics against quoted evidence: rankings, and tokens of the quotes.

Evidence is a row {"path": ..., "quote"?: ..., "grade"?: 1}. The path may be the end of one, as
docs/a.md. Evidence is found by a passage of that file with at least half of the quote in one run;
without a quote, by any passage of the file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from onecard.evaluation.metrics import retrieval
from onecard.evaluation.metrics.text import words
from onecard.tasks.rag.retrieve import Hit

DEPTH = 10
"""Depth of nDCG@10, MRR@10 and recall@10, whatever top_k is: papers report these."""
Evidence = Mapping[str, Any]


def ranking_scores(hits: Sequence[Hit], evidence: Sequence[Evidence], k: int) -> dict[str, float]:
    """recall@k, recall@10, nDCG@10 and MRR over the evidence; token scores of the first k hits."""
    # place in the ranking, and the evidence that is found there for the first time
    ranked: list[tuple[int, list[str]]] = []
    found_ids: set[str] = set()
    for place, hit in enumerate(hits):
        covered = [str(i) for i, row in enumerate(evidence) if covers(hit, row)]
        new = [i for i in covered if i not in found_ids]
        # another passage of evidence that was found already takes no place in the ranking
        if new or not covered:
            ranked.append((place, new))
        found_ids |= set(new)
    order = [i for _, new in ranked for i in (new or ["-"])]
    gains = {str(i): float(row.get("grade", 1)) for i, row in enumerate(evidence)}
    within_k = {i for place, new in ranked if place < k for i in new}
    scores = {f"recall@{k}": len(within_k) / len(gains)}
    if k != DEPTH:
        scores[f"recall@{DEPTH}"] = retrieval.recall_at(order, set(gains), DEPTH)
    scores |= {
        "ndcg@10": retrieval.ndcg_at(order, gains, DEPTH),
        "mrr": retrieval.reciprocal_rank(order[:DEPTH], set(gains)),
    }
    return scores | token_scores(hits[:k], evidence)


def token_scores(hits: Sequence[Hit], evidence: Sequence[Evidence]) -> dict[str, float]:
    """Recall, precision and IoU over words: the quotes against the passages.

    As in Smith & Troynikov 2024; empty without quotes.
    """
    quoted = [row for row in evidence if row.get("quote")]
    if not quoted:
        return {}
    n_quoted = n_common = 0
    for row in quoted:
        quote = words(str(row["quote"]))
        n_quoted += len(quote)
        n_common += max(
            (
                longest_common_end(quote, words(hit.chunk.text))
                for hit in hits
                if _same_file(hit.chunk.path, str(row["path"]))
            ),
            default=0,
        )
    n_passages = sum(len(words(hit.chunk.text)) for hit in hits)
    n_union = n_quoted + n_passages - n_common
    return {
        "token_recall": n_common / n_quoted if n_quoted else 0.0,
        "token_precision": n_common / n_passages if n_passages else 0.0,
        "token_iou": n_common / n_union if n_union > 0 else 0.0,
    }


def longest_common_end(quote: list[str], passage: list[str]) -> int:
    """Words of the quote that the passage has in one run: all, or the most from its start or end.

    A passage that was cut in the quote has its start or its end. Fewer than 3 words count 0.
    """
    text, n = f" {' '.join(passage)} ", len(quote)
    if f" {' '.join(quote)} " in text:
        return n
    for size in range(n - 1, 2, -1):
        start, end = quote[:size], quote[-size:]
        if f" {' '.join(start)} " in text or f" {' '.join(end)} " in text:
            return size
    return 0


def _same_file(path: str, name: str) -> bool:
    return path == name or path.endswith("/" + name.lstrip("./"))


def covers(hit: Hit, evidence: Evidence) -> bool:
    """Whether a passage is this evidence."""
    if not _same_file(hit.chunk.path, str(evidence["path"])):
        return False
    quote = words(str(evidence.get("quote", "")))
    if not quote:
        return True
    return longest_common_end(quote, words(hit.chunk.titled_text())) >= len(quote) / 2
