"""Exact nearest-neighbour search over the vectors of an index: FAISS in this process, or Qdrant."""

from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np

from onecard import fsio
from onecard.errors import DataError, EngineError, MissingExtra
from onecard.tasks.rag.store import Store


class VectorIndex(Protocol):
    """Over (N, dim) unit vectors; a row is a place in `Store.ids`."""

    mean: np.ndarray
    """(dim,) mean of all vectors."""

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows, cosines) of the k nearest, best first; equal ones in the order of rows."""

    def at(self, rows: np.ndarray) -> np.ndarray:
        """(n, dim) vectors of these rows."""


def open_index(store: Store, kind: str, url: str, ids: np.ndarray) -> VectorIndex:
    """`kind` is faiss or qdrant. Raises MissingExtra, EngineError."""
    return QdrantIndex(store, url, ids) if kind == "qdrant" else FaissIndex(store)


def _mean(vectors: np.ndarray) -> np.ndarray:
    if not len(vectors):
        return np.zeros(max(vectors.shape[1], 1), np.float32)
    return np.asarray(vectors.mean(axis=0, dtype=np.float64).astype(np.float32))


class FaissIndex:
    """A flat index: 15 ms for 100,000 vectors. Its file is rebuilt after a change of the store."""

    def __init__(self, store: Store) -> None:
        path = store.folder / f"vectors-{store.generation}.faiss"
        self._index = self._read(path)
        if self._index is None:
            vectors = store.vectors()
            self._index = faiss.IndexFlatIP(max(vectors.shape[1], 1))
            if len(vectors):
                self._index.add(vectors)
            store.save_derived(path, "vectors-*.faiss", lambda target: _save(self._index, target))
        n, dim = self._index.ntotal, self._index.d
        self._vectors = np.zeros((0, dim), np.float32)
        if n:  # a view of the index's own memory
            self._vectors = faiss.rev_swig_ptr(self._index.get_xb(), n * dim).reshape(n, dim)
        self.mean = _mean(self._vectors)

    @staticmethod
    def _read(path: Path) -> Any:
        try:
            return faiss.read_index(str(path)) if path.exists() else None
        except RuntimeError:
            return None

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        k = min(k, self._index.ntotal)
        if not k:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        scores, rows = self._index.search(query[None].astype(np.float32), k)
        order = np.lexsort((rows[0], -scores[0]))
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


class QdrantIndex:
    """A collection of a Qdrant server, or Qdrant's own files in the index folder.

    It is filled again after a change of the store.
    """

    def __init__(self, store: Store, url: str, ids: np.ndarray) -> None:
        try:
            import qdrant_client  # belongs to the extra `rag`
        except ModuleNotFoundError:
            raise MissingExtra(
                "store qdrant needs qdrant_client",
                why="it is not installed",
                fix="pip install 'onecard[rag]'",
            ) from None
        self._models = qdrant_client.models
        # local files are always searched exactly, and warn when it is asked for
        self._search_params = self._models.SearchParams(exact=True) if url else None
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
            what, fix = (
                "Qdrant's files do not open",
                "close the other program that has this index open",
            )
            if url:
                what, fix = "Qdrant does not answer", f"start Qdrant at {url}"
            raise EngineError(what, why=str(fault).splitlines()[0][:200], fix=fix) from None
        self.mean = _mean(store.vectors())

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

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if not len(self._ids):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        points = self._client.query_points(
            self._name,
            query=query.tolist(),
            limit=min(k, len(self._ids)),
            search_params=self._search_params,
        ).points
        scores = np.array([point.score for point in points], dtype=np.float32)
        rows = np.searchsorted(self._ids, np.array([point.id for point in points], dtype=np.int64))
        order = np.lexsort((rows, -scores))
        return rows[order], scores[order]

    def at(self, rows: np.ndarray) -> np.ndarray:
        points = self._client.retrieve(
            self._name, ids=[int(self._ids[row]) for row in rows], with_vectors=True
        )
        vectors = {point.id: point.vector for point in points}
        return np.array([vectors[int(self._ids[row])] for row in rows], dtype=np.float32)
