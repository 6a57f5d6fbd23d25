"""Extractive answers: the sentences of the passages that are closest to a question."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onecard.inference.embeddings import Embedder
from onecard.tasks.rag.analyzer import terms
from onecard.tasks.rag.retrieve import Hit

PROSE = re.compile(r"\s*(?=(?:\S+ ){2,}\S)[-\w`*\"'(\[][^={};]*$")
"""A line of running text: three words or more, and no character that only code has."""
LIST_MARKER = re.compile(r"\s*([-*+] |\* ?\*|\d+[.)] )")
MARKDOWN_PREFIX = re.compile(r"^[\s#>|]*(?:[-*+]\s+)?")
SENTENCE_PARTS = re.compile(r".+?(?:[.!?](?=\s|$)|[。！？]|$)")
MAX_QUOTE_CHARS = 400
MAX_SENTENCES_PER_PASSAGE = 40
EMBEDDED_SENTENCES = 24
"""Best sentences by terms that are also compared by meaning: they take about 0.5 s to embed."""
COSINE_WEIGHT = 8
"""Cosines of e5 differ by hundredths, shares of terms by tenths."""


@dataclass(frozen=True)
class Quote:
    n: int
    """Number of the passage in the answer, from 1."""
    text: str
    score: float


def best_quotes(
    question: str, hits: Sequence[Hit], embedder: Embedder | None, limit: int = 3
) -> list[Quote]:
    """The sentences or lines that are closest to the question by terms and meaning, best first."""
    candidates: list[tuple[int, str]] = []
    for n, hit in enumerate(hits, 1):
        sentences = split_sentences(hit.chunk.text)
        new = [(n, text) for text in sentences if not is_echo(question, text)]
        candidates += new[:MAX_SENTENCES_PER_PASSAGE]
    if not candidates:
        return []
    scores = _scores(question, candidates, hits, embedder)
    chosen: list[Quote] = []
    for i in np.argsort(-scores, kind="stable"):
        n, text = candidates[i]
        if all(text not in quote.text and quote.text not in text for quote in chosen):
            chosen.append(Quote(n, text, float(scores[i])))
        if len(chosen) == limit:
            break
    return [quote for quote in chosen if quote.score > chosen[0].score - 1.0]


def _scores(
    question: str,
    candidates: Sequence[tuple[int, str]],
    hits: Sequence[Hit],
    embedder: Embedder | None,
) -> np.ndarray:
    """(n,): share of the question's terms, rank of the passage and, for the best, the cosine."""
    question_terms = set(terms(question))
    titles = {n: set(terms(hit.chunk.title)) for n, hit in enumerate(hits, 1)}
    overlap = np.array(
        [
            len(question_terms & (set(terms(text)) | titles[n])) / max(len(question_terms), 1)
            for n, text in candidates
        ]
    )
    passage_scores = np.array([hits[n - 1].score for n, _ in candidates])
    scores = overlap + 0.5 * passage_scores / max(float(passage_scores.max()), 1e-9)
    if embedder is not None:
        near = np.argsort(-scores, kind="stable")[:EMBEDDED_SENTENCES]
        vectors = embedder.passages([candidates[i][1] for i in near])
        cosines = vectors @ embedder.queries([question])[0]
        scores = scores - 10.0  # behind all that were embedded
        scores[near] += 10.0 + COSINE_WEIGHT * (cosines - cosines.mean())
    return scores


def split_sentences(text: str) -> list[str]:
    """Sentences of prose, also over line ends, and lines of code; very short ones are left out.

    >>> split_sentences("The limit is how long\\nto wait. It is five seconds.\\nt = Timeout(5.0)")
    ['The limit is how long to wait.', 'It is five seconds.', 't = Timeout(5.0)']
    """
    sentences = []
    for line in _joined_lines(text):
        parts = [line]
        if len(line) > 120 or PROSE.match(line):
            parts = SENTENCE_PARTS.findall(line)
        for part in parts:
            clean = MARKDOWN_PREFIX.sub("", part).strip(" \t|")
            clean = clean.removeprefix('"""').removesuffix('"""')
            if len(clean) >= 12 or (len(clean) >= 5 and not clean.isascii()):
                sentences.append(clean[:MAX_QUOTE_CHARS])
    return sentences


def _joined_lines(text: str) -> list[str]:
    """Lines, with those joined that continue a sentence of prose."""
    lines: list[str] = []
    for line in text.split("\n"):
        if (
            lines
            and lines[-1][-1:] not in (*'.!?:。！？"', "")
            and PROSE.match(lines[-1])
            and PROSE.match(line)
            and not LIST_MARKER.match(line)
        ):
            lines[-1] += " " + line.strip()
        else:
            lines.append(line.rstrip())
    return lines


def is_echo(question: str, sentence: str) -> bool:
    """Whether a sentence has no term that the question does not have."""
    return set(terms(sentence)) <= set(terms(question)) | {"question", "answer"}
