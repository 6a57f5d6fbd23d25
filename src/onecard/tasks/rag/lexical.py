"""BM25 over terms in flat arrays. Knows chunk numbers and terms, no text and no files.

Terms are kept with their chunk in SQLite as hashes and counts, so that they live and die in its
transaction; the inverted
arrays are made from them and can be thrown away at any time. SQLite's own FTS5 was measured first:
515 ms at the 95th
percentile for a question with frequent words over 100,000 passages (tests/bench/bench_scale.py
tells ours).
"""

import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onecard import fsio
from onecard.tasks.rag.tokens import terms

K1, B = 1.2, 0.75
"""The usual constants (Robertson & Zaragoza 2009); on Cranfield k1 from 0.9 to 2 changed nDCG@10 by
0.02, not tuned here."""
HEAD_WEIGHT = 1
"""How often the words of the heading count."""


def pack(head: str, text: str) -> tuple[bytes, int]:
    """The terms of a passage as bytes (n x (uint32 hash, uint32 count)), and its length in terms."""
    counts = Counter(terms(text))
    for term in terms(head):
        counts[term] += HEAD_WEIGHT
    rows = np.array(
        sorted((term_hash(term), count) for term, count in counts.items()), dtype=np.uint32
    )
    return rows.tobytes(), sum(counts.values())


def term_hash(term: str) -> int:
    """32 bits: among 300,000 distinct terms about 10 pairs fall together."""
    return zlib.crc32(term.encode("utf-8", "replace"))


class Lexical:
    """Inverted arrays over N chunks, numbered by their place in the index's order."""

    def __init__(
        self, hashes: np.ndarray, starts: np.ndarray, rows: np.ndarray, weights: np.ndarray
    ) -> None:
        self.hashes, self.starts, self.rows, self.weights = hashes, starts, rows, weights
        """hashes (V,) sorted; starts (V+1,); rows (P,) chunk places; weights (P,) fp32: the BM25
        weight of a term in a chunk."""

    @classmethod
    def build(cls, packed: Sequence[bytes], lengths: Sequence[int]) -> "Lexical":
        """From every chunk's packed terms, in the index's order."""
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
        found_in = np.diff(starts)
        idf = np.log(1 + (n - found_in + 0.5) / (found_in + 0.5)).astype(np.float32)
        weights = np.repeat(idf, found_in) * counts * np.float32(K1 + 1) / (counts + norm[rows])
        return cls(hashes, starts, rows, weights.astype(np.float32))

    def scores(self, question: str, n: int) -> np.ndarray:
        """BM25 of every chunk, (n,) fp32; a term of the question counts as often as it stands
        there."""
        out = np.zeros(n, dtype=np.float32)
        for term, times in sorted(Counter(terms(question)).items()):
            place = int(np.searchsorted(self.hashes, term_hash(term)))
            if place < len(self.hashes) and self.hashes[place] == term_hash(term):
                a, b = self.starts[place], self.starts[place + 1]
                out[self.rows[a:b]] += times * self.weights[a:b]
        return out

    def coverage(self, question: str, row: int, n: int) -> float:
        """Share of the question's term weight (by rarity among n chunks) that stands in one chunk,
        0 to 1; words of no chunk weigh most."""
        total = held = 0.0
        for term in sorted(set(terms(question))):
            place = int(np.searchsorted(self.hashes, term_hash(term)))
            known = place < len(self.hashes) and self.hashes[place] == term_hash(term)
            a, b = (self.starts[place], self.starts[place + 1]) if known else (0, 0)
            weight = float(np.log(1 + (n + 0.5) / (b - a + 0.5)))
            total += weight
            held += weight if known and row in self.rows[a:b] else 0.0
        return held / total if total else 0.0

    def save(self, path: Path) -> None:
        with fsio.atomic_write(path) as draft, draft.open("wb") as file:
            np.savez(
                file, hashes=self.hashes, starts=self.starts, rows=self.rows, weights=self.weights
            )

    @classmethod
    def load(cls, path: Path) -> "Lexical":
        with np.load(path) as held:
            return cls(held["hashes"], held["starts"], held["rows"], held["weights"])
