"""Extractive answers: the sentences of the passages that are closest to a question."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onecard.inference.embeddings import Embedder
from onecard.tasks.rag.analyzer import is_compound, terms
from onecard.tasks.rag.retrieve import Hit
from onecard.tasks.rag.units import Unit, units

SHORT_QUOTE_CHARS = 80
MAX_UNITS_PER_PASSAGE = 80
EMBEDDED_UNITS = 48
"""Best ones by terms that are also compared by meaning: they take about 0.5 s to embed."""
NEW_TERMS_WEIGHT = 3
"""Of the question's terms that no quotation before has: the second half of a question over two
notes counts more than another sentence like the first."""
COSINE_WEIGHT = 8
"""Cosines of e5 differ by hundredths, shares of terms by tenths."""


@dataclass(frozen=True)
class Quote:
    n: int
    """Number of the passage in the answer, from 1."""
    text: str
    score: float
    heading: str = ""
    """The nearest heading above it."""

    def render(self) -> str:
        """In quotation marks, behind its heading, without which a short line says nothing."""
        if self.heading and len(self.text) < SHORT_QUOTE_CHARS:
            return f'{self.heading}: "{self.text}"'
        return f'"{self.text}"'


def best_quotes(
    question: str, hits: Sequence[Hit], embedder: Embedder | None, limit: int = 3
) -> list[Quote]:
    """The sentences, lines or table rows that are closest to the question by terms and meaning,
    best first; those after the first by what they add to it."""
    candidates: list[tuple[int, Unit]] = []
    for n, hit in enumerate(hits, 1):
        own = [unit for unit in units(hit.chunk) if not is_echo(question, unit.text)]
        candidates += [(n, unit) for unit in own[:MAX_UNITS_PER_PASSAGE]]
    if not candidates:
        return []
    scores = _scores(question, candidates, hits, embedder)
    unit_terms = [unit.terms() for _, unit in candidates]
    chosen: list[Quote] = []
    open_terms = set(terms(question))
    total = sum(map(_weight, open_terms))
    while len(chosen) < limit:
        gains = np.array(
            [sum(map(_weight, open_terms & own)) / max(total, 1) for own in unit_terms]
        )
        order = np.argsort(-(scores + (NEW_TERMS_WEIGHT * gains if chosen else 0)), kind="stable")
        best = next((i for i in order if _is_new(candidates[i][1], chosen)), None)
        if best is None:
            break
        n, unit = candidates[best]
        if not chosen or scores[best] + NEW_TERMS_WEIGHT * gains[best] > chosen[0].score - 1.0:
            chosen.append(Quote(n, unit.text, float(scores[best]), unit.heading))
        else:
            break
        open_terms -= unit_terms[best]
    return chosen


def _is_new(unit: Unit, chosen: Sequence[Quote]) -> bool:
    return all(unit.text not in quote.text and quote.text not in unit.text for quote in chosen)


def _scores(
    question: str,
    candidates: Sequence[tuple[int, Unit]],
    hits: Sequence[Hit],
    embedder: Embedder | None,
) -> np.ndarray:
    """(n,): share of the question's terms, rank of the passage and, for the best, the cosine."""
    question_terms = set(terms(question))
    overlap = np.array([term_share(question_terms, unit) for _, unit in candidates])
    passage_scores = np.array([hits[n - 1].score for n, _ in candidates])
    scores = overlap + 0.5 * passage_scores / max(float(passage_scores.max()), 1e-9)
    if embedder is not None:
        near = np.argsort(-scores, kind="stable")[:EMBEDDED_UNITS]
        vectors = embedder.passages([candidates[i][1].titled() for i in near])
        cosines = vectors @ embedder.queries([question])[0]
        scores = scores - 10.0  # behind all that were embedded
        scores[near] += 10.0 + COSINE_WEIGHT * (cosines - cosines.mean())
    return scores


def term_share(question_terms: set[str], unit: Unit) -> float:
    """Share of the question's terms that a unit has, itself or in its context. Versions, dates and
    other numbers in groups count fourfold: they are what look-alikes differ in."""
    common = question_terms & unit.terms()
    total = sum(_weight(term) for term in question_terms)
    return sum(_weight(term) for term in common) / max(total, 1)


def _weight(term: str) -> float:
    return 4.0 if is_compound(term) else 1.0


def is_echo(question: str, sentence: str) -> bool:
    """Whether a sentence has no term that the question does not have."""
    return set(terms(sentence)) <= set(terms(question)) | {"question", "answer"}
