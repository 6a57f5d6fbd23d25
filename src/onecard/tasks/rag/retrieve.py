"""Retrieval: dense, lexical or hybrid search, pseudo-relevance feedback, reranking."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from onecard.errors import DataError, NotFound, SettingsError
from onecard.inference.embeddings import Embedder, open_embedder
from onecard.inference.rerankers import Reranker, open_reranker
from onecard.reporting import Reporter
from onecard.tasks.rag import rank_fusion, store, vector_index
from onecard.tasks.rag.configs import SearchConfig
from onecard.tasks.rag.coverage import coverage, question_parts
from onecard.tasks.rag.store import Chunk
from onecard.tasks.rag.units import units

RERANK_DEPTH = 50
"""Passages that a reranker reads. A cross-encoder takes about 20 ms for each on a GPU, 200 ms on 2
CPU cores."""
MAX_QUESTION_CHARS = 4000
"""Characters of a question that are searched with; the embedder reads 512 tokens of them anyway."""

UNRELATED_COSINE = 0.80
"""Of e5, between a question and a passage on another subject."""
PRIOR_PASSAGES = 5
"""Unrelated passages that are counted in beside those of an index."""


@dataclass(frozen=True)
class Hit:
    chunk: Chunk
    score: float
    """0 to 1 within one question, higher is better; with a reranker on its own scale."""
    dense: float
    """Cosine to the question."""
    lexical: float
    """BM25."""
    coverage: float
    """Share of the question's terms that its best sentence contains, weighted by rarity."""
    background: float | None = None
    """Mean cosine of the question to all passages; None in a search by words alone."""


