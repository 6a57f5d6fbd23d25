"""BM25 as an inverted index in flat arrays.

The terms of a chunk are stored with it in SQLite as hashes and counts, in the same transaction. The
inverted index is derived from them and can be deleted at any time. SQLite's own FTS5 took 515 ms at
the 95th percentile for questions with frequent words over 100,000 passages; a whole search with
this index takes 51 (tests/bench/bench_scale.py).
"""

import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onecard import fsio
from onecard.tasks.rag.analyzer import terms

K1, B = 1.2, 0.75
"""The usual constants (Robertson & Zaragoza 2009), not tuned: on Cranfield k1 from 0.9 to 2 changes
nDCG@10 by 0.02."""
TITLE_WEIGHT = 1
"""Occurrences that a term of the title counts for."""


def pack_terms(title: str, text: str) -> tuple[bytes, int]:
    """The terms of a chunk as bytes, n x (uint32 hash, uint32 count), and its length in terms."""
    counts = Counter(terms(text))
    for term in terms(title):
        counts[term] += TITLE_WEIGHT
    rows = np.array(
        sorted((term_hash(term), count) for term, count in counts.items()), dtype=np.uint32
    )
    return rows.tobytes(), sum(counts.values())


def term_hash(term: str) -> int:
    """32 bits: among 300,000 distinct terms about 10 pairs collide."""
    return zlib.crc32(term.encode("utf-8", "replace"))


class BM25Index:
    """An inverted index over N chunks, which are rows in the order of their ids."""

    def __init__(
        self, hashes: np.ndarray, starts: np.ndarray, rows: np.ndarray, weights: np.ndarray
    ) -> None:
        self.hashes, self.starts, self.rows, self.weights = hashes, starts, rows, weights
        """hashes (V,) sorted; starts (V + 1,) of each term's postings; rows (P,) of chunks;
        weights (P,) fp32, the BM25 weight of the term in the chunk."""

    @classmethod
    def build(cls, packed: Sequence[bytes], lengths: Sequence[int]) -> "BM25Index":
        """From the packed terms and the length of each chunk, in the order of rows."""
        n = len(packed)
        pairs = np.frombuffer(b"".join(packed), dtype=np.uint32).reshape(-1, 2)
        rows = np.repeat(np.arange(n, dtype=np.int32), [len(blob) // 8 for blob in packed])
        order = np.argsort(pairs[:, 0], kind="stable")
        sorted_hashes, rows = pairs[order, 0], rows[order]
        counts = pairs[order, 1].astype(np.float32)
        hashes, starts = np.unique(sorted_hashes, return_index=True)
        starts = np.append(starts, len(rows)).astype(np.int64)
        size = np.asarray(lengths, dtype=np.float32)
        norm = K1 * (1 - B + B * size / max(float(size.mean()) if n else 1.0, 1.0))
        n_chunks = np.diff(starts)
        idf = np.log(1 + (n - n_chunks + 0.5) / (n_chunks + 0.5)).astype(np.float32)
        weights = np.repeat(idf, n_chunks) * counts * np.float32(K1 + 1) / (counts + norm[rows])
        return cls(hashes, starts, rows, weights.astype(np.float32))

    def scores(self, question: str, n: int) -> np.ndarray:
        """BM25 of every chunk, (n,) fp32; a term counts as often as the question has it."""
        scores = np.zeros(n, dtype=np.float32)
        for term, count in sorted(Counter(terms(question)).items()):
            postings = self._postings(term)
            scores[self.rows[postings]] += count * self.weights[postings]
        return scores

    def _postings(self, term: str) -> slice:
        """The term's part of `rows` and `weights`; empty for an unknown term."""
        key = term_hash(term)
        place = int(np.searchsorted(self.hashes, key))
        if place == len(self.hashes) or self.hashes[place] != key:
            return slice(0, 0)
        return slice(int(self.starts[place]), int(self.starts[place + 1]))

    def rarity(self, term: str, n: int) -> float:
        """Inverse document frequency; highest for a term that none of the n chunks contains."""
        postings = self._postings(term)
        return float(np.log(1 + (n + 0.5) / (postings.stop - postings.start + 0.5)))

    def save(self, path: Path) -> None:
        with fsio.atomic_write(path) as draft, draft.open("wb") as file:
            np.savez(
                file, hashes=self.hashes, starts=self.starts, rows=self.rows, weights=self.weights
            )

    @classmethod
    def load(cls, path: Path) -> "BM25Index":
        """Raises OSError, ValueError, KeyError, EOFError for a file that is missing or broken."""
        with np.load(path) as arrays:
            return cls(arrays["hashes"], arrays["starts"], arrays["rows"], arrays["weights"])
