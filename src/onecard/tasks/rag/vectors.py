"""Vectors to search in: FAISS in this process, or Qdrant; the same answers. Knows ids and vectors,
no text."""

from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np

from onecard import fsio
from onecard.errors import DataError, EngineError, MissingExtra
from onecard.tasks.rag.store import Store


class VectorIndex(Protocol):
    """Over (N, dim) unit vectors in the order of `Store.ids`."""

    mean: np.ndarray

    def search(self, question: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows, cosines) of the k nearest, best first."""

    def at(self, rows: np.ndarray) -> np.ndarray:
        """(n, dim) vectors of some rows."""


def open_index(store: Store, kind: str, url: str, ids: np.ndarray) -> VectorIndex:
    """Raises MissingExtra, EngineError."""
    return _Qdrant(store, url, ids) if kind == "qdrant" else _Faiss(store)


class _Faiss:
    """A flat index: exact, 15 ms for 100,000 vectors; its file is made anew when the database has
    changed."""

    def __init__(self, store: Store) -> None:
        path = store.folder / f"vectors-{store.generation}.faiss"
        self._index = self._read(path)
        if self._index is None:
            vectors = store.vectors()
            self._index = faiss.IndexFlatIP(max(vectors.shape[1], 1))
            if len(vectors):
                self._index.add(vectors)
            store._keep(path, "vectors-*.faiss", lambda target: _save(self._index, target))
        held = (
            faiss.rev_swig_ptr(self._index.get_xb(), self._index.ntotal * self._index.d)
            if self._index.ntotal
            else np.zeros(0, np.float32)
        )
        self._vectors = held.reshape(self._index.ntotal, self._index.d)
        self.mean = (
            self._vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
            if len(self._vectors)
            else np.zeros(self._index.d, np.float32)
        )

    @staticmethod
    def _read(path: Path) -> Any:
        try:
            return faiss.read_index(str(path)) if path.exists() else None
        except RuntimeError:
            return None

    def search(self, question: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        k = min(k, self._index.ntotal)
        if not k:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        scores, rows = self._index.search(question[None].astype(np.float32), k)
        order = np.lexsort(
            (rows[0], -scores[0])
        )  # equal scores in the order of ids, whatever the library did
        return rows[0][order], scores[0][order]

    def at(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self._vectors[rows])


def _save(index: Any, path: Path) -> None:

    with fsio.atomic_write(path) as draft:
        try:
            faiss.write_index(index, str(draft))
        except RuntimeError as fault:
            raise DataError(
                f"{path} cannot be written", why=str(fault)[:200], fix="free some disk space"
            ) from None


class _Qdrant:
    """A collection of a Qdrant server, or Qdrant's own files in the index folder; filled anew when
    the database has changed."""

    def __init__(self, store: Store, url: str, ids: np.ndarray) -> None:
        try:
            import qdrant_client
        except ModuleNotFoundError:
            raise MissingExtra(
                "store qdrant needs qdrant_client",
                why="it is not installed",
                fix="pip install 'onecard[rag]'",
            ) from None
        self._models = qdrant_client.models
        self._exact = (
            self._models.SearchParams(exact=True) if url else None
        )  # local files are always searched exactly, and warn of it
        self._ids = ids
        self._name = f"onecard-{store.folder.name}"
        try:
            self._client = (
                qdrant_client.QdrantClient(url=url, timeout=60)
                if url
                else qdrant_client.QdrantClient(path=str(store.folder / "qdrant"))
            )
            self._fill(store, url)
        except DataError:
            raise
        except Exception as fault:  # the client raises httpx's, its own and portalocker's errors
            raise EngineError(
                "Qdrant does not answer" if url else "Qdrant's files do not open",
                why=str(fault).splitlines()[0][:200],
                fix=f"start Qdrant at {url}"
                if url
                else "close the other program that has this index open",
            ) from None
        vectors = store.vectors()
        self.mean = (
            vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
            if len(vectors)
            else np.zeros(1, np.float32)
        )

    def _fill(self, store: Store, url: str) -> None:
        stamp = f"{url}@{store.generation}"
        if (
            store.meta("qdrant") == stamp
            and self._client.collection_exists(self._name)
            and self._client.count(self._name).count == len(self._ids)
        ):
            return
        vectors = store.vectors()
        if self._client.collection_exists(self._name):
            self._client.delete_collection(self._name)
        self._client.create_collection(
            self._name,
            vectors_config=self._models.VectorParams(
                size=max(vectors.shape[1], 1), distance=self._models.Distance.DOT
            ),
        )
        for start in range(0, len(self._ids), 512):
            part = slice(start, start + 512)
            self._client.upsert(
                self._name,
                self._models.Batch(
                    ids=[int(i) for i in self._ids[part]], vectors=vectors[part].tolist()
                ),
                wait=True,
            )
        store.set_meta("qdrant", stamp)

    def search(self, question: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if not len(self._ids):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        found = self._client.query_points(
            self._name,
            query=question.tolist(),
            limit=min(k, len(self._ids)),
            search_params=self._exact,
        ).points
        ids, scores = (
            np.array([point.id for point in found], dtype=np.int64),
            np.array([point.score for point in found], dtype=np.float32),
        )
        rows = np.searchsorted(self._ids, ids)
        order = np.lexsort((rows, -scores))
        return rows[order], scores[order]

    def at(self, rows: np.ndarray) -> np.ndarray:
        points = self._client.retrieve(
            self._name, ids=[int(self._ids[row]) for row in rows], with_vectors=True
        )
        held = {point.id: point.vector for point in points}
        return np.array([held[int(self._ids[row])] for row in rows], dtype=np.float32)