class Retriever:
    """An open index with the models that search it; for one thread at a time."""

    def __init__(
        self,
        config: SearchConfig,
        reporter: Reporter | None = None,
        embedder: Embedder | None = None,
    ) -> None:
        self.reporter = reporter or Reporter()
        self.store = store.Store(_index_folder(config))
        self.config = self._with_embedding_model(config)
        self.generation = -1
        self._embedder = embedder
        self._reranker: Reranker | None = None
        self._reranker_name = ""
        self.refresh()

    def _with_embedding_model(self, config: SearchConfig) -> SearchConfig:
        """The settings with the index's own embedding model.

        Raises SettingsError when another one was asked for.
        """
        model = self.store.build_settings().get("embedding_model", config.embedding_model)
        if model == config.embedding_model:
            return config
        if "embedding_model" in config.model_fields_set:
            raise SettingsError(
                f"this index was made with {model}, not {config.embedding_model}",
                why="vectors of two models do not compare",
                fix="leave --embedding_model out, or index into another folder with it",
            )
        return config.model_copy(update={"embedding_model": model})

    def refresh(self) -> None:
        """Load what was indexed since the last call; costs nothing when there is no change.

        Raises DataError for an empty index.
        """
        if self.store.generation == self.generation:
            return
        self.generation = self.store.generation
        self.ids = self.store.ids()
        if not len(self.ids):
            raise DataError(
                f"the index in {self.store.folder} is empty",
                why="indexing was stopped before its first file, or found nothing to read",
                fix=f"onecard rag index FOLDER --index {self.store.folder}",
            )
        self.bm25 = self.store.bm25_index()
        self.vectors = vector_index.open_index(
            self.store, self.config.store, self.config.qdrant_url, self.ids
        )

    @property
    def embedder(self) -> Embedder:
        if self._embedder is None:
            self._embedder = open_embedder(
                self.config.embedding_model, self.reporter, self.config.n_threads
            )
        return self._embedder

    def search(self, question: str, k: int = 0, config: SearchConfig | None = None) -> list[Hit]:
        """The k best passages (0: top_k of the settings), best first.

        The same question gives the same order.
        """
        config = config or self.config
        self.refresh()
        k = k or config.top_k
        question = question[:MAX_QUESTION_CHARS]
        query = self.embedder.queries([question])[0] if config.mode != "lexical" else None
        rows, scores, cosines, bm25 = self.rank(question, query, config)
        depth = max(k, RERANK_DEPTH) if config.rerank_model else k
        chunks = self.store.chunks([int(self.ids[row]) for row in rows[:depth]])
        background = self._background(query) if query is not None else None
        hits = [
            Hit(chunk, float(scores[i]), float(cosines[i]), float(bm25[i]), 0.0, background)
            for i, chunk in enumerate(chunks)
        ]
        if config.rerank_model:
            hits = self._rerank(question, hits, config.rerank_model)
        parts = question_parts(question)
        rarity = partial(self.bm25.rarity, n=len(self.ids))
        return [
            replace(hit, coverage=coverage(parts, (u.terms() for u in units(hit.chunk)), rarity))
            for hit in hits[:k]
        ]

    def _background(self, query: np.ndarray) -> float:
        """Mean cosine to all passages; in a small index drawn to that of unrelated texts, as the
        answer itself is a large part of it."""
        n = len(self.ids)
        total = n * float(query @ self.vectors.mean) + PRIOR_PASSAGES * UNRELATED_COSINE
        return total / (n + PRIOR_PASSAGES)

    def rank(
        self, question: str, query: np.ndarray | None, config: SearchConfig
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(rows, scores, cosines, BM25) of the candidates, best first, ties in the order of rows.

        `query` is the question's vector (dim,); without it the search is lexical.
        """
        n = len(self.ids)
        bm25 = np.zeros(n, np.float32)
        if config.mode != "dense":
            bm25 = self.bm25.scores(question, n)
        if query is None:
            rows = _top_rows(bm25, config.candidates)
            rows = rows[bm25[rows] > 0]
            return rows, rank_fusion.max_normalize(bm25[rows]), np.zeros(len(rows)), bm25[rows]
        rows, scores = self._fused(query, bm25, config)
        if config.pseudo_relevance_feedback and len(rows):
            best = self.vectors.at(rows[: rank_fusion.FEEDBACK_PASSAGES])
            moved = rank_fusion.pseudo_relevance_feedback(query, best)
            rows, scores = self._fused(moved, bm25, config)
        cosines = self.vectors.at(rows) @ query if len(rows) else scores
        return rows, scores, cosines, bm25[rows]

    def _fused(
        self, query: np.ndarray, bm25: np.ndarray, config: SearchConfig
    ) -> tuple[np.ndarray, np.ndarray]:
        """(rows, scores) of the union of dense and lexical candidates, best first."""
        mean_cosine = float(query @ self.vectors.mean)
        near, cosines = self.vectors.search(query, config.candidates)
        if config.mode == "dense":
            return near, rank_fusion.max_normalize(cosines - mean_cosine)
        lexical = _top_rows(bm25, config.candidates)
        rows = np.union1d(near, lexical[bm25[lexical] > 0]).astype(np.int64)
        cosine_of = dict(zip(near.tolist(), cosines.tolist(), strict=True))
        others = np.array([row for row in rows.tolist() if row not in cosine_of], dtype=np.int64)
        if len(others):
            other_cosines = (self.vectors.at(others) @ query).tolist()
            cosine_of |= dict(zip(others.tolist(), other_cosines, strict=True))
        dense = np.array([cosine_of[row] for row in rows.tolist()], dtype=np.float32) - mean_cosine
        scores = rank_fusion.convex_combination(dense, bm25[rows], config.lexical_weight)
        order = np.lexsort((rows, -scores))
        return rows[order], scores[order]

    def _rerank(self, question: str, hits: list[Hit], name: str) -> list[Hit]:
        if self._reranker is None or self._reranker_name != name:
            self._reranker, self._reranker_name = open_reranker(name, self.reporter), name
        if not hits:
            return []
        scores = self._reranker.scores(question, [hit.chunk.titled_text() for hit in hits])
        rescored = [
            replace(hit, score=float(score)) for hit, score in zip(hits, scores, strict=True)
        ]
        return sorted(rescored, key=lambda hit: -hit.score)

    def close(self) -> None:
        self.store.close()


def _index_folder(config: SearchConfig) -> Path:
    """--index, else the last used. Raises NotFound."""
    if config.index:
        return Path(config.index)
    folder = store.last_used()
    if folder is None:
        raise NotFound(
            "there is no index yet",
            why="nothing was indexed on this machine",
            fix="make one first: onecard rag index FOLDER",
        )
    return folder


def _top_rows(scores: np.ndarray, k: int) -> np.ndarray:
    """Rows of the k highest scores, best first, ties in the order of rows."""
    if len(scores) > k:
        part = np.argpartition(-scores, k)[: k + 1]
        part = np.flatnonzero(scores >= scores[part].min()) if scores[part].min() > 0 else part
    else:
        part = np.arange(len(scores))
    return part[np.lexsort((part, -scores[part]))][:k]
