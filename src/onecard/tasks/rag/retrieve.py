"""A question to passages: by meaning, by words or both, fused, with one step of feedback, and
reranked when asked. Knows no model that writes."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onecard.errors import DataError, NotFound, SettingsError
from onecard.inference.embeddings import Embedder, Reranker, open_embedder, open_reranker
from onecard.reporting import Reporter
from onecard.tasks.rag import fuse, store, vectors
from onecard.tasks.rag.configs import Settings
from onecard.tasks.rag.store import Chunk

RERANKED = 50
"""Passages that a reranker reads: a cross-encoder takes about 20 ms each on a card, 200 ms on two
cores."""
LONGEST_QUESTION = 4000
"""Characters of a question that are searched with; the embedder reads 512 tokens of them anyway."""


@dataclass(frozen=True)
class Hit:
    chunk: Chunk
    score: float
    """0 to 1 within one question, higher is better; a reranker's own scale when there is one."""
    dense: float
    """Cosine to the question."""
    lexical: float
    """BM25."""
    coverage: float
    """Share of the question's words, by rarity, that stand in the passage."""


class Retriever:
    """An open index with the models that search it.

    `search` may be called from one thread at a time.
    """

    def __init__(
        self, settings: Settings, reporter: Reporter | None = None, embedder: Embedder | None = None
    ) -> None:
        folder = (
            Path(settings.index)
            if settings.index
            else store.default_folder(settings.folders[0])
            if settings.folders
            else store.last_used()
        )
        if folder is None:
            raise NotFound(
                "there is no index yet",
                why="nothing was indexed on this machine",
                fix="make one first: onecard rag index FOLDER",
            )
        self.settings, self.reporter = settings, reporter or Reporter()
        self.store = store.Store(folder)
        made_with = json.loads(self.store.meta("made_with", "{}"))
        if made_with and made_with["embedding_model"] != settings.embedding_model:
            if "embedding_model" in settings.model_fields_set:
                raise SettingsError(
                    f"this index was made with {made_with['embedding_model']}, not "
                    f"{settings.embedding_model}",
                    why="vectors of two models do not compare",
                    fix="leave --embedding_model out, or index into another folder with it",
                )
            self.settings = settings = settings.model_copy(
                update={"embedding_model": made_with["embedding_model"]}
            )
        self.generation = -1
        self._embedder = embedder
        self._reranker: Reranker | None = None
        self._reranked_by = ""
        self.refresh()

    def refresh(self) -> None:
        """Take in what was indexed since; free when nothing was."""
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
        self.lexical = self.store.lexical()
        self.vectors = vectors.open_index(
            self.store, self.settings.store, self.settings.qdrant_url, self.ids
        )

    @property
    def embedder(self) -> Embedder:
        if self._embedder is None:
            self._embedder = open_embedder(
                self.settings.embedding_model, self.reporter, self.settings.n_threads
            )
        return self._embedder

    def roots(self) -> list[Path]:
        """The folders that were indexed."""
        return [Path(path) for path in self.store.meta("roots").split("\n") if path]

    def search(self, question: str, k: int = 0, settings: Settings | None = None) -> list[Hit]:
        """The k best passages, best first; the same question gives the same order."""
        settings = settings or self.settings
        self.refresh()
        k = k or settings.top_k
        question = question[:LONGEST_QUESTION]
        vector = self.embedder.queries([question])[0] if settings.mode != "lexical" else None
        rows, scores, cosines, bm25 = self.rank(question, vector, settings)
        wanted = max(k, RERANKED) if settings.rerank_model else k
        chunks = self.store.chunks([int(self.ids[row]) for row in rows[:wanted]])
        hits = [
            Hit(
                chunk,
                float(scores[i]),
                float(cosines[i]),
                float(bm25[i]),
                self.lexical.coverage(question, int(rows[i]), len(self.ids)),
            )
            for i, chunk in enumerate(chunks)
        ]
        return (
            self._reranked(question, hits, settings.rerank_model)[:k]
            if settings.rerank_model
            else hits
        )

    def rank(
        self, question: str, vector: np.ndarray | None, settings: Settings
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(rows, scores, cosines, BM25) of the candidates, best first, ties in the index's order."""
        n = len(self.ids)
        bm25 = (
            self.lexical.scores(question, n)
            if settings.mode != "dense"
            else np.zeros(n, np.float32)
        )
        if vector is None:
            rows = _best(bm25, settings.candidates)
            rows = rows[bm25[rows] > 0]
            return rows, fuse.positive(bm25[rows]), np.zeros(len(rows)), bm25[rows]
        rows, scores = self._fused(vector, bm25, settings)
        if settings.feedback and len(rows):
            vector_2 = fuse.feedback(vector, self.vectors.at(rows[: fuse.FEEDBACK_TOP]))
            rows, scores = self._fused(vector_2, bm25, settings)
        return rows, scores, self.vectors.at(rows) @ vector if len(rows) else scores, bm25[rows]

    def _fused(
        self, vector: np.ndarray, bm25: np.ndarray, settings: Settings
    ) -> tuple[np.ndarray, np.ndarray]:
        near, cosines = self.vectors.search(vector, settings.candidates)
        if settings.mode == "dense":
            return near, fuse.positive(cosines - float(vector @ self.vectors.mean))
        worded = _best(bm25, settings.candidates)
        rows = np.union1d(near, worded[bm25[worded] > 0]).astype(np.int64)
        known = dict(zip(near.tolist(), cosines.tolist(), strict=True))
        missing = np.array([row for row in rows.tolist() if row not in known], dtype=np.int64)
        if len(missing):
            known |= dict(
                zip(missing.tolist(), (self.vectors.at(missing) @ vector).tolist(), strict=True)
            )
        dense = np.array([known[row] for row in rows.tolist()], dtype=np.float32) - float(
            vector @ self.vectors.mean
        )
        scores = fuse.fuse(dense, bm25[rows], settings.lexical_weight)
        order = np.lexsort((rows, -scores))
        return rows[order], scores[order]

    def _reranked(self, question: str, hits: list[Hit], name: str) -> list[Hit]:
        if self._reranker is None or self._reranked_by != name:
            self._reranker, self._reranked_by = open_reranker(name, self.reporter), name
        scores: Any = (
            self._reranker.scores(question, [f"{hit.chunk.head}\n{hit.chunk.text}" for hit in hits])
            if hits
            else []
        )
        return sorted(
            (replace(hit, score=float(score)) for hit, score in zip(hits, scores, strict=True)),
            key=lambda hit: -hit.score,
        )

    def close(self) -> None:
        self.store.close()


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Places of the k highest, best first, equal ones in order."""
    if len(scores) > k:
        part = np.argpartition(-scores, k)[: k + 1]
        part = np.flatnonzero(scores >= scores[part].min()) if scores[part].min() > 0 else part
    else:
        part = np.arange(len(scores))
    return part[np.lexsort((part, -scores[part]))][:k]
